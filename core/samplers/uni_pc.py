"""UniPC: a multistep predictor, and a corrector that uses the call of the next step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import Denoise, Step
from .sampler import Steps, intervals, towards

History = list[tuple[Tensor, Tensor]]
"""(lambda = -ln sigma, denoised) of the steps so far, the newest last."""


def uni_pc(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, order: int = 3, bh2: bool = False, floor: float = 0.001
) -> Steps:
    """Predict the next x, denoise it there, and take the step again with what was seen; one call a step.

    x' = (sigma' / sigma) x + (1 - sigma' / sigma) x0 - B(h) sum_k rho_k (x0_k - x0) / r_k
    r_k = (lambda_k - lambda) / h, rho such that the sum is exact for polynomials; B(h) is -h, or e^-h - 1 with bh2.

    x: [B, ...], noised to sigmas[0].
    order: of the predictor, 1 .. 3, less in the first steps, in the last two and in short runs.
    floor: what stands for a final 0; with 0 the last step takes x0.
    Source: Zhao et al. 2023 (UniPC), Alg. 1 and 2 (B1 and B2), in x0 + sigma noise; ComfyUI's order and floor. A run of
    one step, which ComfyUI leaves undone, is Euler's here.
    """
    steps = len(sigmas) - 1
    order = min(order, max(steps - 1, 1))
    history: History = []
    leap: Leap | None = None
    for i, sigma, below in intervals(sigmas):
        denoised = denoise(x, sigma)
        x = x if leap is None else leap.corrected(denoised)
        history.append((-sigma.log(), denoised))
        used = min(order, i + 1, steps - i)
        leap = Leap.of(x, sigma, below if below > 0 else torch.full_like(below, floor), history[-used:], bh2)
        x = leap.predicted()
        yield Step(i, sigma, x, denoised)


@dataclass(frozen=True, kw_only=True)
class Leap:
    """One step of UniPC, before what lies at its end is known.

    straight: where x goes with x0 as it is. scale: B(h). newest: x0 at its start.
    slopes: (x0_k - x0) / r_k of the earlier steps. ratios: r_k of those, then 1 of the end. moments: what sum_k rho_k
    r_k^(m - 1) must be, for m = 1 .. order.
    """

    straight: Tensor
    scale: Tensor
    newest: Tensor
    slopes: list[Tensor]
    ratios: Tensor
    moments: Tensor

    @classmethod
    def of(cls, x: Tensor, sigma: Tensor, below: Tensor, history: History, bh2: bool) -> "Leap":
        """history: of as many steps as the order, the newest last."""
        (now, newest), earlier = history[-1], history[-2::-1]
        h = -below.log() - now
        ratios = [(then - now) / h for then, _ in earlier]
        scale = torch.expm1(-h) if bh2 else -h
        return cls(
            straight=towards(x, newest, sigma, below),
            scale=scale,
            newest=newest,
            slopes=[(x0 - newest) / ratio for (_, x0), ratio in zip(earlier, ratios, strict=True)],
            ratios=torch.stack([*ratios, torch.ones_like(h)]),
            moments=moments(-h, len(history)) / scale,
        )

    def predicted(self) -> Tensor:
        """x at the end, from earlier steps alone; one earlier slope counts half, as in the paper."""
        if not self.slopes:
            return self.straight
        rho = self.ratios.new_full((1,), 0.5) if len(self.slopes) == 1 else self._weights(len(self.slopes))
        return self.straight - self.scale * self._sum(rho)

    def corrected(self, denoised: Tensor) -> Tensor:
        """x at the end, once the network was called there."""
        rho = self._weights(len(self.ratios)) if self.slopes else self.ratios.new_full((1,), 0.5)
        return self.straight - self.scale * (self._sum(rho[:-1]) + rho[-1] * (denoised - self.newest))

    def _weights(self, count: int) -> Tensor:
        powers = torch.arange(count, device=self.ratios.device)[:, None]
        return torch.linalg.solve(self.ratios[:count] ** powers, self.moments[:count])

    def _sum(self, rho: Tensor) -> Tensor:
        return sum((r * s for r, s in zip(rho, self.slopes, strict=True)), torch.zeros_like(self.newest))


def moments(h: Tensor, count: int) -> Tensor:
    """m! h phi_(m + 1)(h) for m = 1 .. count, with h phi_1 = e^h - 1 and h phi_(m + 1) = phi_m - 1 / m!."""
    found, scaled, factorial = [], torch.expm1(h), 1
    for m in range(1, count + 1):
        factorial *= m
        scaled = scaled / h - 1 / factorial
        found.append(factorial * scaled)
    return torch.stack(found)
