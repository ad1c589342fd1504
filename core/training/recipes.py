"""Recipes as JSON files, and the task that each kind of recipe stands for."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..autoencoders.autoencoder import Autoencoder
from ..checkpoints import load
from ..checkpoints.shipped import shipped_path
from ..config_io import from_dict
from ..diffusion.latent_diffusion import LatentDiffusion
from ..errors import ConfigError
from ..priors import Prior
from ..refine.refiner import Refiner
from .autoencoder import AutoencoderRecipe, AutoencoderTask
from .data import Example
from .diffusion import DiffusionRecipe, DiffusionTask
from .loop import Task
from .prior import PriorRecipe, PriorTask
from .refiner import RefinerRecipe, RefinerTask

RECIPES: dict[str, Any] = {
    "autoencoder": AutoencoderRecipe,
    "diffusion": DiffusionRecipe,
    "refiner": RefinerRecipe,
    "prior": PriorRecipe,
}
T = TypeVar("T")
ASSETS = Path(__file__).parent.parent / "assets"


def read_recipe(kind: str, path: Path | None = None) -> Any:
    """The recipe in a JSON file, or that of the shipped model; ConfigError for an unknown key or a wrong value.

    No prior is shipped: its default is the small one of PriorRecipe.
    """
    if path is None and kind == "prior":
        return PriorRecipe()
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
    """What to train.

    autoencoder: the finished one whose latents or pictures the others learn from, a file or a shipped name.
    start_from: a file whose weights to go on from, instead of random ones.
    """
    first = load(start_from) if start_from else None
    if isinstance(recipe, AutoencoderRecipe):
        return AutoencoderTask(recipe, examples, _a(Autoencoder, first, start_from), device)
    source = shipped_path(autoencoder, "autoencoder") or Path(autoencoder)
    finished = _a(Autoencoder, load(source), source)
    assert finished is not None
    if isinstance(recipe, DiffusionRecipe):
        return DiffusionTask(recipe, examples, finished, _a(LatentDiffusion, first, start_from), device)
    if isinstance(recipe, PriorRecipe):
        return PriorTask(recipe, examples, finished, _a(Prior, first, start_from), device)
    return RefinerTask(recipe, examples, finished, _a(Refiner, first, start_from), device)


def _a(kind: type[T], model: object, path: Path | None) -> T | None:
    """The model as the kind it has to be; ConfigError for another."""
    if model is None or isinstance(model, kind):
        return model
    raise ConfigError(f"{path} holds a model of class {type(model).__name__}; expected {kind.__name__}")
