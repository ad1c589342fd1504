"""LPIPS: how different two pictures look to a network that learnt to see."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError

BLOCKS = (2, 2, 3, 3, 3)
"""Convolutions of VGG16 at each size, the finest first."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and deviation of ImageNet's pictures, as pictures in -1..1."""

SMALLEST = 16
EPSILON = 1e-10


@dataclass(frozen=True, kw_only=True)
class PerceptualConfig:
    """widths: channels of VGG16's five blocks; public weights have these. Raises: ConfigError for other numbers."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)

    def __post_init__(self) -> None:
        if len(self.widths) != len(BLOCKS) or min(self.widths) < 1:
            raise ConfigError(f"widths are {self.widths}; expected five of at least 1, one a block of VGG16")


class PerceptualLoss(nn.Module):
    """The distance of VGG16's features, weighted by channel as people judged.

    d(a, b) = sum_l mean_hw sum_c w_lc (a_lchw / |a_l.hw| - b_lchw / |b_l.hw|)^2 with the features of block l
    Its weights are frozen: gradients go to the pictures only. The names are those of taming and of LPIPS 0.1.
    Source: Zhang et al. 2018, eq. 1; Simonyan & Zisserman 2015, table 1, D.
    """

    def __init__(self, config: PerceptualConfig) -> None:
        super().__init__()
        self.config = config
        self.scaling_layer = _Scaling()
        self.net = _VGG(config.widths)
        for level, width in enumerate(config.widths):
            self.add_module(f"lin{level}", _Weights(width))
        self.requires_grad_(False)

    def forward(self, made: Tensor, truth: Tensor) -> Tensor:
        """mean over pictures of the distance; [] float32. made, truth: [B, 3, H, W] in -1..1."""
        return self.distance(made, truth).mean()

    def distance(self, made: Tensor, truth: Tensor) -> Tensor:
        """The distance of each pair of pictures, [B] float32, 0 for equal ones. Raises: ShapeError as `levels`."""
        return torch.stack(self.levels(made, truth)).sum(0)

    def levels(self, made: Tensor, truth: Tensor) -> list[Tensor]:
        """Each block's share of the distance, five of [B] float32.

        Raises: ShapeError for pictures of different shapes, other channels, or sides below 16 pixels.
        """
        if made.shape != truth.shape or made.ndim != 4 or made.shape[1] != 3 or min(made.shape[2:]) < SMALLEST:
            raise ShapeError(
                f"LPIPS is handed {tuple(made.shape)} and {tuple(truth.shape)}; expected two of "
                f"[batch, 3, height, width] with sides of at least {SMALLEST} pixels"
            )
        pairs = enumerate(zip(self.features(made), self.features(truth), strict=True))
        with torch.autocast(made.device.type, enabled=False):
            return [self._share(level, _unit(a) - _unit(b)) for level, (a, b) in pairs]

    def _share(self, level: int, difference: Tensor) -> Tensor:
        return self.get_submodule(f"lin{level}")(difference.square()).mean((1, 2, 3))

    def features(self, x: Tensor) -> list[Tensor]:
        """The last activation of each block, five of [B, width, H / 2^l, W / 2^l] float32."""
        with torch.autocast(x.device.type, enabled=False):
            return self.net(self.scaling_layer(x.float()))


class _Scaling(nn.Module):
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("shift", SHIFT), ("scale", SCALE)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale


class _VGG(nn.Module):
    """`slice1` .. `slice5`; the layers in them are numbered through, as in torchvision's `features`."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        inputs, index = 3, 0
        for block, (width, convolutions) in enumerate(zip(widths, BLOCKS, strict=True), 1):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if block > 1 else []
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, width, 3, 1, 1), nn.ReLU()]
                inputs = width
            self.add_module(f"slice{block}", nn.Sequential(OrderedDict(_numbered(layers, index))))
            index += len(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for part in self.children():
            x = part(x)
            found.append(x)
        return found


def _numbered(layers: list[nn.Module], first: int) -> list[tuple[str, nn.Module]]:
    return [(str(first + i), layer) for i, layer in enumerate(layers)]


class _Weights(nn.Module):
    """One weight a channel; where the original has dropout while it is trained itself, nothing happens here."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def _unit(features: Tensor) -> Tensor:
    """Scaled to length 1 at each place; the gradient is finite where all channels are 0."""
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + EPSILON)
