"""What stands between encoder and decoder: codes, or a continuous latent."""

from dataclasses import dataclass

from torch import nn

from ..errors import ConfigError
from .gumbel import GumbelConfig, GumbelQuantizer
from .kl import KLBottleneck, KLConfig
from .search import nearest
from .vq import VectorQuantizer, VQConfig

BottleneckConfig = VQConfig | KLConfig | GumbelConfig


@dataclass(frozen=True)
class Bottleneck:
    """A kind of bottleneck: its settings and the module they build."""

    config: type
    module: type[nn.Module]


BOTTLENECKS = {
    "vq": Bottleneck(VQConfig, VectorQuantizer),
    "kl": Bottleneck(KLConfig, KLBottleneck),
    "gumbel": Bottleneck(GumbelConfig, GumbelQuantizer),
}


def build_bottleneck(config: BottleneckConfig) -> nn.Module:
    """The module that a config stands for. Raises: ConfigError for a config of no known kind."""
    for kind in BOTTLENECKS.values():
        if isinstance(config, kind.config):
            return kind.module(config)
    raise ConfigError(f"{type(config).__name__} is no bottleneck; expected one of {', '.join(BOTTLENECKS)}")


__all__ = [
    "BOTTLENECKS",
    "Bottleneck",
    "BottleneckConfig",
    "GumbelConfig",
    "GumbelQuantizer",
    "KLBottleneck",
    "KLConfig",
    "VQConfig",
    "VectorQuantizer",
    "build_bottleneck",
    "nearest",
]
