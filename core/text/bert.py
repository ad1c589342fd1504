"""The text encoder of latent diffusion's text-to-image models: a transformer of its own over BERT's word pieces.

Source: Rombach et al. 2022, section 4.3.1 and appendix E.2.1; children are named as in CompVis's checkpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError
from ..nn.attention import CrossAttention
from ..types import Condition
from .prompts import Frame, Tokenizer, encode_prompts, prompt_notes, refuse_styles


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes of the encoder; the defaults are those of txt2img-1p4B.

    vocab, length: known tokens, and tokens of a text. width, depth: of the transformer.
    heads, head_width: of each attention, whose inner width is their product whatever the width.
    start, end, pad: numbers of the tokens around a text and after it, BERT's own where the vocabulary has them.
    Raises: ConfigError when values are out of range.
    """

    vocab: int = 30522
    length: int = 77
    width: int = 1280
    depth: int = 32
    heads: int = 8
    head_width: int = 64
    start: int = 101
    end: int = 102
    pad: int = 0

    def __post_init__(self) -> None:
        sizes = (self.vocab, self.length, self.width, self.heads, self.head_width)
        if min(sizes) < 1 or self.depth < 0:
            raise ConfigError(f"a text encoder's sizes are {sizes}, its depth {self.depth}; expected them above 0")

    @property
    def context_dim(self) -> int:
        """Width of the context that comes out."""
        return self.width

    @property
    def vector_dim(self) -> None:
        """Diffusion networks get no vector from this encoder."""
        return None

    @property
    def frame(self) -> Frame:
        return Frame(length=self.length, start=self.start, end=self.end, pad=self.pad)


class BertLayer(nn.Module):
    """x + attention(norm x), then x + mlp(norm x) four times as wide, with the exact GELU."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.width
        self.attn_norm, self.ff_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = CrossAttention(width, None, config.heads, config.head_width, 0.0)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, L, width] -> the same shape."""
        x = x + self.attn(self.attn_norm(x))
        return x + self.ff(self.ff_norm(x))


class BertEncoder(nn.Module):
    """Token numbers to the states that a diffusion network attends to; padding is looked at like any token.

    tokenizer: words to token numbers; None where the weights came without a vocabulary, then only `forward` works.
    """

    tokenizer: Tokenizer | None

    def __init__(self, config: BertConfig, tokenizer: Tokenizer | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.token_emb = nn.Embedding(config.vocab, config.width)
        self.pos_emb = nn.Embedding(config.length, config.width)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, ids: Tensor) -> Tensor:
        """The normed last states.

        ids: [B, L] int64, L <= length.
        Returns [B, L, width].
        Raises: ShapeError for ids that do not fit.
        """
        self._check(ids)
        x = F.embedding(ids, self.token_emb.weight) + self.pos_emb.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def encode(self, texts: Sequence[str], styles: Sequence[str | None] | None = None) -> Condition:
        """Prompts, weights such as "(word:1.2)" included; one that is too long goes on in further chunks.

        Returns context [B, chunks x length, width].
        Raises: ConfigError without a vocabulary, and for a style.
        """
        refuse_styles(styles)
        return Condition(context=encode_prompts(self, texts, self.config.frame, self.tokenizer))

    def null(self, batch: int) -> Condition:
        """The condition that says nothing, for guidance: the empty text."""
        empty = self.config.frame.empty(self.norm.weight.device)
        return Condition(context=self(empty[None]).expand(batch, -1, -1))

    def notes(self, text: str) -> list[str]:
        """One line for each thing about a text that a person should know."""
        return prompt_notes(text, self.config.frame, self.tokenizer)

    def _check(self, ids: Tensor) -> None:
        config = self.config
        if ids.ndim != 2 or not 1 <= ids.shape[1] <= config.length or ids.is_floating_point():
            raise ShapeError(
                f"token numbers are {tuple(ids.shape)} {ids.dtype}; expected int64 [batch, up to {config.length}]"
            )
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < config.vocab:
            raise ShapeError(
                f"token numbers run from {int(ids.min())} to {int(ids.max())}; this encoder has 0 to "
                f"{config.vocab - 1}: was the text read with another vocabulary?"
            )


def frame_tokens(vocab: int) -> dict[str, int]:
    """BERT's tokens around a text, or the first ones of a vocabulary that is too small to hold them."""
    default = BertConfig()
    around = {"start": default.start, "end": default.end, "pad": default.pad}
    return around if max(around.values()) < vocab else dict.fromkeys(around, 0)
