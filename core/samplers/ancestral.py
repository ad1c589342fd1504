"""Solvers that step below the next level and come back up with fresh noise."""

import torch
from torch import Tensor

from ..types import Denoise, NoiseSource, Step
from .sampler import Steps, intervals, no_noise, slope, towards


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
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        down, up, rescale = split(sigma, below, eta, flow)
        x = towards(x, denoised, sigma, down) * rescale
        if eta > 0 and below > 0:
            x = x + noise() * s_noise * up
        yield Step(i, sigma, x, denoised)


def dpm_2_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource = no_noise,
    eta: float = 1.0,
    s_noise: float = 1.0,
    flow: bool = False,
) -> Steps:
    """A midpoint step to sigma_down, the middle taken in log sigma, then noise of sigma_up; two calls a step.

    x: [B, ...], noised to sigmas[0]. eta, flow: as in `euler_ancestral`.
    Source: Karras et al. 2022, Alg. 2 with DPM-Solver-2's midpoint (Lu et al. 2022, Alg. 1), as k-diffusion has it.
    """
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        down, up, rescale = split(sigma, below, eta, flow)
        drift = slope(x, denoised, sigma)
        if down > 0:
            middle = (sigma * down).sqrt()
            between = x + drift * (middle - sigma)
            drift = slope(between, denoise(between, middle), middle)
        x = (x + drift * (down - sigma)) * rescale
        if eta > 0 and below > 0:
            x = x + noise() * s_noise * up
        yield Step(i, sigma, x, denoised)


def dpmpp_2s_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource = no_noise,
    eta: float = 1.0,
    s_noise: float = 1.0,
    flow: bool = False,
) -> Steps:
    """DPM-Solver++(2S) to sigma_down, then noise of sigma_up; two calls a step.

    x' = (sigma_down / sigma) x + (1 - sigma_down / sigma) x0(middle), the middle half-way in half the log of the
    signal-to-noise ratio; for a flow's first level of 1, which has none, at 0.9999.

    x: [B, ...], noised to sigmas[0]. eta, flow: as in `euler_ancestral`.
    Source: Lu et al. 2022 (DPM-Solver++), Alg. 1.
    """
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        down, up, rescale = split(sigma, below, eta, flow)
        aim = denoised
        if down > 0:
            middle = flow_middle(sigma, down) if flow else (sigma * down).sqrt()
            aim = denoise(towards(x, denoised, sigma, middle), middle)
        x = towards(x, aim, sigma, down) * rescale
        if eta > 0 and below > 0:
            x = x + noise() * s_noise * up
        yield Step(i, sigma, x, denoised)


def ddpm(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource = no_noise,
    s_noise: float = 1.0,
    large: bool = False,
) -> Steps:
    """A draw from the posterior q(x' | x, x0) at the estimated x0; the same step as ancestral Euler with eta 1.

    x' = x0 + (sigma' / sigma)^2 (x - x0) + spread noise,  spread^2 = sigma'^2 (1 - sigma'^2 / sigma^2)

    x: [B, ...], noised to sigmas[0].
    large: beta_t in place of the posterior's variance, spread^2 = (1 + sigma'^2) (sigma^2 - sigma'^2) / (1 + sigma^2).
    Source: Ho et al. 2020, eq. 7 and sec. 3.2, in x0 + sigma noise. For a flow it does the same, as ComfyUI's does.
    """
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        if below == 0:
            x = denoised
        else:
            narrow = below**2 * (1 - (below / sigma) ** 2)
            wide = (1 + below**2) * (sigma**2 - below**2) / (1 + sigma**2)
            x = denoised + (below / sigma) ** 2 * (x - denoised)
            x = x + noise() * s_noise * (wide if large else narrow).sqrt()
        yield Step(i, sigma, x, denoised)


def lcm(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource = no_noise,
    flow: bool = False,
) -> Steps:
    """For consistency models: what was denoised, with all new noise of the level below.

    x: [B, ...], noised to sigmas[0]. flow: x is (1 - sigma) x0 + sigma noise.
    Source: Song et al. 2023 (Consistency Models), Alg. 1; Luo et al. 2023 (LCM).
    """
    for i, sigma, below in intervals(sigmas):
        x = denoised = denoise(x, sigma)
        if below > 0:
            x = (denoised * (1 - below) if flow else denoised) + noise() * below
        yield Step(i, sigma, x, denoised)


def split(sigma: Tensor, below: Tensor, eta: float, flow: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(sigma_down, sigma_up, what x is scaled with between the two)."""
    return flow_split(sigma, below, eta) if flow else ancestral_split(sigma, below, eta)


def ancestral_split(sigma: Tensor, below: Tensor, eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """(sigma_down, sigma_up, 1) with sigma_down^2 + sigma_up^2 = below^2.

    sigma_up = min(below, eta below sqrt(1 - below^2 / sigma^2)); sigma may be infinite.
    """
    up = torch.minimum(below, eta * below * (1 - (below / sigma) ** 2) ** 0.5)
    return (below**2 - up**2) ** 0.5, up, torch.ones_like(below)


def flow_split(sigma: Tensor, below: Tensor, eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """(sigma_down, sigma_up, rescale) of a flow, where the signal's part is 1 - sigma.

    sigma_down = below (1 + eta (below / sigma - 1)),  rescale = (1 - below) / (1 - sigma_down),
    sigma_up^2 = below^2 - (rescale sigma_down)^2
    """
    down = (below * (1 + (below / sigma - 1) * eta)).clamp(min=0)
    rescale = (1 - below) / (1 - down)
    return down, (below**2 - (rescale * down) ** 2) ** 0.5, rescale


def flow_middle(sigma: Tensor, below: Tensor) -> Tensor:
    """The level half-way between two of a flow in ln((1 - sigma) / sigma)."""
    if sigma == 1:
        return torch.full_like(sigma, 0.9999)
    return torch.sigmoid((sigma.logit() + below.logit()) / 2)
