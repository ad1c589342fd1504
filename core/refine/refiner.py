"""A refiner: the generator that makes a picture larger or sharper, and the critic that it learnt from."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..losses.critics import CriticConfig, build_critic
from .rrdb import RefinerConfig, RRDBNet
from .tiles import upscale

COLOURS = 3


@dataclass(frozen=True, kw_only=True)
class RefinerParts:
    """The configs of a refiner's two networks, as its file holds them; discriminator: None where there is none."""

    generator: RefinerConfig
    discriminator: CriticConfig | None = None


class Refiner(nn.Module):
    """A generator and, where it was kept, its critic.

    forward: the generator's, [B, 3, H, W] 0..1 -> [B, 3, scale H, scale W], not clamped. A generator of one channel is
    handed those of a colour picture one by one, a generator of four an alpha of 1, which is taken off again.
    """

    def __init__(self, config: RefinerConfig, discriminator_config: CriticConfig | None = None) -> None:
        super().__init__()
        self.config, self.discriminator_config = config, discriminator_config
        self.generator = RRDBNet(config)
        self.discriminator = None if discriminator_config is None else build_critic(discriminator_config)

    @property
    def scale(self) -> int:
        """How many times as large a refined picture is, along one side."""
        return self.config.scale

    @property
    def parts(self) -> RefinerParts:
        """Both configs in one, for files."""
        return RefinerParts(generator=self.config, discriminator=self.discriminator_config)

    def forward(self, image: Tensor) -> Tensor:
        channels = self.config.in_channels, self.config.out_channels
        if channels == (1, 1) and image.ndim == 4 and image.shape[1] == COLOURS:
            return torch.cat([self.generator(channel) for channel in image.split(1, dim=1)], dim=1)
        if channels == (4, 4) and image.ndim == 4 and image.shape[1] == COLOURS:
            return self.generator(torch.cat([image, torch.ones_like(image[:, :1])], dim=1))[:, :COLOURS]
        return self.generator(image)

    @torch.no_grad()
    def refine(self, image: Tensor, tile: int = 0, overlap: int = 16) -> Tensor:
        """The picture made larger by `scale`, without gradients.

        image: [B, in_channels, H, W] in 0..1, or [B, 3, H, W] as `forward` takes it, any size, on any device.
        tile, overlap: as in `tiles.upscale_steps`; 0 takes whole pictures at once.
        Returns [B, out_channels, scale H, scale W] float32, clamped to 0..1, on the image's device.
        Raises: ShapeError for other channels, ConfigError for a tile that is too small, VitrailError out of memory.
        """
        device = self.generator.conv_first.weight.device
        made = upscale(self, image, scale=self.scale, tile=tile, overlap=overlap, device=device)
        return made.clamp(0, 1)

    def realism(self, image: Tensor) -> Tensor:
        """The critic's verdict on each patch, above 0 for what looks real to it.

        image: [B, in_channels, H, W] in 0..1.
        Returns logits [B, 1, h, w] float32 on the image's device: smaller than the picture for a PatchGAN.
        Raises: ConfigError for a refiner without a critic, ShapeError for a picture too small.
        """
        if self.discriminator is None:
            raise ConfigError("this refiner was saved without its critic; load one that has a discriminator")
        weight = next(self.discriminator.parameters())
        return self.discriminator((image * 2 - 1).to(weight)).to(image.device, torch.float32)
