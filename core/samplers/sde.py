"""Solvers of the reverse SDE: exact in the linear part, with noise between the steps. All in x0 + sigma noise."""

import torch
from torch import Tensor

from ..errors import ConfigError
from ..types import Denoise, NoiseSource, Step
from .ancestral import ancestral_split
from .sampler import Steps, intervals, no_noise, towards

ER_POINTS = 200
"""Points of ER-SDE's integrals, as in its authors' code."""


def dpmpp_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource = no_noise,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 0.5,
) -> Steps:
    """DPM-Solver++ (stochastic): an ancestral step a share r of the way in log sigma, then one with what it saw there.

    x: [B, ...], noised to sigmas[0]. eta: 0 = DPM-Solver++(2S). r: 0 < r <= 1.
    noise: the two draws of a step lie in overlapping intervals of sigma. A source with `joined` (`noise_source` gives
        one) makes the second agree with the first, as one Brownian path does; a plain callable gives its next draw.
    Source: Lu et al. 2022 (DPM-Solver++), Alg. 1 with Song et al.'s noise, as k-diffusion has it.
    """
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        if below == 0:
            x = denoised
        else:
            middle = sigma * (below / sigma) ** r
            first = noise() if eta > 0 else x.new_zeros(())
            between = _ancestral(x, denoised, sigma, middle, eta, first * s_noise)
            aim = denoised.lerp(denoise(between, middle), 1 / (2 * r))
            whole = _joined(noise, first, (sigma - middle) / (sigma - below)) if eta > 0 else first
            x = _ancestral(x, aim, sigma, below, eta, whole * s_noise)
        yield Step(i, sigma, x, denoised)


def _ancestral(x: Tensor, aim: Tensor, sigma: Tensor, below: Tensor, eta: float, noise: Tensor) -> Tensor:
    down, up, _ = ancestral_split(sigma, below, eta)
    return towards(x, aim, sigma, down) + noise * up


def _joined(noise: NoiseSource, first: Tensor, share: Tensor) -> Tensor:
    """The noise of an interval whose first part, a share of its variance, had the noise `first`."""
    joined = getattr(noise, "joined", None)
    return noise() if joined is None else joined(first, float(share))


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource = no_noise,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: str = "midpoint",
) -> Steps:
    """DPM-Solver++(2M) SDE: x0 extrapolated linearly in lambda = -ln sigma.

    x' = e^-k x + (1 - e^-k) (x0 + h / (2 h_last) (x0 - x0_last)) + sigma' sqrt(1 - e^(-2 eta h)) noise
    with k = (1 + eta) h. With solver_type "heun", the line's integral in place of its middle.

    x: [B, ...], noised to sigmas[0]. eta: 0 = `dpmpp_2m`.
    Raises: ConfigError on another solver_type.
    Source: Lu et al. 2022 (DPM-Solver++), eq. 17 and Alg. 2, as k-diffusion has it.
    """
    if solver_type not in ("midpoint", "heun"):
        raise ConfigError(f"solver_type is midpoint or heun, not {solver_type!r}")
    earlier: tuple[Tensor, Tensor] | None = None
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        if below == 0:
            x = denoised
        else:
            h = (sigma / below).log()
            full = h * (1 + eta)
            x = _drifted(x, denoised, h, full)
            if earlier is not None:
                turn = h / earlier[1] * (denoised - earlier[0])
                x = x + turn * (-(-full).expm1() / 2 if solver_type == "midpoint" else phi_2(full))
            x = _diffused(x, below, h, eta, noise, s_noise)
            earlier = denoised, h
        yield Step(i, sigma, x, denoised)


