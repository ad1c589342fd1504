"""CLIP's tokens: words as bytes, joined pair by pair in the order of a list of merges.

Source: Sennrich et al. 2016, algorithm 1; the byte alphabet is GPT-2's (Radford et al. 2019, section 2.2); the words
are cut as in Radford et al. 2021.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import pairwise

from ..errors import ConfigError

START, END = "<|startoftext|>", "<|endoftext|>"
LAST = "</w>"
"""Closes the last symbol of a word."""

_AROUND = re.compile(f"({re.escape(START)}|{re.escape(END)})")
_SHORT = re.compile("'(?:s|t|re|ve|m|ll|d)")


class BytePairTokenizer:
    """Text to token numbers; case and the width of white space do not matter.

    vocab: token -> number. merges: pairs of symbols, the first to be joined first.
    Raises: ConfigError where the vocabulary lacks the bytes or the tokens around a text.
    """

    def __init__(self, vocab: Mapping[str, int], merges: Iterable[tuple[str, str]]) -> None:
        self.vocab = dict(vocab)
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        alphabet = set(byte_alphabet())
        needed = alphabet | {letter + LAST for letter in alphabet} | {START, END}
        if missing := sorted(needed - set(self.vocab)):
            raise ConfigError(
                f"this is no vocabulary of CLIP: it lacks {len(missing)} of {len(needed)} basic tokens, such as "
                f"{missing[0]!r}"
            )
        self._word = lru_cache(maxsize=4096)(self._split_word)

    @property
    def start(self) -> int:
        return self.vocab[START]

    @property
    def end(self) -> int:
        return self.vocab[END]

    def ids(self, text: str) -> list[int]:
        """The numbers of a text's tokens, without start and end."""
        return [token for word in split_words(text) for token in self._word(word)]

    def _split_word(self, word: str) -> tuple[int, ...]:
        if word in (START, END):
            return (self.vocab[word],)
        alphabet = byte_alphabet()
        symbols = [alphabet[byte] for byte in word.encode()]
        symbols[-1] += LAST
        merged = merge(symbols, self.ranks)
        return tuple(self.vocab[symbol] for symbol in merged if symbol in self.vocab)


def merge(symbols: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Join neighbours, each time every place of the pair that ranks first, until no pair is known."""
    while len(symbols) > 1:
        best = min(pairwise(symbols), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        joined: list[str] = []
        for symbol in symbols:
            last = joined[-1:] == [best[0]] and symbol == best[1]
            if last:
                joined[-1] += symbol
            else:
                joined.append(symbol)
        symbols = joined
    return symbols


@lru_cache(maxsize=1)
def byte_alphabet() -> tuple[str, ...]:
    """A visible letter for each byte: itself where it is one, else the next letter from U+0100 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = iter(range(256, 512))
    return tuple(chr(byte if byte in visible else next(spare)) for byte in range(256))


def vocabulary_of(merges: list[tuple[str, str]]) -> dict[str, int]:
    """CLIP's vocabulary, which is made of its merges: the visible letters first, alone and as the end of a word."""
    alphabet = sorted(byte_alphabet(), key=lambda letter: (ord(letter) >= 256, ord(letter)))
    tokens = [*alphabet, *(letter + LAST for letter in alphabet), *map("".join, merges), START, END]
    return {token: number for number, token in enumerate(tokens)}


def split_words(text: str) -> Iterator[str]:
    """Lower-case runs of letters, single digits, runs of other signs, and the short ends after an apostrophe.

    The tokens around a text are words wherever they stand; each letter becomes lower-case by itself, as in
    transformers: a sigma that ends a word is no other one.
    """
    text = "".join(" " if _is_blank(letter) else letter.lower() for letter in unicodedata.normalize("NFC", text))
    for part in _AROUND.split(text):
        yield from [part] if part in (START, END) else _words(part)


def _words(text: str) -> Iterator[str]:
    kinds = [_kind(letter) for letter in text]
    place = 0
    while place < len(text):
        end = place + 1
        if short := _SHORT.match(text, place):
            end = short.end()
        elif kinds[place] not in "N ":
            while end < len(text) and kinds[end] == kinds[place]:
                end += 1
        if kinds[place] != " ":
            yield text[place:end]
        place = end


def _kind(letter: str) -> str:
    """L: letter, N: number, blank, or anything else."""
    kind = unicodedata.category(letter)[0]
    return " " if letter == " " else kind if kind in "LN" else "?"


def _is_blank(letter: str) -> bool:
    """White space as Unicode has it, which Python's own idea of it goes beyond."""
    return letter in "\t\n\v\f\r\x85" or unicodedata.category(letter)[0] == "Z"
