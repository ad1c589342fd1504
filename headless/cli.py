"""The command line: `vitrail run`, `vitrail inspect`, `vitrail convert`, `vitrail train`.

Exit status: 0 done, 1 a failure while at work, 2 something wrong with what was asked for, 130 interrupted.
"""

import argparse
import io
import json
import logging
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from . import convert, evaluate, train

PACKAGE = Path(__file__).resolve().parent.parent
EXAMPLES = PACKAGE / "example_workflows"
FAILED, WRONG, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that are no text
    options = parser().parse_args(arguments)
    from ..core.errors import VitrailError

    try:
        return options.command(options)
    except VitrailError as error:
        return _fail(error, WRONG)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="vitrail", description="VQGAN and latent diffusion, without ComfyUI.")
    made.add_argument("--version", action="version", version=f"vitrail {_version()}")
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="run a workflow and print the files it wrote"))
    _add_inspect(commands.add_parser("inspect", help="say what a file of weights holds; runs no code from it"))
    converting = commands.add_parser("convert", help="write a model's file in another layout")
    convert.add_arguments(converting)
    converting.set_defaults(command=convert.run)
    training = commands.add_parser("train", help="train an autoencoder, a diffusion network, a refiner or a prior")
    train.add_arguments(training)
    training.set_defaults(command=train.run)
    evaluating = commands.add_parser("evaluate", help="figures of a model on held-out pictures")
    evaluate.add_arguments(evaluating)
    evaluating.set_defaults(command=evaluate.run)
    return made


def _add_run(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("workflow", type=Path, help="the UI's saved graph, a prompt in the API format, or a PNG that carries one")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="change a value; NODE: id, title or class",
    )
    add("--output", type=Path, default=Path("output"), metavar="DIR", help="folder for the pictures (default: output)")
    add("--input", type=Path, metavar="DIR", help="folder that LoadImage looks in (default: the workflow's own)")
    add("--device", choices=("cpu", "cuda"), help="where to compute (default: cuda if there is one)")
    command.set_defaults(command=run)


def _add_inspect(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", help="a checkpoint, or the name of shipped weights")
    command.add_argument("--json", action="store_true", help="print it as JSON")
    command.set_defaults(command=inspect)


def run(options: argparse.Namespace) -> int:
    """Check a workflow, then run it. Raises: WorkflowError before anything runs."""
    from ..nodes import NODE_DISPLAY_NAME_MAPPINGS
    from ..nodes.host_env import set_headless_device
    from ..nodes.host_progress import set_headless_progress
    from .execute import NodeFailure
    from .progress import Progress
    from .run import input_folders, run_workflow

    progress = Progress()
    set_headless_progress(progress.step)
    set_headless_device(options.device)
    try:
        run_workflow(
            options.workflow,
            settings=options.set,
            output=options.output,
            inputs=input_folders(options.workflow, options.input, EXAMPLES),
            titles=NODE_DISPLAY_NAME_MAPPINGS,
            progress=progress,
            on_write=lambda file: print(file, flush=True),
        )
    except NodeFailure as failure:
        return _node_failed(failure)
    return 0


def inspect(options: argparse.Namespace) -> int:
    """Print what a file of weights holds. Raises: CheckpointError for a bad one."""
    from .examine import as_text, examine

    found = examine(options.file)
    print(json.dumps(found, indent=2, default=str) if options.json else as_text(found))
    return 0


def _version() -> str:
    try:
        return metadata.version("vitrail")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _node_failed(failure: Exception) -> int:
    """One line for what Vitrail refuses; the whole trace for what nobody foresaw. A wrong file was asked for."""
    from ..core.errors import CheckpointError, VitrailError

    cause = failure.__cause__
    if not isinstance(cause, VitrailError):
        traceback.print_exception(cause)
    return _fail(f"{failure}: {cause}", WRONG if isinstance(cause, CheckpointError) else FAILED)


def _fail(problem: object, status: int) -> int:
    print("vitrail: " + " ".join(str(problem).split()), file=sys.stderr)
    return status
