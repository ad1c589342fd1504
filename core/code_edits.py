"""Pictures changed by their codes: filled, swapped, blended, randomised, shifted, and painted cell by cell.

A mask says which cells an operation may change: those at whose centre it is 0.5 or more. With several codes a cell
(levels), fill and strokes set all of them, the others move them together.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .diffusion.noise import image_seeds
from .errors import ConfigError, ShapeError
from .types import Codes


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What to do to codes.

    code, to_code: 0 .. K - 1; the others leave them alone.
    amount: 0 .. 1, a share of the cells (blend, randomise) or of each side (shift).
    seed: image i of a batch uses seed + i.
    other: the codes to take from (blend, randomise).
    Raises: ConfigError when amount is out of range.
    """

    code: int = 0
    to_code: int = 0
    amount: float = 0.5
    seed: int = 0
    other: Codes | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.amount <= 1:
            raise ConfigError(f"amount is {self.amount}; expected a share from 0 to 1")


Operation = Callable[[Codes, Tensor, Edit], Tensor]
"""(codes, cells [B, h, w] bool, edit) -> indices; what it does outside of the cells is thrown away."""


def edit_codes(
    codes: Codes, operation: str, edit: Edit | None = None, *, mask: Tensor | None = None, strokes: str = ""
) -> Codes:
    """The codes after one operation inside a mask, and then the strokes anywhere.

    operation: a key of OPERATIONS. mask: [B or 1, H, W] or [H, W] over the picture, any size; None is everywhere.
    strokes: see `parse_strokes`; on every picture of the batch.
    Raises: ConfigError for an unknown operation, a code outside of the codebook, bad strokes; ShapeError where
    `other` is of another codebook or size.
    """
    if operation not in OPERATIONS:
        raise ConfigError(f"no operation on codes is named {operation!r}; there are {', '.join(OPERATIONS)}")
    painted = parse_strokes(strokes, codes)
    cells = mask_cells(mask, codes)
    changed = OPERATIONS[operation](codes, cells, edit or Edit())
    indices = torch.where(_over_levels(cells, codes), changed, codes.indices)
    for code, rows, columns in painted:
        indices[:, rows, columns] = code
    return replace(codes, indices=indices)


def fill(codes: Codes, _: Tensor, edit: Edit) -> Tensor:
    """Every cell becomes `code`."""
    return torch.full_like(codes.indices, _known(edit.code, "code", codes))


def swap(codes: Codes, _: Tensor, edit: Edit) -> Tensor:
    """`code` and `to_code` change places."""
    one, two = _known(edit.code, "code", codes), _known(edit.to_code, "to_code", codes)
    table = torch.arange(codes.codebook_size)
    table[one], table[two] = two, one
    return table[codes.indices]


def blend(codes: Codes, cells: Tensor, edit: Edit) -> Tensor:
    """A share `amount` of the cells, chosen at random, is taken from `other`; with the same seed, more cells join
    those of a smaller amount."""
    if edit.other is None:
        raise ConfigError('blend takes cells from other codes: wire the input "other", or choose another operation')
    other = _matching(edit.other, codes)
    chosen = chosen_cells(cells, edit.amount, _generators(edit.seed, len(cells)))
    return torch.where(_over_levels(chosen, codes), other, codes.indices)


def randomise(codes: Codes, cells: Tensor, edit: Edit) -> Tensor:
    """A share `amount` of the cells, the same that `blend` would take, gets the codes of cells drawn at random from
    anywhere in the same picture (of `other`, where it is given): common codes stay common, strange ones stay out."""
    source = codes.indices if edit.other is None else _matching(edit.other, codes)
    generators, count = _generators(edit.seed, len(cells)), cells[0].numel()
    chosen = chosen_cells(cells, edit.amount, generators)
    drawn = [
        image.flatten(0, 1)[torch.randint(count, (count,), generator=generator)]
        for image, generator in zip(source, generators, strict=True)
    ]
    return torch.where(_over_levels(chosen, codes), torch.stack(drawn).view_as(source), codes.indices)


def shift(codes: Codes, _: Tensor, edit: Edit) -> Tensor:
    """The grid moves right and down by `amount` of its sides, to whole cells, and comes in again on the other side."""
    steps = [round(edit.amount * side) for side in codes.indices.shape[1:3]]
    return codes.indices.roll(steps, dims=(1, 2))


OPERATIONS: dict[str, Operation] = {
    "fill": fill,
    "swap": swap,
    "blend": blend,
    "randomise": randomise,
    "shift": shift,
}


def mask_cells(mask: Tensor | None, codes: Codes) -> Tensor:
    """The cells that a mask covers, [B, h, w] bool: its value at each cell's centre, the nearest, is 0.5 or more.

    mask: [B or 1, H, W], [B or 1, 1, H, W] or [H, W] over the picture, or of the grid's own size; repeated or cut to
    the batch. None covers everything.
    Raises: ShapeError for fewer than two dimensions or an empty mask.
    """
    batch, height, width = codes.indices.shape[:3]
    if mask is None:
        return torch.ones(batch, height, width, dtype=torch.bool)
    if mask.ndim < 2 or not mask.numel():
        raise ShapeError(f"a mask is [height, width] with or without a batch, not {tuple(mask.shape)}")
    planes = mask.detach().cpu().reshape(-1, *mask.shape[-2:])
    if planes.shape[1:] != (height, width):
        rows, columns = (
            _centres(cells, codes.factor, pixels, size)
            for cells, pixels, size in zip((height, width), codes.image_size, planes.shape[1:], strict=True)
        )
        planes = planes[:, rows][:, :, columns]
    return _repeated(planes, batch) >= 0.5


