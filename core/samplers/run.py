"""A whole run: mix latent and noise, solve, keep what the mask keeps, undo the mixing."""

import math
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..diffusion.noise import Noise
from ..diffusion.prediction import noised
from ..errors import ConfigError, ShapeError
from ..types import Denoise
from . import SAMPLERS
from .cfg_pp import apart
from .sampler import Sampler, Steps


def sample(
    denoise: Denoise,
    latent: Tensor,
    sigmas: Tensor,
    *,
    sampler: str | Sampler,
    noise: Noise,
    eta: float = 1.0,
    mask: Tensor | None = None,
    add_noise: bool = True,
    sigma_max: float = math.inf,
    flow: bool = False,
    top: float = 0.9999,
) -> Steps:
    """The steps of a run from a latent to a latent; the last Step.x is the result.

    Does what stock ComfyUI does around a solver, number for number. No step is yielded for fewer than two sigmas:
    the result is then `begin(...)`, which is the latent itself for an empty tensor.

    denoise: (x, sigma []) -> denoised; run without gradients.
    latent: [B, c, h, w] scaled to unit variance; zeros start from nothing.
    sigmas: [n + 1] descending to >= 0.
    noise: see diffusion.noise.seeded. add_noise: False starts from the latent as it is.
    mask: 1 = paint, 0 = keep; [B or 1, 1, H, W] or [B or 1, H, W] or [H, W], resized to the latent.
    sigma_max: the top of the model's table; a run that starts there starts from noise of the full variance.
    flow: x is (1 - sigma) x0 + sigma noise. top: see Sampler; in ComfyUI `table.at(1e-4)`.
    Raises: ConfigError on an unknown sampler or sigmas that rise or are not finite; ShapeError where shapes disagree.
    """
    solver = SAMPLERS[sampler] if isinstance(sampler, str) and sampler in SAMPLERS else sampler
    if isinstance(solver, str):
        raise ConfigError(f"no sampler is named {solver!r}; there are {', '.join(SAMPLERS)}")
    check_sigmas(sigmas)
    noise = noise if add_noise else replace(noise, start=torch.zeros_like(latent))
    if noise.start.shape != latent.shape:
        raise ShapeError(f"the noise is {tuple(noise.start.shape)}, but the latent is {tuple(latent.shape)}")
    if mask is not None:
        behind = noise.repaint() if solver.repaints else noise.start
        denoise = Masked(denoise, latent, behind, latent_mask(mask, latent), flow)
    x = begin(latent, noise.start, sigmas, sigma_max=sigma_max, flow=flow)
    steps = solver(WithoutGradients(denoise), x, sigmas, noise=noise.step, eta=eta, flow=flow, top=top)
    return _steps(steps, sigmas, flow)


def _steps(steps: Steps, sigmas: Tensor, flow: bool) -> Steps:
    with closing(steps):
        for step in steps:
            last = step.index == len(sigmas) - 2
            yield replace(step, x=finish(step.x, sigmas[-1], flow)) if last else step


def begin(latent: Tensor, start: Tensor, sigmas: Tensor, *, sigma_max: float = math.inf, flow: bool = False) -> Tensor:
    """The x that a solver starts from at sigmas[0].

    latent + sigma noise;  latent + sqrt(1 + sigma^2) noise at or above sigma_max, where an unscaled process holds
    nothing but noise;  (1 - sigma) latent + sigma noise for a flow.
    """
    if len(sigmas) == 0:
        return latent
    sigma = sigmas[0].to(latent.device)
    full = math.isclose(sigma_max, float(sigma), rel_tol=1e-5) or float(sigma) > sigma_max
    return noised(latent, start, (1 + sigma**2).sqrt() if full and not flow else sigma, flow)


def finish(x: Tensor, sigma: Tensor, flow: bool = False) -> Tensor:
    """Undo the mixing of `begin` at the last sigma: x / (1 - sigma) for a flow, else x."""
    return x / (1 - sigma) if flow else x


@dataclass(frozen=True)
class Masked:
    """A denoiser that sees the noised latent where the mask is 0, and answers the latent there.

    mask: [B, c or 1, h, w], 1 = paint, 0 = keep; where it lies between, both are mixed, before and after the network.
    Source: Lugmayr et al. 2022 (RePaint), eq. 8, without its resampling.
    """

    denoise: Denoise
    latent: Tensor
    noise: Tensor
    mask: Tensor
    flow: bool = False

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self._kept(self.denoise(self._seen(x, sigma), sigma))

    def apart(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(denoised, by the negative alone, which the mask leaves as it is); see cfg_pp."""
        denoised, plain = apart(self.denoise, self._seen(x, sigma), sigma)
        return self._kept(denoised), plain

    def _seen(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x * self.mask + noised(self.latent, self.noise, sigma, self.flow) * (1 - self.mask)

    def _kept(self, denoised: Tensor) -> Tensor:
        return denoised * self.mask + self.latent * (1 - self.mask)


@dataclass(frozen=True)
class WithoutGradients:
    """A denoiser whose calls build no graph."""

    denoise: Denoise

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        with torch.no_grad():
            return self.denoise(x, sigma)

    def apart(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return apart(self.denoise, x, sigma)


def latent_mask(mask: Tensor, latent: Tensor) -> Tensor:
    """A mask of pictures -> [B, 1, h, w] of the latent, bilinear, repeated or cut to the batch.

    Raises: ShapeError when it has fewer than two dimensions.
    """
    if mask.ndim < 2:
        raise ShapeError(f"a mask is [height, width] with or without a batch, not {tuple(mask.shape)}")
    flat = mask.reshape(-1, 1, *mask.shape[-2:]).to(latent.device, latent.dtype)
    flat = interpolate(flat, size=latent.shape[-2:], mode="bilinear")
    return flat.repeat(-(-len(latent) // len(flat)), 1, 1, 1)[: len(latent)]


def check_sigmas(sigmas: Tensor) -> None:
    """Raises: ShapeError unless sigmas is 1-D; ConfigError unless finite, never rising and ending at 0 or above."""
    if sigmas.ndim != 1:
        raise ShapeError(f"sigmas have one dimension, not {tuple(sigmas.shape)}")
    if not bool(torch.isfinite(sigmas).all()):
        raise ConfigError("some sigmas are not finite")
    if len(sigmas) and (bool((sigmas.diff() > 0).any()) or float(sigmas[-1]) < 0):
        raise ConfigError(f"sigmas must fall and end at 0 or above, not {[round(s, 4) for s in sigmas.tolist()]}")
