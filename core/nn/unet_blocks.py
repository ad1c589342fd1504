"""Residual blocks and resampling of the diffusion UNet, with CompVis's parameter names."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import SpatialTransformer
from .hooks import NO_HOOKS, Hooks
from .init import zero_


class Upsample(nn.Module):
    """Twice the size by repeating cells, then a 3x3 convolution unless `use_conv` is false."""

    def __init__(self, channels: int, use_conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if use_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W] -> [B, C, 2H, 2W]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Downsample(nn.Module):
    """Half the size by a 3x3 convolution of stride 2, or by the mean of 2x2 cells where `use_conv` is false.

    one_sided: the convolution is padded on the right and below only.
    """

    def __init__(self, channels: int, use_conv: bool, one_sided: bool = False) -> None:
        super().__init__()
        self.padding = (0, 1, 0, 1) if use_conv and one_sided else (0, 0, 0, 0)
        around = 0 if one_sided else 1
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=around) if use_conv else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W], H and W even -> [B, C, H/2, W/2]."""
        return self.op(F.pad(x, self.padding))


class ResBlock(nn.Module):
    """Two convolutions told the time in between, added to their input.

    plain:  h = conv2(silu(norm2(conv1(silu(norm1(x))) + e)))
    FiLM:   h = conv2(silu(norm2(conv1(silu(norm1(x)))) (1 + scale) + shift)),  (scale, shift) = e

    channels, out_channels: of the input and of the result.
    emb_width: length of the embedding of the time.
    film: scale and shift the second norm instead of adding.
    resample: None, or Upsample / Downsample without convolution, applied to both ways before the first convolution.
    groups, eps: of the norms.
    Source: Dhariwal & Nichol 2021, section 3.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        emb_width: int,
        *,
        film: bool = False,
        dropout: float = 0.0,
        resample: nn.Module | None = None,
        groups: int = 32,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.film = film
        self.resample = resample or nn.Identity()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, channels, eps=eps), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_width, 2 * out_channels if film else out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, out_channels, eps=eps),
            nn.SiLU(),
            nn.Dropout(dropout),
            zero_(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x: [B, channels, H, W]; emb: [B, emb_width] -> [B, out_channels, H', W']."""
        norm1, act1, conv1 = self.in_layers
        norm2, act2, dropout, conv2 = self.out_layers
        h = conv1(self.resample(act1(norm1(x))))
        e = self.emb_layers(emb)[:, :, None, None]
        if self.film:
            scale, shift = e.chunk(2, dim=1)
            h = torch.addcmul(shift, norm2(h), 1 + scale)
        else:
            h = norm2(h + e)
        return self.skip_connection(self.resample(x)) + conv2(dropout(act2(h)))


class Stage(nn.Sequential):
    """Layers one after another; the time goes to residual blocks, the context to transformers."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, emb: Tensor, context: Tensor | None, hooks: Hooks = NO_HOOKS
    ) -> Tensor:
        """x: [B, C, H, W]; emb: [B, E]; context: [B, L, D] or None -> [B, C', H', W']."""
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context, hooks)
            else:
                x = layer(x)
        return x
