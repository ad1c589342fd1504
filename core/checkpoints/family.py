"""A family of checkpoints: how to tell it, what its config is, what its keys are called, what it builds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UnknownFamily
from .header import Header, TensorInfo
from .keymap import KeyMap
from .sidecar import Sidecar

__all__ = ["KINDS", "Family", "Rule", "Sidecar", "family_of", "has_all", "has_none", "metadata_is"]

LONGEST, NEAREST = 100, 4
"""Characters of a name that a message repeats, and families."""

KINDS = ("autoencoder", "diffusion", "text encoder", "prior", "refiner", "discriminator", "perceptual")
"""What a file can hold."""


@dataclass(frozen=True)
class Rule:
    """A question to a header; `a & b` asks both, `a | b` either, `~a` the opposite."""

    holds: Callable[[Header], bool]
    ways: tuple[tuple[str, ...], ...] = ((),)
    """The patterns that it needs; several sets of them where any one will do."""

    def __call__(self, header: Header) -> bool:
        return self.holds(header)

    def __and__(self, other: "Rule") -> "Rule":
        both = tuple(one + another for one in self.ways for another in other.ways)
        return Rule(lambda header: self(header) and other(header), both)

    def __or__(self, other: "Rule") -> "Rule":
        return Rule(lambda header: self(header) or other(header), self.ways + other.ways)

    def __invert__(self) -> "Rule":
        return Rule(lambda header: not self(header))


def has_all(*patterns: str) -> Rule:
    """Every pattern (a key, or one with `*`) fits some key."""
    return Rule(lambda header: all(_fits(header, pattern) for pattern in patterns), (patterns,))


def has_none(*patterns: str) -> Rule:
    """No pattern fits any key."""
    return Rule(lambda header: not any(_fits(header, pattern) for pattern in patterns))


def metadata_is(key: str, value: str) -> Rule:
    """The file's metadata has that text under that key."""
    return Rule(lambda header: header.metadata.get(key) == value)


def _fits(header: Header, pattern: str) -> bool:
    if "*" not in pattern:
        return pattern in header
    return any(fnmatchcase(name, pattern) for name in header.tensors)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of checkpoints.

    kind: what it builds, one of KINDS.
    detect: whether a file's keys and metadata are this family's.
    prepare: header -> the header with tensors joined, cut or renamed whatever the config, before anything else.
    infer: (header, sidecar) -> frozen config; shapes first, then the sidecar, then the published defaults.
    keys: config -> the table that turns the file's names into the module's.
    build: config -> the module, its weights yet to come.
    parts: module -> the modules that the file fills, by the beginning of their keys: another than the module itself
    where it holds a part that is no child of it.
    finish: (module, header, load) -> None, where a file needs others: `load` opens another.
    sidecar: whether a config file can add anything.
    """

    name: str
    kind: str
    detect: Rule
    infer: Callable[[Header, Sidecar], Any]
    keys: Callable[[Any], KeyMap]
    build: Callable[[Any], nn.Module]
    parts: Callable[[Any], Mapping[str, nn.Module]] = lambda module: {"": module}
    finish: Callable[[nn.Module, Header, Callable[[Path], nn.Module]], None] | None = None
    sidecar: bool = True
    prepare: Callable[[Header], Header] = lambda header: header


def family_of(header: Header, families: Mapping[str, Family]) -> Family:
    """The one family that claims a file. Raises: UnknownFamily when none does, or several."""
    claims = [family for family in families.values() if family.detect(header)]
    if len(claims) == 1:
        return claims[0]
    if claims:
        rivals = ", ".join(family.name for family in claims)
        raise UnknownFamily(f"{header.path.name} fits several families: {rivals}; expected the keys of one model alone")
    if near := _nearest(header, families):
        likely = ", or ".join(f"{name} if it had {', '.join(lacking)}" for name, lacking in near)
        raise UnknownFamily(f"{header.path.name} is of no family known here, but would be {likely}: is the file whole?")
    some = ", ".join(name[:LONGEST] for name in list(header.tensors)[:4])
    raise UnknownFamily(
        f"{header.path.name} is of no family known here: its {len(header.tensors)} keys begin with {some}. "
        f"Known are {', '.join(families)}"
    )


def _nearest(header: Header, families: Mapping[str, Family]) -> list[tuple[str, list[str]]]:
    """The families that would claim the file if it had a few keys more, and those keys: the fewest of all."""
    found: list[tuple[str, list[str]]] = []
    for family in families.values():
        for way in family.detect.ways:
            lacking = [pattern for pattern in way if not _fits(header, pattern)]
            if _few(header, lacking, way) and _claims(family, header, lacking):
                found.append((family.name, lacking))
    fewest = min((len(lacking) for _, lacking in found), default=0)
    return [near for near in found if len(near[1]) == fewest][:NEAREST]


def _few(header: Header, lacking: list[str], way: tuple[str, ...]) -> bool:
    """Whether a third of the keys at most is lacking, or one that other keys of the file stand beside."""
    if len(lacking) != 1 or 3 * len(lacking) <= len(way):
        return 0 < 3 * len(lacking) <= len(way)
    place = ".".join(lacking[0].split(".")[:2])
    return any(name.startswith(f"{place}.") for name in header.tensors)


def _claims(family: Family, header: Header, more: list[str]) -> bool:
    """Whether a family would claim a header with more keys, of which a rule may want to know what nobody knows."""
    added = {pattern: TensorInfo(shape=(), dtype=torch.float32) for pattern in more}
    try:
        return family.detect(replace(header, tensors={**header.tensors, **added}))
    except (ValueError, TypeError, LookupError):
        return False
