"""Opening public files of weights safely, and Vitrail's own format."""

from .load import describe, load, save_model
from .shipped import shipped, shipped_path

__all__ = ["describe", "load", "save_model", "shipped", "shipped_path"]
