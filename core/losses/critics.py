"""The kinds of critic, each with its config."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .patchgan import PatchGAN, PatchGANConfig
from .unet_critic import UNetCritic, UNetCriticConfig

CriticConfig = PatchGANConfig | UNetCriticConfig
Critic = PatchGAN | UNetCritic
"""Both take [B, C, H, W] in -1..1 to logits, above 0 for what looks real, and have `features`."""


@dataclass(frozen=True)
class CriticKind:
    """A kind of critic: its settings and the module they build."""

    config: type
    module: type[nn.Module]


CRITICS = {
    "patchgan": CriticKind(PatchGANConfig, PatchGAN),
    "unetcritic": CriticKind(UNetCriticConfig, UNetCritic),
}


def build_critic(config: CriticConfig) -> Any:
    """The critic that a config stands for. Raises: ConfigError for a config of no known kind."""
    for kind in CRITICS.values():
        if isinstance(config, kind.config):
            return kind.module(config)
    raise ConfigError(f"{type(config).__name__} is no critic; expected one of {', '.join(CRITICS)}")


@torch.no_grad()
def realism(critic: nn.Module, x: Tensor) -> Tensor:
    """How real each part of a picture looks: sigmoid of the logits, resized bilinearly to the picture.

    x: [B, C, H, W] in -1..1, of any device and dtype; the critic stays where it is.
    Returns [B, H, W] float32 in 0..1 on the device of x: 0.5 is where the critic cannot tell.
    Raises: ShapeError for channels that the critic does not take, or a picture too small for it.
    """
    weight = next(critic.parameters())
    verdict = critic(x.to(weight)).float().sigmoid()
    return F.interpolate(verdict, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0].to(x.device)
