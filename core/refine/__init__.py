"""Refiners: generators that make pictures larger or sharper, in tiles, and the critics they learnt from."""

from .refiner import Refiner, RefinerParts
from .resize import blend, refine_steps, resize, target_size
from .rrdb import RefinerConfig, RRDBNet
from .tiles import TileStep, upscale, upscale_steps

__all__ = [
    "RRDBNet",
    "Refiner",
    "RefinerConfig",
    "RefinerParts",
    "TileStep",
    "blend",
    "refine_steps",
    "resize",
    "target_size",
    "upscale",
    "upscale_steps",
]
