"""Deformable convolution against its definition, place by place."""

from math import floor

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitrail.core.errors import ShapeError
from vitrail.core.nn.deform import ModulatedDeformConv, deform_conv2d


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(plane: Tensor, y: float, x: float) -> float:
    """A picture [H, W] between its pixels; 0 for each of the four that is outside."""
    found, top, left = 0.0, floor(y), floor(x)
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                found += float(plane[row, column]) * (1 - abs(y - row)) * (1 - abs(x - column))
    return found


def slow(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The sum over taps written out."""
    batch, channels, height, width = x.shape
    kh, kw = weight.shape[2:]
    taps, out = kh * kw, bias.view(1, -1, 1, 1).repeat(batch, 1, height, width)
    per_group = channels // (mask.shape[1] // taps)
    for b in range(batch):
        for c in range(channels):
            for k in range(taps):
                place = c // per_group * taps + k
                for i in range(height):
                    for j in range(width):
                        y = i + k // kw - kh // 2 + float(offset[b, 2 * place, i, j])
                        z = j + k % kw - kw // 2 + float(offset[b, 2 * place + 1, i, j])
                        seen = at(x[b, c], y, z) * mask[b, place, i, j]
                        out[b, :, i, j] += weight[:, c, k // kw, k % kw] * seen
    return out


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(1, 4), width=st.integers(1, 4), groups=st.sampled_from([1, 2]), each=st.integers(1, 2),
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 3)]), far=st.sampled_from([0.0, 0.7, 3.0, 1e6]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_it_is_the_sum_over_moved_taps(
    height: int, width: int, groups: int, each: int, kernel: tuple[int, int], far: float, seed: int
) -> None:
    taps = kernel[0] * kernel[1]
    x, weight = noise(2, groups * each, height, width, seed=seed), noise(3, groups * each, *kernel, seed=seed + 1)
    offset = noise(2, 2 * groups * taps, height, width, seed=seed + 2) * far
    mask, bias = noise(2, groups * taps, height, width, seed=seed + 3), noise(3, seed=seed + 4)
    found = deform_conv2d(x, offset, mask, weight, bias)
    torch.testing.assert_close(found, slow(x, offset, mask, weight, bias), atol=1e-9, rtol=1e-9)
    if far == 0.0:
        plain = F.conv2d(x, weight, bias, padding=(kernel[0] // 2, kernel[1] // 2))
        whole = deform_conv2d(x, offset, torch.ones_like(mask), weight, bias)
        torch.testing.assert_close(whole, plain, atol=1e-9, rtol=1e-9)


def test_gradients_reach_everything() -> None:
    inputs = [noise(1, 2, 3, 3), noise(1, 36, 3, 3, seed=1) * 0.3 + 0.15, noise(1, 18, 3, 3, seed=2), noise(2, 2, 3, 3)]
    assert torch.autograd.gradcheck(deform_conv2d, [t.requires_grad_(True) for t in inputs])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_reads_at_exact_places(dtype: torch.dtype) -> None:
    """A picture 600 wide: half precision itself would miss by half a pixel."""
    x = noise(1, 1, 1, 600).to(dtype)
    offset = torch.full((1, 2, 1, 600), 0.25, dtype=dtype)
    offset[:, 0] = 0
    one = torch.ones(1, 1, 1, 600, dtype=dtype)
    found = deform_conv2d(x, offset, one, torch.ones(1, 1, 1, 1, dtype=dtype))
    expected = 0.75 * x.double() + 0.25 * F.pad(x.double()[..., 1:], (0, 1))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, atol=1e-2, rtol=1e-2)


def test_channels_last_is_the_same() -> None:
    x, offset, mask, weight = (
        noise(2, 4, 5, 6),
        noise(2, 36, 5, 6, seed=1),
        noise(2, 18, 5, 6, seed=2),
        noise(3, 4, 3, 3),
    )
    last = [t.contiguous(memory_format=torch.channels_last) for t in (x, offset, mask, weight)]
    torch.testing.assert_close(deform_conv2d(*last), deform_conv2d(x, offset, mask, weight), atol=1e-12, rtol=0)


def test_another_activation_leads() -> None:
    torch.manual_seed(0)
    layer = ModulatedDeformConv(8, groups=2).double().requires_grad_(False)
    x, guide = noise(2, 8, 5, 4), noise(2, 8, 5, 4, seed=1)
    found = layer.conv_offset(guide)
    offset, mask = found[:, :36], found[:, 36:].sigmoid()
    torch.testing.assert_close(layer(x, guide), slow(x, offset, mask, layer.weight, layer.bias), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    "shapes", [(17, 9, (4, 4)), (18, 9, (4, 3)), (36, 18, (4, 4)), (18, 8, (4, 4)), (10, 5, (4, 4))]
)
def test_shapes_that_do_not_go_together_are_named(shapes: tuple[int, int, tuple[int, int]]) -> None:
    moves, masks, size = shapes
    with pytest.raises(ShapeError, match="do not go together"):
        deform_conv2d(
            torch.rand(1, 3, 4, 4), torch.rand(1, moves, *size), torch.rand(1, masks, *size), torch.rand(2, 3, 3, 3)
        )
