"""One-step solvers of the probability-flow equation, with the optional churn of Karras et al."""

import math
from itertools import pairwise

from torch import Tensor

from ..types import Denoise, NoiseSource, Step
from .sampler import Steps, intervals, no_noise, slope

CHURN = ("noise", "s_noise", "s_churn", "s_tmin", "s_tmax")
"""The options of solvers that can churn."""


def euler(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource = no_noise,
    s_noise: float = 1.0,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
) -> Steps:
    """x' = x + (sigma' - sigma) dx/dsigma; DDIM without noise is the same step in these coordinates.

    x: [B, ...], noised to sigmas[0].
    Source: Karras et al. 2022, Alg. 2 without its correction; Song et al. 2021, eq. 13.
    """
    for i, sigma, below in intervals(sigmas):
        gamma = churn_rate(sigma, len(sigmas) - 1, s_churn, s_tmin, s_tmax)
        x, hot = churn(x, sigma, gamma, noise, s_noise)
        denoised = denoise(x, hot)
        x = x + slope(x, denoised, hot) * (below - hot)
        yield Step(i, sigma, x, denoised)


def heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource = no_noise,
    s_noise: float = 1.0,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
) -> Steps:
    """The trapezoidal rule on an Euler step; two calls a step, one where the step ends at 0.

    x: [B, ...], noised to sigmas[0].
    Source: Karras et al. 2022, Alg. 2.
    """
    for i, sigma, below in intervals(sigmas):
        gamma = churn_rate(sigma, len(sigmas) - 1, s_churn, s_tmin, s_tmax)
        x, hot = churn(x, sigma, gamma, noise, s_noise)
        denoised = denoise(x, hot)
        drift = slope(x, denoised, hot)
        if below > 0:
            trial = x + drift * (below - hot)
            drift = (drift + slope(trial, denoise(trial, below), below)) / 2
        x = x + drift * (below - hot)
        yield Step(i, sigma, x, denoised)


def dpm_2(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource = no_noise,
    s_noise: float = 1.0,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
) -> Steps:
    """The midpoint rule, the middle taken in log sigma; two calls a step, one where the step ends at 0.

    x: [B, ...], noised to sigmas[0].
    Source: Lu et al. 2022 (DPM-Solver), Alg. 1 with the slope in sigma, as k-diffusion has it.
    """
    for i, sigma, below in intervals(sigmas):
        gamma = churn_rate(sigma, len(sigmas) - 1, s_churn, s_tmin, s_tmax)
        x, hot = churn(x, sigma, gamma, noise, s_noise)
        denoised = denoise(x, hot)
        drift = slope(x, denoised, hot)
        if below > 0:
            middle = (hot * below).sqrt()
            between = x + drift * (middle - hot)
            drift = slope(between, denoise(between, middle), middle)
        x = x + drift * (below - hot)
        yield Step(i, sigma, x, denoised)


def heunpp2(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource = no_noise,
    s_noise: float = 1.0,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
) -> Steps:
    """Euler with slopes looked up one and two levels ahead, each weighted by its level over the first one.

    drift = (1 - w2 - w3) d + w2 d' + w3 d'',  w2 = sigma' / (3 sigma_0),  w3 = sigma'' / (3 sigma_0)
    The last step but one has two slopes and halves in place of thirds, the last one is Euler's. Three calls a step.

    x: [B, ...], noised to sigmas[0].
    Source: ComfyUI's "heunpp2". No paper; the weights are those of no quadrature, so it is of first order.
    """
    for i, sigma, below in intervals(sigmas):
        gamma = churn_rate(sigma, len(sigmas) - 1, s_churn, s_tmin, s_tmax)
        x, hot = churn(x, sigma, gamma, noise, s_noise)
        denoised = denoise(x, hot)
        drift = first = slope(x, denoised, hot)
        levels = [hot, *sigmas[i + 1 : i + 3]] if i + 2 < len(sigmas) else []
        levels = levels[:2] if levels and i + 3 == len(sigmas) else levels
        trial, ahead = x, first
        for above, level in pairwise(levels):
            trial = trial + ahead * (level - above)
            ahead = slope(trial, denoise(trial, level), level)
            drift = drift + (ahead - first) * level / (len(levels) * sigmas[0])
        x = x + drift * (below - hot)
        yield Step(i, sigma, x, denoised)


def churn_rate(sigma: Tensor, steps: int, s_churn: float, s_tmin: float, s_tmax: float) -> float:
    """gamma = min(s_churn / steps, sqrt(2) - 1) inside s_tmin .. s_tmax, else 0."""
    return min(s_churn / steps, math.sqrt(2) - 1) if s_churn > 0 and s_tmin <= sigma <= s_tmax else 0.0


def churn(x: Tensor, sigma: Tensor, gamma: float, noise: NoiseSource, s_noise: float) -> tuple[Tensor, Tensor]:
    """Raise the noise from sigma to sigma (1 + gamma); (x, the new level). Draws only where gamma > 0."""
    if gamma == 0:
        return x, sigma
    hot = sigma * (gamma + 1)
    return x + noise() * s_noise * (hot**2 - sigma**2) ** 0.5, hot
