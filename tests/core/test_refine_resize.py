"""Results of other sizes and strengths than a refiner's own."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitrail.core.errors import ConfigError
from vitrail.core.refine.resize import blend, refine_steps, resize, target_size


def white(x: Tensor) -> Tensor:
    """A network of scale 2 whose every picture is white, so that its share in a result can be read off."""
    return torch.ones(len(x), 3, 2 * x.shape[2], 2 * x.shape[3])


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), tall=st.integers(1, 40), wide=st.integers(1, 40))
def test_one_colour_stays_that_colour_at_any_size(height: int, width: int, tall: int, wide: int) -> None:
    made = resize(torch.full((1, 3, height, width), 0.3), (tall, wide))
    assert made.shape == (1, 3, tall, wide)
    assert (made - 0.3).abs().max() < 1e-5


def test_resize_stays_in_range_in_float32() -> None:
    edge = torch.zeros(1, 1, 8, 8, dtype=torch.float16)
    edge[..., 4:] = 1
    made = resize(edge, (20, 20))
    assert made.dtype == torch.float32 and made.min() == 0 and made.max() == 1


def test_enlarging_is_the_bicubic_that_refiners_build_on() -> None:
    image = torch.rand(1, 3, 6, 7)
    expected = F.interpolate(image, scale_factor=2.0, mode="bicubic").clamp(0, 1)
    assert torch.equal(resize(image, (12, 14)), expected)


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = torch.zeros(1, 1, 32, 32)
    stripes[..., ::2] = 1
    inside = resize(stripes, (8, 8))[..., 1:-1, 1:-1]
    assert (inside - 0.5).abs().max() < 0.05


def test_the_same_size_keeps_every_pixel() -> None:
    image = torch.rand(1, 3, 5, 6)
    assert torch.equal(resize(image, (5, 6)), image)


@pytest.mark.parametrize(
    ("scale", "expected"), [(0.0, (20, 14)), (2.0, (20, 14)), (1.0, (10, 7)), (1.5, (15, 10)), (0.1, (1, 1))]
)
def test_target_size(scale: float, expected: tuple[int, int]) -> None:
    assert target_size((10, 7), 2, scale) == expected


@pytest.mark.parametrize("scale", [-1.0, 0.01])
def test_a_scale_that_leaves_no_picture_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match="larger"):
        target_size((10, 7), 2, scale)


def test_strength_goes_from_the_plain_resize_to_the_refiner() -> None:
    image, refined = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 8, 10)
    size = (8, 10)
    assert torch.allclose(blend(image, refined, size, 0.0), resize(image, size))
    assert torch.equal(blend(image, refined, size, 1.0), refined)
    mixed = 0.75 * resize(image, size) + 0.25 * refined
    assert torch.allclose(blend(image, refined, size, 0.25), mixed, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    scale=st.sampled_from([0.0, 0.5, 1.0, 1.7, 2.0, 3.0]),
    strength=st.floats(0, 1),
    tile=st.sampled_from([0, 16]),
    batch=st.integers(1, 2),
)
def test_a_black_picture_shows_the_share_of_a_white_refiner(
    scale: float, strength: float, tile: int, batch: int
) -> None:
    image = torch.zeros(batch, 3, 21, 18)
    *_, last = refine_steps(white, image, own=2, scale=scale, strength=strength, tile=tile)
    assert last.done == last.total
    assert last.picture.shape == (batch, 3, *target_size((21, 18), 2, scale))
    assert (last.picture - strength).abs().max() < 1e-5


def test_no_strength_runs_no_network() -> None:
    def network(x: Tensor) -> Tensor:
        raise AssertionError("the network ran")

    image = torch.rand(1, 3, 8, 8)
    (only,) = refine_steps(network, image, own=2, strength=0.0)
    assert torch.equal(only.picture, resize(image, (16, 16)))


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_out_of_range_is_refused_before_anything_runs(strength: float) -> None:
    with pytest.raises(ConfigError, match="strength"):
        next(refine_steps(white, torch.zeros(1, 3, 4, 4), own=2, strength=strength))
    with pytest.raises(ConfigError, match="strength"):
        blend(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 8, 8), (8, 8), strength)
