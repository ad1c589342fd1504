"""The generator of ESRGAN: dense blocks inside residual blocks, then a doubling or more.

Source: Wang et al. 2018 (ESRGAN), section 3.1; pixel unshuffle for scales 2 and 1: Wang et al. 2021 (Real-ESRGAN),
section 3.3. Children are named as in BasicSR's checkpoints.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError
from ..nn.init import zero_
from ..nn.pad import crop, pad_to

FOLDS = (1, 2, 4)
"""How many pixels of a side may be folded into one place of the body."""

MOST_DOUBLINGS = 5


@dataclass(frozen=True, kw_only=True)
class RefinerConfig:
    """Sizes of an RRDB generator.

    num_feat: width of the body; num_block: residual-in-residual blocks; num_grow: channels that each dense layer adds.
    scale: of the picture's sides: 2^doublings, or less by as much as the input is folded into channels (2 or 4).
    doublings: of the size, after the body; 2 in all but the oldest layout's files.
    plus: dense layers have the residuals of ESRGAN+.
    base: None (the network makes the whole picture), or "bicubic": it makes what a bicubic resize lacks.
    Raises: ConfigError for sizes below 1, another scale or base, or a base whose channels are not the output's.
    """

    in_channels: int = 3
    out_channels: int = 3
    num_feat: int = 64
    num_block: int = 23
    num_grow: int = 32
    scale: int = 4
    base: str | None = None
    doublings: int = 2
    plus: bool = False

    def __post_init__(self) -> None:
        if min(self.in_channels, self.out_channels, self.num_feat, self.num_block, self.num_grow) < 1:
            raise ConfigError(f"sizes of a refiner must be at least 1: {self}")
        if not 0 <= self.doublings <= MOST_DOUBLINGS:
            raise ConfigError(f"doublings are {self.doublings}; expected 0 to {MOST_DOUBLINGS}")
        scales = [2**self.doublings // fold for fold in FOLDS if 2**self.doublings >= fold]
        if self.scale not in scales:
            raise ConfigError(f"scale is {self.scale}; expected one of {', '.join(map(str, scales))}")
        if self.base not in (None, "bicubic"):
            raise ConfigError(f'base is {self.base!r}; expected None or "bicubic"')
        if self.base and self.in_channels != self.out_channels:
            raise ConfigError(
                f"a base needs as many channels out as in, but they are {self.out_channels} and {self.in_channels}"
            )

    @property
    def unshuffle(self) -> int:
        """Pixels of a side that are folded into one position of the body."""
        return 2**self.doublings // self.scale


class ResidualDenseBlock(nn.Module):
    """x + 0.2 conv5([x, x1..x4]), x_i = leaky(conv_i([x, x1..x_(i-1)])); with `plus` x2 += conv1x1(x), x4 += x2.

    forward: [B, features, h, w] -> the same shape.
    Source: Wang et al. 2018, figure 4; convolutions start at a tenth of He's scale, as there. Rakotonirina & Rasoanaivo
    2020 (ESRGAN+), figure 3.
    """

    def __init__(self, features: int, grow: int, plus: bool = False) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(features, grow, 1, bias=False) if plus else None
        for i in range(1, 6):
            conv = nn.Conv2d(features + (i - 1) * grow, features if i == 5 else grow, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight)
            with torch.no_grad():
                conv.weight.mul_(0.1)
            nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType]
            self.add_module(f"conv{i}", conv)

    def forward(self, x: Tensor) -> Tensor:
        *dense, last = (conv for conv in self.children() if conv is not self.conv1x1)
        seen = [x]
        for i, conv in enumerate(dense, 1):
            h = _leaky(conv(torch.cat(seen, 1)))
            if self.conv1x1 is not None and i in (2, 4):
                h = h + (self.conv1x1(x) if i == 2 else seen[2])
            seen.append(h)
        return x + 0.2 * last(torch.cat(seen, 1))


class RRDB(nn.Module):
    """x + 0.2 of three dense blocks in a row.

    forward: [B, features, h, w] -> the same shape. Source: Wang et al. 2018, figure 4.
    """

    def __init__(self, features: int, grow: int, plus: bool = False) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (ResidualDenseBlock(features, grow, plus) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(nn.Module):
    """A picture to one `scale` times as large.

    forward: [B, in_channels, H, W] about 0..1 -> [B, out_channels, scale H, scale W], not clamped, of x's dtype.
    Any H and W: those that the unshuffle does not divide are padded by reflection, and cropped again.
    """

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.num_feat
        self.conv_first = nn.Conv2d(config.in_channels * config.unshuffle**2, width, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(width, config.num_grow, config.plus) for _ in range(config.num_block)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        for i in range(1, config.doublings + 1):
            self.add_module(f"conv_up{i}", nn.Conv2d(width, width, 3, padding=1))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, config.out_channels, 3, padding=1)
        if config.base:
            zero_(self.conv_last)

    def forward(self, x: Tensor) -> Tensor:
        """Raises: ShapeError for anything but [B, in_channels, H, W] with at least one pixel."""
        self._check(x)
        padded, (height, width) = pad_to(x.to(self.conv_first.weight.dtype), self.config.unshuffle)
        folded = F.pixel_unshuffle(padded, self.config.unshuffle)
        h = self.conv_first(folded.contiguous(memory_format=torch.channels_last))  # a third faster on a CPU
        h = h + self.conv_body(self.body(h))
        for i in range(1, self.config.doublings + 1):
            h = _leaky(self.get_submodule(f"conv_up{i}")(_doubled(h)))
        out = self.conv_last(_leaky(self.conv_hr(h)))
        out = crop(out, (height * self.config.scale, width * self.config.scale))
        return self._on_base(out, x)

    def _on_base(self, out: Tensor, x: Tensor) -> Tensor:
        if self.config.base:  # in float32: half precision would cost the plain resize its last bits
            out = out.float() + F.interpolate(x.float(), size=out.shape[-2:], mode="bicubic")
        return out.to(x.dtype)

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.config.in_channels or min(x.shape[2:]) < 1:
            raise ShapeError(
                f"the refiner is handed {tuple(x.shape)}; expected [batch, {self.config.in_channels}, height, width]"
            )


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)
