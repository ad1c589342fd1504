"""Tiles: equal to the whole picture, of any size, smaller when memory runs out."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitrail.core.errors import ConfigError, ShapeError, VitrailError
from vitrail.core.refine.rrdb import RefinerConfig, RRDBNet
from vitrail.core.refine.tiles import FADE, SMALLEST, _axis, upscale, upscale_steps


class Local:
    """A network of a known receptive field: every pixel sees `radius` pixels around it, the edge sees zeros."""

    def __init__(self, scale: int, radius: int, limit: int | None = None) -> None:
        generator = torch.Generator().manual_seed(1)
        self.kernel = torch.randn(3, 3, 2 * radius + 1, 2 * radius + 1, generator=generator) / (2 * radius + 1)
        self.scale, self.radius, self.limit = scale, radius, limit
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        if self.limit and x.shape[0] * x.shape[2] * x.shape[3] > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")
        made = F.conv2d(x, self.kernel, padding=self.radius).sin()
        return made.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


@settings(max_examples=40, deadline=None)
@given(
    scale=st.sampled_from([1, 2, 3, 4]),
    radius=st.integers(0, 4),
    tile=st.integers(SMALLEST, 40),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
)
def test_tiles_are_the_whole_picture_where_they_cover_the_receptive_field(
    scale: int, radius: int, tile: int, height: int, width: int
) -> None:
    image = torch.rand(1, 3, height, width)
    overlap = 2 * radius + FADE
    if overlap > tile // 2:
        tile = 2 * overlap
    network = Local(scale, radius)
    tiled = upscale(network, image, scale=scale, tile=tile, overlap=overlap)
    whole = upscale(Local(scale, radius), image, scale=scale)
    assert tiled.shape == (1, 3, scale * height, scale * width)
    assert (tiled - whole).abs().max() < 1e-5
    assert max(max(shape[2:]) for shape in network.seen) <= tile + 3  # rounded up to the grid of four


@pytest.mark.parametrize("scale", [4, 2, 1])
def test_tiles_of_a_refiner_are_its_whole_picture(scale: int) -> None:
    torch.manual_seed(0)
    network = RRDBNet(RefinerConfig(num_feat=4, num_block=1, num_grow=2, scale=scale, base="bicubic")).eval()
    torch.nn.init.normal_(network.conv_last.weight, std=0.3)
    fold = network.config.unshuffle
    image = torch.rand(2, 3, 45 * fold + 1, 30 * fold + fold // 2)
    whole = upscale(network, image, scale=scale)
    tiled = upscale(network, image, scale=scale, tile=28 * fold, overlap=14 * fold)
    plain = F.interpolate(image, scale_factor=float(scale), mode="bicubic")
    assert (whole - plain).abs().max() > 0.05  # the network does something
    assert (tiled - whole).abs().max() < 2e-3  # what lies beyond the overlap has next to no say


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1, 300),
    tile=st.integers(SMALLEST, 80),
    overlap=st.integers(0, 60),
    scale=st.sampled_from([1, 2, 4]),
)
def test_weights_add_up_to_one_and_start_on_the_grid(size: int, tile: int, overlap: int, scale: int) -> None:
    total = torch.zeros(scale * size)
    for span, weight in _axis(size, tile, overlap, scale, torch.device("cpu")):
        assert span.start % 4 == 0 and 0 <= span.start < span.stop <= size
        assert weight.isfinite().all() and weight.min() >= 0
        total[scale * span.start : scale * span.stop] += weight
    assert (total - 1).abs().max() < 1e-5


@pytest.mark.parametrize("overlap", [0, 1, 7, 500])
def test_a_network_that_only_repeats_pixels_has_no_seams_at_any_overlap(overlap: int) -> None:
    image = torch.rand(3, 3, 45, 37)
    tiled = upscale(lambda x: F.interpolate(x, scale_factor=2.0), image, scale=2, tile=16, overlap=overlap)
    assert (tiled - F.interpolate(image, scale_factor=2.0)).abs().max() < 1e-5


def test_a_picture_smaller_than_a_tile_is_taken_at_once() -> None:
    network = Local(2, 1)
    steps = list(upscale_steps(network, torch.rand(2, 3, 20, 30), scale=2, tile=32))
    assert network.seen == [(2, 3, 20, 30)]
    assert [(step.done, step.total) for step in steps] == [(1, 1)]


def test_steps_count_the_tiles_of_each_picture() -> None:
    network = Local(1, 0)
    steps = list(upscale_steps(network, torch.rand(2, 3, 16, 40), scale=1, tile=16, overlap=0))
    assert [step.done for step in steps] == list(range(1, 7)) and {step.total for step in steps} == {6}
    assert {shape[:3] for shape in network.seen} == {(1, 3, 16)}


def test_out_of_memory_halves_the_tiles() -> None:
    image = torch.rand(1, 3, 100, 90)
    network = Local(2, 1, limit=30 * 30)
    made = upscale(network, image, scale=2, overlap=10)
    assert [shape[2:] for shape in network.seen[:3]] == [(100, 90), (52, 52), (28, 28)]
    assert (made - upscale(Local(2, 1), image, scale=2)).abs().max() < 1e-5


def test_out_of_memory_begins_with_the_tile_asked_for() -> None:
    network = Local(2, 1, limit=30 * 30)
    upscale(network, torch.rand(1, 3, 100, 90), scale=2, tile=64, overlap=10)
    assert [shape[2:] for shape in network.seen[:2]] == [(64, 64), (32, 32)]


def test_out_of_memory_to_the_last_is_one_clear_error() -> None:
    network = Local(2, 1, limit=1)
    with pytest.raises(VitrailError, match="even with tiles of 16 pixels"):
        upscale(network, torch.rand(1, 3, 100, 90), scale=2)
    assert len(network.seen) == 4  # the whole, 50, 25, 16


def test_out_of_memory_of_a_cpu_counts_too() -> None:
    calls = []

    def network(x: Tensor) -> Tensor:
        calls.append(x.shape)
        if x.shape[-1] > 20:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        return x

    image = torch.rand(1, 3, 32, 32)
    assert (upscale(network, image, scale=1) - image).abs().max() < 1e-6
    assert len(calls) > 1


def test_other_errors_pass_through() -> None:
    def network(x: Tensor) -> Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        upscale(network, torch.rand(1, 3, 32, 32), scale=1)


def test_no_graph_is_kept() -> None:
    network = torch.nn.Conv2d(3, 3, 3, padding=1)
    assert not upscale(network, torch.rand(1, 3, 40, 40), scale=1, tile=16).requires_grad


@pytest.mark.parametrize("wrong", [{"tile": 15}, {"tile": -1}, {"overlap": -1}, {"scale": 0}])
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="at least 16"):
        upscale(Local(2, 1), torch.rand(1, 3, 32, 32), **({"scale": 2} | wrong))


@pytest.mark.parametrize("shape", [(3, 8, 8), (0, 3, 8, 8), (1, 3, 8, 0)])
def test_no_batch_of_pictures_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="batch"):
        upscale(Local(2, 1), torch.zeros(shape), scale=2)


def test_a_network_of_another_scale_is_named() -> None:
    with pytest.raises(ShapeError, match=r"expected sides of \(32, 32\)"):
        upscale(Local(2, 1), torch.rand(1, 3, 8, 8), scale=4)
