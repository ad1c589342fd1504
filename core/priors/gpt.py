"""A transformer that tells the next token from those before it; parameters are named as in taming-transformers.

Source: Radford et al. 2019 (GPT-2); Esser et al. 2021, section 3.2; layout of taming/modules/transformer/mingpt.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError
from ..nn.attention import attend


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Sizes of a GPT; the defaults are those of taming's public priors.

    vocab: tokens, those of conditions included. block: the longest sequence.
    width, depth, heads: of the transformer.
    unmasked: so many tokens at the start see each other, whichever comes first.
    Raises: ConfigError for sizes below 1 or heads that do not divide the width.
    """

    vocab: int = 1024
    block: int = 512
    width: int = 1024
    depth: int = 24
    heads: int = 16
    unmasked: int = 0

    def __post_init__(self) -> None:
        sizes = (self.vocab, self.block, self.width, self.depth, self.heads)
        if min(sizes) < 1 or self.width % self.heads or not 0 <= self.unmasked <= self.block:
            raise ConfigError(
                f"a GPT of vocab, block, width, depth, heads {sizes}, {self.unmasked} unmasked; expected 1 or more, "
                "heads that divide the width, no more unmasked than the block"
            )


class Cache:
    """Keys and values of the tokens so far, for one layer."""

    def __init__(self) -> None:
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def grown(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take in those of new tokens, [B, heads, new, d]; all of them are returned."""
        self.k = k if self.k is None else torch.cat([self.k, k], dim=2)
        self.v = v if self.v is None else torch.cat([self.v, v], dim=2)
        return self.k, self.v

    @property
    def length(self) -> int:
        return 0 if self.k is None else self.k.shape[2]


class SelfAttention(nn.Module):
    """Attention of tokens to themselves and those before them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads, self.unmasked = config.heads, config.unmasked
        self.key, self.query, self.value, self.proj = (nn.Linear(config.width, config.width) for _ in range(4))

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        """x: [B, new, width]; the cache grows by them -> the shape of x."""
        start = cache.length
        q, k, v = (layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in self._projections)
        k, v = cache.grown(k, v)
        return self.proj(attend(q, k, v, self._seen(start, k)).transpose(1, 2).flatten(2))

    @property
    def _projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.query, self.key, self.value

    def _seen(self, start: int, k: Tensor) -> Tensor | None:
        """[1, 1, new, all] bool: which tokens each new one may look at; None for all."""
        total = k.shape[2]
        if total - start == 1:
            return None
        rows, columns = (torch.arange(a, total, device=k.device) for a in (start, 0))
        seen = columns <= rows[:, None]
        return (seen | ((rows[:, None] < self.unmasked) & (columns < self.unmasked)))[None, None]


class Block(nn.Module):
    """Attention, then a layer four times as wide; each normed before and added after."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width = config.width
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = SelfAttention(config)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        """x: [B, new, width] -> the same shape."""
        x = x + self.attn(self.ln1(x), cache)
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    """Scores of the next token at each place."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab, config.width)
        self.pos_emb = nn.Parameter(torch.zeros(1, config.block, config.width))
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.depth)))
        self.ln_f = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab, bias=False)

    def forward(self, ids: Tensor, embeddings: Tensor | None = None, caches: list[Cache] | None = None) -> Tensor:
        """The scores of what follows each token.

        ids: [B, N] int64. embeddings: [B, M, width], vectors put before the tokens.
        caches: of `caches()`; what they hold counts as having come before, and they grow by the new tokens.
        Returns [B, M + N, vocab].
        Raises: ShapeError for tokens that the vocabulary lacks or more than the block holds.
        """
        self._check(ids)
        caches = self.caches() if caches is None else caches
        x = self.tok_emb(ids)
        x = x if embeddings is None else torch.cat([embeddings.to(x), x], dim=1)
        start, count = caches[0].length, x.shape[1]
        if start + count > self.config.block:
            raise ShapeError(f"{start + count} tokens; this transformer takes at most {self.config.block} at once")
        x = x + self.pos_emb[:, start : start + count]
        for block, cache in zip(self.blocks, caches, strict=True):
            x = block(x, cache)
        return self.head(self.ln_f(x))

    def caches(self) -> list[Cache]:
        """An empty cache for each layer."""
        return [Cache() for _ in range(self.config.depth)]

    def _check(self, ids: Tensor) -> None:
        if ids.ndim != 2 or ids.is_floating_point():
            raise ShapeError(f"tokens are {tuple(ids.shape)} {ids.dtype}; expected int64 [batch, tokens]")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.config.vocab:
            raise ShapeError(
                f"tokens run from {int(ids.min())} to {int(ids.max())}; this transformer knows 0 to "
                f"{self.config.vocab - 1}"
            )
