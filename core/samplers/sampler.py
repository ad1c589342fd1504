"""What every solver shares: the form of a solver, and the walk down the noise levels."""

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise

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
    order: global order of convergence on a smooth schedule, with noise off.
    stochastic: draws noise by default.
    options: which of the options of `__call__` it takes; the others do nothing.
    repaints: asks for noise of its own behind the kept part of an inpainted latent.
    """

    function: Solver
    order: int
    stochastic: bool = False
    options: tuple[str, ...] = ()
    repaints: bool = False

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
    ) -> Steps:
        """Walk x down the noise levels, one Step for each pair of neighbours.

        denoise: (x, sigma []) -> denoised. What it raises comes out of the iterator, so raising is a way to cancel.
        x: [B, ...], noised to sigmas[0]. sigmas: [n + 1]; nothing is yielded for fewer than two.
        noise: for those that draw. eta: 0 = deterministic, 1 = ancestral. s_noise: factor on each draw.
        s_churn, s_tmin, s_tmax: Karras et al. 2022, Alg. 2. flow: x is (1 - sigma) x0 + sigma noise.
        """
        given = {"noise": noise, "eta": eta, "s_noise": s_noise, "flow": flow}
        given |= {"s_churn": s_churn, "s_tmin": s_tmin, "s_tmax": s_tmax}
        return self.function(denoise, x, sigmas.to(x.device), **{name: given[name] for name in self.options})


def intervals(sigmas: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(index, sigma, the level below it) for each step."""
    for i, (sigma, below) in enumerate(pairwise(sigmas)):
        yield i, sigma, below


def slope(x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
    """dx/dsigma = (x - x0) / sigma. Source: Karras et al. 2022, eq. 3; it holds for a flow too."""
    return (x - denoised) / sigma
