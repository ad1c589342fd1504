"""`vitrail inspect`: what a file of weights holds, as text or JSON. Nothing from the file is run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core import checkpoints
from ..core.codebook import report
from ..core.errors import KeyMismatch, UnknownFamily, printable
from ..nodes.spandrel_refiner import describe as describe_other

KINDS = ("autoencoder", "diffusion", "refiner", "prior")


def examine(name: str) -> list[dict[str, Any]]:
    """Describe a file, or every file of a shipped model ("vitrail-1"); an autoencoder's codebook is looked into.

    Raises: CheckpointError and its kinds for a file that cannot be opened.
    """
    shipped = [path for kind in KINDS if (path := checkpoints.shipped_path(name, kind)) is not None]
    paths = shipped if shipped and not Path(name).exists() else [Path(name)]
    return [_examine_file(path) for path in paths]


def _examine_file(path: Path) -> dict[str, Any]:
    try:
        found = checkpoints.describe(path)
    except UnknownFamily as unknown:
        return describe_other(unknown, path)
    try:
        checkpoints.verify(path)
    except KeyMismatch as mismatch:
        if found["kind"] != "refiner":
            raise
        return describe_other(mismatch, path)
    if found["kind"] != "autoencoder":
        return found
    codebook = checkpoints.load(path).codebook  # pyright: ignore[reportAttributeAccessIssue]
    return found if codebook is None else {**found, "codebook": report(codebook)}


def as_text(found: list[dict[str, Any]]) -> str:
    """One block for each file: a line for each fact, nested facts indented."""
    return "\n\n".join("\n".join(_lines(_spoken(item))) for item in found)


def _spoken(item: dict[str, Any]) -> dict[str, Any]:
    """The same facts with numbers that a person reads, and a verdict on the codebook."""
    spoken = {**item, "bytes": f"{item['bytes']:,}", "parameters": f"{item['parameters']:,}"}
    if "codebook" in item:
        spoken["codebook"] = {**item["codebook"], "health": health(item["codebook"])}
    return spoken


def health(codebook: Mapping[str, Any]) -> str:
    """What is wrong with a codebook in a few words, or "sound"."""
    return f"{codebook['duplicates']} codes are copies of others" if codebook["duplicates"] else "sound"


def _lines(facts: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    facts = {printable(str(name)): value for name, value in facts.items()}
    wide = max(map(len, facts), default=0)
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name:<{wide}}  {_short(value)}"


def _short(value: Any, longest: int = 96) -> str:
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    text = printable(str(value))
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
