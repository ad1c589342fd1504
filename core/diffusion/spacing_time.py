"""Schedules spaced in the time of a table: they pick its levels, or go between them."""

import torch
from torch import Tensor

from .spans import Span, with_zero


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
    picked = levels[uniform_times(n + zero_inside, len(levels))].flip(0)
    return picked if zero_inside else with_zero(picked)


def uniform_times(n: int, total: int) -> Tensor:
    """1, 1 + c, 1 + 2c, ... below T with c = floor(T / n), int64."""
    return torch.arange(1, total, max(total // n, 1))


def ddim_quad(n: int, span: Span) -> Tensor:
    """Levels 1 + floor((i/(n-1) sqrt(0.8 T))^2) from the top down, then 0; for many steps low ones are repeated.

    Source: Song et al. 2021, appendix D.2 ("quadratic"), in CompVis's numbering.
    """
    levels = span.sigmas
    return with_zero(levels[quad_times(n, len(levels)).clamp(max=len(levels) - 1)].flip(0))


def quad_times(n: int, total: int) -> Tensor:
    """1 + floor((i/(n-1))^2 0.8 T) for i = 0 .. n - 1, int64."""
    return (torch.linspace(0, (total * 0.8) ** 0.5, n, dtype=torch.float64) ** 2).long() + 1


def ddim_trailing(n: int, span: Span) -> Tensor:
    """Levels T, T - T/n, T - 2T/n, ... rounded, counted from 1, then 0. Source: Lin et al. 2024, sec. 3.3."""
    levels = span.sigmas
    return with_zero(levels[trailing_times(n, len(levels)).clamp(min=0)])


def trailing_times(n: int, total: int) -> Tensor:
    """round(T - i T / n) - 1 for i = 0 .. n - 1, int64."""
    return (total - torch.arange(n, dtype=torch.float64) * total / n).round().long() - 1


def beta(n: int, span: Span, alpha: float = 0.6, beta: float = 0.6) -> Tensor:
    """Levels at quantiles of a Beta distribution of the index, from the top down, then 0; equal neighbours count once.

    alpha, beta: below 1, more levels at both ends.
    Source: Lee et al. 2024 (Beta Sampling), sec. 4.
    """
    levels = span.sigmas
    quantiles = beta_quantile(1 - torch.arange(n, dtype=torch.float64) / n, alpha, beta)
    picked = (quantiles * (len(levels) - 1) + 1e-8).round().long().unique_consecutive()  # half a level goes up
    return with_zero(levels[picked])


def beta_quantile(share: Tensor, a: float, b: float) -> Tensor:
    """The inverse of the regularised incomplete beta function, by bisection; share: [n] float64, 0 .. 1."""
    low, high = torch.zeros_like(share), torch.ones_like(share)
    for _ in range(40):
        middle = (low + high) / 2
        below = beta_share(middle, a, b) < share
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def beta_share(x: Tensor, a: float, b: float) -> Tensor:
    """I_x(a, b), the share of a Beta distribution below x, by the series of its smaller side; x: [n], 0 .. 1."""
    whole = torch.tensor([a, b, a + b], dtype=torch.float64).lgamma()
    scale = (whole[2] - whole[0] - whole[1]).exp()
    return torch.where(x <= 0.5, scale * _tail(x.clamp(max=0.5), a, b), 1 - scale * _tail((1 - x).clamp(max=0.5), b, a))


def _tail(x: Tensor, a: float, b: float) -> Tensor:
    """The integral from 0 to x <= 1/2 of t^(a - 1) (1 - t)^(b - 1): x^a sum_k (1 - b)_k / k! x^k / (a + k)."""
    k = torch.arange(40, dtype=torch.float64)
    terms = torch.cat([k.new_ones(1), torch.cumprod((k[1:] - b) / k[1:], 0)]) / (a + k)
    return x**a * (x[:, None] ** k @ terms)
