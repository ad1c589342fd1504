"""Solvers that reuse what the network said at earlier steps: one call a step."""

from collections import deque

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


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Steps:
    """DPM-Solver++(2M): exact in the linear part, with x0 extrapolated linearly in lambda = -ln sigma.

    x' = (sigma' / sigma) x + (1 - sigma' / sigma) (x0 + (h / 2 h_last) (x0 - x0_last)),  h = lambda' - lambda
    The first step and a step to 0 take x0 as it is.

    x: [B, ...], noised to sigmas[0].
    Source: Lu et al. 2022 (DPM-Solver++), Alg. 2.
    """
    earlier: tuple[Tensor, Tensor] | None = None
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        aim = denoised
        if earlier is not None and below > 0 and earlier[1] > sigma:
            ratio = (sigma / below).log() / (earlier[1] / sigma).log()
            aim = denoised + ratio / 2 * (denoised - earlier[0])
        x = (below / sigma) * x + (1 - below / sigma) * aim
        earlier = denoised, sigma
        yield Step(i, sigma, x, denoised)


def ipndm(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Steps:
    """Adams-Bashforth with up to four slopes, weighted as if the steps were equal; a step to 0 takes x0.

    x: [B, ...], noised to sigmas[0].
    Source: Zhang & Chen 2023 (DEIS), "iPNDM"; Liu et al. 2022 (PNDM), eq. 12.
    """
    slopes: deque[Tensor] = deque(maxlen=len(ADAMS_BASHFORTH))
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        slopes.appendleft(slope(x, denoised, sigma))
        weights = ADAMS_BASHFORTH[len(slopes) - 1]
        drift = sum((w * s for w, s in zip(weights[1:], list(slopes)[1:], strict=True)), weights[0] * slopes[0])
        x = denoised if below == 0 else x + (below - sigma) * drift
        yield Step(i, sigma, x, denoised)
