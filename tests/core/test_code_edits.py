"""Operations on codes: what changes, where, and that each picture of a batch is its own run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vitrail.core.code_edits import OPERATIONS, Edit, edit_codes, mask_cells
from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.types import Codes

K, FACTOR = 50, 4


def made(*shape: int, seed: int = 0, size: tuple[int, int] | None = None) -> Codes:
    indices = torch.randint(K, shape, generator=torch.Generator().manual_seed(seed))
    height, width = shape[1] * FACTOR, shape[2] * FACTOR
    return Codes(indices=indices, codebook_size=K, factor=FACTOR, image_size=size or (height, width))


def edited(codes: Codes, operation: str, mask: Tensor | None = None, strokes: str = "", **settings: Any) -> Tensor:
    return edit_codes(codes, operation, Edit(**settings), mask=mask, strokes=strokes).indices


CODES, OTHER = made(3, 6, 8), made(3, 6, 8, seed=1)
LEVELS, OTHER_LEVELS = made(2, 5, 4, 3), made(2, 5, 4, 3, seed=1)
LEFT = torch.zeros(24, 32)
LEFT[:, :16] = 1


def settings_of(operation: str, other: Codes = OTHER) -> dict[str, Any]:
    return {"code": 3, "to_code": 7, "amount": 0.4, "seed": 5, **({"other": other} if operation == "blend" else {})}


def test_fill_sets_every_cell_or_those_of_the_mask() -> None:
    assert bool((edited(CODES, "fill", code=9) == 9).all())
    found = edited(CODES, "fill", mask=LEFT, code=9)
    assert bool((found[:, :, :4] == 9).all()) and torch.equal(found[:, :, 4:], CODES.indices[:, :, 4:])


def test_swap_exchanges_two_codes_and_undoes_itself() -> None:
    found = edit_codes(CODES, "swap", Edit(code=3, to_code=7))
    assert torch.equal(found.indices == 3, CODES.indices == 7) and torch.equal(found.indices == 7, CODES.indices == 3)
    assert torch.equal(edited(found, "swap", code=7, to_code=3), CODES.indices)
    assert torch.equal(edited(CODES, "swap", code=3, to_code=3), CODES.indices)


@pytest.mark.parametrize(("amount", "cells"), [(0.0, 0), (0.25, 12), (0.5, 24), (1.0, 48)])
def test_blend_takes_that_share_of_the_other(amount: float, cells: int) -> None:
    marked = replace(CODES, indices=torch.zeros_like(CODES.indices))
    ones = replace(CODES, indices=torch.ones_like(CODES.indices))
    found = edited(marked, "blend", amount=amount, seed=1, other=ones)
    assert found.sum((1, 2)).tolist() == [cells] * 3
    assert amount in (0, 1) or not torch.equal(found[0], found[1])


def test_a_larger_amount_keeps_the_cells_of_a_smaller() -> None:
    few, many = (edited(CODES, "blend", amount=amount, seed=3, other=OTHER) != CODES.indices for amount in (0.3, 0.6))
    assert bool((many | ~few).all()) and many.sum() > few.sum()


def test_the_share_is_one_of_the_masked_cells() -> None:
    zeros, ones = (replace(CODES, indices=torch.full_like(CODES.indices, value)) for value in (0, 1))
    found = edited(zeros, "blend", mask=LEFT, amount=0.5, other=ones)
    assert found[:, :, :4].sum((1, 2)).tolist() == [12] * 3 and not found[:, :, 4:].any()


def test_randomise_draws_from_the_pictures_own_codes() -> None:
    """Each picture here has four codes of its own."""
    own = torch.arange(3)[:, None, None] * 10 + CODES.indices % 4
    codes = replace(CODES, indices=own)
    found = edited(codes, "randomise", amount=1.0, seed=2)
    assert not torch.equal(found, own)
    assert torch.equal(found // 10, own // 10) and found.unique().numel() > 6
    share = edited(codes, "randomise", amount=0.25, seed=2)
    assert 0 < int((share != own).sum()) <= 3 * 12


def test_randomise_draws_from_the_other_where_there_is_one() -> None:
    found = edited(CODES, "randomise", amount=1.0, other=replace(OTHER, indices=torch.full_like(OTHER.indices, 11)))
    assert bool((found == 11).all())


def test_shift_rolls_right_and_down_and_comes_round() -> None:
    found = edited(CODES, "shift", amount=0.5)
    assert torch.equal(found, CODES.indices.roll((3, 4), (1, 2)))
    assert torch.equal(found[:, 3:, 4:], CODES.indices[:, :3, :4])
    assert torch.equal(edited(CODES, "shift", amount=1.0), CODES.indices)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_picture_of_a_batch_is_its_own_run(operation: str) -> None:
    whole = edited(CODES, operation, mask=LEFT, **settings_of(operation))
    for i in range(3):
        single, other = (replace(codes, indices=codes.indices[i : i + 1]) for codes in (CODES, OTHER))
        alone = edited(single, operation, mask=LEFT, **{**settings_of(operation, other), "seed": 5 + i})
        assert torch.equal(whole[i : i + 1], alone)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_input_is_left_as_it_was(operation: str) -> None:
    before = CODES.indices.clone()
    edited(CODES, operation, strokes='[{"code": 1, "cells": [[0, 0]]}]', **settings_of(operation))
    assert torch.equal(CODES.indices, before)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_cells_of_several_levels_stay_together(operation: str) -> None:
    """Filled alike at each level, swapped at each, moved as one by the rest."""
    found = edited(LEVELS, operation, **settings_of(operation, OTHER_LEVELS))
    assert found.shape == LEVELS.indices.shape and not torch.equal(found, LEVELS.indices)
    known = {tuple(cell) for codes in (LEVELS, OTHER_LEVELS) for cell in codes.indices.flatten(0, 2).tolist()}
    if operation in ("blend", "randomise", "shift"):
        assert {tuple(cell) for cell in found.flatten(0, 2).tolist()} <= known
    if operation == "fill":
        assert found.unique().tolist() == [3]


def test_the_last_seeds_wrap_round() -> None:
    assert torch.equal(
        edited(CODES, "blend", seed=2**64 - 1, other=OTHER)[1:2],
        edited(
            replace(CODES, indices=CODES.indices[1:2]), "blend", seed=0, other=replace(OTHER, indices=OTHER.indices[1:])
        ),
    )


# Masks


@pytest.mark.parametrize(
    "shape", [(24, 32), (1, 24, 32), (1, 1, 24, 32), (2, 24, 32), (3, 24, 32), (5, 24, 32), (6, 8)]
)
def test_masks_of_every_shape_are_taken(shape: tuple[int, ...]) -> None:
    mask = torch.zeros(shape)
    mask[..., : shape[-1] // 2] = 1
    cells = mask_cells(mask, CODES)
    assert cells.shape == (3, 6, 8) and bool(cells[:, :, :4].all()) and not cells[:, :, 4:].any()


def test_a_batch_of_masks_is_repeated_or_cut() -> None:
    masks = torch.stack([torch.zeros(6, 8), torch.ones(6, 8)])
    assert mask_cells(masks, CODES).float().mean((1, 2)).tolist() == [0, 1, 0]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50), st.integers(1, 50))
def test_a_mask_over_the_picture_lies_where_the_picture_does(
    high: int, wide: int, mask_high: int, mask_wide: int
) -> None:
    """Of any size: a cell is chosen by the mask at its centre; a cell of the padding by the mask's edge."""
    codes = made(1, -(-high // FACTOR), -(-wide // FACTOR), size=(high, wide))
    mask = torch.rand(mask_high, mask_wide, generator=torch.Generator().manual_seed(high))
    found = mask_cells(mask, codes)[0]
    if mask.shape == found.shape:
        assert torch.equal(found, mask >= 0.5)
        return
    for row in range(found.shape[0]):
        for column in range(found.shape[1]):
            y = min(int((row + 0.5) * FACTOR * mask_high / high), mask_high - 1)
            x = min(int((column + 0.5) * FACTOR * mask_wide / wide), mask_wide - 1)
            assert bool(found[row, column]) == bool(mask[y, x] >= 0.5)


def test_an_empty_mask_changes_nothing() -> None:
    for operation in OPERATIONS:
        found = edited(CODES, operation, mask=torch.zeros(24, 32), **settings_of(operation))
        assert torch.equal(found, CODES.indices)


# Strokes


def test_strokes_come_last_whatever_the_mask() -> None:
    strokes = '[{"code": 5, "cells": [[0, 7], [1, 7]]}, {"code": 6, "cells": [[1, 7]]}]'
    found = edited(CODES, "fill", mask=LEFT, strokes=strokes, code=9)
    assert found[:, 0, 7].tolist() == [5] * 3 and found[:, 1, 7].tolist() == [6] * 3
    assert torch.equal(found[:, 2:, 4:], CODES.indices[:, 2:, 4:])
    assert edited(LEVELS, "swap", strokes='[{"code": 5, "cells": [[4, 3]]}]')[:, 4, 3].unique().tolist() == [5]


@pytest.mark.parametrize("strokes", ["", " \n", "[]", '[{"code": 1, "cells": []}]'])
def test_no_strokes_change_nothing(strokes: str) -> None:
    assert torch.equal(edited(CODES, "swap", strokes=strokes), CODES.indices)


@pytest.mark.parametrize(
    ("strokes", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"code": 1}', "no list"),
        ("[3]", "stroke 1 has not the two entries"),
        ('[{"code": 1}]', "stroke 1 has not the two entries"),
        ('[{"code": 1, "cells": [], "colour": 2}]', "stroke 1 has not the two entries"),
        ('[{"code": 1, "cells": 3}]', "stroke 1 has not the two entries"),
        ('[{"code": "1", "cells": []}]', "code is '1'"),
        ('[{"code": true, "cells": []}]', "code is True"),
        ('[{"code": 1, "cells": []}, {"code": 50, "cells": []}]', "stroke 2: code is 50.*50 codes, 0 to 49"),
        ('[{"code": 1, "cells": [[1]]}]', r"a cell is \[1\]"),
        ('[{"code": 1, "cells": [[1, 2.0]]}]', r"a cell is \[1, 2.0\]"),
        ('[{"code": 1, "cells": [[1, false]]}]', r"a cell is \[1, False\]"),
        ('[{"code": 1, "cells": [[6, 0]]}]', "outside of the grid of 6 rows and 8 columns"),
        ('[{"code": 1, "cells": [[0, -1]]}]', "outside of the grid"),
    ],
)
def test_bad_strokes_are_named(strokes: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        edited(CODES, "swap", strokes=strokes)


# Settings that do not fit


@pytest.mark.parametrize(
    ("operation", "settings", "message"),
    [
        ("fill", {"code": K}, "code is 50; the codebook has 50 codes, 0 to 49"),
        ("swap", {"code": -1}, "code is -1"),
        ("swap", {"to_code": 99}, "to_code is 99"),
        ("blend", {}, 'wire the input "other"'),
        ("blend", {"amount": 1.5}, "amount is 1.5"),
        ("shift", {"amount": float("nan")}, "amount is nan"),
        ("melt", {}, "melt.*fill, swap, blend, randomise, shift"),
    ],
)
def test_wrong_settings_are_named(operation: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        edited(CODES, operation, **settings)


@pytest.mark.parametrize("operation", ["blend", "randomise"])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(OTHER, codebook_size=64), "64 codes"),
        (replace(OTHER, factor=8), "8 pixels each"),
        (made(3, 6, 7), r"\(3, 6, 7\)"),
        (made(3, 6, 8, 2), r"\(3, 6, 8, 2\)"),
    ],
)
def test_other_codes_must_fit(operation: str, other: Codes, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        edited(CODES, operation, other=other)


def test_another_batch_is_repeated_or_cut() -> None:
    one = replace(OTHER, indices=OTHER.indices[:1])
    assert torch.equal(edited(CODES, "blend", amount=1.0, other=one), OTHER.indices[:1].repeat(3, 1, 1))
    single = replace(CODES, indices=CODES.indices[:1])
    assert torch.equal(edited(single, "blend", amount=1.0, other=OTHER), OTHER.indices[:1])


@pytest.mark.parametrize("mask", [torch.ones(5), torch.ones(0, 4, 4)])
def test_a_mask_of_no_plane_is_refused(mask: Tensor) -> None:
    with pytest.raises(ShapeError, match="a mask is"):
        edited(CODES, "fill", mask=mask)
