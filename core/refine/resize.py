"""Results of other sizes and strengths than a refiner's own."""

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from .tiles import Network, TileStep, upscale_steps


def refine_steps(
    network: Network,
    image: Tensor,
    *,
    own: int,
    scale: float = 0.0,
    strength: float = 1.0,
    tile: int = 0,
    overlap: int = 16,
    device: torch.device | str | None = None,
) -> Iterator[TileStep]:
    """`upscale_steps`, whose last picture has the size and strength asked for.

    image: [B, C, H, W] in 0..1. own: scale of the network.
    scale: of the result, 0 for the network's own; it runs once, and a bicubic resize does the rest.
    strength: 0 (a plain resize; the network does not run) to 1 (the network).
    The last picture is [B, C', round(scale H), round(scale W)] float32 in 0..1.
    Raises: as `upscale_steps`, `target_size` and `blend`.
    """
    size = target_size((image.shape[-2], image.shape[-1]), own, scale)
    check_strength(strength)
    if strength == 0:
        yield TileStep(1, 1, resize(image, size))
        return
    for step in upscale_steps(network, image, scale=own, tile=tile, overlap=overlap, device=device):
        last = step.done == step.total
        yield replace(step, picture=blend(image, step.picture, size, strength)) if last else step


def target_size(size: tuple[int, int], own: int, scale: float = 0.0) -> tuple[int, int]:
    """The (height, width) of a result.

    size: (height, width) of the input; own: the refiner's scale; scale: of the result, 0 for the refiner's own.
    Raises: ConfigError for a scale below 0 or one that leaves less than a pixel.
    """
    factor = scale or float(own)
    height, width = (round(side * factor) for side in size)
    if not factor > 0 or min(height, width) < 1:
        raise ConfigError(f"scale {scale} makes {height} x {width} pixels of {size[0]} x {size[1]}; give a larger one")
    return height, width


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A bicubic resize, with the filter widened where it makes a side smaller.

    image: [B, C, H, W] in 0..1; size: (height, width).
    Returns [B, C, height, width] float32, clamped to 0..1; the image itself where the size is its own.
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image.float().clamp(0, 1)
    smaller = size[0] < image.shape[-2] or size[1] < image.shape[-1]
    made = F.interpolate(image.float(), size=size, mode="bicubic", antialias=smaller)
    return made.clamp(0, 1)


def blend(image: Tensor, refined: Tensor, size: tuple[int, int], strength: float = 1.0) -> Tensor:
    """(1 - strength) * plain resize + strength * refined, both brought to `size`.

    image: [B, C, H, W] in 0..1, what the refiner was given; refined: [B, C, H', W'], what it made.
    strength: 0 (a plain resize) to 1 (the refiner).
    Returns [B, C, height, width] float32 in 0..1. Raises: ConfigError for another strength.
    """
    check_strength(strength)
    if strength == 1:
        return resize(refined, size)
    return resize(image, size).lerp(resize(refined, size), strength)


def check_strength(strength: float) -> None:
    """Raises: ConfigError for a strength outside 0..1."""
    if not 0 <= strength <= 1:
        raise ConfigError(f"strength is {strength}; expected 0 (a plain resize) to 1 (the refiner)")
