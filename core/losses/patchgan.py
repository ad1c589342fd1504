"""The critic of pix2pix and VQGAN: one verdict for each overlapping patch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..errors import ConfigError, ShapeError
from ..nn.actnorm import ActNorm

LAYER_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "act": ActNorm,
    "instance": nn.InstanceNorm2d,
    "identity": nn.Identity,
    "spectral_batch": nn.BatchNorm2d,
}
"""Norms that are layers of their own."""

NORMS = ("batch", "none", "spectral", "act", "instance", "identity", "spectral_batch")
SPECTRAL = ("spectral", "spectral_batch")
UNBIASED = ("batch", "identity", "spectral_batch")
"""Norms whose convolutions have no bias."""


@dataclass(frozen=True, kw_only=True)
class PatchGANConfig:
    """Sizes of a PatchGAN.

    in_channels: of the pictures; ndf: width of the first layer; n_layers: layers of stride 2.
    norm: "batch" (as published), "none", "spectral" (Miyato et al. 2018; the steadiest in short runs), "act"
    (`ActNorm`, taming's use_actnorm), "instance" (CycleGAN's), "identity" (pix2pix's "none": no bias either) or
    "spectral_batch" (VQFR's: both).
    Raises: ConfigError for sizes below 1 or another norm.
    """

    may_be_unnamed: ClassVar[bool] = True

    in_channels: int = 3
    ndf: int = 64
    n_layers: int = 3
    norm: str = "batch"

    def __post_init__(self) -> None:
        if min(self.in_channels, self.ndf, self.n_layers) < 1:
            raise ConfigError(f"sizes of a PatchGAN must be at least 1: {self}")
        if self.norm not in NORMS:
            raise ConfigError(f'norm is "{self.norm}"; expected one of {", ".join(NORMS)}')


class PatchGAN(nn.Module):
    """Logits of patches, above 0 for what looks real; children `main.N` as in the public checkpoints.

    forward: [B, in_channels, H, W] in -1..1 -> [B, 1, about H / 2^n_layers, about W / 2^n_layers].
    Source: Isola et al. 2017, appendix 6.1.2; Esser et al. 2021.
    """

    def __init__(self, config: PatchGANConfig) -> None:
        super().__init__()
        self.config = config
        wrap: Callable[[nn.Conv2d], nn.Module] = spectral_norm if config.norm in SPECTRAL else lambda layer: layer
        widths = [config.ndf * min(2**i, 8) for i in range(config.n_layers + 1)]
        layers: list[nn.Module] = [wrap(nn.Conv2d(config.in_channels, widths[0], 4, 2, 1)), nn.LeakyReLU(0.2)]
        for i, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False), 1):
            stride = 2 if i < config.n_layers else 1
            layers.append(wrap(nn.Conv2d(inputs, outputs, 4, stride, 1, bias=config.norm not in UNBIASED)))
            layers += [LAYER_NORMS[config.norm](outputs)] if config.norm in LAYER_NORMS else []
            layers.append(nn.LeakyReLU(0.2))
        layers.append(wrap(nn.Conv2d(widths[-1], 1, 4, 1, 1)))
        self.main = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)[0]

    def features(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and the activation of each layer before them, the first layer's first.

        Raises: ShapeError for another number of channels or a picture too small for the layers.
        """
        smallest = 3 * 2**self.config.n_layers
        if x.ndim != 4 or x.shape[1] != self.config.in_channels or min(x.shape[2:]) < smallest:
            raise ShapeError(
                f"the critic is handed {tuple(x.shape)}; expected [batch, {self.config.in_channels}, height, width] "
                f"with sides of at least {smallest} pixels"
            )
        activations = []
        for layer in self.main:
            x = layer(x)
            if isinstance(layer, nn.LeakyReLU):
                activations.append(x)
        return x, activations
