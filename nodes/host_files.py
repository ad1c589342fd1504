"""Files of weights by the names that the nodes show: shipped weights first, then folder/path."""

import os
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import ConfigError
from .host_env import IN_HOST

WEIGHTS = frozenset((".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin"))
CONFIGS = frozenset((".json",))
FOLDERS: dict[str, tuple[str, ...]] = {
    "autoencoder": ("vae", "vq", "checkpoints"),
    "diffusion": ("checkpoints", "diffusion_models"),
    "refiner": ("upscale_models",),
    "config": ("checkpoints", "diffusion_models", "vae", "vq", "upscale_models", "configs"),
}
"""Folders of ComfyUI's `models` that hold each kind; `vq` is ours."""


def names(kind: str) -> list[str]:
    """What a loader offers: "autoencoder", "diffusion", "refiner" or "config" (a publisher's config, JSON)."""
    return [*_shipped(kind), *(f"{folder}/{path}" for folder in FOLDERS[kind] for path in _listed(folder, kind))]


def find(name: str, kind: str) -> Path:
    """The file behind a name of `names`; headless also any file by its path.

    Raises: ConfigError with the places that were looked in.
    """
    if name in (shipped := _shipped(kind)):
        return shipped[name]
    folder, _, path = name.partition("/")
    found = next((base / path for base in _bases(folder) if path in _files(base, kind)), None)
    if found is None and not IN_HOST and Path(name).is_file():
        found = Path(name)
    if found is None:
        places = [str(base) for folder in FOLDERS[kind] for base in _bases(folder)]
        raise ConfigError(f'there is no {kind} "{name}"; looked among the shipped ones and in {", ".join(places)}')
    return found


def changed(name: str, kind: str, config: str | None = None) -> str:
    """A stamp that changes when a file does that is read for that name, or an empty one where there is none.

    config: the name of a config file beside those that are found by themselves.
    """
    from ..core.checkpoints import companions

    try:
        files = [*companions(find(name, kind)), *([] if config is None else [find(config, "config")])]
        stats = [file.stat() for file in files]
    except (ConfigError, OSError):
        return ""
    return " ".join(f"{stat.st_mtime_ns}-{stat.st_size}" for stat in stats)


def _shipped(kind: str) -> dict[str, Path]:
    from ..core.checkpoints.shipped import shipped_models

    return shipped_models(kind)


def _listed(folder: str, kind: str) -> list[str]:
    return sorted({path for base in _bases(folder) for path in _files(base, kind)})


@dataclass(frozen=True)
class Walk:
    """All files below a folder, and the time stamp of each folder in it: one that changed asks for a new walk."""

    files: tuple[str, ...]
    stamps: dict[str, float]

    @classmethod
    def of(cls, base: Path) -> "Walk":
        files, stamps = [], {str(base): _stamp(str(base))}
        for place, inner, found in os.walk(base, followlinks=True):
            inner[:] = [name for name in inner if not name.startswith(".")]
            stamps |= {path: _stamp(path) for path in (f"{place}/{name}" for name in inner)}
            files += [(Path(place) / name).relative_to(base).as_posix() for name in found]
        return cls(tuple(files), stamps)

    @property
    def stale(self) -> bool:
        return any(_stamp(place) != stamp for place, stamp in self.stamps.items())


_walks: dict[Path, Walk] = {}


def files_below(base: Path) -> tuple[str, ...]:
    """Paths of all files below a folder, with "/" between their parts; walked anew only where a folder changed."""
    if base not in _walks or _walks[base].stale:
        _walks[base] = Walk.of(base)
    return _walks[base].files


def _files(base: Path, kind: str) -> list[str]:
    endings = CONFIGS if kind == "config" else WEIGHTS
    return [path for path in files_below(base) if Path(path).suffix.lower() in endings]


def _stamp(place: str) -> float:
    try:
        return os.stat(place).st_mtime
    except OSError:
        return 0.0


def _bases(folder: str) -> list[Path]:
    """Where a folder of models lies: as the host says, else in $VITRAIL_MODELS or ./models."""
    if not IN_HOST:
        roots = os.environ.get("VITRAIL_MODELS", "models").split(os.pathsep)
        return [Path(root) / folder for root in roots if folder]
    import folder_paths

    if folder == "vq" and folder not in folder_paths.folder_names_and_paths:
        place = os.path.join(folder_paths.models_dir, folder)
        folder_paths.folder_names_and_paths[folder] = ([place], set(WEIGHTS))
    known = folder_paths.folder_names_and_paths.get(folder, ((), ()))
    return [Path(place) for place in known[0]]
