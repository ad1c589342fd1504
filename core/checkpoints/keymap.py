"""Names of one layout to names of another, by a table of patterns.

    {}    an index                       "input_blocks.{}.weight": "blocks.{}.weight"
    {~}   a mirrored index: i -> n-1-i   "up.{~}.{*}": "up.{~}.{*}"   (n = 1 + the largest index that matches there)
    {*}   the rest, dots and all         "first_stage_model.{*}": "{*}"
    None  drops the key                  "loss.{*}": None

The first pattern that matches a name decides. Placeholders are filled in the order they stand in.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from ..errors import KeyMismatch

KeyMap = Mapping[str, str | None]

_TOKEN = re.compile(r"\{(?:|~|\*)\}")
_GROUPS = {"{}": r"(\d+)", "{~}": r"(\d+)", "{*}": r"(.*)"}


def translate(table: KeyMap, names: Iterable[str]) -> dict[str, str]:
    """The new name of every name that the table keeps; those that no pattern matches keep their own.

    Raises: KeyMismatch when two names become one.
    """
    names, starts = list(names), _by_start(table)
    matches = {name: match for name in names if (match := _first(table, starts, name)) is not None}
    counts = _counts(matches)
    renamed = {
        name: _fill(pattern, target, groups, counts.get(pattern, {}))
        for name, (pattern, target, groups) in matches.items()
        if target is not None
    }
    renamed |= {name: name for name in names if name not in matches}
    return _distinct(renamed)


def origins(table: KeyMap, names: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """What a file that holds some names would call others that it lacks; a name that the table makes of none stays."""
    there, starts = set(names), _by_start(table)
    counts = _counts({name: match for name in there if (match := _first(table, starts, name)) is not None})
    targets = {target: pattern for pattern, target in table.items() if target is not None}
    ends = _by_start(targets)

    def origin(new: str) -> str:
        if (match := _first(targets, ends, new)) is None:
            return new
        target, pattern, groups = match
        old = _fill(target, str(pattern), groups, counts.get(str(pattern), {}))
        again = _first(table, starts, old)
        return old if again is not None and again[0] == pattern and old not in there else new

    return [origin(new) for new in wanted]


Match = tuple[str, str | None, tuple[str, ...]]


Starts = Mapping[int, Mapping[str, list[tuple[int, str]]]]
"""Patterns with their places in the table, by the length and the text of what stands before their placeholders."""


def _by_start(table: KeyMap) -> Starts:
    starts: dict[int, dict[str, list[tuple[int, str]]]] = {}
    for place, pattern in enumerate(table):
        start = _TOKEN.split(pattern, maxsplit=1)[0]
        starts.setdefault(len(start), {}).setdefault(start, []).append((place, pattern))
    return starts


def _first(table: KeyMap, starts: Starts, name: str) -> Match | None:
    """The first pattern that fits, of those that begin as the name does: a table may list thousands of layers."""
    near = (found for length, patterns in starts.items() for found in patterns.get(name[:length], ()))
    for _, pattern in sorted(near):
        if found := _compile(pattern).fullmatch(name):
            return pattern, table[pattern], found.groups()
    return None


@lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    tokens, texts = _TOKEN.findall(pattern), _TOKEN.split(pattern)
    rest = (_GROUPS[token] + re.escape(text) for token, text in zip(tokens, texts[1:], strict=True))
    return re.compile(re.escape(texts[0]) + "".join(rest))


def _counts(matches: Mapping[str, Match]) -> dict[str, dict[int, int]]:
    """For each pattern the number of indices at each mirrored place."""
    counts: dict[str, dict[int, int]] = {}
    for pattern, _, groups in matches.values():
        for place, token in enumerate(_TOKEN.findall(pattern)):
            if token == "{~}":
                places = counts.setdefault(pattern, {})
                places[place] = max(places.get(place, 0), int(groups[place]) + 1)
    return counts


def _fill(pattern: str, target: str, groups: tuple[str, ...], counts: Mapping[int, int]) -> str:
    values = [str(counts[place] - 1 - int(value)) if place in counts else value for place, value in enumerate(groups)]
    texts = _TOKEN.split(target)
    if len(texts) - 1 != len(values):
        raise ValueError(f"{pattern!r} and {target!r} have different numbers of placeholders")
    return texts[0] + "".join(value + text for value, text in zip(values, texts[1:], strict=True))


def _distinct(renamed: dict[str, str]) -> dict[str, str]:
    origin: dict[str, str] = {}
    for old, new in renamed.items():
        if new in origin:
            raise KeyMismatch(f"the keys {origin[new]} and {old} both stand for {new}")
        origin[new] = old
    return renamed
