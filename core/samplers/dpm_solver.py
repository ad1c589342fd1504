"""DPM-Solver: single steps of order 1 to 3 on the noise estimate, in a plan of its own or with adaptive lengths.

Both walk from the first level to the last one above 0 with steps of their own choice: of `sigmas` they read only its
ends and its count, as in ComfyUI, and stop at that last level, whose noise is left in. Where there is only one level
above 0 they take x0, unlike ComfyUI, which leaves x as it is.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import Denoise, NoiseSource, Step
from .ancestral import ancestral_split
from .sampler import Steps, no_noise, slope


def dpm_fast(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource = no_noise,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Steps:
    """Steps of order 3, evenly spaced in log sigma, and one or two of lower order: n calls for n steps of a schedule.

    x: [B, ...], noised to sigmas[0]. eta: noise added at each step, as in `euler_ancestral`.
    Source: Lu et al. 2022 (DPM-Solver), "DPM-Solver-fast", appendix D.3.
    """
    calls = len(sigmas) - 1
    if calls < 1:
        return
    orders = [3] * (calls // 3 - 1) + [2, 1] if calls % 3 == 0 else [3] * (calls // 3) + [calls % 3]
    high, low = ends(sigmas)
    if high == low:
        yield from straight(denoise, x, sigmas)
        return
    levels = torch.linspace(float(high.log()), float(low.log()), len(orders) + 1).exp().to(sigmas)
    done = 0
    for order, sigma, below in zip(orders, levels[:-1], levels[1:], strict=True):
        down, up = settle(sigma, below, low, eta)
        eps = Remembered(denoise, x, sigma)
        x = STEPS[order](eps, x, sigma, down)
        x = x + noise() * s_noise * up if eta > 0 else x
        done += order
        yield Step(done - 1, sigma, x, eps.denoised)


def dpm_adaptive(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSource = no_noise,
    eta: float = 0.0,
    s_noise: float = 1.0,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    pcoeff: float = 0.0,
    icoeff: float = 1.0,
    dcoeff: float = 0.0,
    accept_safety: float = 0.81,
) -> Steps:
    """Steps in log sigma as long as two orders agree; a Step is yielded for each trial, x unchanged where it failed.

    error = |x_low - x_high| / max(atol, rtol max(|x_low|, |x_before|)), root mean square; the next length is
    h (1 + atan(error^-b1 ... - 1)), a PID controller; a trial whose factor is below accept_safety is done again.

    x: [B, ...], noised to sigmas[0]. All images take steps of one length, chosen by the error of all of them, as in the
        reference: here an image of a batch is its own run only to the tolerance.
    order: 2 or 3. h_init: first length. eta: noise added at each step, as in `euler_ancestral`.
    Source: Lu et al. 2022 (DPM-Solver), Alg. 6 and appendix C, with k-diffusion's controller.
    """
    if len(sigmas) < 2:
        return
    high, low = ends(sigmas)
    if high == low:
        yield from straight(denoise, x, sigmas)
        return
    pid = Controller(h_init, pcoeff, icoeff, dcoeff, 1.5 if eta else order, accept_safety)
    sigma, before = high, x
    while float(sigma.log() - low.log()) > 1e-5:
        below = torch.maximum(low, sigma * math.exp(-pid.h))
        down, up = settle(sigma, below, low, eta)
        eps = Remembered(denoise, x, sigma)
        if order == 2:
            coarse, fine = first_order(eps, x, sigma, down), second_order(eps, x, sigma, down)
        else:
            coarse, fine = second_order(eps, x, sigma, down, 1 / 3), third_order(eps, x, sigma, down)
        allowed = torch.clamp(rtol * torch.maximum(coarse.abs(), before.abs()), min=atol)
        if pid.accepts(float(((coarse - fine) / allowed).square().mean().sqrt())):
            before, x, start, sigma = coarse, fine, sigma, below
            x = x + noise() * s_noise * up if eta > 0 else x
        else:
            start = sigma
        yield Step(passed(sigmas, sigma, low), start, x, eps.denoised)


def ends(sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """The first level and the last one above 0."""
    return sigmas[0], sigmas[-1] if sigmas[-1] > 0 else sigmas[-2]


def straight(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Steps:
    """One step that takes x0."""
    denoised = denoise(x, sigmas[0])
    yield Step(len(sigmas) - 2, sigmas[0], denoised, denoised)


def settle(sigma: Tensor, below: Tensor, low: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """(where a step goes, how much noise brings it up to `below`); not under `low`."""
    if eta == 0:
        return below, torch.zeros_like(below)
    down = torch.maximum(low, ancestral_split(sigma, below, eta)[0])
    return down, (below**2 - down**2) ** 0.5


def passed(sigmas: Tensor, sigma: Tensor, low: Tensor) -> int:
    """The step of the schedule in which a level lies; the last one once `low` is reached, and not before."""
    last = len(sigmas) - 2
    if float(sigma.log() - low.log()) <= 1e-5:
        return last
    return max(min(int((sigmas > sigma).sum()) - 1, last - 1), 0)


class Remembered:
    """The noise estimate at the start of a step and in its middle, each computed once."""

    def __init__(self, denoise: Denoise, x: Tensor, sigma: Tensor) -> None:
        self.denoise = denoise
        self.known: dict[str, Tensor] = {}
        self.denoised = denoise(x, sigma)
        self.start = slope(x, self.denoised, sigma)

    def at(self, name: str, x: Tensor, sigma: Tensor) -> Tensor:
        if name not in self.known:
            self.known[name] = slope(x, self.denoise(x, sigma), sigma)
        return self.known[name]


def first_order(eps: Remembered, x: Tensor, sigma: Tensor, below: Tensor) -> Tensor:
    """x' = x - (sigma - sigma') eps."""
    return x + (below - sigma) * eps.start


def second_order(eps: Remembered, x: Tensor, sigma: Tensor, below: Tensor, r: float = 0.5) -> Tensor:
    """The first order and (sigma' - sigma) (eps(s) - eps) / 2r with s a share r of the way in log sigma."""
    middle = sigma * (below / sigma) ** r
    turn = eps.at("second", first_order(eps, x, sigma, middle), middle) - eps.start
    return first_order(eps, x, sigma, below) + (below - sigma) / (2 * r) * turn


def third_order(eps: Remembered, x: Tensor, sigma: Tensor, below: Tensor) -> Tensor:
    """The first order and -sigma' / r2 ((e^h - 1) / h - 1) (eps(s2) - eps), with s1, s2 at 1/3 and 2/3 of h."""
    h = (sigma / below).log()
    one, two = sigma * (below / sigma) ** (1 / 3), sigma * (below / sigma) ** (2 / 3)
    turn = eps.at("second", first_order(eps, x, sigma, one), one) - eps.start
    there = first_order(eps, x, sigma, two) - two * 2 * bend(h * 2 / 3) * turn
    turn = eps.at("third", there, two) - eps.start
    return first_order(eps, x, sigma, below) - below * 1.5 * bend(h) * turn


def bend(h: Tensor) -> Tensor:
    """(e^h - 1) / h - 1."""
    return h.expm1() / h - 1


STEPS = {1: first_order, 2: second_order, 3: third_order}


@dataclass
class Controller:
    """A PID controller of a step's length h. Source: k-diffusion; Söderlind 2003 for the family."""

    h: float
    pcoeff: float
    icoeff: float
    dcoeff: float
    order: float
    safety: float

    def __post_init__(self) -> None:
        p, i, d = self.pcoeff, self.icoeff, self.dcoeff
        self.powers = tuple(b / self.order for b in (p + i + d, -(p + 2 * d), d))
        self.inverses: list[float] = []

    def accepts(self, error: float) -> bool:
        """Set h for the next trial; True where this one may stand."""
        inverse = 1 / (error + 1e-8)
        self.inverses = [inverse, *(self.inverses[1:] or (inverse, inverse))]
        factor = math.prod(known**power for known, power in zip(self.inverses, self.powers, strict=True))
        factor = 1 + math.atan(factor - 1)
        accepted = factor >= self.safety
        if accepted:
            self.inverses = [inverse, inverse, self.inverses[1]]
        self.h *= factor
        return accepted
