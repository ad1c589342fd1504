"""Conditions bound to a denoiser, with classifier-free guidance."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from ..types import Condition
from .regions import Region, with_opposites
from .tables import Table

DenoiseWith = Callable[[Tensor, Tensor, Condition | None], Tensor]
"""`(x, sigma, condition) -> denoised`, as a Denoiser is."""

Conditions = Condition | Sequence[Region] | None

PARTS = ("context", "vector", "concat")


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How guidance is tempered.

    rescale: 0 .. 1, how far the guided answer is brought back to the spread of the positive one.
    start, end: guidance works from one share of the run to another, 0 .. 1; outside, the positive alone counts.
    Raises: ConfigError on values out of range.
    Source: Lin et al. 2024 (Common Diffusion Noise Schedules), eq. 15 and 16; Kynkäänniemi et al. 2024 (interval).
    """

    rescale: float = 0.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.rescale <= 1 and 0 <= self.start <= self.end <= 1):
            raise ConfigError(
                f"guidance has rescale in 0..1 and 0 <= start <= end <= 1, not rescale {self.rescale:g}, start "
                f"{self.start:g}, end {self.end:g}"
            )

    def works_at(self, sigma: Tensor, table: Table) -> bool:
        """Whether a level lies between start and end, as shares of the table's time."""
        return table.at(self.end) <= float(sigma.reshape(-1)[0]) <= table.at(self.start)


def guided(
    denoise: DenoiseWith,
    positive: Conditions,
    negative: Conditions = None,
    cfg: float = 1.0,
    guidance: Guidance | None = None,
    table: Table | None = None,
) -> "Guided":
    """denoised = D(negative) + cfg (D(positive) - D(negative))

    D of several regions is their mean by weight, 0 where none counts. All that have one shape go in one call; the
    negative is not computed at all when cfg is 1, or there is none, or guidance is off at that level.

    positive, negative: of batch 1 or B, or another batch that is repeated and cut to B; or several regions.
    cfg: 1 = no guidance. guidance: see there. table: the model's levels, needed with guidance.
    Raises: ConfigError for guidance without a table.
    Source: Ho & Salimans 2022, eq. 6, with w = cfg - 1.
    """
    if guidance is not None and table is None:
        raise ConfigError("tempered guidance needs the model's table of noise levels")
    regions, others = _regions(positive), None if negative is None else _regions(negative)
    if others is not None:
        regions, others = with_opposites(regions, others)
    return Guided(denoise, regions, others, cfg, guidance, table)


