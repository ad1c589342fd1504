"""Solvers that step below the next level and come back up with fresh noise."""

import torch
from torch import Tensor

from ..types import Denoise, NoiseSource, Step
from .sampler import Steps, intervals, no_noise, slope


def euler_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource = no_noise,
    eta: float = 1.0,
    s_noise: float = 1.0,
    flow: bool = False,
) -> Steps:
    """An Euler step to sigma_down, then noise of sigma_up; for a flow, also a rescale that keeps the signal's part.

    x: [B, ...], noised to sigmas[0].
    eta: 0 = Euler, 1 = the variance of ancestral sampling.
    flow: x is (1 - sigma) x0 + sigma noise.
    Source: Song et al. 2021, eq. 12 and 16 with their sigma_t as sigma_up.
    """
    split = flow_split if flow else ancestral_split
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        if below == 0:
            x = denoised
        else:
            down, up, rescale = split(sigma, below, eta)
            x = (x + slope(x, denoised, sigma) * (down - sigma)) * rescale
            if eta > 0:
                x = x + noise() * s_noise * up
        yield Step(i, sigma, x, denoised)


def ancestral_split(sigma: Tensor, below: Tensor, eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """(sigma_down, sigma_up, 1) with sigma_down^2 + sigma_up^2 = below^2.

    sigma_up = min(below, eta sqrt(below^2 (sigma^2 - below^2) / sigma^2))
    """
    up = torch.minimum(below, eta * (below**2 * (sigma**2 - below**2) / sigma**2) ** 0.5)
    return (below**2 - up**2) ** 0.5, up, torch.ones_like(below)


def flow_split(sigma: Tensor, below: Tensor, eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """(sigma_down, sigma_up, rescale) of a flow, where the signal's part is 1 - sigma.

    sigma_down = below (1 + eta (below / sigma - 1)),  rescale = (1 - below) / (1 - sigma_down),
    sigma_up^2 = below^2 - (rescale sigma_down)^2
    """
    down = below * (1 + (below / sigma - 1) * eta)
    rescale = (1 - below) / (1 - down)
    return down, (below**2 - (rescale * down) ** 2) ** 0.5, rescale
