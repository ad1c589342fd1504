"""Folders as diffusers writes them: a model with its config.json, or a pipeline of such models.

    model_index.json             the pipeline's class, and the class of each part
    PART/config.json             settings of a part          scheduler/scheduler_config.json
    PART/diffusion_pytorch_model.safetensors, model.safetensors, .bin, or an index of several files

Source: github.com/huggingface/diffusers, src/diffusers/pipelines/pipeline_utils.py, models/modeling_utils.py.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ..errors import CheckpointError, UnsafeFile
from .derive import gathered
from .header import Header
from .plain_file import open_regular

Open = Callable[[Path], Header]

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
LARGEST, LONGEST = 8_000_000, 255
"""Bytes of a config or an index, characters of a name in it."""

NAMED = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(\.[a-z0-9_]+)?\.(safetensors|bin)(\.index(?:\.[a-z0-9_]+)?\.json)?"
)
"""What diffusers and transformers call their weights: a variant such as fp16, the format, an index of several files."""

PARTS = {
    "UNet2DModel", "UNet2DConditionModel", "VQModel", "AutoencoderKL", "CLIPTextModel", "CLIPTextModelWithProjection",
    "LDMBertModel",
}  # fmt: skip
"""Classes of parts that are opened."""

PASSED_OVER = ("Scheduler", "Tokenizer", "SafetyChecker", "FeatureExtractor", "ImageProcessor", "DepthEstimation")
"""What is in the names of the classes of parts that a network does without; versions add Fast, Pil and the like."""


def is_named_weights(path: Path) -> bool:
    """Whether diffusers or transformers would take a file of this name for the weights of its folder."""
    return NAMED.fullmatch(path.name) is not None


def read_folder(path: Path, open_file: Open) -> Header:
    """The tensors of a model's folder, or of all parts of a pipeline's, each behind its part's name and a dot.

    open_file: reads the header of one file.
    Raises: CheckpointError for a folder that is neither, that has parts unknown here or lacks weights; UnsafeFile where
    it names a file outside itself.
    """
    if (path / INDEX).is_file():
        return _combined(path, [(f"{name}.", _weights(path / name, open_file)) for name in _parts(path)])
    if (path / CONFIG).is_file():
        header = _weights(path, open_file)
        return replace(header, path=path, files=header.files or (header.path,))
    raise CheckpointError(
        f"{path} is a folder but no model of diffusers: expected {INDEX} (a pipeline) or {CONFIG} (a model) in it"
    )


def read_settings(path: Path) -> dict[str, Any]:
    """The config of a model's folder, or those of all parts of a pipeline's by their names.

    Raises: CheckpointError for a file that is no JSON object.
    """
    if not (path / INDEX).is_file():
        return _json(path / CONFIG)
    settings: dict[str, Any] = {"_class_name": _json(path / INDEX).get("_class_name")}
    for name in _parts(path):
        settings[name] = _json(path / name / CONFIG)
    return settings | ({"scheduler": scheduler} if (scheduler := read_scheduler(path)) else {})


def pipeline_of(path: Path) -> Path | None:
    """The folder of the pipeline that a part's folder or file of weights lies in, or that the path itself is."""
    folder = path if path.is_dir() else path.parent
    return next((place for place in (folder, folder.parent) if (place / INDEX).is_file()), None)


def read_scheduler(path: Path) -> dict[str, Any]:
    """The scheduler's config of a pipeline, or of the one that a part lies in; empty where there is none.

    Raises: CheckpointError for a file that is no JSON object.
    """
    place = pipeline_of(path)
    file = None if place is None else place / "scheduler" / SCHEDULER
    return _json(file) if file is not None and file.is_file() else {}


def _parts(path: Path) -> list[str]:
    """The parts of a pipeline that hold weights we need."""
    found = {name: entry for name, entry in _json(path / INDEX).items() if isinstance(entry, list) and len(entry) == 2}
    classes = {name: str(entry[1]) for name, entry in found.items() if entry[1] is not None}
    wanted = {name: kind for name, kind in classes.items() if not any(word in kind for word in PASSED_OVER)}
    if unknown := [f"{name} ({kind})" for name, kind in wanted.items() if kind not in PARTS]:
        raise CheckpointError(
            f"the pipeline {path.name} has parts that Vitrail does not know: {', '.join(unknown)}; known are "
            f"{', '.join(sorted(PARTS))}"
        )
    if not wanted:
        raise CheckpointError(f"the pipeline {path.name} names no part with weights in its {INDEX}")
    for name in wanted:
        _check_inside(path / INDEX, name)
        if not (path / name).is_dir():
            raise CheckpointError(f"the pipeline {path.name} lacks the folder of its part {name}: fetch it again")
    return list(wanted)


def _weights(folder: Path, open_file: Open) -> Header:
    """The weights of one model, in one file or several."""
    found = [match for file in folder.iterdir() if (match := NAMED.fullmatch(file.name))]
    if not found:
        raise CheckpointError(
            f"the folder {folder.name} has no weights: expected diffusion_pytorch_model or model with the ending "
            ".safetensors or .bin, or an index of several files"
        )
    best = min(found, key=lambda name: (name[1] is not None, name[2] != "safetensors", name[3] is not None, name[0]))
    path = folder / best[0]
    return _sharded(path, open_file) if best[3] else open_file(path)


def _sharded(path: Path, open_file: Open) -> Header:
    """The weights that an index spreads over several files in its folder."""
    places = _json(path).get("weight_map")
    if not isinstance(places, Mapping) or not all(isinstance(file, str) for file in places.values()):
        raise CheckpointError(f"{path.name} has no weight_map that gives a file for each tensor")
    for name in set(places.values()):
        _check_inside(path, name)
    headers = {name: open_file(path.parent / name) for name in sorted(set(places.values()))}
    if lost := [name for name, file in places.items() if name not in headers[file]]:
        raise CheckpointError(f"{path.name} names tensors that its files do not hold: {', '.join(lost[:8])}")
    return _combined(path, [("", header) for header in headers.values()])


def _combined(path: Path, parts: list[tuple[str, Header]]) -> Header:
    files = tuple(file for _, header in parts for file in header.files or (header.path,))
    return gathered(Header(path=path, format="diffusers", tensors={}, files=files), parts)


def _check_inside(path: Path, name: str) -> None:
    """UnsafeFile unless a name that a file gives is that of something in its own folder."""
    bare = name not in ("", ".", "..") and PurePosixPath(name).name == name and PureWindowsPath(name).name == name
    if not bare or len(name) > LONGEST or not name.isprintable():
        raise UnsafeFile(
            f"{path.name} points to {name[:LONGEST]!r}; expected a name inside its own folder {path.parent.name}"
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path, LARGEST) as file:
            found = json.loads(file.read().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path.parent.name}/{path.name} cannot be read as JSON: {reason}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path.parent.name}/{path.name} is no JSON object; expected settings by name")
    return found
