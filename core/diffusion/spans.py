"""The levels that a schedule covers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .tables import Table


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
"""`(number of steps, span) -> [n + 1] descending levels, the last one 0`"""


def with_zero(sigmas: Tensor) -> Tensor:
    """[n] -> [n + 1], the last one 0."""
    return torch.cat([sigmas, sigmas.new_zeros(1)])
