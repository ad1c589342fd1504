"""Weights that come with the package, by their versioned names."""

from pathlib import Path

ASSETS = Path(__file__).parent.parent / "assets"


def shipped_path(name: str, kind: str) -> Path | None:
    """The file of a shipped model, such as ("vitrail-1", "autoencoder"), or None where there is none of that name."""
    return shipped_models(kind).get(name)


def shipped_models(kind: str) -> dict[str, Path]:
    """The shipped models of a kind ("autoencoder", "diffusion", "refiner") by name, the newest first."""
    ending = f"-{kind}.safetensors"
    found = {path.name.removesuffix(ending): path for path in ASSETS.glob(f"vitrail-*{ending}")}
    return dict(sorted(found.items(), key=lambda item: _version(item[0]), reverse=True))


def _version(name: str) -> tuple[int, str]:
    number = name.rpartition("-")[2]
    return (int(number) if number.isdecimal() else -1, name)
