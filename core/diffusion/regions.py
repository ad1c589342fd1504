"""Conditions bound to a part of the picture or of the run, weighted where they overlap."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ConfigError
from ..types import Condition

FEATHER = 8
"""Cells over which an area without a mask fades at each side that is not the picture's, at most a quarter of it."""

Area = tuple[int, int, int, int]
"""(height, width, top, left) in cells of the latent."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """A condition, and where, when and how strongly it counts.

    condition: of batch 1 or B; None for a network that takes none.
    area: the rectangle that the network is shown; None is the whole latent.
    mask: [B or 1, h, w] weights of the latent's size, or None.
    strength: factor on the weights, any sign; low, high: it counts at low <= sigma <= high.
    Raises: ConfigError for an area without cells.
    Source: what ComfyUI's conditioning carries and how 0.3.64 weighs it.
    """

    condition: Condition | None
    area: Area | None = None
    mask: Tensor | None = None
    strength: float = 1.0
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if self.area is not None and (min(self.area[:2]) < 1 or min(self.area[2:]) < 0):
            raise ConfigError(f"an area is (height, width, top, left) with a height and a width, not {self.area}")

    @property
    def whole(self) -> bool:
        """Whether it counts everywhere alike."""
        return self.area is None and self.mask is None and self.strength == 1

    def counts_at(self, sigma: Tensor) -> bool:
        return self.low <= float(sigma.reshape(-1)[0]) <= self.high

    def cut(self, x: Tensor) -> Tensor:
        """The part of [..., h, w] inside the area, a view; areas that reach over the edge end there."""
        if self.area is None:
            return x
        (high, wide, top, left), (rows, columns) = self.area, x.shape[-2:]
        if top >= rows or left >= columns:
            raise ConfigError(
                f"the area {self.area} (height, width, top, left) lies outside the latent, {rows} x {columns} cells"
            )
        return x[..., top : top + high, left : left + wide]

    def shown(self) -> Condition | None:
        """The condition, with a picture cut to the area."""
        if self.condition is None or self.condition.concat is None:
            return self.condition
        return replace(self.condition, concat=self.cut(self.condition.concat))

    def weight(self, x: Tensor) -> Tensor:
        """[B or 1, 1, h', w'] for the cut of x [B, c, h, w]."""
        if self.mask is not None:
            mask = self.cut(self.mask.to(x))[:, None]
            return mask[torch.arange(len(x), device=x.device) % len(mask)] * self.strength
        rows, columns = self.cut(x).shape[-2:]
        weight = x.new_ones(1, 1, rows, columns) * self.strength
        if self.area is None:
            return weight
        down, across = _fade(rows, self.area[2], x.shape[-2]), _fade(columns, self.area[3], x.shape[-1])
        return weight * down.to(x)[:, None] * across.to(x)


def _fade(size: int, start: int, full: int) -> Tensor:
    """Weights along one side of an area, [size]: 1, falling towards ends that are not the picture's."""
    ramp = min(FEATHER, size // 4)
    weights = torch.ones(size)
    rise = torch.arange(1, ramp + 1) / max(ramp, 1)
    if start > 0:
        weights[:ramp] *= rise
    if start + size < full:
        weights[size - ramp :] *= rise.flip(0)
    return weights


def with_opposites(positive: Sequence[Region], negative: Sequence[Region]) -> tuple[list[Region], list[Region]]:
    """Both sides, each area of one side given to the other too, so that guidance compares like with like.

    The new region has the condition of the smallest one on that side that contains the area.
    """
    sides = list(positive), list(negative)
    for mine, other in (sides, sides[::-1]):
        for region in list(mine):
            found = _smallest(region, other)
            if found is not None and found.area != region.area:
                other.append(replace(region, condition=found.condition))
    return sides


def _smallest(region: Region, others: Sequence[Region]) -> Region | None:
    """The smallest of those that contain a region's area; None where it has none."""
    if region.area is None:
        return None
    fitting = [other for other in others if other.area is None or _inside(region.area, other.area)]
    return min(fitting, key=lambda other: math.prod(other.area[:2]) if other.area else math.inf, default=None)


def _inside(area: Area, outer: Area) -> bool:
    sides = zip(area[2:], area, outer[2:], outer, strict=False)
    return all(low <= start and start + size <= low + full for start, size, low, full in sides)
