"""Conditions bound to a denoiser, with classifier-free guidance."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..types import Condition, Denoise

DenoiseWith = Callable[[Tensor, Tensor, Condition | None], Tensor]
"""`(x, sigma, condition) -> denoised`, as a Denoiser is."""

PARTS = ("context", "vector", "concat")


def guided(
    denoise: DenoiseWith, positive: Condition | None, negative: Condition | None = None, cfg: float = 1.0
) -> Denoise:
    """denoised = D(negative) + cfg (D(positive) - D(negative))

    One call for both halves on a batch of 2B, two where their shapes differ; the negative is not computed at all
    when cfg is 1 or there is none.

    positive, negative: of batch 1 or B, or another batch that is repeated and cut to B.
    cfg: 1 = no guidance.
    Source: Ho & Salimans 2022, eq. 6, with w = cfg - 1.
    """

    def plain(x: Tensor, sigma: Tensor) -> Tensor:
        return denoise(x, sigma, fit(positive, len(x)))

    def both(x: Tensor, sigma: Tensor) -> Tensor:
        halves = fit(negative, len(x)), fit(positive, len(x))
        joint = stack(*halves)
        if joint is None:
            uncond, cond = (denoise(x, sigma, half) for half in halves)
        else:
            uncond, cond = denoise(torch.cat([x, x]), _twice(sigma), joint).chunk(2)
        return uncond + (cond - uncond) * cfg

    return plain if negative is None or math.isclose(cfg, 1.0) else both


def fit(cond: Condition | None, batch: int) -> Condition | None:
    """The condition for a batch: repeated when there are too few, cut when there are too many."""
    return None if cond is None else cond.map(lambda part: _repeat(part, batch))


def stack(first: Condition | None, second: Condition | None) -> Condition | None:
    """Two conditions of batch B as one of 2B; None where their parts or shapes differ."""
    if first is None or second is None:
        return None
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in PARTS}
    if any((a is None) != (b is None) or (a is not None and a.shape != b.shape) for a, b in pairs.values()):
        return None
    return Condition(**{name: None if a is None else torch.cat([a, b]) for name, (a, b) in pairs.items()})


def _repeat(part: Tensor, batch: int) -> Tensor:
    if len(part) == batch:
        return part
    return part.repeat(-(-batch // len(part)), *[1] * (part.ndim - 1))[:batch]


def _twice(sigma: Tensor) -> Tensor:
    return torch.cat([sigma, sigma]) if sigma.ndim else sigma
