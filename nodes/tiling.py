"""Encoding and decoding at once or in strips, and ever lower ones where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import host

if TYPE_CHECKING:
    from ..core.autoencoders.autoencoder import Autoencoder
    from ..core.autoencoders.strips import StripSteps
    from ..core.refine.tiles import TileStep


def encode(model: Autoencoder, x: Tensor, strip: int = 0) -> Tensor:
    """The latent of pictures before it is rounded, on the CPU in float32.

    x: [B, C, H, W] in -1..1, both sides multiples of the model's factor.
    strip: height in pixels of strips, the pictures one by one; 0 takes the whole batch at once. The latent is the same.
    Where memory runs out, ever lower strips. Raises: VitrailError where it does so with the lowest too.
    """
    with host.loaded(model, _working_shape(tuple(x.shape), strip)) as device:
        dtype = dtype_of(model)
        return _run(
            lambda: model.encode(x.to(device, dtype)),
            lambda one, rows: model.encode_steps(one.to(device, dtype), strip=rows),
            x, strip, x.shape[2],
        )  # fmt: skip


def decode(model: Autoencoder, latent: Tensor, strip: int = 0) -> Tensor:
    """Pictures of latents that are already rounded where they should be, about -1..1, on the CPU in float32.

    latent: [B, c, h, w]. strip: as in `encode`, in pixels of the pictures.
    """
    shape = (len(latent), 3, *(side * model.factor for side in latent.shape[2:]))
    with host.loaded(model, _working_shape(shape, strip)) as device:
        dtype = dtype_of(model)
        return _run(
            lambda: model.decode(latent.to(device, dtype)),
            lambda one, rows: model.decode_steps(one.to(device, dtype), strip=rows),
            latent, strip, shape[2],
        )  # fmt: skip


def _run(
    whole: Callable[[], Tensor], steps: Callable[[Tensor, int], StripSteps], batch: Tensor, strip: int, height: int
) -> Tensor:
    """The batch at once, or picture by picture in strips with one progress update each."""
    from ..core.memory import LOWEST_STRIP, with_less_memory

    def run(rows: int) -> Tensor:
        return host.one_by_one(lambda one: steps(one, rows), batch, "cpu") if rows else whole().float().cpu()

    return with_less_memory(run, strip, then=height if len(batch) > 1 else height // 2, smallest=LOWEST_STRIP)


def _working_shape(shape: tuple[int, ...], strip: int) -> tuple[int, ...]:
    """What to reserve memory for: a batch, or a few strips of one picture beside an activation or two."""
    return (1, shape[1], min(shape[2], strip + shape[2] // 8), shape[3]) if strip else shape


def finished(steps: Iterator[TileStep]) -> Tensor:
    """The last picture of a tiled run, with one progress update a tile."""
    *_, last = host.counted(steps)
    return last.picture


def dtype_of(model: Autoencoder) -> torch.dtype:
    """What the convolutions compute in; the codebook is always float32."""
    return next(model.encoder.parameters()).dtype
