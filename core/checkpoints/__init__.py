"""Opening public files of weights safely, and Vitrail's own format."""

from .companions import companions
from .inside import load_perceptual
from .load import describe, load, save_model, verify
from .shipped import shipped_models, shipped_path

__all__ = [
    "companions",
    "describe",
    "load",
    "load_perceptual",
    "save_model",
    "shipped_models",
    "shipped_path",
    "verify",
]
