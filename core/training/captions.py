"""Captions as a network is taught them: labels, keywords, colours, and sometimes nothing."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..text.words import split_words
from .data import Example

COLOURS = {  # hue in degrees, 0..360
    "red": 0, "orange": 30, "yellow": 55, "green": 120, "cyan": 180, "blue": 220, "purple": 275, "pink": 325,
}  # fmt: skip


def vocabulary(examples: Iterable[Example]) -> tuple[str, ...]:
    """The words worth a vector, sorted: those of a label, keywords of at least two subjects, and the colours."""
    subjects = {example.text: example for example in examples}
    counts: Counter[str] = Counter(COLOURS)
    for example in subjects.values():
        label = set(split_words(example.text))
        counts.update({word: 2 for word in label})
        counts.update(set(example.keywords) - label)
    return tuple(sorted(word for word, count in counts.items() if count >= 2 or word in COLOURS))


def caption(example: Example, chance: random.Random, colour: str | None = None, tags_only: float = 0.3) -> str:
    """One of the many ways to describe a picture.

    In `tags_only` of the cases two to five keywords; else the label, in seven of ten cases with up to four keywords.
    colour: a word put first.
    """
    keywords = list(example.keywords)
    if len(keywords) >= 2 and chance.random() < tags_only:
        words = chance.sample(keywords, min(len(keywords), chance.randint(2, 5)))
    else:
        words = split_words(example.text)
        if chance.random() < 0.7:
            words += chance.sample(keywords, min(len(keywords), chance.randint(0, 4)))
    return " ".join([colour, *words] if colour else words)


def colour_of(x: Tensor, clear: float = 0.6) -> str | None:
    """The one colour that a picture mostly has, or None where it has several or hardly any.

    x: [3, H, W] in -1..1. clear: share (0..1) of the coloured area that has to be of that colour.
    """
    r, g, b = ((x + 1) / 2).flatten(1)
    high, low = torch.stack([r, g, b]).amax(0), torch.stack([r, g, b]).amin(0)
    chroma = high - low
    coloured = chroma > 0.25
    if coloured.float().mean() < 0.1:
        return None
    hue = torch.where(
        high == r, (g - b) / chroma % 6, torch.where(high == g, (b - r) / chroma + 2, (r - g) / chroma + 4)
    )
    degrees = 60 * hue[coloured]
    names: Sequence[str] = list(COLOURS)
    distance = (degrees[:, None] - torch.tensor([float(COLOURS[n]) for n in names]) + 180) % 360 - 180
    share = torch.bincount(distance.abs().argmin(1), minlength=len(names)) / len(degrees)
    best = int(share.argmax())
    return names[best] if share[best] >= clear else None
