"""What every solver shares: the form of a solver, and the walk down the noise levels."""

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..types import Denoise, NoiseSource, Step

Steps = Generator[Step, None, None]
"""What a solver returns: iterate it, or close it to stop half-way."""

Solver = Callable[..., Steps]
"""`(denoise, x, sigmas, **those options that its row names) -> Steps`."""


def no_noise() -> Tensor:
    """Stands in for a noise source where none was given."""
    raise ConfigError("this solver draws noise: hand it a noise source")


@dataclass(frozen=True)
class Sampler:
    """A row of SAMPLERS: a solver, and what its callers must know of it. Call the row: all rows take the same.

    function: generator function (denoise, x, sigmas, **options).
    order: global order of convergence on a smooth schedule, with noise off; the first steps of those that need
        earlier ones are of a lower order, which is counted in.
    stochastic: draws noise by default.
    options: which of the options of `__call__` it takes; the others do nothing.
    repaints: asks for noise of its own behind the kept part of an inpainted latent.
    additive: knows x0 + sigma noise only; a flow is turned into that and back (see `as_additive`).
    reaches_zero: the last step of a schedule that ends in 0 gives what was denoised; the others stop just above.
    """

    function: Solver
    order: int
    stochastic: bool = False
    options: tuple[str, ...] = ()
    repaints: bool = False
    additive: bool = False
    reaches_zero: bool = True

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigmas: Tensor,
        *,
        noise: NoiseSource = no_noise,
        eta: float = 1.0,
        s_noise: float = 1.0,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = math.inf,
        flow: bool = False,
        top: float = 0.9999,
        **own: Any,
    ) -> Steps:
        """Walk x down the noise levels: a Step for each pair of neighbours, the last with index n - 1.

        denoise: (x, sigma []) -> denoised. What it raises comes out of the iterator, so raising is a way to cancel.
        x: [B, ...], noised to sigmas[0]. sigmas: [n + 1]; nothing is yielded for fewer than two. A level that equals
            the one before it is no step.
        noise: for those that draw. eta: 0 = deterministic, 1 = ancestral. s_noise: factor on each draw.
        s_churn, s_tmin, s_tmax: Karras et al. 2022, Alg. 2. flow: x is (1 - sigma) x0 + sigma noise.
        top: of a flow, what stands for a first level of 1, which holds no signal to divide by.
        own: further keyword arguments of that solver.
        """
        given = {"noise": noise, "eta": eta, "s_noise": s_noise, "flow": flow}
        given |= {"s_churn": s_churn, "s_tmin": s_tmin, "s_tmax": s_tmax}
        options = {name: given[name] for name in self.options} | own
        levels, places = without_repeats(sigmas.to(x.device))
        solve = as_additive(self.function, top) if flow and self.additive else self.function
        for step in solve(denoise, x, levels, **options):
            yield step if places is None else replace(step, index=places[step.index])


def without_repeats(sigmas: Tensor) -> tuple[Tensor, list[int] | None]:
    """The levels without those that equal their upper neighbour, and the step of all levels that each step ends.

    None in place of the steps where nothing is repeated.
    """
    kept, counts = torch.unique_consecutive(sigmas, return_counts=True)
    if len(kept) == len(sigmas):
        return sigmas, None
    if len(kept) == 1:
        return kept, []
    ends = (counts.cumsum(0) - 1).tolist()
    return kept, [*ends[:-2], len(sigmas) - 2]


def as_additive(solve: Solver, top: float) -> Solver:
    """A solver of x0 + sigma noise as one of the flow (1 - sigma) x0 + sigma noise.

    y = x / (1 - sigma) holds x0 + rho noise with rho = sigma / (1 - sigma).
    top: stands for a first level of 1.
    """

    def inside(denoise: Denoise, x: Tensor, sigmas: Tensor, **options: Any) -> Steps:
        if len(sigmas) < 2:
            return
        sigmas = torch.cat([sigmas[:1].clamp(max=top), sigmas[1:]])
        shares, rhos = 1 - sigmas, sigmas / (1 - sigmas)
        steps = solve(lambda y, rho: denoise(y / (1 + rho), rho / (1 + rho)), x / shares[0], rhos, **options)
        for step in steps:
            yield replace(step, sigma=sigmas[step.index], x=step.x * shares[step.index + 1])

    return inside


def intervals(sigmas: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(index, sigma, the level below it) for each step."""
    for i, (sigma, below) in enumerate(pairwise(sigmas)):
        yield i, sigma, below


def slope(x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
    """dx/dsigma = (x - x0) / sigma. Source: Karras et al. 2022, eq. 3; it holds for a flow too."""
    return (x - denoised) / sigma


def towards(x: Tensor, aim: Tensor, sigma: Tensor, below: Tensor) -> Tensor:
    """x moved in a straight line to an estimate of x0: (below / sigma) x + (1 - below / sigma) aim."""
    ratio = below / sigma
    return ratio * x + (1 - ratio) * aim
