"""CLIP's text encoders, which read the prompts of Stable Diffusion 1 and 2; parameters are named as in transformers.

Source: Radford et al. 2021, section 2.4; Cherti et al. 2022 (OpenCLIP).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError
from ..nn.attention import attend
from ..types import Condition
from .prompts import Frame, Tokenizer, encode_prompts, prompt_notes, refuse_styles


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig:
    """Sizes of a CLIP text encoder; the defaults are those of Stable Diffusion 1 (ViT-L/14).

    vocab, length: known tokens, and tokens of a text. width, inner, depth, heads: of the transformer.
    activation: "quick_gelu" (OpenAI's weights) or "gelu" (OpenCLIP's).
    start, end, pad: numbers of the tokens around a text and after it.
    skip: layers at the end that are passed over (1 in Stable Diffusion 2); the last norm follows all the same.
    eps: of the norms.
    Raises: ConfigError when values are out of range.
    """

    vocab: int = 49408
    length: int = 77
    width: int = 768
    inner: int = 3072
    depth: int = 12
    heads: int = 12
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    start: int = 49406
    end: int = 49407
    pad: int = 49407
    skip: int = 0
    eps: float = 1e-5

    def __post_init__(self) -> None:
        sizes = (self.vocab, self.length - 2, self.width, self.inner, self.heads)
        if min(sizes) < 1 or self.depth < 0 or self.width % self.heads:
            raise ConfigError(
                f"a CLIP text encoder of {self.vocab} tokens, length {self.length}, width {self.width}, {self.inner} "
                f"inside, depth {self.depth}, {self.heads} heads; expected sizes above 0, heads dividing the width"
            )
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f'activation is "{self.activation}"; expected one of {", ".join(ACTIVATIONS)}')
        if not 0 <= self.skip <= self.depth:
            raise ConfigError(f"skip is {self.skip}; expected 0 to {self.depth}, the number of layers")
        if not all(0 <= token < self.vocab for token in (self.start, self.end, self.pad)):
            raise ConfigError(
                f"start, end and pad are the tokens {self.start}, {self.end}, {self.pad}; there are {self.vocab}"
            )

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


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x). Source: Hendrycks & Gimpel 2016, section 2."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class Embeddings(nn.Module):
    """Token embedding plus position embedding: int64 [B, L] -> [B, L, width]."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab, config.width)
        self.position_embedding = nn.Embedding(config.length, config.width)

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class Attention(nn.Module):
    """Self-attention in which a token sees itself, those before it, and of them those that the mask keeps."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [B, L, width]; mask: bool, broadcasts to [B, heads, L, L] -> the shape of x."""
        parts = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        return self.out_proj(attend(q, k, v, mask).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers around the activation."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(config.width, config.inner), nn.Linear(config.inner, config.width)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, L, width] -> the same shape."""
        return self.fc2(self.activation(self.fc1(x)))


class Layer(nn.Module):
    """Attention, then the MLP; each normed before and added after."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(config.width, config.heads), MLP(config)
        self.layer_norm1, self.layer_norm2 = (nn.LayerNorm(config.width, eps=config.eps) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [B, L, width] -> the same shape."""
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class Layers(nn.Module):
    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))


class Transformer(nn.Module):
    """The children of `text_model`, and nothing to call: see ClipTextEncoder."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.embeddings, self.encoder = Embeddings(config), Layers(config)
        self.final_layer_norm = nn.LayerNorm(config.width, eps=config.eps)


class ClipTextEncoder(nn.Module):
    """Token numbers to the states that a diffusion network attends to.

    tokenizer: words to token numbers; None where the weights came without a vocabulary, then only `forward` works.
    """

    tokenizer: Tokenizer | None

    def __init__(self, config: ClipTextConfig, tokenizer: Tokenizer | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.text_model = Transformer(config)

    def forward(self, ids: Tensor, mask: Tensor | None = None, skip: int | None = None) -> Tensor:
        """The states after the last layer that counts, normed.

        ids: [B, L] int64, L <= length. mask: [B, L], nonzero for tokens that may be looked at; None for all.
        skip: layers at the end to pass over; None is the config's.
        Returns [B, L, width].
        Raises: ShapeError for ids that do not fit.
        """
        skip = self.config.skip if skip is None else skip
        return self.text_model.final_layer_norm(self.hidden(ids, mask)[self.config.depth - skip])

    def hidden(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """The embeddings, then the states after each layer, without the last norm: depth + 1 of [B, L, width]."""
        self._check(ids)
        length = ids.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()[None, None]
        if mask is not None:
            seen = seen & mask.bool()[:, None, None]
        states = [self.text_model.embeddings(ids)]
        for layer in self.text_model.encoder.layers:
            states.append(layer(states[-1], seen))
        return states

    def pooled(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The normed last state of the first end token, [B, width]; of the first token where there is no end."""
        last = self(ids, mask, skip=0)
        return last[torch.arange(len(ids), device=ids.device), (ids == self.config.end).int().argmax(dim=1)]

    def encode(
        self, texts: Sequence[str], styles: Sequence[str | None] | None = None, skip: int | None = None
    ) -> Condition:
        """Prompts, weights such as "(word:1.2)" included; one that is too long goes on in further chunks.

        skip: layers at the end to pass over; None is the config's.
        Returns context [B, chunks x length, width].
        Raises: ConfigError without a vocabulary, and for a style.
        """
        refuse_styles(styles)
        reads = partial(self, skip=skip)
        return Condition(context=encode_prompts(reads, texts, self.config.frame, self.tokenizer, self._device))

    def null(self, batch: int) -> Condition:
        """The condition that says nothing, for guidance: the empty text."""
        frame = self.config.frame
        return Condition(context=self(frame.empty(self._device)[None]).expand(batch, -1, -1))

    def notes(self, text: str) -> list[str]:
        """One line for each thing about a text that a person should know."""
        return prompt_notes(text, self.config.frame, self.tokenizer)

    @property
    def _device(self) -> torch.device:
        return self.text_model.final_layer_norm.weight.device

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
