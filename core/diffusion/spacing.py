"""Schedules spaced in sigma: they need only the ends of a span."""

import math

import torch
from torch import Tensor

from .spans import Span, with_zero
from .tables import NoiseTable


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


def polyexponential(n: int, span: Span) -> Tensor:
    """ln sigma_i = ln sigma_min + (1 - i/(n-1))^rho (ln sigma_max - ln sigma_min), then 0; rho 1 is `exponential`.

    Source: k-diffusion.
    """
    low, high = math.log(span.sigma_min), math.log(span.sigma_max)
    return with_zero((torch.linspace(1, 0, n) ** span.rho * (high - low) + low).exp())


BETA_MIN, BETA_D = 0.1, 19.9
"""beta(t) = BETA_MIN + BETA_D t. Source: Song et al. 2021 (SDE), appendix C; Karras et al. 2022, table 1."""


def vp(n: int, span: Span) -> Tensor:
    """Evenly spaced in the time of the continuous VP process, sigma^2 = e^(BETA_D t^2 / 2 + BETA_MIN t) - 1, then 0.

    Source: Karras et al. 2022, table 1, "VP"; from sigma(1) = 152 to sigma(0.001) = 0.0105 it is k-diffusion's.
    """
    first, last = vp_time(span.sigma_max), vp_time(span.sigma_min)
    t = torch.linspace(first, last, n, dtype=torch.float64)
    return with_zero(torch.expm1(BETA_D * t**2 / 2 + BETA_MIN * t).sqrt().float())


def vp_time(sigma: float) -> float:
    """The time t at which the continuous VP process has a level."""
    return (math.sqrt(BETA_MIN**2 + 2 * BETA_D * math.log1p(sigma**2)) - BETA_MIN) / BETA_D


def laplace(n: int, span: Span, mu: float = 0.0, beta: float = 0.5) -> Tensor:
    """Quantiles of a Laplace distribution of ln sigma, cut to the span, then 0; levels cut to an end are repeated.

    ln sigma = mu - beta sign(1/2 - u) ln(1 - 2 |1/2 - u|),  u evenly from 0 to 1

    mu, beta: centre and spread of ln sigma.
    Source: Hang et al. 2024 (Improved Noise Schedule), eq. 11; ComfyUI's has no 0 at the end.
    """
    u = torch.linspace(0, 1, n)
    away = mu - beta * torch.sign(0.5 - u) * torch.log(1 - 2 * (0.5 - u).abs() + 1e-5)
    return with_zero(away.exp().clamp(span.sigma_min, span.sigma_max))


def kl_optimal(n: int, span: Span) -> Tensor:
    """Evenly spaced in arctan sigma, then 0. Source: Sabour et al. 2024 (Align Your Steps), sec. 3.2."""
    ramp = torch.arange(n) / max(n - 1, 1)
    return with_zero((ramp * math.atan(span.sigma_min) + (1 - ramp) * math.atan(span.sigma_max)).tan())


def linear_quadratic(n: int, span: Span, threshold: float = 0.025) -> Tensor:
    """The first half of the steps evenly over a share `threshold` of sigma_max, the rest by a parabola down to 0.

    sigma_i = sigma_max (1 - f(i)),  f(i) = threshold i / m for i < m = floor(n / 2), then quadratic with the same value
    and slope at m and f(n) = 1; of sigma_min it takes no notice.

    Source: Genmo's Mochi; Polyak et al. 2024 (Movie Gen), sec. 3.4.2.
    """
    half = n // 2
    if half == 0:
        return torch.tensor([span.sigma_max, 0.0])
    slope, rest = threshold / half, n - half
    bend = (1 - threshold - slope * rest) / rest**2
    i = torch.arange(n, dtype=torch.float64)
    f = slope * i + bend * (i - half).clamp(min=0) ** 2
    return with_zero(((1 - f) * span.sigma_max).float())


AYS_TIMES = (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0)
"""Of Stable Diffusion 1's table, for ten steps. Source: Sabour et al. 2024 (Align Your Steps), the authors' page."""


def ays(n: int, span: Span) -> Tensor:
    """Align Your Steps for Stable Diffusion 1: its ten steps, or others between them in log sigma; the last level is 0.

    For other ends than Stable Diffusion's the levels are stretched evenly in log sigma (ours).
    Source: Sabour et al. 2024 (Align Your Steps).
    """
    known = NoiseTable.scaled_linear().log_sigmas[list(AYS_TIMES)].double()
    at = torch.linspace(0, len(known) - 1, n + 1, dtype=torch.float64)
    low = at.floor().long().clamp(max=len(known) - 2)
    logs = known[low] + (at - low) * (known[low + 1] - known[low])
    share = (logs - known[-1]) / (known[0] - known[-1])
    bottom = math.log(span.sigma_min)
    return with_zero((bottom + share * (math.log(span.sigma_max) - bottom)).exp().float()[:-1])
