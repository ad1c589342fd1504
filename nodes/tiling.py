"""Encoding and decoding in parts: picture by picture, then in overlapping tiles, where memory asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import host

if TYPE_CHECKING:
    from ..core.autoencoders.autoencoder import Autoencoder
    from ..core.refine.tiles import TileStep

OVERLAP = 16
"""Cells of the latent that a tile sees beyond its own part, so that seams do not show."""

SMALLEST = 16
"""The smallest tile, in cells of the latent."""


def encode(model: Autoencoder, x: Tensor, tile_size: int = 0) -> Tensor:
    """The latent of pictures before it is rounded, on the CPU in float32.

    x: [B, C, H, W] in -1..1, both sides multiples of the model's factor.
    tile_size: side of a tile in pixels, at least SMALLEST cells; 0 takes the whole batch at once, and goes over to
    single pictures and then to ever smaller tiles only when memory runs out.
    Tiles are approximate: normalisation and attention see one tile instead of the picture.
    """
    with host.loaded(model, tuple(x.shape)) as device:
        dtype = dtype_of(model)

        def run(part: Tensor) -> Tensor:
            return model.encode(part.to(device, dtype)).float().cpu()

        if not tile_size and (whole := _unless_out_of_memory(run, x)) is not None:
            return whole
        return torch.cat([_encode_tiles(run, picture[None], model.factor, tile_size) for picture in x])


def decode(model: Autoencoder, latent: Tensor, tile_size: int = 0) -> Tensor:
    """Pictures of latents that are already rounded where they should be, about -1..1, on the CPU in float32.

    latent: [B, c, h, w]. tile_size: as in `encode`; tiles fade into each other.
    """
    from ..core.refine.tiles import upscale_steps

    factor = model.factor
    with host.loaded(model, _decoded_shape(latent, factor)) as device:
        dtype = dtype_of(model)

        def run(part: Tensor) -> Tensor:
            return model.decode(part.to(device, dtype)).float()

        if not tile_size and (whole := _unless_out_of_memory(lambda part: run(part).cpu(), latent)) is not None:
            return whole
        options = {"scale": factor, "overlap": OVERLAP, "device": device}
        tile = max(SMALLEST, tile_size // factor) if tile_size else 0
        ones = latent.float().cpu().split(1)
        return torch.cat([finished(upscale_steps(run, one, tile=tile, **options)) for one in ones])


def finished(steps: Iterator[TileStep]) -> Tensor:
    """The last picture of a tiled run, with one progress update a tile."""
    first = next(steps)

    def all_steps() -> Iterator[TileStep]:
        yield first
        yield from steps

    *_, last = host.progress(all_steps(), first.total) if first.total > 1 else (first,)
    return last.picture


def dtype_of(model: Autoencoder) -> torch.dtype:
    """What the convolutions compute in; the codebook is always float32."""
    return next(model.encoder.parameters()).dtype


def _decoded_shape(latent: Tensor, factor: int) -> tuple[int, ...]:
    return len(latent), 3, *(side * factor for side in latent.shape[2:])


def _unless_out_of_memory(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | None:
    from ..core.refine.tiles import out_of_memory

    try:
        return run(x)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _encode_tiles(run: Callable[[Tensor], Tensor], x: Tensor, factor: int, tile_size: int) -> Tensor:
    """One picture in tiles of at most `tile_size` pixels (0: whole), halved while memory runs out."""
    from ..core.errors import VitrailError

    tile, longest = ceil(tile_size / factor), max(x.shape[2:]) // factor
    tile = max(SMALLEST, tile) if tile else longest
    while (latent := _unless_out_of_memory(partial(_inner_parts, run, factor, tile), x)) is None:
        if tile <= SMALLEST:
            raise VitrailError(
                f"memory ran out even with tiles of {tile * factor} pixels: free some, or load the model in fp16"
            )
        tile = max(SMALLEST, min(tile, longest) // 2)
    return latent


def _inner_parts(run: Callable[[Tensor], Tensor], factor: int, tile: int, x: Tensor) -> Tensor:
    """Latents of tiles that see OVERLAP cells beyond their own part, which alone is kept."""
    rows, columns = (_spans(side // factor, tile) for side in x.shape[2:])
    strips = [torch.cat([_tile(run, x, factor, row, column) for column in columns], dim=3) for row in rows]
    return torch.cat(strips, dim=2)


def _tile(run: Callable[[Tensor], Tensor], x: Tensor, factor: int, row: slice, column: slice) -> Tensor:
    high, wide = (_widened(span, side // factor) for span, side in zip((row, column), x.shape[2:], strict=True))
    latent = run(x[:, :, high.start * factor : high.stop * factor, wide.start * factor : wide.stop * factor])
    top, left = row.start - high.start, column.start - wide.start
    return latent[:, :, top : top + row.stop - row.start, left : left + column.stop - column.start]


def _spans(size: int, tile: int) -> list[slice]:
    return [slice(start, min(start + tile, size)) for start in range(0, size, tile)]


def _widened(span: slice, size: int) -> slice:
    return slice(max(0, span.start - OVERLAP), min(size, span.stop + OVERLAP))