def chosen_cells(cells: Tensor, amount: float, generators: Sequence[torch.Generator]) -> Tensor:
    """A share of the cells, [B, h, w] bool: round(amount * count) of each image, drawn by its own generator.

    A larger amount keeps the cells of a smaller one.
    """
    orders = [torch.rand(cells[0].numel(), generator=generator) for generator in generators]
    scores = torch.stack(orders).masked_fill(~cells.flatten(1), 2.0)
    ranks = scores.argsort(dim=1, stable=True).argsort(dim=1)
    counts = (cells.flatten(1).sum(1, keepdim=True) * amount).round()
    return (ranks < counts).view_as(cells)


def parse_strokes(text: str, codes: Codes) -> list[tuple[int, list[int], list[int]]]:
    """Painted cells: code, rows and columns of each stroke.

    text: JSON, `[{"code": 5, "cells": [[row, column], ...]}, ...]`, row 0 and column 0 the top left; empty for none.
    Raises: ConfigError that names the first thing that is wrong.
    """
    if not text.strip():
        return []
    try:
        strokes = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the strokes are not JSON ({error}); {STROKES}") from None
    if not isinstance(strokes, list):
        raise ConfigError(f"the strokes are no list; {STROKES}")
    return [_stroke(number, stroke, codes) for number, stroke in enumerate(strokes, 1)]


STROKES = 'expected a list such as [{"code": 5, "cells": [[0, 0], [0, 1]]}], each cell as [row, column]'


def _stroke(number: int, stroke: Any, codes: Codes) -> tuple[int, list[int], list[int]]:
    if not isinstance(stroke, dict) or stroke.keys() != {"code", "cells"} or not isinstance(stroke["cells"], list):
        raise ConfigError(f"stroke {number} has not the two entries code and cells; {STROKES}")
    if not _is_int(stroke["code"]):
        raise ConfigError(f"stroke {number}: code is {stroke['code']!r}, expected a whole number")
    code = _known(stroke["code"], f"stroke {number}: code", codes)
    cells = list(_cells_of(number, stroke["cells"], codes))
    return code, [row for row, _ in cells], [column for _, column in cells]


def _cells_of(number: int, cells: list[Any], codes: Codes) -> Iterator[tuple[int, int]]:
    height, width = codes.indices.shape[1:3]
    for cell in cells:
        if not isinstance(cell, list) or len(cell) != 2 or not all(map(_is_int, cell)):
            raise ConfigError(f"stroke {number}: a cell is {cell!r}; expected [row, column], two whole numbers")
        row, column = cell
        if not (0 <= row < height and 0 <= column < width):
            raise ConfigError(
                f"stroke {number}: the cell [{row}, {column}] lies outside of the grid of {height} rows and {width} "
                "columns; were the strokes painted on a larger picture?"
            )
        yield row, column


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _known(code: int, name: str, codes: Codes) -> int:
    if not 0 <= code < codes.codebook_size:
        raise ConfigError(
            f"{name} is {code}; the codebook has {codes.codebook_size} codes, 0 to {codes.codebook_size - 1}"
        )
    return code


def _matching(other: Codes, codes: Codes) -> Tensor:
    """The other indices, for the batch. Raises: ShapeError unless they are of the same codebook, grid and levels."""
    if (other.codebook_size, other.factor) != (codes.codebook_size, codes.factor):
        raise ShapeError(
            f"the other codes are of a codebook of {other.codebook_size} codes, {other.factor} pixels each; these are "
            f"of {codes.codebook_size} codes of {codes.factor} pixels. Encode both pictures with the same autoencoder"
        )
    if other.indices.shape[1:] != codes.indices.shape[1:] or not len(other.indices):
        raise ShapeError(
            f"the other codes are {tuple(other.indices.shape)}, these are {tuple(codes.indices.shape)}; only the "
            "batch may differ. Bring the pictures to one size before they are encoded"
        )
    return _repeated(other.indices, len(codes.indices))


def _centres(cells: int, factor: int, pixels: int, size: int) -> Tensor:
    """Which of `size` rows of a mask over `pixels` lies under the centre of each cell."""
    return (((torch.arange(cells) + 0.5) * factor) * size / pixels).long().clamp(max=size - 1)


def _over_levels(cells: Tensor, codes: Codes) -> Tensor:
    return cells[..., None] if codes.indices.ndim == 4 else cells


def _repeated(x: Tensor, batch: int) -> Tensor:
    """Repeated or cut to the batch, as the host does."""
    return x.repeat(-(-batch // len(x)), *[1] * (x.ndim - 1))[:batch]


def _generators(seed: int, batch: int) -> list[torch.Generator]:
    return [torch.Generator("cpu").manual_seed(seed) for seed in image_seeds(seed, batch)]
