"""A codebook of which only a list of codes is kept: codes are numbered by their place in that list."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError
from ..types import Quantized
from .gumbel import GumbelConfig, GumbelQuantizer
from .rows import check_indices
from .search import nearest
from .vq import VectorQuantizer, VQConfig

UNKNOWN = ("random", "extra")


@dataclass(frozen=True, kw_only=True)
class KeptConfig:
    """How many codes of a codebook have a number.

    kept: codes in the list.
    unknown: what a code outside the list becomes: "random", some code of the list; "extra", one number more, behind
    the list; or always the same place in the list, 0 <= place < kept.
    Raises: ConfigError for values out of range.
    """

    kept: int = 1
    unknown: str | int = "random"

    def __post_init__(self) -> None:
        if self.kept < 1:
            raise ConfigError(f"kept is {self.kept}; expected a list of at least 1 code")
        place = type(self.unknown) is int and 0 <= self.unknown < self.kept
        if self.unknown not in UNKNOWN and not place:
            raise ConfigError(
                f"unknown is {self.unknown!r}; expected one of {', '.join(UNKNOWN)}, or a place in the list, "
                f"0 to {self.kept - 1}"
            )

    @property
    def codes(self) -> int:
        """The numbers that codes can have."""
        return self.kept + (self.unknown == "extra")


@dataclass(frozen=True, kw_only=True)
class RemapConfig(KeptConfig):
    """A codebook of which a list of codes is kept. book: the whole of it."""

    book: VQConfig = field(default_factory=VQConfig)

    @property
    def dim(self) -> int:
        return self.book.dim

    def fixed(self) -> "RemapConfig":
        """The same codebook with nothing that only training needs."""
        return replace(self, book=self.book.fixed())


@dataclass(frozen=True, kw_only=True)
class GumbelRemapConfig(KeptConfig):
    """A Gumbel codebook of which a list of codes is kept: it chooses among these only. book: the whole of it."""

    book: GumbelConfig = field(default_factory=GumbelConfig)

    @property
    def dim(self) -> int:
        return self.book.dim


class Listed(nn.Module):
    """What a quantiser with a list of kept codes has beside a plain one: numbers, and a codebook of those kept.

    The number behind the list ("extra") is looked up as the first.
    """

    used: Tensor
    remap: KeptConfig

    def keep(self, remap: KeptConfig) -> None:
        """Make room for a list."""
        self.remap = remap
        self.register_buffer("used", torch.arange(remap.kept))
        self.register_load_state_dict_post_hook(_check_list)

    def to_all(self, indices: Tensor) -> Tensor:
        """Numbers, int64 of any shape, to codes of the whole codebook."""
        return self.used.long()[indices.where(indices < self.remap.kept, 0)]

    def _kept(self, book: Tensor) -> Tensor:
        return book[self.to_all(torch.arange(self.remap.codes, device=self.used.device))]


class RemappedQuantizer(Listed, VectorQuantizer):
    """Rounds to the whole codebook, and numbers the codes by a list.

    index = the first i with used_i = k, for the nearest code k of the whole codebook; lookup(i) = e_(used_i)
    A code outside the list keeps its vector in the rounded latent, and gets the number that `unknown` says. "random" is
    no draw here, as it is in the source: it is the code of the list whose vector is nearest to that of the unknown one,
    so that a picture gets the same codes each time.
    Raises: ShapeError when it is given a list that names codes that the codebook does not have.
    Source: github.com/CompVis/taming-transformers, taming/modules/vqvae/quantize.py, VectorQuantizer2.
    """

    def __init__(self, config: RemapConfig) -> None:
        super().__init__(config.book)
        self.keep(config)

    @property
    def codebook(self) -> Tensor:
        """The vectors that numbers stand for, [kept or kept + 1, D] float32."""
        return self._kept(self._book)

    def forward(self, z: Tensor) -> Quantized:
        """As `VectorQuantizer`, with indices [B, h, w] in the list's numbers."""
        found = super().forward(z)
        return replace(found, indices=None if found.indices is None else self.to_kept(found.indices))

    def lookup(self, indices: Tensor) -> Tensor:
        """The vectors of numbers: int64 [B, h, w] -> [B, D, h, w] in the dtype of the weights.

        Raises: ShapeError for another shape or a number that no code has.
        """
        check_indices(indices, self.remap.codes)
        return super().lookup(self.to_all(indices))

    def to_kept(self, indices: Tensor) -> Tensor:
        """Codes of the whole codebook, int64 of any shape, to their numbers."""
        used, count = self.used.long(), self.remap.kept
        table = used.new_full((self.config.codes,), count)
        found = table.scatter_reduce(0, used, torch.arange(count, device=used.device), "amin")[indices]
        unknown, choice = found == count, self.remap.unknown
        if choice == "random":
            found[unknown] = nearest(self._book[indices[unknown]], self._book[used])
        elif isinstance(choice, int):
            found[unknown] = choice
        return found


class RemappedGumbelQuantizer(Listed, GumbelQuantizer):
    """Chooses among the codes of a list by their scores, and numbers them by it.

    scores = (proj z)_used;  all else as `GumbelQuantizer`, the loss against a uniform share of all K codes.
    Raises: ShapeError when it is given a list that names codes that the codebook does not have.
    Source: github.com/CompVis/taming-transformers, taming/modules/vqvae/quantize.py, GumbelQuantize.
    """

    def __init__(self, config: GumbelRemapConfig) -> None:
        super().__init__(config.book)
        self.keep(config)

    @property
    def codebook(self) -> Tensor:
        """The vectors that numbers stand for, [kept or kept + 1, D] float32."""
        return self._kept(super().codebook)

    @property
    def _vectors(self) -> Tensor:
        return super()._vectors[self.used.long()]

    def scores(self, rows: Tensor) -> Tensor:
        """proj z of the codes in the list: [N, D] -> [N, kept] float32."""
        return super().scores(rows)[:, self.used.long()]

    def lookup(self, indices: Tensor) -> Tensor:
        """The vectors of numbers: int64 [B, h, w] -> [B, D, h, w] in the dtype of the weights.

        Raises: ShapeError for another shape or a number that no code has.
        """
        check_indices(indices, self.remap.codes)
        return super().lookup(self.to_all(indices))


def _check_list(quantizer: Any, _: Any) -> None:
    used, codes = quantizer.used, quantizer.config.codes
    if not used.is_meta and not bool(((used >= 0) & (used < codes)).all()):
        raise ShapeError(
            f"the list of kept codes runs from {used.min()} to {used.max()}; the codebook has 0 to {codes - 1}: the "
            "file is damaged"
        )
