"""BERT's tokens: lower-case words, each cut into the longest pieces that a vocabulary has.

Source: Devlin et al. 2019, section 3; Wu et al. 2016, section 4.1.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping

from ..errors import ConfigError

START, END, PAD, UNKNOWN, MASK = "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"
INNER = "##"
"""Begins every piece of a word but the first."""

_OWN = re.compile("|".join(map(re.escape, (START, END, PAD, UNKNOWN, MASK))))

LONGEST = 100
"""Letters of a word; a longer one is unknown."""

IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
"""Letters that are words by themselves (Unicode's CJK blocks)."""


class WordPieceTokenizer:
    """Text to token numbers; case and accents do not matter.

    vocab: token -> number.
    Raises: ConfigError where the vocabulary lacks BERT's own tokens.
    """

    def __init__(self, vocab: Mapping[str, int]) -> None:
        self.vocab = dict(vocab)
        if missing := [token for token in (START, END, PAD, UNKNOWN) if token not in self.vocab]:
            raise ConfigError(f"this is no vocabulary of BERT: it lacks {', '.join(missing)}")

    @property
    def start(self) -> int:
        return self.vocab[START]

    @property
    def end(self) -> int:
        return self.vocab[END]

    def ids(self, text: str) -> list[int]:
        """The numbers of a text's tokens, without start and end."""
        return [self.vocab[piece] for word in split_words(text) for piece in self._pieces(word)]

    def unknown(self, text: str) -> list[str]:
        """The words of a text that have no pieces, each once."""
        return list(dict.fromkeys(word for word in split_words(text) if self._pieces(word) == [UNKNOWN]))

    def _pieces(self, word: str) -> list[str]:
        pieces: list[str] = []
        place = 0
        while place < len(word) <= LONGEST:
            ends = range(len(word), place, -1)
            prefix = INNER if place else ""
            end = next((end for end in ends if prefix + word[place:end] in self.vocab), None)
            if end is None:
                return [UNKNOWN]
            pieces.append(prefix + word[place:end])
            place = end
        return pieces or [UNKNOWN]


def split_words(text: str) -> Iterator[str]:
    """Lower-case words without accents; each sign and each ideograph is a word, and so is a token of BERT's own."""
    place = 0
    for found in _OWN.finditer(text):
        yield from _words(text[place : found.start()])
        yield found[0]
        place = found.end()
    yield from _words(text[place:])


def _words(text: str) -> Iterator[str]:
    spaced = "".join(_spaced(letter).lower() for letter in text)
    plain = (c for c in unicodedata.normalize("NFD", spaced) if unicodedata.category(c) != "Mn")
    return iter("".join(f" {c} " if _is_sign(c) else c for c in plain).split())


def _spaced(letter: str) -> str:
    """White space as a blank, control characters as nothing, an ideograph with room around it."""
    kind = unicodedata.category(letter)
    if letter in "\t\n\r" or kind.startswith("Z"):
        return " "
    if letter == "\ufffd" or kind in ("Cc", "Cf", "Co", "Cs"):
        return ""
    return f" {letter} " if any(low <= ord(letter) <= high for low, high in IDEOGRAPHS) else letter


def _is_sign(letter: str) -> bool:
    plain_ascii = letter.isascii() and letter.isprintable() and not letter.isalnum() and letter != " "
    return plain_ascii or unicodedata.category(letter).startswith("P")
