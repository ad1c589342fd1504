"""Refiners: generators that make pictures larger or sharper, in tiles, and the critics they learnt from."""

from .refiner import Refiner, RefinerParts
from .rrdb import RefinerConfig, RRDBNet

__all__ = ["RRDBNet", "Refiner", "RefinerConfig", "RefinerParts"]
