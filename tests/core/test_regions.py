"""Conditions bound to areas, masks, strengths and spans of the run, against the plain computation."""

import math

import pytest
import torch
from torch import Tensor

from vitrail.core.diffusion.guidance import Guidance, guided, rescaled
from vitrail.core.diffusion.regions import Region, with_opposites
from vitrail.core.diffusion.tables import FlowTable, NoiseTable
from vitrail.core.errors import ConfigError
from vitrail.core.types import Condition

SIGMA = torch.tensor(2.0)


class Model:
    """Denoises to x / 2 + the condition's number (+ the mean of its picture); keeps the shapes that it was shown."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, x: Tensor, sigma: Tensor, cond: Condition | None) -> Tensor:
        self.shapes.append(tuple(x.shape))
        assert cond is not None and cond.vector is not None
        extra = 0 if cond.concat is None else cond.concat.mean(1, keepdim=True)
        return x / 2 + cond.vector.reshape(-1, 1, 1, 1) + extra


def number(value: float, **places: object) -> Region:
    return Region(condition=Condition(vector=torch.tensor([value])), **places)  # pyright: ignore[reportArgumentType]


def x(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 16, 20, generator=torch.Generator().manual_seed(0))


def test_regions_are_averaged_by_their_weights() -> None:
    mask = torch.rand(1, 16, 20)
    regions = [number(1.0), number(3.0, strength=2.0), number(-4.0, mask=mask, strength=0.5)]
    got = guided(Model(), regions)(x(), SIGMA)
    weights = torch.stack([torch.ones(16, 20), torch.full((16, 20), 2.0), mask[0] * 0.5])
    wanted = x() / 2 + (weights * torch.tensor([1.0, 3.0, -4.0]).reshape(3, 1, 1)).sum(0) / weights.sum(0)
    assert torch.allclose(got, wanted, atol=1e-5)


def test_an_area_is_all_the_network_sees_and_fades_inside_the_picture() -> None:
    model, area = Model(), (8, 12, 0, 4)
    got = guided(model, [number(0.0), number(10.0, area=area)])(x(), SIGMA) - x() / 2
    assert sorted(model.shapes) == [(2, 3, 8, 12), (2, 3, 16, 20)]
    weight = torch.zeros(16, 20)
    for row in range(8):
        for column in range(12):  # two cells fade below; three at the left and at the right; the top is the picture's
            down = min(1.0, (8 - row) / 2)
            weight[row, 4 + column] = down * min(1.0, (column + 1) / 3, (12 - column) / 3)
    assert torch.allclose(got, (10 * weight / (1 + weight)).expand_as(got), atol=1e-5)


def test_an_area_with_a_mask_does_not_fade_and_cuts_the_mask() -> None:
    mask = torch.rand(2, 16, 20)
    got = guided(Model(), [number(1.0), number(5.0, area=(4, 20, 12, 0), mask=mask)])(x(), SIGMA) - x() / 2
    weight = torch.zeros(2, 1, 16, 20)
    weight[:, :, 12:] = mask[:, None, 12:]
    assert torch.allclose(got, ((1 + 5 * weight) / (1 + weight)).expand_as(got), atol=1e-5)


def test_a_span_of_the_run() -> None:
    regions = [number(1.0), number(3.0, low=1.0, high=2.0)]
    for sigma, value in ((0.99, 1.0), (1.0, 2.0), (2.0, 2.0), (2.01, 1.0)):
        got = guided(Model(), regions)(x(), torch.tensor(sigma)) - x() / 2
        assert torch.allclose(got, torch.full_like(got, value), atol=1e-6)


def test_nothing_where_nothing_counts() -> None:
    left = guided(Model(), [number(1.0, area=(16, 10, 0, 0))])(x(), SIGMA)
    assert torch.equal(left[..., 10:], torch.zeros(2, 3, 16, 10)) and bool((left[..., :10] != 0).all())
    assert torch.equal(guided(Model(), [number(1.0, high=1.0)])(x(), SIGMA), torch.zeros_like(x()))


def test_a_picture_is_cut_with_its_area() -> None:
    picture = torch.arange(320.0).reshape(1, 1, 16, 20)
    region = Region(condition=Condition(vector=torch.zeros(1), concat=picture), area=(4, 4, 8, 8))
    got = guided(Model(), [region])(x(), SIGMA)
    assert torch.allclose(got[..., 8:12, 8:12], (x() / 2 + picture)[..., 8:12, 8:12], atol=1e-3)


def test_both_sides_of_guidance_get_the_same_areas() -> None:
    area, other = (8, 8, 0, 0), (4, 4, 2, 2)
    positive, negative = with_opposites([number(1.0), number(2.0, area=area)], [number(5.0, area=other), number(7.0)])
    value = [(float(r.condition.vector), r.area) for r in positive]  # pyright: ignore
    assert value == [(1.0, None), (2.0, area), (2.0, other)]
    value = [(float(r.condition.vector), r.area) for r in negative]  # pyright: ignore
    assert value == [(5.0, other), (7.0, None), (7.0, area)]
    got = guided(Model(), [number(1.0), number(2.0, area=area)], number_alone(0.0), 3.0)(x(), SIGMA)
    inside = guided(Model(), [number(1.0), number(2.0, area=area)])(x(), SIGMA) - x() / 2
    assert torch.allclose(got, x() / 2 + 3 * inside, atol=1e-5)


def number_alone(value: float) -> Condition:
    return Condition(vector=torch.tensor([value]))


@pytest.mark.parametrize("area", [(0, 4, 0, 0), (4, 4, -1, 0), (4, 4, 16, 0), (4, 4, 0, 20)])
def test_areas_without_cells_are_refused(area: tuple[int, int, int, int]) -> None:
    with pytest.raises(ConfigError, match="area"):
        guided(Model(), [number(1.0, area=area)])(x(), SIGMA)


# -- tempered guidance ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [0.0, 0.7, 1.0])
def test_rescale_is_the_formula_on_v(amount: float) -> None:
    table, sigma = NoiseTable.scaled_linear(), torch.tensor([2.0, 0.3])
    cond, uncond = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)

    def denoise(x: Tensor, s: Tensor, c: Condition | None) -> Tensor:
        assert c is not None and c.vector is not None
        return torch.where(c.vector.reshape(-1, 1, 1, 1) > 0, cond.repeat(2, 1, 1, 1), uncond.repeat(2, 1, 1, 1))

    noisy = torch.randn(2, 3, 4, 4)
    sides = number_alone(1.0), number_alone(-1.0)
    got = guided(denoise, *sides, 5.0, Guidance(rescale=amount), table)(noisy, sigma)
    for i, s in enumerate(sigma.tolist()):  # v = (x / sqrt(1 + s^2) - sqrt(1 + s^2) x0) / s
        root = math.sqrt(1 + s**2)
        v_cond, v_uncond = ((noisy[i] / root - root * side[i]) / s for side in (cond, uncond))
        v = v_uncond + 5 * (v_cond - v_uncond)
        v = amount * v * v_cond.std() / v.std() + (1 - amount) * v
        assert torch.allclose(got[i], (noisy[i] / root - s * v) / root, atol=1e-4)


def test_full_rescale_gives_the_velocity_of_a_flow_the_spread_of_the_positive() -> None:
    x, cond = torch.randn(3, 2, 8, 8), torch.randn(3, 2, 8, 8)
    out = rescaled(4 * cond, cond, x, torch.tensor(0.5), 1.0, flow=True)
    assert torch.allclose((x - out).std((1, 2, 3)), (x - cond).std((1, 2, 3)), atol=1e-5)


@pytest.mark.parametrize("table", [NoiseTable.scaled_linear(), FlowTable()], ids=["added", "flow"])
def test_outside_its_interval_the_positive_alone_counts(table: NoiseTable | FlowTable) -> None:
    for share, calls, value in ((0.1, 1, 2.0), (0.3, 2, 4.0), (0.5, 2, 4.0), (0.7, 1, 2.0)):
        model, sigma = Model(), torch.tensor(table.at(share))
        denoise = guided(model, number_alone(2.0), number_alone(1.0), 3.0, Guidance(start=0.2, end=0.6), table)
        got, plain = denoise.apart(x(), sigma)
        assert torch.allclose(got - x() / 2, torch.full_like(got, value), atol=1e-5)
        assert torch.allclose(plain - x() / 2, torch.full_like(got, 1.0 if calls == 2 else 2.0), atol=1e-5)
        assert model.shapes == [(2 * calls, 3, 16, 20)]


@pytest.mark.parametrize("settings", [{"rescale": 1.1}, {"start": 0.6, "end": 0.5}, {"start": -0.1}, {"end": 1.5}])
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="rescale"):
        Guidance(**settings)


def test_tempered_guidance_needs_a_table() -> None:
    with pytest.raises(ConfigError, match="table"):
        guided(Model(), None, None, 1.0, Guidance())