@dataclass(frozen=True)
class Guided:
    """What `guided` makes: call it as a Denoise."""

    denoise: DenoiseWith
    positive: Sequence[Region]
    negative: Sequence[Region] | None
    cfg: float
    guidance: Guidance | None
    table: Table | None

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        unguided = self.negative is None or math.isclose(self.cfg, 1.0)
        return self._sides(x, sigma, (self.positive,))[0] if unguided else self.apart(x, sigma)[0]

    def apart(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(denoised, denoised by the negative alone), the latter by the positive where guidance is off."""
        works = self.guidance is None or self.table is None or self.guidance.works_at(sigma, self.table)
        if self.negative is None or not works:
            cond = self._sides(x, sigma, (self.positive,))[0]
            return cond, cond
        uncond, cond = self._sides(x, sigma, (self.negative, self.positive))
        denoised = uncond + (cond - uncond) * self.cfg
        if self.guidance is not None and self.guidance.rescale > 0 and self.table is not None:
            denoised = rescaled(denoised, cond, x, sigma, self.guidance.rescale, self.table.flow)
        return denoised, uncond

    def _sides(self, x: Tensor, sigma: Tensor, sides: Sequence[Sequence[Region]]) -> list[Tensor]:
        """D of each side, with as few calls as the shapes allow."""
        counting = [[region for region in side if region.counts_at(sigma)] for side in sides]
        jobs = [(region.cut(x), fit(region.shown(), len(x))) for side in counting for region in side]
        answers = iter(batched(self.denoise, jobs, sigma))
        return [merged([(region, next(answers)) for region in side], x) for side in counting]


def batched(denoise: DenoiseWith, jobs: list[tuple[Tensor, Condition | None]], sigma: Tensor) -> list[Tensor]:
    """The answer to each (x, condition), those of one shape by one call."""
    answers: dict[int, Tensor] = {}
    while left := [i for i in range(len(jobs)) if i not in answers]:
        together = [i for i in left if _alike(jobs[i], jobs[left[0]])]
        x = torch.cat([jobs[i][0] for i in together])
        many = torch.cat([sigma] * len(together)) if sigma.ndim else sigma
        out = denoise(x, many, stack([jobs[i][1] for i in together])).chunk(len(together))
        answers |= dict(zip(together, out, strict=True))
    return [answers[i] for i in range(len(jobs))]


def merged(answers: list[tuple[Region, Tensor]], x: Tensor) -> Tensor:
    """The mean of regions' answers by weight, [B, c, h, w]; 0 where none counts."""
    if len(answers) == 1 and answers[0][0].whole:
        return answers[0][1]
    total, weights = torch.zeros_like(x), torch.full_like(x, 1e-37)
    for region, answer in answers:
        weight = region.weight(x)
        region.cut(total).add_(answer * weight)
        region.cut(weights).add_(weight)
    return total / weights


def rescaled(denoised: Tensor, cond: Tensor, x: Tensor, sigma: Tensor, amount: float, flow: bool = False) -> Tensor:
    """The guided answer with the spread of the positive one, image by image.

    v' = amount v_cfg std(v_cond) / std(v_cfg) + (1 - amount) v_cfg
    with v the velocity up to a factor: x / (1 + sigma^2) - x0, and x - x0 for a flow.

    denoised: guided; cond: of the positive alone; x: what both were made of, [B, c, h, w]. sigma: [] or [B].
    Source: Lin et al. 2024 (Common Diffusion Noise Schedules), eq. 15 and 16, on v as they do; as ComfyUI's RescaleCFG.
    """
    s = sigma.reshape(-1, *[1] * (x.ndim - 1))
    base = x if flow else x / (1 + s**2)
    v, aim = base - denoised, base - cond
    axes = tuple(range(1, x.ndim))
    ratio = aim.std(axes, keepdim=True) / v.std(axes, keepdim=True).clamp(min=1e-12)
    return base - v * (amount * ratio + (1 - amount))


def fit(cond: Condition | None, batch: int) -> Condition | None:
    """The condition for a batch: repeated when there are too few, cut when there are too many."""
    return None if cond is None else cond.map(lambda part: _repeat(part, batch))


def stack(conds: Sequence[Condition | None]) -> Condition | None:
    """Conditions of the same parts and shapes as one of all their batches."""
    first = conds[0]
    if first is None or len(conds) == 1:
        return first
    parts = {name: [getattr(cond, name) for cond in conds] for name in PARTS if getattr(first, name) is not None}
    return Condition(**{name: torch.cat(tensors) for name, tensors in parts.items()})


def _regions(conditions: Conditions) -> list[Region]:
    if conditions is None or isinstance(conditions, Condition):
        return [Region(condition=conditions)]
    return list(conditions)


def _alike(job: tuple[Tensor, Condition | None], other: tuple[Tensor, Condition | None]) -> bool:
    return job[0].shape == other[0].shape and _shapes(job[1]) == _shapes(other[1])


def _shapes(cond: Condition | None) -> dict[str, torch.Size] | None:
    parts = {name: getattr(cond, name, None) for name in PARTS}
    return None if cond is None else {name: part.shape for name, part in parts.items() if part is not None}


def _repeat(part: Tensor, batch: int) -> Tensor:
    if len(part) == batch:
        return part
    return part.repeat(-(-batch // len(part)), *[1] * (part.ndim - 1))[:batch]
