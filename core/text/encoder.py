"""A small text encoder: words and a style become a context for cross-attention and one vector a picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError
from ..nn.attention import attend
from ..types import Condition
from .words import WordTokenizer, split_style

NO_STYLE = "none"


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A text encoder and the words it knows.

    vocab: known words; styles: names of styles. Both are part of the model, so they travel in its file.
    length: words of a text. width, depth, heads: of the transformer.
    context_dim, vector_dim: widths of what comes out.
    Raises: ConfigError when values are out of range, or words or styles repeat.
    """

    vocab: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    length: int = 16
    width: int = 192
    depth: int = 2
    heads: int = 4
    context_dim: int = 192
    vector_dim: int = 256

    def __post_init__(self) -> None:
        sizes = (self.length, self.width, self.heads, self.context_dim, self.vector_dim)
        if min(sizes) < 1 or self.depth < 0 or self.width % self.heads:
            raise ConfigError(f"a text encoder's sizes {sizes}, depth {self.depth}: 1 or more, heads dividing width")
        for name, values in (("vocab", self.vocab), ("styles", self.styles)):
            if len(set(values)) != len(values):
                raise ConfigError(f"{name} holds a name twice; each must be there once")
        if NO_STYLE in self.styles:
            raise ConfigError(f'"{NO_STYLE}" means no style; name the style otherwise')


class TextBlock(nn.Module):
    """Self-attention, then a layer of twice the width; each normed before and added after."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [B, N, width]; mask: [B, N] bool, true where a token may be looked at -> the shape of x."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(attend(q, k, v, mask[:, None, None]).transpose(1, 2).flatten(2))
        return x + self.ff(self.norm2(x))


class StyleTextEncoder(nn.Module):
    """Words and a style to a Condition.

    context_0 = the [CLS] token, context_i = word i, both after the transformer; 0 where there is no word.
    vector = linear(context_0 + sum of the word embeddings / sqrt(number of words)) + style embedding

    The bag of words lets a word that is rarely seen with others speak for itself. Padding is zero in the context, so
    the network needs no mask, and contexts can be joined or averaged. The empty text without a style is the learned
    null of classifier-free guidance.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = WordTokenizer(config.vocab, config.length)
        width = config.width
        self.words = nn.Embedding(len(config.vocab) + 1, width, padding_idx=0)
        self.styles = nn.Embedding(len(config.styles) + 1, config.vector_dim)
        self.cls = nn.Parameter(torch.randn(width) * 0.02)
        self.positions = nn.Parameter(torch.randn(config.length + 1, width) * 0.02)
        self.blocks = nn.ModuleList(TextBlock(width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        same = width == config.context_dim
        self.to_context = nn.Identity() if same else nn.Linear(width, config.context_dim)
        self.to_vector = nn.Linear(width, config.vector_dim)
        nn.init.normal_(self.words.weight[1:], std=0.5)
        nn.init.normal_(self.styles.weight, std=0.3)

    def forward(self, ids: Tensor, style: Tensor) -> Condition:
        """Encode word numbers.

        ids: [B, length] int64, 0 = padding, see WordTokenizer.
        style: [B] int64; len(config.styles) = no style.
        Returns context [B, length + 1, context_dim] and vector [B, vector_dim].
        Raises: ShapeError when ids have another length.
        """
        if ids.ndim != 2 or ids.shape[1] != self.config.length:
            raise ShapeError(f"word numbers are {tuple(ids.shape)}; expected [batch, {self.config.length}]")
        words = self.words(ids)
        x = torch.cat([self.cls.expand(len(ids), 1, -1), words], dim=1) + self.positions
        mask = F.pad(ids > 0, (1, 0), value=True)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        count = (ids > 0).sum(dim=1, keepdim=True).clamp_min(1)
        pooled = x[:, 0] + words.sum(dim=1) * count.to(words.dtype).rsqrt()
        context = self.to_context(x) * mask[..., None]
        return Condition(context=context, vector=self.to_vector(pooled) + self.styles(style))

    def encode(self, texts: Sequence[str], styles: Sequence[str | None] | None = None) -> Condition:
        """Encode prompts.

        texts: words; "style:name" in a text goes before `styles`.
        styles: a name, or None or "none" for no style, for each text; None for none at all.
        Returns context [B, length + 1, context_dim] and vector [B, vector_dim]. Unknown words: see `notes`.
        Raises: ConfigError on an unknown style, with those known, and when the two lists differ in length.
        """
        chosen = [None] * len(texts) if styles is None else list(styles)
        if len(chosen) != len(texts):
            raise ConfigError(f"{len(texts)} texts and {len(chosen)} styles; give one style for each text")
        named = [split_style(text)[1] or style for text, style in zip(texts, chosen, strict=True)]
        ids = torch.stack([self.tokenizer.ids(text) for text in texts])
        indices = torch.tensor([self.style_index(name) for name in named])
        return self(ids.to(self.cls.device), indices.to(self.cls.device))

    def null(self, batch: int) -> Condition:
        """The condition that says nothing, for guidance: the empty text without a style."""
        return self.encode([""] * batch)

    def style_index(self, name: str | None) -> int:
        """A style's number, whatever its case. Raises: ConfigError on an unknown one."""
        styles = [style.lower() for style in self.config.styles]
        wanted = (name or NO_STYLE).strip().lower() or NO_STYLE
        if wanted == NO_STYLE:
            return len(styles)
        if wanted not in styles:
            raise ConfigError(f'there is no style "{name}"; known are {", ".join([*self.config.styles, NO_STYLE])}')
        return styles.index(wanted)

    def unknown(self, text: str) -> list[str]:
        """The words of a text that this encoder does not know, each once."""
        return self.tokenizer.unknown(text)

    def notes(self, text: str) -> list[str]:
        """One line for each thing about a text that a person should know: unknown words, words cut, weights ignored."""
        named = [name for name in self.config.styles if name.lower() in self.unknown(text)]
        return self.tokenizer.notes(text) + [f'"{name}" is a style: write "style:{name}"' for name in named]
