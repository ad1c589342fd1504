"""Tensors made of those in a file, when they are read: layouts that join, cut or flatten what others keep apart."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .header import Header, TensorInfo


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One tensor: of what, of which shape, and how. The sources vanish from the header."""

    sources: tuple[str, ...]
    shape: tuple[int, ...]
    make: Callable[[Sequence[Tensor]], Tensor]


def derived(header: Header, recipes: Mapping[str, Recipe]) -> Header:
    """The header with the tensors of recipes, by their new names, instead of those that they are made of."""
    gone = {source for recipe in recipes.values() for source in recipe.sources}
    kept = {name: info for name, info in header.tensors.items() if name not in gone}
    made = {
        name: TensorInfo(shape=recipe.shape, dtype=header.tensors[recipe.sources[0]].dtype)
        for name, recipe in recipes.items()
    }

    def read(names: Collection[str]) -> dict[str, Tensor]:
        wanted = {name: recipes[name].sources if name in recipes else (name,) for name in names}
        found = header.read(list({source for sources in wanted.values() for source in sources}))
        return {
            name: recipes[name].make([found[source] for source in sources]) if name in recipes else found[name]
            for name, sources in wanted.items()
        }

    return replace(header, tensors=kept | made, origin={}, reader=read)


def gathered(base: Header, parts: Sequence[tuple[str, Header]]) -> Header:
    """The tensors of several headers in one, each behind the beginning that stands with its header."""
    places = {prefix + name: (header, name) for prefix, header in parts for name in header.tensors}

    def read(names: Collection[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for _, header in parts:
            mine = {name: places[name][1] for name in names if places[name][0] is header}
            tensors = header.read(list(mine.values())) if mine else {}
            found |= {name: tensors[inside] for name, inside in mine.items()}
        return found

    tensors = {name: header.tensors[inside] for name, (header, inside) in places.items()}
    return replace(base, tensors=tensors, origin={}, reader=read)


def within(header: Header, prefix: str, prepare: Callable[[Header], Header]) -> Header:
    """The header with what stands behind a prefix prepared."""
    rest = header.renamed({name: name for name in header.tensors if not name.startswith(prefix)})
    return gathered(header, [("", rest), (prefix, prepare(header.under(prefix)))])


def joined(header: Header, sources: tuple[str, ...], shape: tuple[int, ...] | None = None) -> Recipe:
    """Tensors one after another along the first side, seen as `shape`."""
    first, *rest = header.shape(sources[0])
    whole = (sum(header.shape(source)[0] for source in sources), *rest)
    return Recipe(sources=sources, shape=shape or whole, make=lambda parts: torch.cat(list(parts)).view(shape or whole))


def shaped(name: str, shape: tuple[int, ...]) -> Recipe:
    """The same numbers in another shape."""
    return Recipe(sources=(name,), shape=shape, make=lambda parts: parts[0].reshape(shape))


def cut(header: Header, name: str, into: Sequence[str]) -> Iterator[tuple[str, Recipe]]:
    """A tensor as equal parts along the first side, by their names."""
    first, *rest = header.shape(name)
    size = first // len(into)
    for i, part in enumerate(into):
        start = i * size
        yield (
            part,
            Recipe(
                sources=(name,), shape=(size, *rest), make=lambda parts, start=start: parts[0][start : start + size]
            ),
        )
