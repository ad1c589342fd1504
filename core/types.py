"""The values that pass between the parts of the core, and the legend of their shapes.

    x            [B, C, H, W]  a picture, -1..1
    z, latent    [B, c, h, w]  an autoencoder's own space, unscaled
    indices      [B, h, w]     int64 codes, or [B, h, w, levels] of a residual codebook
    sigma        [] or [B]     standard deviation of the noise, in units of the scaled latent
    sigmas       [n + 1]       float32, descending, the last one 0
    context      [B, L, D]     tokens for cross-attention
    vector       [B, V]        one vector a picture, added to the time embedding
    mask         [B, 1, h, w]  1 = paint here, 0 = keep
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .errors import ShapeError

Denoise = Callable[[Tensor, Tensor], Tensor]
"""`(x, sigma) -> denoised`: sigma is a scalar tensor; the condition is already bound."""

NoiseSource = Callable[[], Tensor]
"""Each call draws the next standard normal tensor of the shape of x."""


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What a bottleneck makes of a latent.

    latent: [B, c, h, w], differentiable towards the encoder.
    indices: [B, h, w] int64, or None where the bottleneck has no codes (KL).
    loss: [] float, the bottleneck's own term, already weighted.
    """

    latent: Tensor
    indices: Tensor | None
    loss: Tensor


@dataclass(frozen=True, kw_only=True)
class Codes:
    """Pictures as codes.

    indices: [B, h, w] or [B, h, w, levels] int64, each 0 <= code < codebook_size.
    codebook_size: number of codes K.
    factor: pixels a code covers along one side.
    image_size: (height, width) in pixels of the pictures before they were padded to the factor.
    Raises: ShapeError when the indices are not of that shape or leave the codebook.
    """

    indices: Tensor
    codebook_size: int
    factor: int
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.indices.ndim not in (3, 4) or self.indices.dtype != torch.int64:
            raise ShapeError(
                f"codes are {tuple(self.indices.shape)} {self.indices.dtype}; expected int64 "
                "[batch, height, width] or [batch, height, width, levels]"
            )
        if self.indices.numel() and not 0 <= int(self.indices.min()) <= int(self.indices.max()) < self.codebook_size:
            raise ShapeError(
                f"codes run from {int(self.indices.min())} to {int(self.indices.max())}, but the codebook has "
                f"{self.codebook_size} codes (0 to {self.codebook_size - 1}); were they made with another autoencoder?"
            )


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a diffusion network is told beside x and the time.

    context: [B, L, D] for cross-attention, or None.
    vector: [B, V] for the time embedding (or int64 [B] class labels), or None.
    concat: [B, c, h, w] stacked on the input channels, or None.
    """

    context: Tensor | None = None
    vector: Tensor | None = None
    concat: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Condition":
        """The same condition with `function` applied to each part that is there."""
        parts = {name: getattr(self, name) for name in ("context", "vector", "concat")}
        return replace(self, **{name: function(part) for name, part in parts.items() if part is not None})


@dataclass(frozen=True)
class Step:
    """One step of a sampler.

    index: 0-based.
    sigma: the noise level the step started from, [].
    x: the latent after the step, [B, c, h, w].
    denoised: the estimate of the clean latent, for previews, [B, c, h, w].
    """

    index: int
    sigma: Tensor
    x: Tensor
    denoised: Tensor


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """One step of a trainer.

    step: 1-based number of optimiser steps done; total: how many the run will do.
    losses: means over the batch, by name.
    """

    step: int
    total: int
    losses: dict[str, float] = field(default_factory=dict)
