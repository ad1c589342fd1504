"""Recipes as JSON files, and the task that each kind of recipe stands for."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..autoencoders.autoencoder import Autoencoder
from ..checkpoints import load
from ..checkpoints.shipped import shipped_path
from ..config_io import from_dict
from ..errors import ConfigError
from .autoencoder import AutoencoderRecipe, AutoencoderTask
from .data import Example
from .diffusion import DiffusionRecipe, DiffusionTask
from .loop import Task
from .refiner import RefinerRecipe, RefinerTask

RECIPES: dict[str, Any] = {"autoencoder": AutoencoderRecipe, "diffusion": DiffusionRecipe, "refiner": RefinerRecipe}
ASSETS = Path(__file__).parent.parent / "assets"


def read_recipe(kind: str, path: Path | None = None) -> Any:
    """The recipe in a JSON file, or that of the shipped model; ConfigError for an unknown key or a wrong value."""
    path = path or ASSETS / f"vitrail-1-{kind}.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no recipe: {error}") from error
    return from_dict(RECIPES[kind], entries)


def build_task(
    recipe: Any,
    examples: Sequence[Example],
    *,
    autoencoder: str = "vitrail-1",
    start_from: Path | None = None,
    device: str = "cpu",
) -> Task:
    """What to train; `autoencoder` names the finished one whose latents or pictures the others learn from."""
    if isinstance(recipe, AutoencoderRecipe):
        return AutoencoderTask(recipe, examples, _autoencoder(start_from) if start_from else None, device)
    finished = _autoencoder(shipped_path(autoencoder, "autoencoder") or Path(autoencoder))
    task = {DiffusionRecipe: DiffusionTask, RefinerRecipe: RefinerTask}[type(recipe)]
    return task(recipe, examples, finished, device)


def _autoencoder(path: Path) -> Autoencoder:
    model = load(path)
    if not isinstance(model, Autoencoder):
        raise ConfigError(f"{path} holds no autoencoder; expected one, such as the shipped vitrail-1")
    return model
