"""`vitrail run`: a workflow from a file, checked, then run."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..core.errors import WorkflowError
from ..nodes.host_data import FILES
from . import overrides
from .execute import execute
from .files import Files
from .flatten import to_prompt
from .inputs import NodeClass
from .progress import Progress
from .prompt import Prompt, from_api, to_api
from .standins import STANDINS
from .validate import check


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """A workflow that was read: its prompt, and the saved graph it came from, if it came from one."""

    prompt: Prompt
    graph: dict[str, Any] | None


def read_workflow(path: Path, classes: Mapping[str, NodeClass]) -> Workflow:
    """Read a saved graph, a prompt in the API format, or a PNG that carries either.

    Raises: WorkflowError for a file that cannot be read or is neither.
    """
    data = _data(path)
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        return Workflow(prompt=to_prompt(data, classes), graph=data)
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict):
        extra = (data.get("extra_data") or {}).get("extra_pnginfo") or {}
        return Workflow(prompt=from_api(data["prompt"]), graph=extra.get("workflow"))
    if isinstance(data, dict) and data:
        return Workflow(prompt=from_api(data), graph=None)
    raise WorkflowError(f"{path} is neither a saved graph nor a prompt in the API format")


def _data(path: Path) -> Any:
    try:
        if path.suffix.lower() == ".png":
            return _from_png(path)
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorkflowError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise WorkflowError(f"{path} is not JSON: {error}") from error


def _from_png(path: Path) -> dict[str, Any]:
    """The prompt that made a picture, with its graph."""
    with Image.open(path) as picture:
        chunks = {name: json.loads(picture.info[name]) for name in ("prompt", "workflow") if name in picture.info}
    if "prompt" not in chunks:
        return chunks.get("workflow", {})
    return {"prompt": chunks["prompt"], "extra_data": {"extra_pnginfo": {"workflow": chunks.get("workflow")}}}


def all_classes() -> dict[str, NodeClass]:
    """Every node that runs without the host: Vitrail's, and the stand-ins for stock ones."""
    from ..nodes import NODE_CLASS_MAPPINGS

    return {**STANDINS, **NODE_CLASS_MAPPINGS}


def run_workflow(
    path: Path,
    *,
    settings: Sequence[str] = (),
    output: Path,
    inputs: Sequence[Path] = (),
    classes: Mapping[str, NodeClass] | None = None,
    titles: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    on_write: Callable[[Path], None] = lambda file: None,
) -> list[Path]:
    """Run a workflow and return the files it wrote.

    settings: NODE.INPUT=VALUE each.
    output: folder for pictures. inputs: folders to look for pictures in.
    Raises: WorkflowError before anything runs; NodeFailure from what a node raised.
    """
    classes = all_classes() if classes is None else classes
    workflow = read_workflow(path, classes)
    graph = overrides.apply(settings, workflow.prompt, workflow.graph, classes)
    files = Files(output=output, inputs=inputs, on_write=on_write)
    order = check(workflow.prompt, classes, {FILES: files})
    hidden = {
        FILES: files,
        "PROMPT": to_api(workflow.prompt),
        "EXTRA_PNGINFO": {} if graph is None else {"workflow": graph},
    }
    execute(workflow.prompt, order, classes, hidden=hidden, titles=titles, progress=progress)
    return files.written


def input_folders(workflow: Path, chosen: Path | None, examples: Path) -> list[Path]:
    """Where pictures are looked for: the chosen folder, else beside the workflow, among the examples, here."""
    if chosen is not None:
        return [chosen]
    here = workflow.resolve().parent
    return list(dict.fromkeys([here, here / "input", examples, Path.cwd()]))
