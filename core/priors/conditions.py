"""What a prior is told before it writes codes: nothing, a class, places, the codes of another picture, tokens.

Source: Esser et al. 2021, sections 3.2 and 3.3; taming/models/cond_transformer.py, taming/modules/misc/coord.py.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autoencoders.config import AutoencoderConfig
from ..errors import ConfigError, ShapeError


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Nothing: one token that is always the same."""

    token: int = 0


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """A class: its number is the token. classes: how many there are."""

    classes: int = 1000

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ConfigError(f"a prior of {self.classes} classes; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class CoordinateConfig:
    """Places: each token tells where in a whole picture its code lies. codes: steps; factor: pixels of a token."""

    codes: int = 1024
    factor: int = 16

    def __post_init__(self) -> None:
        if min(self.codes, self.factor) < 1:
            raise ConfigError(f"coordinates in {self.codes} steps, {self.factor} pixels each; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class PictureConfig:
    """The codes of another picture, such as a map of segments or of depth. autoencoder: None takes the prior's own."""

    autoencoder: AutoencoderConfig | None = None


@dataclass(frozen=True, kw_only=True)
class TokensConfig:
    """Tokens that were made elsewhere, such as boxes around the objects of a scene: handed in as they are."""


ConditionConfig = StartConfig | LabelConfig | CoordinateConfig | PictureConfig | TokensConfig


def places(height: int, width: int, factor: int) -> Tensor:
    """A picture's own coordinates, rising row by row, [1, 1, height, width] in 0..1 pixel by pixel.

    height, width: in codes.
    """
    rows, columns = height * factor, width * factor
    return (torch.arange(rows * columns) / (rows * columns)).view(1, 1, rows, columns)


def coordinate_tokens(places: Tensor, config: CoordinateConfig) -> Tensor:
    """round(codes * mean over each token's pixels): [B, 1, H, W] in 0..1 -> int64 [B, h, w]."""
    if places.ndim != 4 or places.shape[1] != 1 or float(places.min()) < 0 or float(places.max()) > 1:
        raise ShapeError(f"coordinates are {tuple(places.shape)}; expected [batch, 1, height, width] in 0..1")
    smaller = F.interpolate(places.float(), scale_factor=1 / config.factor, mode="area").clamp(0, 1)
    return (config.codes * smaller).round().long()[:, 0]
