"""Schedules: the noise levels that a sampler walks down."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from .tables import FlowTable, LogTable, NoiseTable, Table

__all__ = ["SCHEDULES", "FlowTable", "LogTable", "NoiseTable", "Schedule", "Span", "Table", "make_sigmas"]


@dataclass(frozen=True, kw_only=True)
class Span:
    """The levels that a schedule covers: sigma_min .. sigma_max of a table, and the exponent of those that bend."""

    table: Table
    sigma_min: float
    sigma_max: float
    rho: float = 7.0

    @property
    def sigmas(self) -> Tensor:
        """The table's levels inside the span, ascending, [<= T]."""
        levels = self.table.sigmas
        return levels[(levels >= self.sigma_min * (1 - 1e-6)) & (levels <= self.sigma_max * (1 + 1e-6))]

    @property
    def timesteps(self) -> tuple[Tensor, Tensor]:
        """(first, last) time of the span: exact at the table's ends, between two levels elsewhere."""
        return self._time(self.sigma_max, self.table.sigma_max), self._time(self.sigma_min, self.table.sigma_min)

    def _time(self, sigma: float, end: float) -> Tensor:
        return self.table.timestep(torch.tensor(sigma), quantize=sigma == end)


Schedule = Callable[[int, Span], Tensor]


def with_zero(sigmas: Tensor) -> Tensor:
    """[n] -> [n + 1], the last one 0."""
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def karras(n: int, span: Span) -> Tensor:
    """Evenly spaced in sigma^(1/rho).

    sigma_i = (sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho,  sigma_n = 0

    Source: Karras et al. 2022, eq. 5.
    """
    top, low = span.sigma_max ** (1 / span.rho), span.sigma_min ** (1 / span.rho)
    return with_zero((top + torch.linspace(0, 1, n) * (low - top)) ** span.rho)


def exponential(n: int, span: Span) -> Tensor:
    """Evenly spaced in log sigma, then 0."""
    return with_zero(torch.linspace(math.log(span.sigma_max), math.log(span.sigma_min), n).exp())


def normal(n: int, span: Span) -> Tensor:
    """Evenly spaced in the table's time, first and last level included, then 0.

    Where the lowest level is 0 already (flows), it stands for the 0 and no second one follows.
    """
    first, last = span.timesteps
    if float(span.table.sigma(last)) < 1e-5:
        return span.table.sigma(torch.linspace(float(first), float(last), n + 1))
    return with_zero(span.table.sigma(torch.linspace(float(first), float(last), n)))


def sgm_uniform(n: int, span: Span) -> Tensor:
    """Evenly spaced in the table's time without the lowest level ("trailing" spacing), then 0."""
    first, last = span.timesteps
    return with_zero(span.table.sigma(torch.linspace(float(first), float(last), n + 1)[:-1]))


def simple(n: int, span: Span) -> Tensor:
    """Every (T/n)-th level of the table from the top, rounded down to a level, then 0."""
    levels = span.sigmas
    return with_zero(levels.flip(0)[[int(i * (len(levels) / n)) for i in range(n)]])


def ddim_uniform(n: int, span: Span) -> Tensor:
    """Levels 1, 1 + c, 1 + 2c, ... with c = floor(T/n), from the top down, then 0.

    A count that does not divide T gives more steps than asked for, as in the original.
    Where level 1 is 0 already it stands for the 0.
    Source: Song et al. 2021 in CompVis's numbering (indices start at 1).
    """
    levels = span.sigmas
    zero_inside = float(levels[1]) < 1e-5
    picked = levels[1 :: max(len(levels) // (n + zero_inside), 1)].flip(0)
    return picked if zero_inside else with_zero(picked)


SCHEDULES: dict[str, Schedule] = {
    "normal": normal,
    "simple": simple,
    "ddim_uniform": ddim_uniform,
    "sgm_uniform": sgm_uniform,
    "karras": karras,
    "exponential": exponential,
}

FREE = ("karras", "exponential")
"""Schedules that may leave the table, because they only need its ends."""


def make_sigmas(
    name: str,
    table: Table,
    steps: int,
    denoise: float = 1.0,
    sigma_min: float = 0.0,
    sigma_max: float = 0.0,
    rho: float = 7.0,
) -> Tensor:
    """The noise levels that a sampler walks down.

    name: a key of SCHEDULES. steps: >= 1.
    denoise: 0 .. 1; below 1, the last `steps` steps of a schedule of int(steps / denoise); 0 gives no step at all.
    sigma_min, sigma_max: ends of the schedule in latent units; 0 = the table's.
    rho: exponent of karras.
    Returns [steps + 1] float32, descending, the last one 0 ([0] for denoise 0; ddim_uniform may give more steps).
    Raises: ConfigError on an unknown name or a value out of range.
    """
    if name not in SCHEDULES:
        raise ConfigError(f"no schedule is named {name!r}; there are {', '.join(SCHEDULES)}")
    if steps < 1 or not 0 <= denoise <= 1 or rho <= 0:
        raise ConfigError(f"a schedule needs steps >= 1, denoise in 0..1 and rho > 0, not {steps}, {denoise}, {rho}")
    if denoise == 0:
        return torch.zeros(0)
    span = _span(name, table, sigma_min, sigma_max, rho)
    if denoise > 0.9999:
        return SCHEDULES[name](steps, span)
    return SCHEDULES[name](int(steps / denoise), span)[-(steps + 1) :]


def _span(name: str, table: Table, sigma_min: float, sigma_max: float, rho: float) -> Span:
    span = Span(table=table, sigma_min=sigma_min or table.sigma_min, sigma_max=sigma_max or table.sigma_max, rho=rho)
    if not 0 < span.sigma_min < span.sigma_max < math.inf:
        raise ConfigError(f"sigma_min {span.sigma_min:g} must lie above 0 and below sigma_max {span.sigma_max:g}")
    inside = table.sigma_min * 0.999 <= span.sigma_min and span.sigma_max <= table.sigma_max * 1.001
    if name not in FREE and (not inside or len(span.sigmas) < 2):
        raise ConfigError(
            f"{name} picks levels of the model's table, {table.sigma_min:g} to {table.sigma_max:g}, and finds none "
            f"for {span.sigma_min:g} to {span.sigma_max:g}; use karras or exponential to leave the table"
        )
    return span
