"""Prompts as known words: a vocabulary of single words, and what to say about those outside it."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor

from ..errors import ConfigError

FILLERS = frozenset(
    ("a", "an", "and", "are", "as", "at", "by", "for", "from", "in", "into", "is", "it", "its", "of", "on", "or", "the")
    + ("to", "with")
)
"""Words that name nothing in a picture: passed over without a word when the vocabulary lacks them."""

PLURALS = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", ""))

_STYLE = re.compile(r"(?<!\w)style\s*:\s*([\w-]+)", re.IGNORECASE)
_WEIGHT = re.compile(r":\s*[-+]?\d*\.?\d+\s*(?=\))")


def split_words(text: str) -> list[str]:
    """Lower-case words of letters and digits, without accents; an apostrophe joins.

    >>> split_words("T-rex's piñata")
    ["t", "rexs", "pinata"]
    """
    plain = (c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c) and c not in "'’")
    return "".join(c if c.isalnum() else " " for c in plain).split()


def split_style(text: str) -> tuple[str, str | None]:
    """The text without its "style:name", and that name (None where there is none).

    Raises: ConfigError when the text names two styles.
    """
    names = list(dict.fromkeys(name.lower() for name in _STYLE.findall(text)))
    if len(names) > 1:
        raise ConfigError(f"the text names the styles {', '.join(names)}; a picture has one")
    return _STYLE.sub(" ", text), names[0] if names else None


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A text as the encoder reads it.

    words: known words in order, at most `length`; style: what "style:name" in the text asked for.
    unknown: words that the vocabulary lacks; cut: known words beyond the length.
    weights: whether the text held weights such as "(word:1.2)", which are passed over.
    """

    words: tuple[str, ...]
    style: str | None = None
    unknown: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    weights: bool = False


class WordTokenizer:
    """Words to numbers: 0 is padding, the i-th word of the vocabulary is i + 1.

    vocab: words; two that differ only in case or accents count as the first.
    length: numbers of a text, >= 1; further words are cut (and reported by `read` and `notes`).
    Raises: ConfigError when the length is below 1.
    """

    def __init__(self, vocab: Iterable[str], length: int = 16) -> None:
        if length < 1:
            raise ConfigError(f"a text has room for {length} words; expected at least 1")
        self.vocab = tuple(vocab)
        self.length = length
        self._ids: dict[str, int] = {}
        for i, word in enumerate(self.vocab):
            self._ids.setdefault("".join(split_words(word)), i + 1)

    def ids(self, text: str) -> Tensor:
        """The known words of a text as numbers, [length] int64, padded with 0."""
        ids = [self._ids[word] for word in self.read(text).words]
        return torch.tensor(ids + [0] * (self.length - len(ids)))

    def unknown(self, text: str) -> list[str]:
        """The words of a text that say nothing to this vocabulary, each once."""
        return list(self.read(text).unknown)

    def read(self, text: str) -> Prompt:
        """Everything that the vocabulary makes of a text. Raises: ConfigError when the text names two styles."""
        plain, style = split_style(text)
        bare = _WEIGHT.sub("", plain)
        words = [word for word in split_words(bare) if word in self._ids or word not in FILLERS]
        found = [self.known(word) for word in words]
        known = tuple(word for word in found if word is not None)
        unknown = dict.fromkeys(word for word, match in zip(words, found, strict=True) if match is None)
        return Prompt(
            words=known[: self.length],
            style=style,
            unknown=tuple(unknown),
            cut=known[self.length :],
            weights=bare != plain,
        )

    def known(self, word: str) -> str | None:
        """A word's entry: itself, else its singular, else None."""
        if word in self._ids:
            return word
        stems = (word.removesuffix(end) + new for end, new in PLURALS if word.endswith(end) and len(word) > len(end))
        return next((stem for stem in stems if stem in self._ids), None)

    def near(self, word: str, count: int = 3) -> list[str]:
        """Known words spelt much like an unknown one, the nearest first."""
        return get_close_matches(word, self._ids, n=count, cutoff=0.75)

    def notes(self, text: str) -> list[str]:
        """What a person should be told about a text: unknown words and their neighbours, words cut, weights ignored."""
        prompt = self.read(text)
        lines = [self._about(word) for word in prompt.unknown]
        if prompt.cut:
            lines.append(f"a text has room for {self.length} words; left out: {', '.join(prompt.cut)}")
        if prompt.weights:
            lines.append("weights such as (word:1.2) do nothing with this model")
        return lines

    def _about(self, word: str) -> str:
        near = " or ".join(f'"{other}"' for other in self.near(word))
        line = f'the word "{word}" is unknown to this model and was left out'
        return f"{line}; did you mean {near}?" if near else line
