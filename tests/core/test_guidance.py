"""Classifier-free guidance: the numbers, and how often the network is called."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vitrail.core.diffusion.guidance import fit, guided, stack
from vitrail.core.types import Condition

SIGMA = torch.tensor(2.0)


class Counting:
    """Denoises to x + the sum of what the condition holds; notes the batch of each call."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: Tensor, sigma: Tensor, cond: Condition | None) -> Tensor:
        self.batches.append(len(x))
        parts = [p for p in (cond.context, cond.vector, cond.concat) if p is not None] if cond else []
        assert all(len(part) == len(x) for part in parts)
        assert sigma.ndim == 0 or len(sigma) == len(x)
        return x + sum(part.flatten(1).sum(1).reshape(-1, 1, 1, 1) for part in parts)


def context(value: float, batch: int = 1, length: int = 2) -> Condition:
    return Condition(context=torch.full((batch, length, 3), value))


@pytest.mark.parametrize("sigma", [SIGMA, torch.full((2,), 2.0)])
def test_guidance_is_the_formula_in_one_call(sigma: Tensor) -> None:
    model, x = Counting(), torch.randn(2, 1, 2, 2)
    out = guided(model, context(1.0), context(0.5), 4.0)(x, sigma)
    assert torch.allclose(out, x + 3 + 4 * (6 - 3))
    assert model.batches == [4]


@pytest.mark.parametrize(("negative", "cfg"), [(context(0.5), 1.0), (None, 7.0)])
def test_no_call_for_a_negative_that_changes_nothing(negative: Condition | None, cfg: float) -> None:
    model, x = Counting(), torch.randn(2, 1, 2, 2)
    assert torch.allclose(guided(model, context(1.0), negative, cfg)(x, SIGMA), x + 6)
    assert model.batches == [2]


@pytest.mark.parametrize("negative", [context(0.5, length=5), Condition(vector=torch.ones(1, 4)), Condition()])
def test_halves_of_other_shapes_take_two_calls_and_the_same_formula(negative: Condition) -> None:
    model, x = Counting(), torch.randn(2, 1, 2, 2)
    out = guided(model, context(1.0), negative, 3.0)(x, SIGMA)
    assert model.batches == [2, 2]
    low = Counting()(x, SIGMA, fit(negative, 2))
    assert torch.allclose(out, low + 3 * (x + 6 - low), atol=1e-5)


def test_without_any_condition() -> None:
    model, x = Counting(), torch.randn(1, 1, 2, 2)
    assert torch.equal(guided(model, None)(x, SIGMA), x)


@given(batch=st.integers(1, 7), have=st.integers(1, 7))
def test_conditions_are_repeated_and_cut_to_the_batch(batch: int, have: int) -> None:
    fitted = fit(Condition(vector=torch.arange(have)), batch)
    assert fitted is not None and fitted.vector is not None
    assert fitted.vector.tolist() == [i % have for i in range(batch)]


def test_stacking_keeps_every_part() -> None:
    one = Condition(context=torch.zeros(1, 2, 3), vector=torch.zeros(1, 4), concat=torch.zeros(1, 1, 2, 2))
    both = stack([one, one.map(lambda part: part + 1)])
    assert both is not None
    for part in (both.context, both.vector, both.concat):
        assert part is not None and part.flatten(1).mean(1).tolist() == [0, 1]
    assert stack([None]) is None
