"""The publisher's config beside a file of weights: found by itself, read safely, each answer's source noted."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from . import yaml_subset
from .folder import is_named_weights, read_settings
from .plain_file import open_regular

PathLike = str | os.PathLike[str]

ENDINGS = (".yaml", ".yml", ".json")
WEIGHTS = frozenset((".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin"))
NAMELESS = frozenset(("model", "last", "checkpoint", "weights", "pytorch_model", "diffusion_pytorch_model"))
"""Names of weights that only their folder tells apart: a "config" beside one of them is its own."""
PROJECT = "-project.yaml"
"""How the names of the configs end that CompVis's trainers write, behind the date of the run."""


class Sidecar(Mapping[str, Any]):
    """What a config file beside the weights says, in its publisher's own schema; empty where there is none.

    data: mappings, lists, text and numbers. name: of the file.
    found: for each setting that was asked for, where its value came from.
    """

    def __init__(self, data: Mapping[str, Any] | None = None, name: str = "the config") -> None:
        self.data, self.name = data or {}, name
        self.found: dict[str, str] = {}
        self.place = ""

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def at(self, path: str, default: Any = None, source: str = "") -> Any:
        """The setting under a dotted path, else the default; the answer's source is noted in `found`.

        source: where the default is published; empty where it needs no note.
        """
        value: Any = self.data
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if where := self.name if value is not None and not isinstance(value, Mapping) else source:
            self.found.pop(self.place + path, None)  # the last one asked for is the last
            self.found[self.place + path] = where
        return default if value is None else value

    def first(self, paths: Sequence[str], default: Any = None, source: str = "") -> Any:
        """The first of several settings that there is, else the default."""
        found = next((path for path in paths if self.at(path) is not None), paths[-1])
        return self.at(found, default, source)

    def part(self, path: str) -> "Sidecar":
        """The settings under a dotted path as a sidecar of their own, whose answers are noted here too."""
        inner = self.at(path)
        return self.holding(inner if isinstance(inner, Mapping) else {}, f"{path}.")

    def holding(self, data: Mapping[str, Any], place: str) -> "Sidecar":
        """Other settings out of the same file, known by where they stand."""
        made = Sidecar(data, self.name)
        made.found, made.place = self.found, self.place + place
        return made


def read_sidecar(path: Path, config: Mapping[str, Any] | PathLike | None) -> Sidecar:
    """The config that goes with a file of weights.

    config: as data, or a .yaml or .json file; None looks for one by the weights (see `beside`); folders have their own.
    Raises: ConfigError for a file that cannot be read or holds no settings by name.
    """
    if isinstance(config, Mapping):
        return config if isinstance(config, Sidecar) else Sidecar(config)
    if config is None and path.is_dir():
        return Sidecar(read_settings(path), f"the configs in {path.name}")
    chosen = beside(path) if config is None else Path(config)
    if chosen is None:
        return Sidecar()
    try:
        with open_regular(chosen, yaml_subset.LIMIT) as file:
            text = file.read().decode("utf-8-sig")
        found = json.loads(text) if chosen.suffix.lower() == ".json" else yaml_subset.parse(text)
    except (OSError, ValueError, RecursionError) as error:
        kind = "JSON" if chosen.suffix.lower() == ".json" else "YAML"
        raise ConfigError(f"the config {chosen.name} cannot be read as {kind}: {error}") from None
    if not isinstance(found, Mapping):
        raise ConfigError(f"the config {chosen.name} holds no settings by name; expected those of the weights")
    return Sidecar(found, chosen.name)


def beside(path: Path) -> Path | None:
    """The config that goes with a file of weights, by where it lies, or None.

    1. of the same name; 2. "D-project.yaml" for weights named "D...", as CompVis dates its runs; 3. "config" or
    "*-project.yaml" (the latest) where the folder holds no other weights, or the weights' own name is as general as
    that; 4. for weights in a folder "checkpoints" what lies in "configs" beside that folder, as CompVis's trainers
    leave a run: the latest "*-project.yaml", or "model.yaml".
    """
    folder = path.parent
    dated = sorted(folder.glob(f"?*{PROJECT}"))
    own = _first(path.with_suffix(ending) for ending in ENDINGS if path.suffix != ending)
    general = _first([path.with_name(f"config{ending}") for ending in ENDINGS] + dated[-1:])
    if general and not (path.stem.lower() in NAMELESS or is_named_weights(path) or _alone(path)):
        general = None
    same_date = _first(one for one in dated if path.name.startswith(one.name.removesuffix(PROJECT)))
    return own or same_date or general or (_of_run(folder.parent / "configs") if folder.name == "checkpoints" else None)


def _of_run(configs: Path) -> Path | None:
    return _first([*sorted(configs.glob(f"*{PROJECT}"))[-1:], configs / "model.yaml"])


def _first(places: Iterable[Path]) -> Path | None:
    return next((place for place in places if place.is_file()), None)


def _alone(path: Path) -> bool:
    return all(other == path for other in path.parent.iterdir() if other.suffix.lower() in WEIGHTS)
