"""Prompts for encoders of tokens: weights such as "(word:1.2)", and texts that go on in further chunks.

    (text)        1.1 times the weight around it
    (text:1.2)    weight 1.2
    \\( \\)         parentheses that mean themselves

A token's state moves away from that of the empty text: state' = empty + weight (state - empty).
The notation and the arithmetic are those that users of ComfyUI know.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import ConfigError

EMPHASIS = 1.1
LONG = 8
"""A piece of a text of so many tokens may be cut where a chunk ends; a shorter one goes to the next chunk whole."""

_PARTS = re.compile(r"\\[()]|[()]|[^\\()]+|\\")
_NUMBER = re.compile(r"(.+):\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*", re.DOTALL)

NO_VOCABULARY = (
    "this text encoder came without its vocabulary, so it cannot read words: put vocab.json and merges.txt (CLIP) or "
    "vocab.txt (BERT), or tokenizer.json, beside the weights or into a folder `tokenizer` there"
)


class Tokenizer(Protocol):
    """Words to numbers, without the tokens around a text. vocab: token -> number."""

    vocab: dict[str, int]

    def ids(self, text: str) -> list[int]: ...


@dataclass(frozen=True, kw_only=True)
class Frame:
    """How a text stands among the `length` tokens of a chunk: start, tokens, end, then pads."""

    length: int
    start: int
    end: int
    pad: int

    @property
    def room(self) -> int:
        """Tokens of text in a chunk."""
        return self.length - 2

    def filled(self, tokens: Sequence[int]) -> Tensor:
        """One chunk, [length] int64."""
        inside = [self.start, *tokens, self.end]
        return torch.tensor(inside + [self.pad] * (self.length - len(inside)))

    def empty(self, device: torch.device | None = None) -> Tensor:
        """The chunk of the empty text, [length] int64."""
        return self.filled(()).to(device)


Weighted = list[tuple[str, float]]


def weighted(text: str) -> Weighted:
    """The pieces of a text with their weights; a parenthesis without its partner means itself.

    >>> weighted("a (red:1.2) apple")
    [("a ", 1.0), ("red", 1.2), (" apple", 1.0)]
    """
    return [(_plain(piece), weight) for piece, weight in _pieces(_PARTS.findall(text), 1.0) if piece]


def _pieces(parts: list[str], weight: float) -> Weighted:
    found: Weighted = []
    plain: list[str] = []
    i = 0
    while i < len(parts):
        close = _partner(parts, i) if parts[i] == "(" else None
        if close is None:
            plain.append(parts[i])
            i += 1
            continue
        found.append(("".join(plain), weight))
        plain = []
        inner, given = _number("".join(parts[i + 1 : close]))
        found += _pieces(_PARTS.findall(inner), weight * EMPHASIS if given is None else given)
        i = close + 1
    return [*found, ("".join(plain), weight)]


def _partner(parts: list[str], start: int) -> int | None:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for i in range(start, len(parts)):
        depth += {"(": 1, ")": -1}.get(parts[i], 0)
        if depth == 0:
            return i
    return None


def _number(text: str) -> tuple[str, float | None]:
    found = _NUMBER.fullmatch(text)
    return (found[1], float(found[2])) if found else (text, None)


def _plain(text: str) -> str:
    return text.replace("\\(", "(").replace("\\)", ")")


def chunks(text: str, frame: Frame, tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """A text as chunks of tokens and their weights, [n, length] int64 and float32; at least one chunk."""
    filled: list[list[tuple[int, float]]] = [[]]
    for piece, weight in weighted(text):
        tokens = [(token, weight) for token in tokenizer.ids(piece)]
        if len(tokens) < LONG and len(filled[-1]) + len(tokens) > frame.room:
            filled.append([])
        while tokens:
            if len(filled[-1]) == frame.room:
                filled.append([])
            space = frame.room - len(filled[-1])
            filled[-1] += tokens[:space]
            tokens = tokens[space:]
    ids = torch.stack([frame.filled([token for token, _ in chunk]) for chunk in filled])
    weights = torch.ones(ids.shape)
    for row, chunk in zip(weights, filled, strict=True):
        row[1 : 1 + len(chunk)] = torch.tensor([weight for _, weight in chunk])
    return ids, weights


def encode_prompts(
    encoder: Callable[[Tensor], Tensor],
    texts: Sequence[str],
    frame: Frame,
    tokenizer: Tokenizer | None,
    device: torch.device | None = None,
) -> Tensor:
    """The states of prompts, [B, chunks x length, width]; a text of fewer chunks goes on with empty ones.

    encoder: int64 [N, length] -> [N, length, width]. device: of its weights; None is that of a module's first one.
    Raises: ConfigError without a tokenizer.
    """
    read = [chunks(text, frame, needed(tokenizer)) for text in texts]
    most, empty = max(len(ids) for ids, _ in read), frame.empty()
    ids = torch.stack([torch.cat([ids, empty.expand(most - len(ids), -1)]) for ids, _ in read])
    weights = torch.stack([torch.cat([w, torch.ones(most - len(w), frame.length)]) for _, w in read])
    if device is None and isinstance(encoder, nn.Module):
        device = next(encoder.parameters()).device
    states = encoder(ids.flatten(0, 1).to(device)).unflatten(0, (len(read), most))
    if bool((weights != 1).any()):
        rest = encoder(empty[None].to(device))
        states = torch.where(
            weights[..., None].to(device) == 1, states, rest + weights[..., None].to(states) * (states - rest)
        )
    return states.flatten(1, 2)


def needed(tokenizer: Tokenizer | None) -> Tokenizer:
    """The tokenizer. Raises: ConfigError where there is none."""
    if tokenizer is None:
        raise ConfigError(NO_VOCABULARY)
    return tokenizer


def prompt_notes(text: str, frame: Frame, tokenizer: Tokenizer | None) -> list[str]:
    """What a person should know about a text: that it goes on in further chunks."""
    count = 1 if tokenizer is None else len(chunks(text, frame, tokenizer)[0])
    return [f"the text is longer than {frame.room} tokens and was read in {count} chunks"] if count > 1 else []


def refuse_styles(styles: Sequence[str | None] | None) -> None:
    """Raises: ConfigError for a style, which encoders of public models do not have."""
    named = [style for style in styles or () if style and style.strip().lower() not in ("", "none")]
    if named:
        raise ConfigError(
            f'this text encoder knows no styles, so no "{named[0]}": leave the style empty, name it in the text'
        )
