"""The files that are read along with a file of weights."""

from pathlib import Path

from ..errors import CheckpointError
from .families.vitrail import OURS, notes
from .read import read_header
from .sidecar import PathLike, beside


def companions(path: PathLike) -> list[Path]:
    """A file of weights, the config beside it and the autoencoder that it names, as far as they are there.

    Of a folder, all files in it.
    Safetensors only say which autoencoder they name; other files are not opened for it.
    """
    path = Path(path)
    if path.is_dir():
        return sorted(file for file in path.glob("**/*") if file.is_file())
    found = [path, beside(path), _autoencoder(path)]
    return [file for file in found if file is not None and file.exists()]


def _autoencoder(path: Path) -> Path | None:
    if path.suffix.lower() not in (".safetensors", ".sft"):
        return None
    try:
        header = read_header(path)
        name = notes(header).get("autoencoder") if OURS(header) else None
    except (CheckpointError, OSError):
        return None
    return path.parent / Path(name).name if isinstance(name, str) else None
