"""Linear multistep solvers: weights on the slopes of earlier steps; one call a step."""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..types import Denoise, Step
from .sampler import Steps, intervals, slope

ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of the newest slope and the ones before it, for equal steps."""


def ipndm(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Steps:
    """Adams-Bashforth with up to four slopes, weighted as if the steps were equal; a step to 0 takes x0.

    x: [B, ...], noised to sigmas[0].
    Source: Zhang & Chen 2023 (DEIS), "iPNDM"; Liu et al. 2022 (PNDM), eq. 12.
    """
    slopes: deque[Tensor] = deque(maxlen=len(ADAMS_BASHFORTH))
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        slopes.appendleft(slope(x, denoised, sigma))
        x = denoised if below == 0 else x + (below - sigma) * weighted(ADAMS_BASHFORTH[len(slopes) - 1], slopes)
        yield Step(i, sigma, x, denoised)


def plms(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Steps:
    """As `ipndm`, but the first step is Heun's: one call more in all.

    x: [B, ...], noised to sigmas[0].
    Source: Liu et al. 2022 (PNDM), eq. 12 with the start of CompVis's PLMS. A step to 0 takes x0.
    """
    slopes: deque[Tensor] = deque(maxlen=len(ADAMS_BASHFORTH))
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        slopes.appendleft(slope(x, denoised, sigma))
        drift = weighted(ADAMS_BASHFORTH[len(slopes) - 1], slopes)
        if i == 0 and below > 0:
            trial = x + (below - sigma) * drift
            drift = (drift + slope(trial, denoise(trial, below), below)) / 2
        x = denoised if below == 0 else x + (below - sigma) * drift
        yield Step(i, sigma, x, denoised)


def ipndm_v(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Steps:
    """Adams-Bashforth with up to four slopes and weights for unequal steps; a step to 0 takes x0.

    x: [B, ...], noised to sigmas[0].
    Source: Zhang & Chen 2023 (DEIS), "iPNDM" with variable steps. The third and the fourth weights are ComfyUI's, which
    depart from the exact ones (see `unequal_weights`); `lms` has those.
    """
    slopes: deque[Tensor] = deque(maxlen=4)
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        slopes.appendleft(slope(x, denoised, sigma))
        steps = [lower - upper for upper, lower in pairwise(sigmas[max(i - 3, 0) : i + 2])][::-1]
        x = denoised if below == 0 else x + (below - sigma) * weighted(unequal_weights(steps), slopes)
        yield Step(i, sigma, x, denoised)


def unequal_weights(steps: Sequence[Tensor]) -> list[Tensor]:
    """ComfyUI's weights of `ipndm_v` for up to four slopes, the newest first.

    steps: this one's length and those before it, [1 .. 4]. With the lengths h, h1, h2, h3 and the exact rule
    d0 + a (d0 - d1) + b (d0 - d1 - h1/h2 (d1 - d2)) + c (...), a is exact; b is (1 - uv) / 2 in place of (1 - u) v / 2
    with u = h / (3 (h + h1)), v = h (h + h1) / (h1 (h1 + h2)); and the oldest slope has h1/h2 in place of h2/h3.
    All of these are equal where the steps are.
    """
    h, *earlier = steps
    weights = [torch.ones_like(h)]
    if not earlier:
        return weights
    h1 = earlier[0]
    a = h / h1 / 2
    weights = [1 + a, -a]
    if len(earlier) == 1:
        return weights
    h2 = earlier[1]
    u = h / (3 * (h + h1))
    b = (1 - u * h * (h + h1) / (h1 * (h1 + h2))) / 2
    weights = [weights[0] + b, weights[1] - b * (1 + h1 / h2), b * h1 / h2]
    if len(earlier) == 2:
        return weights
    h3 = earlier[2]
    q = h1 * (h1 + h2) / (h2 * (h2 + h3))
    share = (1 - u) / 2 + (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))
    c = share * h * (h + h1) * (h + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3))
    fourth = (c, -c * (1 + h1 / h2 + q), c * (h1 / h2 + q * (1 + h2 / h3)), -c * q * h1 / h2)
    return [old + new for old, new in zip([*weights, torch.zeros_like(h)], fourth, strict=True)]


def lms(denoise: Denoise, x: Tensor, sigmas: Tensor, *, order: int = 4, takes_x0: bool = True) -> Steps:
    """Adams-Bashforth exact for the steps as they are.

    x: [B, ...], noised to sigmas[0]. order: how many slopes, 1 .. 4.
    takes_x0: a step to 0 takes x0, as in ComfyUI; False treats it as any other, as k-diffusion and diffusers do.
    Source: Karras et al. 2022, eq. 3 by a linear multistep rule, as in k-diffusion.
    """
    slopes: deque[Tensor] = deque(maxlen=order)
    levels = sigmas.double().cpu().numpy()
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        slopes.appendleft(slope(x, denoised, sigma))
        last = below == 0 and takes_x0
        x = denoised if last else x + weighted(lms_weights(levels, i, len(slopes)), slopes)
        yield Step(i, sigma, x, denoised)


def lms_weights(levels: np.ndarray, i: int, order: int) -> np.ndarray:
    """The integral from levels[i] to levels[i + 1] of each Lagrange polynomial on levels[i], levels[i - 1], ...

    levels: [n + 1]. order: 1 .. min(i + 1, 4). Returns [order] float64.
    """
    points, weights = np.polynomial.legendre.leggauss(2)  # exact up to the third degree
    half = (levels[i + 1] - levels[i]) / 2
    return half * (lagrange(levels[i - order + 1 : i + 1][::-1], levels[i] + half * (points + 1)) @ weights)


def lagrange(nodes: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The polynomials that are 1 at one node and 0 at the others, [nodes, at]."""
    rows = []
    for j, node in enumerate(nodes):
        others = np.delete(nodes, j)
        rows.append(np.prod((at - others[:, None]) / (node - others[:, None]), axis=0))
    return np.stack(rows)


