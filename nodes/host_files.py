"""Files of weights by the names that the nodes show: shipped weights first, then folder/path.

A folder of diffusers (see core/checkpoints/folder.py) is one entry, and the files in it are none.
"""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..core.errors import ConfigError
from .host_env import IN_HOST

WEIGHTS = frozenset((".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin"))
CONFIGS = frozenset((".json", ".yaml", ".yml"))
FOLDERS: dict[str, tuple[str, ...]] = {
    "autoencoder": ("vae", "vq", "checkpoints", "diffusers"),
    "diffusion": ("checkpoints", "diffusion_models", "diffusers"),
    "refiner": ("upscale_models",),
    "prior": ("vq", "checkpoints"),
    "config": ("checkpoints", "diffusion_models", "vae", "vq", "upscale_models", "configs"),
}
"""Folders of ComfyUI's `models` that hold each kind; `vq` is ours."""

PIPELINE, MODEL = "model_index.json", "config.json"
"""What a folder of diffusers holds: that of a pipeline, that of one model."""

NOT_PICTURES = ("unet", "text_encoder", "bert", "safety_checker", "image_encoder", "transformer")
"""Ends of the names of a pipeline's parts that are no autoencoders."""


def names(kind: str) -> list[str]:
    """What a loader offers: "autoencoder", "diffusion", "refiner", "prior" or "config" (a publisher's)."""
    return [*_shipped(kind), *(f"{folder}/{path}" for folder in FOLDERS[kind] for path in _listed(folder, kind))]


def find(name: str, kind: str) -> Path:
    """The file (or folder of diffusers) behind a name of `names`; headless also any by its path.

    Raises: ConfigError with the places that were looked in.
    """
    if name in (shipped := _shipped(kind)):
        return shipped[name]
    folder, _, path = name.partition("/")
    found = next((base / path for base in _bases(folder) if path in _files(base, kind)), None)
    if found is None and not IN_HOST and (Path(name).is_file() or _is_model(Path(name))):
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
        above = {str(base): frozenset((os.path.realpath(base),))}
        for place, inner, found in os.walk(base, followlinks=True):
            inner[:] = [name for name in inner if not name.startswith(".")]
            real = {name: os.path.realpath(f"{place}/{name}") for name in inner}
            inner[:] = [name for name in inner if real[name] not in above[place]]  # a link upwards has no end
            above |= {os.path.join(place, name): above[place] | {real[name]} for name in inner}
            stamps |= {path: _stamp(path) for path in (f"{place}/{name}" for name in inner)}
            files += [(Path(place) / name).relative_to(base).as_posix() for name in found]
        return cls(tuple(files), stamps)

    @property
    def models(self) -> dict[str, bool]:
        """The folders of diffusers, and whether each is a pipeline."""
        from ..core.checkpoints.folder import is_named_weights

        weighted = {str(PurePosixPath(path).parent) for path in self.files if is_named_weights(Path(path))}
        found: dict[str, bool] = {}
        for path in sorted(self.files):
            place = PurePosixPath(path)
            if place.name == PIPELINE or (place.name == MODEL and str(place.parent) in weighted):
                found[str(place.parent)] = found.get(str(place.parent), False) or place.name == PIPELINE
        return {place: pipeline for place, pipeline in found.items() if place != "."}

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
    """What a folder offers for a kind, diffusers' folders first."""
    files = files_below(base)
    if kind == "config":
        return [path for path in files if Path(path).suffix.lower() in CONFIGS]
    models = _walks[base].models
    inside = tuple(f"{model}/" for model in models)
    files = [path for path in files if Path(path).suffix.lower() in WEIGHTS]
    return [*_of_kind(models, kind), *(path for path in files if not path.startswith(inside or ("\0",)))]


def _of_kind(models: dict[str, bool], kind: str) -> list[str]:
    """The folders to offer: whole pipelines for diffusion; for autoencoders those in pipelines too."""
    if kind == "autoencoder":
        return [path for path, pipeline in models.items() if not pipeline and not path.endswith(NOT_PICTURES)]
    if kind != "diffusion":
        return []
    inside = tuple(f"{path}/" for path, pipeline in models.items() if pipeline) or ("\0",)
    return [path for path, pipeline in models.items() if pipeline or not path.startswith(inside)]


def _is_model(path: Path) -> bool:
    """Whether a folder is one of diffusers."""
    return any((path / name).is_file() for name in (PIPELINE, MODEL))


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
