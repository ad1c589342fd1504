"""A small config of every bottleneck that has codes."""

from vitrail.core.bottlenecks import (
    BottleneckConfig,
    FSQConfig,
    GumbelConfig,
    GumbelRemapConfig,
    LFQConfig,
    RemapConfig,
    ResidualConfig,
    VQConfig,
)

WITH_CODES: dict[str, BottleneckConfig] = {
    "vq": VQConfig(codes=16, dim=4),
    "gumbel": GumbelConfig(codes=16, dim=4),
    "fsq": FSQConfig(levels=(4, 3, 5, 3)),
    "lfq": LFQConfig(bits=4),
    "residual": ResidualConfig(depth=3, book=VQConfig(codes=16, dim=4, legacy=False)),
    "remap": RemapConfig(book=VQConfig(codes=16, dim=4), kept=16),
    "gumbel-remap": GumbelRemapConfig(book=GumbelConfig(codes=16, dim=4), kept=16),
}
