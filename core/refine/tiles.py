"""Networks of a fixed scale on pictures of any size, in overlapping tiles whose seams are faded into each other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..memory import halved, out_of_memory, release

Network = Callable[[Tensor], Tensor]
"""[B, C, H, W] -> [B, C', scale H, scale W], any H and W, the scale a whole number: ours or a stock upscale model."""

ALIGN = 4
"""Tiles begin at multiples of this, so that a network that folds 2 or 4 pixels into one sees the same folds."""

SMALLEST = 16
"""The smallest tile, in pixels of the input."""

FADE = 8
"""At most so many pixels of the input does one tile fade into the next over."""


@dataclass(frozen=True)
class TileStep:
    """One tile more.

    done, total: tiles so far and in all; both begin anew where memory ran out and the tiles were halved.
    picture: [B, C', scale H, scale W] float32, complete when done == total.
    """

    done: int
    total: int
    picture: Tensor


def upscale(
    network: Network,
    image: Tensor,
    *,
    scale: int,
    tile: int = 0,
    overlap: int = 16,
    device: torch.device | str | None = None,
) -> Tensor:
    """The finished picture of `upscale_steps`, whose arguments and errors these are."""
    *_, last = upscale_steps(network, image, scale=scale, tile=tile, overlap=overlap, device=device)
    return last.picture


def upscale_steps(
    network: Network,
    image: Tensor,
    *,
    scale: int,
    tile: int = 0,
    overlap: int = 16,
    device: torch.device | str | None = None,
) -> Iterator[TileStep]:
    """Run a network over a picture, a tile a step; the caller's loop is where progress and cancelling live.

    Each tile fades over the middle of the overlap, FADE pixels at most. What is nearer to its cut edges is not used, so
    that the result is the whole picture's where overlap >= 2 * (radius of the receptive field) + FADE.

    image: [B, C, H, W] float. device: where the network is (default: the image's device).
    tile: side in pixels of the input, at least SMALLEST; 0 hands over the whole batch, as does a tile that covers it.
    overlap: pixels of the input that neighbours share, at least; at most half a tile is used.
    Out of memory, the tile is halved, down to SMALLEST, and the work begins anew.
    No gradients. Memory: the result in float32 on the image's device, and what one tile of one picture takes.
    Raises: ConfigError for a tile or an overlap out of range, ShapeError for an image that is no batch of pictures or
    a network that does not scale by `scale`, VitrailError where memory does not suffice for the smallest tile.
    """
    if scale < 1 or overlap < 0 or tile < 0 or 0 < tile < SMALLEST:
        raise ConfigError(
            f"scale is {scale}, tile {tile}, overlap {overlap}; expected a scale of at least 1, a tile of 0 (the whole "
            f"picture) or at least {SMALLEST} pixels, and an overlap of at least 0"
        )
    if image.ndim != 4 or 0 in image.shape:
        raise ShapeError(f"the image is {tuple(image.shape)}; expected [batch, channels, height, width], none 0")
    longest = max(image.shape[2:])
    while True:
        try:
            yield from _attempt(network, image, scale, tile if tile < longest else 0, overlap, device or image.device)
            return
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            tile = halved(min(tile or longest, longest), SMALLEST, error, "tiles")
        release()


def _attempt(
    network: Network, image: Tensor, scale: int, tile: int, overlap: int, device: torch.device | str
) -> Iterator[TileStep]:
    """The whole batch at once where tile is 0, else tile by tile, one picture after the other."""
    if not tile:
        yield TileStep(1, 1, _run(network, image, scale, device))
        return
    down, across = (_axis(size, tile, overlap, scale, image.device) for size in image.shape[2:])
    places = list(product(range(len(image)), down, across))
    picture: Tensor | None = None
    for done, (i, (rows, fade_y), (columns, fade_x)) in enumerate(places, 1):
        made = _run(network, image[i : i + 1, :, rows, columns], scale, device)[0]
        if picture is None:
            picture = made.new_zeros(len(image), len(made), *(scale * size for size in image.shape[2:]))
        picture[i, :, _times(rows, scale), _times(columns, scale)] += made * fade_y[:, None] * fade_x
        yield TileStep(done, len(places), picture)


def _run(network: Network, image: Tensor, scale: int, device: torch.device | str) -> Tensor:
    """What the network makes of a picture or a part of one, in float32 on the image's device, its size checked."""
    with torch.no_grad():
        made = network(image.to(device))
    expected = tuple(scale * size for size in image.shape[2:])
    if made.ndim != 4 or len(made) != len(image) or tuple(made.shape[2:]) != expected:
        raise ShapeError(f"the network made {tuple(made.shape)} of {tuple(image.shape)}; expected sides of {expected}")
    return made.to(image.device, torch.float32)


def _axis(size: int, tile: int, overlap: int, scale: int, device: torch.device) -> list[tuple[slice, Tensor]]:
    """The tiles along one side: their pixels in the input, and the weight of each of their pixels in the result.

    The weights of all tiles add up to 1 everywhere; a side that is no longer than a tile has one tile.
    """
    tile = min(ceil(tile / ALIGN) * ALIGN, size)
    overlap = min(overlap, tile // 2)
    step = max(ALIGN, (tile - overlap) // ALIGN * ALIGN)
    last = ceil((size - tile) / ALIGN) * ALIGN
    spans = [slice(start, min(start + tile, size)) for start in (*range(0, last, step), last)]
    weights = [_fade(span, size, overlap, scale, device) for span in spans]
    total = torch.zeros(scale * size, device=device)
    for span, weight in zip(spans, weights, strict=True):
        total[_times(span, scale)] += weight
    return [(span, weight / total[_times(span, scale)]) for span, weight in zip(spans, weights, strict=True)]


def _fade(span: slice, size: int, overlap: int, scale: int, device: torch.device) -> Tensor:
    """0 near an edge where the picture was cut, 1 inside, linear between them over the middle of the overlap."""
    width = min(FADE, max(1.0, overlap / 2))
    unused = (overlap - width) / 2
    place = (torch.arange(scale * span.start, scale * span.stop, device=device) + 0.5) / scale
    weight = torch.ones_like(place)
    if overlap and span.start > 0:
        weight *= ((place - span.start - unused) / width).clamp(0, 1)
    if overlap and span.stop < size:
        weight *= ((span.stop - place - unused) / width).clamp(0, 1)
    return weight


def _times(span: slice, scale: int) -> slice:
    return slice(scale * span.start, scale * span.stop)
