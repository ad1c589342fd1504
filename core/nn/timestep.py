"""The time of diffusion as a vector."""

import math

import torch
from torch import Tensor


def timestep_embedding(
    timesteps: Tensor, width: int, period: float = 10000.0, shift: float = 0.0, sine_first: bool = False
) -> Tensor:
    """Cosines, then sines, of the time at geometrically spaced frequencies.

    emb[:, i] = cos(t f_i),  emb[:, h + i] = sin(t f_i),  f_i = period^(-i/(h - shift)),  h = width // 2

    timesteps: [B], fractions allowed.
    width: length of a vector; an odd one ends in a zero.
    period: longest period divided by 2 pi.
    shift: 1 makes the last frequency 1 / period itself; sine_first: sines, then cosines; both as in Ho et al. 2020.
    Returns [B, width] float32 whatever the dtype of the time.
    Source: Vaswani et al. 2017, section 3.5, in the order of the ADM and latent-diffusion networks.
    """
    half = width // 2
    index = torch.arange(half, device=timesteps.device, dtype=torch.float32)
    angles = timesteps.float()[:, None] * torch.exp(index * (-math.log(period) / (half - shift)))
    waves = torch.cat([angles.sin(), angles.cos()] if sine_first else [angles.cos(), angles.sin()], dim=1)
    return torch.nn.functional.pad(waves, (0, width - 2 * half))
