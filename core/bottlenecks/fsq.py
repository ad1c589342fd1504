"""Finite scalar quantisation: each number of a latent is rounded to one of a few values; the codebook is their grid."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..types import Quantized
from .gradient import straight_through
from .rows import check_indices, to_latent, to_map, to_rows

EPSILON = 1e-3
"""The bound reaches this much past the outermost values, so that rounding comes to them."""


@dataclass(frozen=True, kw_only=True)
class FSQConfig:
    """levels: how many values each channel has, at least 3; (8, 5, 5, 5) makes 1000 codes. Raises: ConfigError."""

    levels: tuple[int, ...] = (8, 5, 5, 5)

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 3:
            raise ConfigError(f"levels are {self.levels}; expected at least one channel, of 3 values or more each")

    @property
    def codes(self) -> int:
        return prod(self.levels)

    @property
    def dim(self) -> int:
        return len(self.levels)


class FiniteScalarQuantizer(nn.Module):
    """Rounds each channel i of a bounded latent to L_i values; no weights, no loss, no code that cannot be reached.

    bound(z) = (tanh(z + s) (L - 1)(1 + 1e-3) / 2 - o) / floor(L / 2),  o = 1/2 for even L else 0,  bound(0) = 0
    value = round(z floor(L / 2)) / floor(L / 2)
    index = sum_i (value_i floor(L_i / 2) + floor(L_i / 2)) prod_{j < i} L_j
    `bound` belongs to encoding: latents are bounded already, so that rounding a code's vector gives that code.
    Source: Mentzer et al. 2023, section 3.1 and appendix A.1; the bound reaches out by 1e-3, not in, and s is its exact
    inverse.
    """

    def __init__(self, config: FSQConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def codebook(self) -> Tensor:
        """Every point of the grid, [K, D] float32, on the CPU."""
        return self._vectors(torch.arange(self.config.codes))

    def bound(self, z: Tensor) -> Tensor:
        """Squeeze what an encoder made, [B, D, h, w], into the box of the grid; in its own dtype."""
        levels = self._levels(z).view(1, -1, 1, 1)
        offset = (levels + 1) % 2 / 2
        half = (levels - 1) * (1 + EPSILON) / 2
        bounded = torch.tanh(z.float() + torch.atanh(offset / half)) * half - offset
        return (bounded / (levels // 2)).to(z.dtype)

    def forward(self, z: Tensor) -> Quantized:
        """Round a bounded latent [B, D, h, w]; what lies outside the box goes to its border.

        Returns the latent with a gradient to z; indices [B, h, w]; the loss, 0.
        Raises: ShapeError when D is not the number of channels.
        """
        rows = to_rows(z, self.config.dim)
        levels, half = self._levels(z), self._levels(z) // 2
        steps = (rows.detach() * half).nan_to_num().round().clamp(-half, levels - 1 - half)
        indices = ((steps + half).long() * self._basis(z)).sum(1)
        latent = straight_through(rows, steps / half)
        return Quantized(latent=to_latent(latent, z), indices=to_map(indices, z), loss=rows.new_zeros(()))

    def lookup(self, indices: Tensor) -> Tensor:
        """The grid's points: int64 [B, h, w] -> [B, D, h, w] float32. Raises: ShapeError for what is no code."""
        check_indices(indices, self.config.codes)
        return self._vectors(indices).permute(0, 3, 1, 2).contiguous()

    def _vectors(self, indices: Tensor) -> Tensor:
        levels = self._levels(indices)
        half = levels // 2
        return (indices[..., None] // self._basis(indices) % levels - half) / half

    def _levels(self, like: Tensor) -> Tensor:
        return torch.tensor(self.config.levels, device=like.device)

    def _basis(self, like: Tensor) -> Tensor:
        """How far apart the indices of neighbouring values are in each channel: the first channel counts ones."""
        return torch.tensor([prod(self.config.levels[:i]) for i in range(self.config.dim)], device=like.device)
