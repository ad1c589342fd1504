"""The kinds of critic, each with its config."""

from dataclasses import dataclass
from typing import Any

from torch import nn

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