def dpmpp_3m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource = no_noise,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Steps:
    """DPM-Solver++(3M) SDE: x0 extrapolated by a parabola in lambda = -ln sigma; the second step by a line.

    x: [B, ...], noised to sigmas[0]. eta: 0 = deterministic.
    Source: Lu et al. 2022 (DPM-Solver++), appendix A with three points, as k-diffusion has it.
    """
    known: list[tuple[Tensor, Tensor]] = []
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        if below == 0:
            x = denoised
        else:
            h = (sigma / below).log()
            full = h * (1 + eta)
            x = _drifted(x, denoised, h, full)
            if known:
                first, second = _derivatives(denoised, h, known)
                x = x + phi_2(full) * first - (phi_2(full) / full - 0.5) * second
            x = _diffused(x, below, h, eta, noise, s_noise)
            known = [(denoised, h), *known[:1]]
        yield Step(i, sigma, x, denoised)


def _derivatives(denoised: Tensor, h: Tensor, known: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """First and second difference of x0 at the newest point, in units of h; known: (x0, the step that followed)."""
    r0 = known[0][1] / h
    slope = (denoised - known[0][0]) / r0
    if len(known) == 1:
        return slope, torch.zeros_like(slope)
    r1 = known[1][1] / h
    turn = (slope - (known[0][0] - known[1][0]) / r1) / (r0 + r1)
    return slope + turn * r0, turn


def phi_2(h: Tensor) -> Tensor:
    """1 + (e^-h - 1) / h."""
    return (-h).expm1() / h + 1


def _drifted(x: Tensor, denoised: Tensor, h: Tensor, full: Tensor) -> Tensor:
    return (-full).exp() * x - (-full).expm1() * denoised


def _diffused(x: Tensor, below: Tensor, h: Tensor, eta: float, noise: NoiseSource, s_noise: float) -> Tensor:
    """x with the noise that the SDE gathers over a step of length h in log sigma."""
    if eta == 0 or s_noise == 0:
        return x
    return x + noise() * below * (-(-2 * h * eta).expm1()).sqrt() * s_noise


def er_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource = no_noise,
    s_noise: float = 1.0,
    max_stage: int = 3,
) -> Steps:
    """Extended reverse-time SDE solver with phi(sigma) = sigma (e^(sigma^0.3) + 10).

    x' = r x + (1 - r) x0 + A x0' + B x0'' + sqrt(sigma'^2 - r^2 sigma^2) noise,  r = phi(sigma') / phi(sigma)
    A = d + phi(sigma') S(1),  B = d^2 / 2 + phi(sigma') S(s - sigma),  d = sigma' - sigma
    S(f): the integral of f / phi from sigma' to sigma by ER_POINTS points. The derivatives are those of earlier steps.

    x: [B, ...], noised to sigmas[0]. max_stage: 1 .. 3, how many terms.
    Source: Cui et al. 2023 (ER-SDE-Solvers), Alg. 3.
    """
    known: list[tuple[Tensor, Tensor]] = []  # (x0 or its derivative, where it was taken)
    turned: Tensor | None = None
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        if below == 0:
            x = denoised
        else:
            ratio = er_noise(below) / er_noise(sigma)
            x = ratio * x + (1 - ratio) * denoised
            first, second = _er_integrals(sigma, below)
            if known and max_stage >= 2:
                turn = (denoised - known[0][0]) / (sigma - known[0][1])
                x = x + first * turn
                if turned is not None and max_stage >= 3:
                    x = x + second * 2 * (turn - turned) / (sigma - known[1][1])
                turned = turn
            spread = (below**2 - (sigma * ratio) ** 2).clamp(min=0).sqrt()
            x = x + noise() * s_noise * spread if s_noise > 0 else x
        known = [(denoised, sigma), *known[:1]]
        yield Step(i, sigma, x, denoised)


def er_noise(sigma: Tensor) -> Tensor:
    """phi(sigma)."""
    return sigma * ((sigma**0.3).exp() + 10)


def _er_integrals(sigma: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """The factors A and B."""
    length = (sigma - below) / ER_POINTS
    at = below + torch.arange(ER_POINTS, device=sigma.device) * length
    gap, phi = below - sigma, er_noise(at)
    first = gap + (1 / phi).sum() * length * er_noise(below)
    return first, gap**2 / 2 + ((at - sigma) / phi).sum() * length * er_noise(below)
