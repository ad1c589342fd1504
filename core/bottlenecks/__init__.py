"""What stands between encoder and decoder: codes, or a continuous latent."""

from dataclasses import dataclass

from torch import nn

from ..errors import ConfigError
from .fsq import FiniteScalarQuantizer, FSQConfig
from .gumbel import GumbelConfig, GumbelQuantizer
from .kl import KLBottleneck, KLConfig
from .lfq import LFQConfig, LookupFreeQuantizer
from .remap import GumbelRemapConfig, RemapConfig, RemappedGumbelQuantizer, RemappedQuantizer
from .residual import ResidualConfig, ResidualQuantizer
from .search import nearest
from .vq import VectorQuantizer, VQConfig

BottleneckConfig = (
    VQConfig | KLConfig | GumbelConfig | FSQConfig | LFQConfig | ResidualConfig | RemapConfig | GumbelRemapConfig
)


@dataclass(frozen=True)
class Bottleneck:
    """A kind of bottleneck: its settings and the module they build."""

    config: type
    module: type[nn.Module]


BOTTLENECKS = {
    "vq": Bottleneck(VQConfig, VectorQuantizer),
    "kl": Bottleneck(KLConfig, KLBottleneck),
    "gumbel": Bottleneck(GumbelConfig, GumbelQuantizer),
    "fsq": Bottleneck(FSQConfig, FiniteScalarQuantizer),
    "lfq": Bottleneck(LFQConfig, LookupFreeQuantizer),
    "residual": Bottleneck(ResidualConfig, ResidualQuantizer),
    "remap": Bottleneck(RemapConfig, RemappedQuantizer),
    "gumbel-remap": Bottleneck(GumbelRemapConfig, RemappedGumbelQuantizer),
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
    "FSQConfig",
    "FiniteScalarQuantizer",
    "GumbelConfig",
    "GumbelQuantizer",
    "GumbelRemapConfig",
    "KLBottleneck",
    "KLConfig",
    "LFQConfig",
    "LookupFreeQuantizer",
    "RemapConfig",
    "RemappedGumbelQuantizer",
    "RemappedQuantizer",
    "ResidualConfig",
    "ResidualQuantizer",
    "VQConfig",
    "VectorQuantizer",
    "build_bottleneck",
    "nearest",
]
