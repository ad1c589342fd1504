"""Residual vector quantisation: each codebook rounds what the ones before it left over."""

from dataclasses import dataclass, field, replace
from functools import reduce

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError
from ..types import Quantized
from .gradient import GRADIENTS
from .rows import check_range, to_latent, to_rows
from .vq import VectorQuantizer, VQConfig


@dataclass(frozen=True, kw_only=True)
class ResidualConfig:
    """A stack of codebooks.

    depth: how many; book: the settings of each (metric "l2"); its gradient is that of the whole stack.
    Raises: ConfigError for a depth below 1 or another metric.
    """

    depth: int = 4
    book: VQConfig = field(default_factory=lambda: VQConfig(legacy=False))

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ConfigError(f"depth is {self.depth}; expected at least 1 codebook")
        if self.book.metric != "l2":
            raise ConfigError(f'the metric of residual codebooks is "{self.book.metric}"; expected "l2"')

    @property
    def codes(self) -> int:
        return self.book.codes

    @property
    def dim(self) -> int:
        return self.book.dim

    def fixed(self) -> "ResidualConfig":
        """The same codebooks with nothing that only training needs."""
        return replace(self, book=self.book.fixed())


class ResidualQuantizer(nn.Module):
    """Rounds a latent level by level; works in float32 whatever the dtype around it.

    r_1 = z,  e_l = the code of book l nearest to r_l,  r_{l + 1} = r_l - e_l,  latent = sum_l e_l
    loss = sum over the levels of each codebook's own (`VectorQuantizer`)
    The first levels alone are a coarser latent. The search is greedy: rounding a sum of codes again may give others.
    Source: Zeghidour et al. 2021 (SoundStream), Alg. 1; Lee et al. 2022, section 3.1, for pictures.
    """

    keep_float32 = True
    """Loading and saving leave these weights in float32."""

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        self.config = config
        self.books = nn.ModuleList(VectorQuantizer(config.book) for _ in range(config.depth))

    @property
    def codebook(self) -> Tensor:
        """The vectors of the first level's codes, [K, D] float32."""
        return self.codebooks[0]

    @property
    def codebooks(self) -> Tensor:
        """The vectors of every level, [depth, K, D] float32."""
        return torch.stack([book.codebook for book in self._books])

    def forward(self, z: Tensor) -> Quantized:
        """Round z [B, D, h, w]; in training mode each codebook learns from what reaches it, as configured.

        Returns the latent with a gradient to z; indices [B, h, w, depth]; the loss, [] float32.
        Raises: ShapeError when D is not the codebooks'.
        """
        rows = to_rows(z, self.config.dim)
        whole, left = z.new_zeros(z.shape, dtype=torch.float32), z.float()
        indices, loss = [], rows.new_zeros(())
        for book in self._books:
            found = book(left)
            whole, left = whole + found.latent.detach(), left - found.latent.detach()
            indices.append(found.indices)
            loss = loss + found.loss
        latent = GRADIENTS[self.config.book.gradient](rows, to_rows(whole, self.config.dim))
        return Quantized(latent=to_latent(latent, z), indices=torch.stack(indices, -1), loss=loss)

    def lookup(self, indices: Tensor) -> Tensor:
        """The sum of the codes' vectors, [B, D, h, w] in the dtype of the weights.

        indices: int64 [B, h, w, n], the first n <= depth levels, or [B, h, w], the first alone.
        Raises: ShapeError for another shape or a code that a codebook does not have.
        """
        levels = indices[..., None] if indices.ndim == 3 else indices
        if levels.ndim != 4 or levels.is_floating_point() or not 1 <= levels.shape[-1] <= self.config.depth:
            raise ShapeError(
                f"codes are {tuple(indices.shape)} {indices.dtype}; expected int64 [batch, height, width, levels] with "
                f"1 to {self.config.depth} levels"
            )
        check_range(levels, self.config.codes)
        found = [book.lookup(level) for book, level in zip(self._books, levels.unbind(-1), strict=False)]
        return reduce(torch.add, found)

    @property
    def _books(self) -> list[VectorQuantizer]:
        return list(self.books)  # pyright: ignore[reportReturnType]
