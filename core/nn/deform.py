"""Convolutions that choose for themselves where they look."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ShapeError


def deform_conv2d(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution whose taps k are moved and weighted at each place p; what lies outside of the picture is 0.

    y(p) = bias + sum_k w_k m_k(p) x(p + p_k + d_k(p)),  x read bilinearly, stride 1, the size of x kept

    x: [B, C, H, W]. weight: [outputs, C, kh, kw], both sides odd; K = kh kw taps, row by row.
    offset: [B, 2 G K, H, W] in pixels, for each of G groups of channels and each tap first down, then to the right.
    mask: [B, G K, H, W]. bias: [outputs].
    Returns [B, outputs, H, W] in the dtype of x; places and readings are float32 at least.
    Raises: ShapeError where these do not go together.
    Source: Zhu et al. 2019 (Deformable ConvNets v2), eq. 1. A tap at a time, so that one reading of x is held, not K.
    """
    groups = _groups(x, offset, mask, weight)
    wide = torch.promote_types(x.dtype, torch.float32)
    parts = x.to(wide).unflatten(1, (groups, -1)).flatten(0, 1)
    moves = offset.to(wide).unflatten(1, (groups, -1, 2)).flatten(0, 1)
    masks = mask.to(wide).unflatten(1, (groups, -1)).flatten(0, 1)
    out: Tensor | int = 0
    for tap, taken in enumerate(weight.to(wide).flatten(2).unbind(2)):
        read = _read(parts, moves[:, tap], _shift(tap, weight)).mul_(masks[:, tap, None])
        out = out + F.conv2d(read.reshape(x.shape), taken[..., None, None])
    assert isinstance(out, Tensor)
    return (out if bias is None else out + bias.to(wide).view(1, -1, 1, 1)).to(x.dtype)


def _groups(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> int:
    taps = weight.shape[2] * weight.shape[3]
    groups = mask.shape[1] // taps
    fits = offset.shape[1] == 2 * mask.shape[1] == 2 * groups * taps and offset.shape[2:] == mask.shape[2:]
    if not fits or x.shape[2:] != mask.shape[2:] or x.shape[1] != weight.shape[1] or x.shape[1] % max(groups, 1):
        raise ShapeError(
            f"a picture {tuple(x.shape)}, offsets {tuple(offset.shape)}, masks {tuple(mask.shape)} and weights "
            f"{tuple(weight.shape)} do not go together; expected 2 G K offsets and G K masks for K taps, at the "
            "picture's size, and channels that G groups divide"
        )
    return groups


def _shift(tap: int, weight: Tensor) -> tuple[int, int]:
    """How far down and to the right a tap lies from the middle."""
    height, width = weight.shape[2:]
    return tap // width - height // 2, tap % width - width // 2


def _read(parts: Tensor, moves: Tensor, shift: tuple[int, int]) -> Tensor:
    """parts [N, c, H, W] read at every place moved by `shift` and by moves [N, 2, H, W]."""
    height, width = parts.shape[2:]
    rows, columns = (torch.arange(n, device=parts.device, dtype=parts.dtype) for n in (height, width))
    y = rows[:, None] + shift[0] + moves[:, 0]
    x = columns + shift[1] + moves[:, 1]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=3)
    return F.grid_sample(parts, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class ModulatedDeformConv(nn.Module):
    """A deformable 3x3 convolution of one activation, led by another.

    channels: of both and of the result; groups: of channels that are moved together.
    forward: x, guide [B, channels, H, W] -> the same shape.
    Source: Zhu et al. 2019, section 3.2; Chan et al. 2021, "Understanding Deformable Alignment", for the guide.
    """

    def __init__(self, channels: int, groups: int, kernel: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.conv_offset = nn.Conv2d(channels, 3 * groups * kernel**2, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        found = self.conv_offset(guide)
        third = found.shape[1] // 3
        offset, mask = found.split([2 * third, third], dim=1)
        return deform_conv2d(x, offset, mask.sigmoid(), self.weight, self.bias)
