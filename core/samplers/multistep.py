"""Solvers exact in the linear part that extrapolate x0 from earlier steps: one call a step."""

from torch import Tensor

from ..types import Denoise, Step
from .sampler import Steps, intervals, towards


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
        if earlier is not None and below > 0:
            ratio = (sigma / below).log() / (earlier[1] / sigma).log()
            aim = denoised + ratio / 2 * (denoised - earlier[0])
        x = towards(x, aim, sigma, below)
        earlier = denoised, sigma
        yield Step(i, sigma, x, denoised)


def res_multistep(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Steps:
    """The same with the straight line of x0 in lambda integrated in full: order 2 by the exponential quadrature.

    x' = e^-h x + (1 - e^-h) x0 + (h - 1 + e^-h) / h_last (x0 - x0_last),  h = lambda' - lambda
    The first step and a step to 0 take x0 as it is.

    x: [B, ...], noised to sigmas[0].
    Source: Zhang et al. 2023 (Refined Exponential Solver), eq. 14.
    """
    earlier: tuple[Tensor, Tensor] | None = None
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        x = towards(x, denoised, sigma, below)
        if earlier is not None and below > 0:
            h, h_last = (sigma / below).log(), (earlier[1] / sigma).log()
            x = x + (h + (-h).expm1()) / h_last * (denoised - earlier[0])
        earlier = denoised, sigma
        yield Step(i, sigma, x, denoised)
