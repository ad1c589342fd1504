"""CFG++: towards what guidance wants, with the noise that the model sees without it."""

from torch import Tensor

from ..types import Denoise, NoiseSource, Step
from .ancestral import ancestral_split
from .sampler import Steps, intervals, no_noise


def apart(denoise: Denoise, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(denoised, denoised by the negative alone); the same twice for a denoiser without a method `apart`."""
    both = getattr(denoise, "apart", None)
    if both is not None:
        return both(x, sigma)
    denoised = denoise(x, sigma)
    return denoised, denoised


def euler_ancestral_cfg_pp(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource = no_noise,
    eta: float = 1.0,
    s_noise: float = 1.0,
    flow: bool = False,
) -> Steps:
    """x' = a' x0 + sigma_down (x - a u0) / sigma + sigma_up noise: u0 by the negative alone, a the signal's part.

    x: [B, ...], noised to sigmas[0]. eta: 0 = deterministic, 1 = ancestral. denoise: guided, with a low cfg.
    flow: a = 1 - sigma, else a = 1.
    Source: Chung et al. 2024 (CFG++), Alg. 2.
    """
    for i, sigma, below in intervals(sigmas):
        denoised, plain = apart(denoise, x, sigma)
        if below == 0:
            x = denoised
        else:
            a, a_below = (1 - sigma, 1 - below) if flow else (1, 1)
            eps = (x - a * plain) / sigma
            down, up, _ = ancestral_split(sigma / a, below / a_below, eta)
            x = a_below * (denoised + down * eps)
            if eta > 0 and s_noise > 0:
                x = x + noise() * s_noise * a_below * up
        yield Step(i, sigma, x, denoised)


def euler_cfg_pp(denoise: Denoise, x: Tensor, sigmas: Tensor, *, flow: bool = False) -> Steps:
    """`euler_ancestral_cfg_pp` without noise: DDIM with CFG++."""
    return euler_ancestral_cfg_pp(denoise, x, sigmas, eta=0.0, flow=flow)


def dpmpp_2m_cfg_pp(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Steps:
    """x' = x0 + (sigma' / sigma) (x - u0) + (1 - sigma' / sigma) (h / 2 h_last) (x0 - u0_last), u0 without guidance.

    h = ln(sigma / sigma'). The first step and a step to 0 leave out the last term.

    x: [B, ...], noised to sigmas[0]. denoise: guided, with a low cfg.
    Source: Chung et al. 2024 (CFG++) on DPM-Solver++(2M), as ComfyUI has it: the difference is x0 - u0_last.
    """
    earlier: tuple[Tensor, Tensor] | None = None
    for i, sigma, below in intervals(sigmas):
        denoised, plain = apart(denoise, x, sigma)
        x = denoised + below / sigma * (x - plain)
        if earlier is not None and below > 0:
            ratio = (sigma / below).log() / (earlier[1] / sigma).log()
            x = x + (1 - below / sigma) * ratio / 2 * (denoised - earlier[0])
        earlier = plain, sigma
        yield Step(i, sigma, x, denoised)
