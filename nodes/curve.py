"""A picture of noise levels: sigma by step on a logarithmic axis."""

from __future__ import annotations

from math import ceil, floor, log10
from typing import NamedTuple

from torch import Tensor

from ..core.drawing import ACCENT, FAINT, PANEL, TEXT, Canvas

WIDTH, HEIGHT = 768, 512
LEFT, TOP, RIGHT, BOTTOM = 96, 64, 24, 72
ZERO_BAND = 40
"""Pixels below the axis where the final 0 stands, which has no place on a logarithmic one."""

GRID = (52, 56, 66)
TICKS = 10


class Plane(NamedTuple):
    """Where numbers lie: steps from left to right, sigma from `low` to `high` (powers of ten) upwards."""

    steps: int
    low: float
    high: float

    def x(self, step: float) -> float:
        return LEFT + 12 + step / max(self.steps, 1) * (WIDTH - LEFT - RIGHT - 24)

    def y(self, sigma: float) -> float:
        if sigma <= 0:
            return HEIGHT - BOTTOM - ZERO_BAND / 2
        span = HEIGHT - TOP - BOTTOM - ZERO_BAND - 12
        return TOP + 12 + (self.high - log10(sigma)) / (self.high - self.low) * span


def curve(sigmas: Tensor, title: str) -> Tensor:
    """The noise levels as a picture, [1, H, W, 3] in 0..1.

    sigmas: [n + 1], >= 0, n >= 0; an empty one gives an empty plane.
    """
    values = [float(sigma) for sigma in sigmas]
    plane = _plane(values)
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.draw.rectangle((LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM), fill=PANEL)
    canvas.text((LEFT, 12), title, 22)
    canvas.text((LEFT, 39), _summary(values), 14, FAINT)
    _axes(canvas, plane)
    _line(canvas, plane, values)
    return canvas.tensor()[None]


def _plane(values: list[float]) -> Plane:
    """The powers of ten around the values; half of one more where they are all alike."""
    logs = [log10(value) for value in values if value > 0] or [-1.0, 1.0]
    low, high = min(logs), max(logs)
    margin = max(0.05 * (high - low), 0.05)
    return Plane(len(values) - 1, low - margin, high + margin)


def _summary(values: list[float]) -> str:
    positive = [value for value in values if value > 0]
    if not positive:
        return "no step: nothing is changed"
    steps = len(values) - 1
    return f"{steps} step{'' if steps == 1 else 's'}, from {max(positive):.4g} to {min(positive):.4g}, then 0"


def _axes(canvas: Canvas, plane: Plane) -> None:
    for sigma in _levels(plane):
        y = plane.y(sigma)
        canvas.draw.line((LEFT, y, WIDTH - RIGHT, y), fill=GRID)
        canvas.text((LEFT - 10, y), f"{sigma:g}", 14, FAINT, "rm")
    zero = plane.y(0)
    canvas.draw.line((LEFT, zero - ZERO_BAND / 2, WIDTH - RIGHT, zero - ZERO_BAND / 2), fill=FAINT)
    canvas.text((LEFT - 10, zero), "0", 14, FAINT, "rm")
    pace = max(1, ceil(plane.steps / TICKS))
    for step in range(0, max(plane.steps, 0) + 1, pace):
        canvas.draw.line((plane.x(step), HEIGHT - BOTTOM, plane.x(step), HEIGHT - BOTTOM + 6), fill=FAINT)
        canvas.text((plane.x(step), HEIGHT - BOTTOM + 10), f"{step}", 14, FAINT, "ma")
    canvas.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14), "step", 15, TEXT, "ms")
    canvas.text((16, 39), "sigma", 15, TEXT)


def _levels(plane: Plane) -> list[float]:
    """1, 2, 5 of each power of ten in view, or only the powers where that were too many."""
    powers = range(floor(plane.low), ceil(plane.high) + 1)
    fine = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    seen = [sigma for sigma in fine if plane.low <= log10(sigma) <= plane.high]
    return seen if len(seen) <= 12 else [sigma for sigma in seen if log10(sigma) == round(log10(sigma))]


def _line(canvas: Canvas, plane: Plane, values: list[float]) -> None:
    points = [(plane.x(step), plane.y(value)) for step, value in enumerate(values)]
    if len(points) > 1:
        canvas.draw.line(points, fill=ACCENT, width=2, joint="curve")
    radius = 4 if len(points) <= 60 else 2
    for x, y in points:
        canvas.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ACCENT)