def deis(denoise: Denoise, x: Tensor, sigmas: Tensor, *, order: int = 3) -> Steps:
    """Slopes extrapolated by a polynomial in the time of a VP process, integrated over sigma; a step to 0 takes x0.

    x: [B, ...], noised to sigmas[0]. order: how many slopes, 1 .. 4.
    Source: Zhang & Chen 2023 (DEIS), eq. 15, "tAB", with the process of `vp_time`.
    """
    slopes: deque[Tensor] = deque(maxlen=order)
    levels = sigmas.double().cpu().numpy()
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        slopes.appendleft(slope(x, denoised, sigma))
        if below == 0 or len(slopes) == 1:
            x = x + (below - sigma) * slopes[0] if below > 0 else denoised
        else:
            x = x + weighted(deis_weights(levels, i, len(slopes)), slopes)
        yield Step(i, sigma, x, denoised)


DEIS_POINTS = 10_000
"""ComfyUI's number of points for the integral; its sum counts both ends in full, so the number shows in the result."""


def deis_weights(levels: np.ndarray, i: int, order: int) -> np.ndarray:
    """The integral over sigma, from levels[i] down to levels[i + 1] > 0, of Lagrange polynomials in the time t.

    levels: [n + 1]. order: 2 .. min(i + 1, 4). Returns [order] float64.
    """
    nodes, (slow, fast) = vp_time(levels[i - order + 1 : i + 1][::-1]), VP
    end = vp_time(levels[i + 1])
    t = np.linspace(nodes[0], end, DEIS_POINTS)
    alpha = np.exp(-slow * t - fast * t**2 / 2)
    dsigma_dt = (slow + fast * t) / 2 / np.sqrt(alpha * (1 - alpha))
    return (lagrange(nodes, t) * dsigma_dt).sum(1) * (end - nodes[0]) / DEIS_POINTS


def _vp(low: float = 0.002, high: float = 80.0, first: float = 1e-3) -> tuple[float, float]:
    """(beta_min, beta_d) of the VP process whose sigma is `low` at t = first and `high` at t = 1."""
    start, end = np.log1p(low**2), np.log1p(high**2)
    fast = 2 * (start / first - end) / (first - 1)
    return float(end - fast / 2), float(fast)


VP = _vp()
"""beta(t) = beta_min + beta_d t. Source: Song et al. 2021 (SDE), eq. 32, between EDM's levels."""


def vp_time(sigma: np.ndarray) -> np.ndarray:
    """The time of a level in the process VP: ln(1 + sigma^2) = beta_min t + beta_d t^2 / 2."""
    slow, fast = VP
    return (np.sqrt(slow**2 + 2 * fast * np.log1p(sigma**2)) - slow) / fast


def gradient_estimation(denoise: Denoise, x: Tensor, sigmas: Tensor, *, gamma: float = 2.0) -> Steps:
    """Euler on gamma d + (1 - gamma) d_before; a step to 0 takes x0.

    x: [B, ...], noised to sigmas[0]. gamma: 1 = Euler, 1.5 = Adams-Bashforth with equal steps.
    Source: Permenter & Yuan 2024, Alg. 2; ComfyUI's default of gamma.
    """
    earlier: Tensor | None = None
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        drift = slope(x, denoised, sigma)
        aim = drift if earlier is None else drift + (gamma - 1) * (drift - earlier)
        x = denoised if below == 0 else x + aim * (below - sigma)
        earlier = drift
        yield Step(i, sigma, x, denoised)


def weighted(weights: Sequence[float | Tensor] | np.ndarray, slopes: Sequence[Tensor]) -> Tensor:
    """The sum of w d over both, the newest first."""
    pairs = zip(list(weights)[1:], list(slopes)[1:], strict=True)
    return sum((w * d for w, d in pairs), weights[0] * slopes[0])
