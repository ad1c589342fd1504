"""Tables: the noise levels that a network was trained on, and the times that it is told for them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..errors import ConfigError


class Table(Protocol):
    """Noise levels <-> the times that a network is told.

    sigmas: [T] float32, ascending. sigma_min, sigma_max: its ends.
    flow: x is (1 - sigma) x0 + sigma noise instead of x0 + sigma noise.
    """

    @property
    def flow(self) -> bool: ...

    @property
    def sigmas(self) -> Tensor: ...

    @property
    def sigma_min(self) -> float: ...

    @property
    def sigma_max(self) -> float: ...

    def timestep(self, sigma: Tensor, quantize: bool = True) -> Tensor:
        """sigma of any shape -> the network's time, float32 of the same shape."""
        ...

    def sigma(self, timestep: Tensor) -> Tensor:
        """Time of any shape -> sigma, float32 of the same shape."""
        ...

    def at(self, share: float) -> float:
        """The level at a share of the way from the top down, evenly in time; infinite or 1 at 0, and 0 at 1."""
        ...


@dataclass(frozen=True, eq=False)
class NoiseTable:
    """The T discrete levels of a variance-preserving process, as standard deviations of x0 + sigma noise.

    alphas_cumprod_t = prod_(s <= t) (1 - beta_s),  sigma_t = sqrt((1 - alphas_cumprod_t) / alphas_cumprod_t)

    betas: [T] float64, T >= 2, each 0 < beta < 1. Sums are float64; sigmas and log_sigmas are then rounded to float32.
    Raises: ConfigError when betas are out of range or the last sigma is not finite.
    Source: Ho et al. 2020, eq. 4; Karras et al. 2022, table 1 (VP).
    """

    betas: Tensor
    alphas_cumprod: Tensor = field(init=False, repr=False)
    sigmas: Tensor = field(init=False, repr=False)
    log_sigmas: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        betas = self.betas.detach().to("cpu", torch.float64)
        if betas.ndim != 1 or len(betas) < 2 or not bool(((betas > 0) & (betas < 1)).all()):
            raise ConfigError("a noise table needs at least two betas in one dimension, each between 0 and 1")
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        sigmas = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
        if not bool(torch.isfinite(sigmas.float()).all()):
            raise ConfigError("the last noise levels of these betas are infinite; lower the largest beta or the end")
        values = {"betas": betas, "alphas_cumprod": alphas_cumprod}
        values |= {"sigmas": sigmas.float(), "log_sigmas": sigmas.log().float()}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def linear(cls, timesteps: int = 1000, start: float = 1e-4, end: float = 0.02) -> "NoiseTable":
        """betas evenly spaced from start to end ("sqrt_linear" in CompVis's code). Source: Ho et al. 2020, sec. 4."""
        return cls(torch.linspace(start, end, timesteps, dtype=torch.float64))

    @classmethod
    def scaled_linear(cls, timesteps: int = 1000, start: float = 0.00085, end: float = 0.012) -> "NoiseTable":
        """sqrt(beta) evenly spaced ("linear" in CompVis's code). Source: Rombach et al. 2022."""
        return cls(torch.linspace(start**0.5, end**0.5, timesteps, dtype=torch.float64) ** 2)

    @classmethod
    def sqrt(cls, timesteps: int = 1000, start: float = 1e-4, end: float = 0.02) -> "NoiseTable":
        """Square roots of evenly spaced values. Source: CompVis's "sqrt"."""
        return cls(torch.linspace(start, end, timesteps, dtype=torch.float64) ** 0.5)

    @classmethod
    def cosine(cls, timesteps: int = 1000, s: float = 0.008, end: float = 1.0, max_beta: float = 0.999) -> "NoiseTable":
        """alpha_bar(u) = cos^2(pi/2 (u end + s) / (1 + s)),  beta_t = 1 - alpha_bar(t/T) / alpha_bar((t-1)/T)

        s: offset that keeps the first betas from vanishing, >= 0.
        end: where on the cosine the table stops, 0 < end <= 1; below 1 it keeps sigma_max small.
        max_beta: betas are cut there, which keeps sigma_max finite at end 1.
        Source: Nichol & Dhariwal 2021, eq. 17; `end` is ours.
        """
        if not (0 < end <= 1 and s >= 0):
            raise ConfigError(f"a cosine table has 0 < end <= 1 and s >= 0, not end {end} and s {s}")
        u = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        alpha_bar = torch.cos((u * end + s) / (1 + s) * math.pi / 2) ** 2
        return cls((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(0, max_beta))

    @classmethod
    def listed(cls, timesteps: int, betas: Sequence[float]) -> "NoiseTable":
        """betas as they are; timesteps: how many."""
        return cls(torch.tensor(betas, dtype=torch.float64))

    @classmethod
    def sigmoid(cls, timesteps: int = 1000, start: float = 1e-4, end: float = 0.02) -> "NoiseTable":
        """beta = start + (end - start) / (1 + e^-u), u evenly from -6 to 6. Source: Xu et al. 2022 (GeoDiff)."""
        u = torch.linspace(-6, 6, timesteps, dtype=torch.float64)
        return cls(start + (end - start) * torch.sigmoid(u))

    def zero_terminal(self) -> "NoiseTable":
        """The same levels bent so that the last one holds as good as no signal.

        sqrt(alpha_bar'_t) = (sqrt(alpha_bar_t) - sqrt(alpha_bar_T)) c, with c such that the first one stays;
        alpha_bar'_T, which this makes 0, is 4.9e-8 as in ComfyUI: sigma_max is then 4519 and not infinite.
        Source: Lin et al. 2024 (Common Diffusion Noise Schedules), Alg. 1.
        """
        root = self.alphas_cumprod.sqrt()
        bent = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        bent[-1] = 4.8973451890853435e-08
        return NoiseTable(1 - bent / torch.cat([bent.new_ones(1), bent[:-1]]))

    @property
    def flow(self) -> bool:
        return False

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def timestep(self, sigma: Tensor, quantize: bool = True) -> Tensor:
        """The index of a level, 0 .. T - 1, clamped at both ends.

        sigma: any shape, > 0.
        quantize: the nearest level in log sigma (the lower of two as near), which is what ComfyUI tells its networks;
            off, linear interpolation between the two neighbours in log sigma, as k-diffusion does.
        Returns float32, the shape of sigma.
        """
        log_sigma = sigma.detach().float().log()
        levels = self.log_sigmas.to(sigma.device)
        if quantize:
            distance = (log_sigma.reshape(-1) - levels[:, None]).abs()
            return distance.argmin(dim=0).reshape(sigma.shape).float()
        low = (torch.searchsorted(levels, log_sigma, right=True) - 1).clamp(0, len(levels) - 2)
        weight = ((log_sigma - levels[low]) / (levels[low + 1] - levels[low])).clamp(0, 1)
        return low + weight

    def sigma(self, timestep: Tensor) -> Tensor:
        """The level at an index, between two levels linear in log sigma; indices are clamped to 0 .. T - 1."""
        levels = self.log_sigmas.to(timestep.device)
        at = timestep.float().clamp(0, len(levels) - 1)
        weight = at.frac()
        return ((1 - weight) * levels[at.floor().long()] + weight * levels[at.ceil().long()]).exp()

    def at(self, share: float) -> float:
        time = torch.tensor((1 - share) * (len(self.sigmas) - 1))
        return float(self.sigma(time)) if 0 < share < 1 else _end(share, math.inf)


@dataclass(frozen=True, kw_only=True)
class FlowTable:
    """Levels of a rectified flow x = (1 - sigma) x0 + sigma noise, with 0 < sigma <= 1.

    sigma(t) = shift u / (1 + (shift - 1) u),  u = t / multiplier

    shift: > 0; above 1 spends more steps near noise. The network is told sigma * multiplier.
    `sigma` takes the time before the shift, `timestep` gives the time that the network sees: inverse at shift 1.
    Source: Liu et al. 2023; Esser et al. 2024, sec. 5.3.2.
    """

    timesteps: int = 1000
    shift: float = 1.0
    multiplier: float = 1000.0

    def __post_init__(self) -> None:
        if self.timesteps < 2 or self.shift <= 0 or self.multiplier <= 0:
            raise ConfigError("a flow table has at least 2 timesteps and a positive shift and multiplier")

    @property
    def sigmas(self) -> Tensor:
        return self.sigma(torch.arange(1, self.timesteps + 1) / self.timesteps * self.multiplier)

    @property
    def flow(self) -> bool:
        return True

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def timestep(self, sigma: Tensor, quantize: bool = True) -> Tensor:
        return sigma.detach().float() * self.multiplier

    def sigma(self, timestep: Tensor) -> Tensor:
        u = timestep.float() / self.multiplier
        return u if self.shift == 1 else self.shift * u / (1 + (self.shift - 1) * u)

    def at(self, share: float) -> float:
        time = torch.tensor((1 - share) * self.multiplier)
        return float(self.sigma(time)) if 0 < share < 1 else _end(share, 1.0)


@dataclass(frozen=True, kw_only=True)
class LogTable:
    """Continuous levels evenly spaced in log sigma; the network is told c_noise = ln(sigma) / 4, or an angle.

    angle: it is told 2/pi arctan(sigma) instead, 0 .. 1.
    Source: Karras et al. 2022, table 1 (EDM); with angle, Salimans & Ho 2022, appendix D, as k-diffusion's VDenoiser.
    """

    timesteps: int = 1000
    low: float = 0.002
    high: float = 80.0
    angle: bool = False

    def __post_init__(self) -> None:
        if self.timesteps < 2 or not 0 < self.low < self.high < math.inf:
            raise ConfigError("a log table has at least 2 timesteps and 0 < low < high")

    @property
    def sigmas(self) -> Tensor:
        return torch.linspace(math.log(self.low), math.log(self.high), self.timesteps).exp()

    @property
    def flow(self) -> bool:
        return False

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def timestep(self, sigma: Tensor, quantize: bool = True) -> Tensor:
        sigma = sigma.detach().float()
        return sigma.atan() * (2 / math.pi) if self.angle else 0.25 * sigma.log()

    def sigma(self, timestep: Tensor) -> Tensor:
        return (timestep.float() * (math.pi / 2)).tan() if self.angle else (timestep.float() / 0.25).exp()

    def at(self, share: float) -> float:
        return self.high ** (1 - share) * self.low**share if 0 < share < 1 else _end(share, math.inf)


def _end(share: float, top: float) -> float:
    return top if share <= 0 else 0.0
