"""The time of diffusion as a vector."""

import math

import torch
from torch import Tensor


def timestep_embedding(timesteps: Tensor, width: int, period: float = 10000.0) -> Tensor:
    """Cosines, then sines, of the time at geometrically spaced frequencies.

    emb[:, i] = cos(t f_i),  emb[:, h + i] = sin(t f_i),  f_i = period^(-i/h),  h = width // 2

    timesteps: [B], fractions allowed.
    width: length of a vector; an odd one ends in a zero.
    period: longest period divided by 2 pi.
    Returns [B, width] float32 whatever the dtype of the time.
    Source: Vaswani et al. 2017, section 3.5, in the order of the ADM and latent-diffusion networks.
    """
    half = width // 2
    index = torch.arange(half, device=timesteps.device, dtype=torch.float32)
    angles = timesteps.float()[:, None] * torch.exp(index * (-math.log(period) / half))
    waves = torch.cat([angles.cos(), angles.sin()], dim=1)
    return torch.nn.functional.pad(waves, (0, width - 2 * half))
