"""Priors: transformers that write the codes of pictures, one after the other."""

from .prior import Prior, PriorConfig
from .sample import Drawing, sample

__all__ = ["Drawing", "Prior", "PriorConfig", "sample"]
