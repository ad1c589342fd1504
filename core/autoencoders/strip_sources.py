"""Activations by horizontal strips, and layers that make one of another: see strips.py."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

T = TypeVar("T")

HALO = 2
"""So many rows around a strip does a block reach at most: two convolutions of 3x3."""

Steps = Generator[None, None, T]
"""Yields after each strip, and returns the result."""


class Source(Protocol):
    """An activation [1, C, height, W] of which only the rows asked for need exist; rows(a, b): [1, C, b - a, W]."""

    height: int

    def rows(self, a: int, b: int, /) -> Tensor: ...


@dataclass
class Made:
    """A source whose rows a function makes."""

    height: int
    rows: Callable[[int, int], Tensor]


@dataclass
class Held:
    """A source kept as strips of `size` rows from the top; while it is used up, from row `top` and HALO rows above."""

    strips: list[Tensor]
    size: int
    top: int = 0
    above: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.height = sum(strip.shape[2] for strip in self.strips)

    def rows(self, a: int, b: int, /) -> Tensor:
        starts = range(self.top, b, self.size)
        parts = [
            part[:, :, max(a - top, 0) : b - top]
            for top, part in zip(starts, self.strips, strict=False)
            if a < top + self.size
        ]
        if a < self.top:
            parts.insert(0, self.above[0][:, :, a - self.top :])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def replace(self, strip: Tensor, row: int) -> Tensor:
        """The strip, in the memory of one that ends at or above a row, where one has its shape; those are let go."""
        ended = [self.strips.pop(0) for _ in range((row - self.top) // self.size)]
        if ended:
            self.top += len(ended) * self.size
            self.above = [ended[-1][:, :, -HALO:].clone()]
        fitting = [old for old in ended if old.shape == strip.shape]
        return fitting[0].copy_(strip) if fitting else strip


@dataclass(frozen=True)
class Plan:
    """size: rows of a strip. finest: height of the level on which a block's inner activation is made twice."""

    size: int
    finest: int

    def spans(self, height: int) -> Iterator[tuple[int, int]]:
        """Where each strip starts and ends, from the top."""
        return ((a, min(a + self.size, height)) for a in range(0, height, self.size))

    def count(self, height: int) -> int:
        """How many strips that is."""
        return -(-height // self.size)

    def hold(self, source: Source, used: Held) -> Steps[Held]:
        """All of a source, strip by strip, in place of the one that is used up in it."""
        strips: list[Tensor] = []
        for a, b in self.spans(source.height):
            strips.append(used.replace(source.rows(a, b), b * used.height // source.height))
            yield
        return Held(strips, self.size)


def convolved(layer: nn.Conv2d | nn.Identity, source: Source) -> Source:
    """A 3x3 convolution with a border of zeros, which reaches one row further on either side; or a copy."""
    if isinstance(layer, nn.Identity):
        return Made(source.height, lambda a, b: source.rows(a, b).clone())

    def rows(a: int, b: int) -> Tensor:
        start, end = max(a - 1, 0), min(b + 1, source.height)
        window = source.rows(start, end)
        if end - start < b - a + 2:
            window = F.pad(window, (0, 0, start - a + 1, b + 1 - end))
        return F.conv2d(window, layer.weight, layer.bias, padding=(0, 1))

    return Made(source.height, rows)


def activated(norm: nn.GroupNorm, source: Source, plan: Plan, *, keep: bool = False) -> Steps[Source]:
    """silu(norm(x))."""
    normed = yield from normalised(norm, source, plan, keep=keep)
    return Made(source.height, lambda a, b: F.silu(normed.rows(a, b), inplace=True))


def normalised(norm: nn.GroupNorm, source: Source, plan: Plan, *, keep: bool = False) -> Steps[Source]:
    """norm(x), as x * scale + shift with the numbers of the whole picture, which is read once for them.

    keep: hold what was read, where it was made only now.
    """
    found: list[Tensor] = []
    kept: list[Tensor] = []
    for span in plan.spans(source.height):
        kept.append(source.rows(*span))
        found.append(moments(norm, kept[-1].float()))
        if not keep:
            kept.clear()
        yield
    scale, shift = affine(norm, torch.stack(found, dim=1), plan, source.height)
    inner = Held(kept, plan.size) if keep else source

    def rows(a: int, b: int) -> Tensor:
        x = inner.rows(a, b)
        return (x * scale).add_(shift).to(x.dtype)

    return Made(source.height, rows)


def affine(norm: nn.GroupNorm, moments: Tensor, plan: Plan, height: int) -> tuple[Tensor, Tensor]:
    """What a group norm multiplies each channel by and what it adds, both [1, C, 1, 1] float32.

    mean M = sum s m,  variance = sum s (v + (m - M)^2)  over the strips, of share s, mean m and variance v, in float64:
    no small number is left over from two large ones. moments: [2, strips, groups], as `moments` makes them.
    """
    found = moments.cpu().double()
    share = torch.tensor([(b - a) / height for a, b in plan.spans(height)], dtype=torch.float64)[:, None]
    mean = (share * found[0]).sum(0)
    variance = (share * (found[1] ** -2 - norm.eps + (found[0] - mean).square())).sum(0)
    weight, bias = (part.cpu().double().unflatten(0, (norm.num_groups, -1)) for part in (norm.weight, norm.bias))
    scale = weight * (variance + norm.eps).rsqrt()[:, None]
    shift = bias - mean[:, None] * scale
    device = norm.weight.device
    return scale.float().view(1, -1, 1, 1).to(device), shift.float().view(1, -1, 1, 1).to(device)


def moments(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Mean and 1 / sqrt(variance + eps) of each group, [2, groups], by the kernel that norm(x) itself runs.

    Contiguous: for channels last torch 2.13 has another kernel on CPUs, which loses digits where the mean is large.
    """
    size = (1, x.shape[1], x.shape[2] * x.shape[3])
    _, mean, scale = torch.native_group_norm(x.contiguous(), None, None, *size, norm.num_groups, norm.eps)
    return torch.stack([mean[0], scale[0]])
