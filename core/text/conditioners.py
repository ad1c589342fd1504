"""What tells public diffusion models what to paint: text encoders, class labels, pictures made small or encoded."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..autoencoders.autoencoder import Autoencoder
from ..autoencoders.config import AutoencoderConfig
from ..errors import ConfigError, ShapeError
from ..types import Condition
from .bert import BertConfig, BertEncoder
from .clip import ClipTextConfig, ClipTextEncoder


@dataclass(frozen=True, kw_only=True)
class ClassConfig:
    """Class labels as one token each.

    classes: how many labels, the one for "no class" included. width: of the token.
    Raises: ConfigError for sizes below 1.
    """

    classes: int = 1001
    width: int = 512

    def __post_init__(self) -> None:
        if min(self.classes, self.width) < 1:
            raise ConfigError(f"{self.classes} classes of {self.width} numbers; both must be at least 1")

    @property
    def context_dim(self) -> int:
        return self.width

    @property
    def vector_dim(self) -> None:
        return None


class ClassEmbedder(nn.Module):
    """A learned token for each label; the last label stands for "no class" where a model was trained with guidance.

    Source: Rombach et al. 2022, section 4.3.2; labels of cin256-v2: 0 to 999, and 1000 for none.
    """

    def __init__(self, config: ClassConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.classes, config.width)

    def forward(self, labels: Tensor) -> Tensor:
        """int64 [B] -> [B, 1, width]. Raises: ShapeError for other labels than there are."""
        if labels.ndim != 1 or labels.is_floating_point():
            raise ShapeError(f"labels are {tuple(labels.shape)} {labels.dtype}; expected int64 [batch]")
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.config.classes:
            raise ShapeError(f"labels {labels.tolist()}: this model has the classes 0 to {self.config.classes - 1}")
        return self.embedding(labels)[:, None]

    def condition(self, labels: Tensor) -> Condition:
        """The condition of labels, int64 [B]."""
        return Condition(context=self(labels))

    def null(self, batch: int) -> Condition:
        """The condition that says nothing, for guidance: the last label."""
        none = torch.full((batch,), self.config.classes - 1, device=self.embedding.weight.device)
        return self.condition(none)


@dataclass(frozen=True, kw_only=True)
class RescalerConfig:
    """A picture (or a map of labels) made as small as the latent.

    in_channels: of the picture; out_channels: of the result, None leaves them as they are.
    stages: how often it is scaled by `multiplier`. method: of interpolation. bias: of the channels' mixing.
    Raises: ConfigError for values out of range.
    """

    in_channels: int = 3
    out_channels: int | None = None
    stages: int = 2
    multiplier: float = 0.5
    method: str = "bilinear"
    bias: bool = False

    def __post_init__(self) -> None:
        if min(self.in_channels, self.out_channels or 1) < 1 or not 0 <= self.stages <= 16 or self.multiplier <= 0:
            raise ConfigError(f"a rescaler needs channels and a multiplier above 0 and 0 to 16 stages: {self}")
        if self.method not in METHODS:
            raise ConfigError(f'method is "{self.method}"; expected one of {", ".join(METHODS)}')

    @property
    def context_dim(self) -> None:
        return None

    @property
    def vector_dim(self) -> None:
        return None


METHODS = ("nearest", "bilinear", "bicubic", "area")


class SpatialRescaler(nn.Module):
    """Scales `stages` times, then mixes channels by a 1x1 convolution.

    Source: github.com/CompVis/latent-diffusion, ldm/modules/encoders/modules.py (semantic synthesis).
    """

    def __init__(self, config: RescalerConfig) -> None:
        super().__init__()
        self.config = config
        if config.out_channels is not None:
            self.channel_mapper = nn.Conv2d(config.in_channels, config.out_channels, 1, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, in_channels, H, W] -> [B, out_channels, h, w]. Raises: ShapeError for other channels."""
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise ShapeError(f"x is {tuple(x.shape)}; expected [batch, {self.config.in_channels}, height, width]")
        for _ in range(self.config.stages):
            x = F.interpolate(x, scale_factor=self.config.multiplier, mode=self.config.method)
        return x if self.config.out_channels is None else self.channel_mapper(x)

    def condition(self, x: Tensor) -> Condition:
        """The condition of a picture [B, in_channels, H, W]."""
        return Condition(concat=self(x))

    def null(self, batch: int) -> None:
        """There is no picture that says nothing."""
        return None


@dataclass(frozen=True, kw_only=True)
class EncodedConfig:
    """A picture (or a map) as the latent of an autoencoder that is not the model's own."""

    autoencoder: AutoencoderConfig

    @property
    def context_dim(self) -> None:
        return None

    @property
    def vector_dim(self) -> None:
        return None


class PictureEncoder(nn.Module):
    """A picture's latent, unscaled and not rounded to codes, of a KL autoencoder the mean.

    Source: github.com/CompVis/latent-diffusion, ldm/models/diffusion/ddpm.py, get_learned_conditioning.
    """

    def __init__(self, config: EncodedConfig) -> None:
        super().__init__()
        self.config = config
        self.inner = Autoencoder(config.autoencoder)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, in_channels, H, W] in -1..1 -> [B, embed_dim, h, w]. Raises: ShapeError for other channels."""
        return self.inner.encode(x)

    def condition(self, x: Tensor) -> Condition:
        """The condition of a picture [B, in_channels, H, W]."""
        return Condition(concat=self(x))

    def null(self, batch: int) -> None:
        """There is no picture that says nothing."""
        return None


ConditionerConfig = ClipTextConfig | BertConfig | ClassConfig | RescalerConfig | EncodedConfig

CONDITIONERS: dict[type, type[nn.Module]] = {
    ClipTextConfig: ClipTextEncoder,
    BertConfig: BertEncoder,
    ClassConfig: ClassEmbedder,
    RescalerConfig: SpatialRescaler,
    EncodedConfig: PictureEncoder,
}


def build_conditioner(config: ConditionerConfig) -> nn.Module:
    """The module that a config stands for. Raises: ConfigError for a config of no known kind."""
    if type(config) not in CONDITIONERS:
        known = ", ".join(kind.__name__ for kind in CONDITIONERS)
        raise ConfigError(f"{type(config).__name__} is no conditioner; expected one of {known}")
    return CONDITIONERS[type(config)](config)
