"""A scale and a shift for each channel that start from the first batch, instead of batch statistics."""

import torch
from torch import Tensor, nn


class ActNorm(nn.Module):
    """y = scale (x + loc); the first training batch sets them so that each channel has mean 0 and variance 1.

    forward: [B, C, H, W] -> the same shape. The names of the weights are taming's.
    Source: Kingma & Dhariwal 2018 (Glow), section 3.1.
    """

    initialized: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.initialized:
            self.start(x)
        return self.scale.to(x.dtype) * (x + self.loc.to(x.dtype))

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Take mean and standard deviation of this batch."""
        flat = x.detach().float().transpose(0, 1).flatten(1)
        shape = self.loc.shape
        self.loc.copy_(-flat.mean(1).view(shape))
        self.scale.copy_(1 / (flat.std(1).view(shape) + 1e-6))
        self.initialized.fill_(1)
