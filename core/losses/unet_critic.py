"""The critic of Real-ESRGAN: a U-Net with a verdict for every pixel."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..errors import ConfigError, ShapeError
from ..nn.pad import crop, pad_to

FACTOR = 8


@dataclass(frozen=True, kw_only=True)
class UNetCriticConfig:
    """Sizes of a U-Net critic.

    in_channels: of the pictures; num_feat: width of the first layer; skip_connection: add the way down to the way up.
    Raises: ConfigError for sizes below 1.
    """

    in_channels: int = 3
    num_feat: int = 64
    skip_connection: bool = True

    def __post_init__(self) -> None:
        if min(self.in_channels, self.num_feat) < 1:
            raise ConfigError(f"sizes of a U-Net critic must be at least 1: {self}")


class UNetCritic(nn.Module):
    """Logits of pixels, above 0 for what looks real; every layer but the first and the last is spectrally normed.

    Three layers of stride 2, three that are doubled in size first and add what lay at that size on the way down, three
    more. Pictures are padded to multiples of 8. The reference takes 0..1, which is what the first layer sees here too.
    forward: [B, in_channels, H, W] in -1..1 -> [B, 1, H, W].
    Source: Wang et al. 2021 (Real-ESRGAN), section 3.3; Miyato et al. 2018.
    """

    def __init__(self, config: UNetCriticConfig) -> None:
        super().__init__()
        self.config = config
        f = config.num_feat
        self.conv0 = nn.Conv2d(config.in_channels, f, 3, 1, 1)
        self.conv1 = _normed(f, 2 * f, 4, 2)
        self.conv2 = _normed(2 * f, 4 * f, 4, 2)
        self.conv3 = _normed(4 * f, 8 * f, 4, 2)
        self.conv4 = _normed(8 * f, 4 * f)
        self.conv5 = _normed(4 * f, 2 * f)
        self.conv6 = _normed(2 * f, f)
        self.conv7 = _normed(f, f)
        self.conv8 = _normed(f, f)
        self.conv9 = nn.Conv2d(f, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)[0]

    def features(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and the activation of each layer before them, the first layer's first.

        Raises: ShapeError for another number of channels or an empty picture.
        """
        if x.ndim != 4 or x.shape[1] != self.config.in_channels or min(x.shape[2:]) < 1:
            raise ShapeError(
                f"the critic is handed {tuple(x.shape)}; expected [batch, {self.config.in_channels}, height, width]"
            )
        x, size = pad_to((x + 1) / 2, FACTOR)
        found = [_leaky(self.conv0(x))]
        for layer in (self.conv1, self.conv2, self.conv3):
            found.append(_leaky(layer(found[-1])))
        for layer, beside in ((self.conv4, found[2]), (self.conv5, found[1]), (self.conv6, found[0])):
            h = F.interpolate(found[-1], scale_factor=2, mode="bilinear", align_corners=False)
            h = _leaky(layer(h))
            found.append(h + beside if self.config.skip_connection else h)
        for layer in (self.conv7, self.conv8):
            found.append(_leaky(layer(found[-1])))
        return crop(self.conv9(found[-1]), size), found


def _normed(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    return spectral_norm(nn.Conv2d(inputs, outputs, kernel, stride, 1, bias=False))


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)
