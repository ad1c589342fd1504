"""What a network's output means: every kind of network becomes one function, (x, sigma) -> clean latent."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from ..types import Condition
from .tables import Table

Network = Callable[[Tensor, Tensor, Condition | None], Tensor]
"""`(x scaled by c_in, timesteps [B] float32, condition) -> raw output`, of the shape of x."""


@dataclass(frozen=True)
class Scaling:
    """denoised = c_skip x + c_out network(c_in x, time)

    coefficients: (sigma, sigma_data) -> (c_skip, c_out, c_in), each of the shape of sigma.
    flow: x is (1 - sigma) x0 + sigma noise instead of x0 + sigma noise.
    Source: Karras et al. 2022, eq. 7.
    """

    coefficients: Callable[[Tensor, float], tuple[Tensor, Tensor, Tensor]]
    flow: bool = False


def _eps(s: Tensor, d: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ones_like(s), -s, (s**2 + d**2) ** -0.5


def _v(s: Tensor, d: float) -> tuple[Tensor, Tensor, Tensor]:
    return d**2 / (s**2 + d**2), -s * d * (s**2 + d**2) ** -0.5, (s**2 + d**2) ** -0.5


def _x0(s: Tensor, d: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros_like(s), torch.ones_like(s), (s**2 + d**2) ** -0.5


def _edm(s: Tensor, d: float) -> tuple[Tensor, Tensor, Tensor]:
    return d**2 / (s**2 + d**2), s * d * (s**2 + d**2) ** -0.5, (s**2 + d**2) ** -0.5


def _flow(s: Tensor, d: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ones_like(s), -s, torch.ones_like(s)


PREDICTIONS: dict[str, Scaling] = {
    "eps": Scaling(_eps),  # the noise: Ho et al. 2020
    "v": Scaling(_v),  # alpha noise - sigma x0: Salimans & Ho 2022, appendix D
    "x0": Scaling(_x0),  # the clean latent
    "edm": Scaling(_edm),  # unit-variance target: Karras et al. 2022, table 1
    "flow": Scaling(_flow, flow=True),  # noise - x0: Liu et al. 2023
}


def expand(value: Tensor, x: Tensor) -> Tensor:
    """[] or [B] -> a shape that multiplies x [B, ...], in x's dtype."""
    return value.to(x.device, x.dtype).reshape(-1, *[1] * (x.ndim - 1)) if value.ndim else value.to(x.device, x.dtype)


@dataclass(frozen=True)
class Denoiser:
    """A network as the function (x, sigma, cond) -> denoised, and its inverse for training.

    network: see Network. Its output is cast to the dtype of x.
    table: gives the network's time for a sigma.
    prediction: a key of PREDICTIONS; `flow` goes with a FlowTable, the others with any other table.
    sigma_data: standard deviation of the clean latents (1 for a latent scaled to unit variance).
    quantize: round times to the table's levels, as ComfyUI does (see NoiseTable.timestep).
    Raises: ConfigError on an unknown prediction or one that does not go with the table.
    """

    network: Network
    table: Table
    prediction: str = "eps"
    sigma_data: float = 1.0
    quantize: bool = True

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ConfigError(f"no prediction is named {self.prediction!r}; there are {', '.join(PREDICTIONS)}")
        if self.flow != self.table.flow:
            raise ConfigError(f"prediction {self.prediction!r} does not go with a {type(self.table).__name__}")
        if self.sigma_data <= 0:
            raise ConfigError(f"sigma_data is {self.sigma_data}, and a standard deviation is positive")

    @property
    def scaling(self) -> Scaling:
        return PREDICTIONS[self.prediction]

    @property
    def flow(self) -> bool:
        return self.scaling.flow

    def __call__(self, x: Tensor, sigma: Tensor, cond: Condition | None = None) -> Tensor:
        """denoised = c_skip x + c_out network(c_in x, time(sigma))

        x: [B, C, h, w]. sigma: [] or [B], > 0. Returns the shape and dtype of x.
        """
        c_skip, c_out, c_in = self._coefficients(sigma, x)
        return c_skip * x + c_out * self.network(c_in * x, self._time(sigma, x), cond).to(x.dtype)

    def noised(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """x0 + sigma noise, or (1 - sigma) x0 + sigma noise of a flow; sigma [] or [B]."""
        return noised(x0, noise, sigma, flow=self.flow)

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """What the network should answer at noised(x0, noise, sigma): (x0 - c_skip x) / c_out.

        In closed form, so that nothing is lost where c_out is small.
        """
        s = expand(sigma, x0)
        match self.prediction:
            case "eps":
                return noise
            case "x0":
                return x0
            case "flow":
                return noise - x0
        d = self.sigma_data
        v = (d * noise - (s / d) * x0) * (s**2 + d**2) ** -0.5
        return v if self.prediction == "v" else -v

    def inputs(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(c_in x, times [B]): what the network is shown for a noised x; for training."""
        return self._coefficients(sigma, x)[2] * x, self._time(sigma, x)

    def _time(self, sigma: Tensor, x: Tensor) -> Tensor:
        return self.table.timestep(sigma, self.quantize).to(x.device).expand(len(x))

    def _coefficients(self, sigma: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(expand(c, x) for c in self.scaling.coefficients(sigma, self.sigma_data))


def noised(x0: Tensor, noise: Tensor, sigma: Tensor, flow: bool = False) -> Tensor:
    """x0 + sigma noise; with flow, (1 - sigma) x0 + sigma noise. sigma: [] or [B]."""
    s = expand(sigma, x0)
    return (1 - s) * x0 + s * noise if flow else x0 + s * noise
