"""A continuous bottleneck: a Gaussian posterior held near the standard normal."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from ..errors import ConfigError, ShapeError
from ..types import Quantized


@dataclass(frozen=True, kw_only=True)
class KLConfig:
    """weight: of the divergence in the loss (Rombach et al. 2022 use 1e-6). Raises: ConfigError when negative."""

    weight: float = 1e-6

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ConfigError(f"the weight of the KL term is {self.weight}; expected 0 or more")


class KLBottleneck(nn.Module):
    """Takes the moments of the posterior and draws the latent from it; it has no weights.

    Source: Kingma & Welling 2014; Rombach et al. 2022, section 3.1 and appendix G.
    """

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, moments: Tensor) -> Quantized:
        """A sample while training, else the mean; loss = weight * mean over the batch of the divergence.

        moments: [B, 2c, h, w], mean and log variance stacked.
        """
        mean, logvar = self.split(moments)
        latent = mean + (logvar / 2).exp() * torch.randn_like(mean) if self.training else mean
        return Quantized(latent=latent, indices=None, loss=self.config.weight * self.kl(mean, logvar).mean())

    def sample(self, moments: Tensor, generator: Generator | None = None) -> Tensor:
        """mean + std * noise, the noise drawn on the generator's device; the mean without a generator."""
        mean, logvar = self.split(moments)
        if generator is None:
            return mean
        noise = torch.randn(mean.shape, generator=generator, device=generator.device, dtype=torch.float32)
        return mean + (logvar / 2).exp() * noise.to(mean)

    @staticmethod
    def split(moments: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each [B, c, h, w], the latter clamped to -30..20; ShapeError for odd channels."""
        if moments.ndim != 4 or moments.shape[1] % 2:
            raise ShapeError(f"moments are {tuple(moments.shape)}; expected [batch, 2 x channels, height, width]")
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    @staticmethod
    def kl(mean: Tensor, logvar: Tensor) -> Tensor:
        """KL(N(mean, exp(logvar)) || N(0, 1)) = (mean^2 + exp(logvar) - 1 - logvar) / 2 summed: [B, c, h, w] -> [B]."""
        mean, logvar = mean.float(), logvar.float()
        return (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)) / 2
