"""A first guess of the picture from the condition's vector, for a network to start from."""

import torch.nn.functional as F
from torch import Tensor, nn


class Sketch(nn.Module):
    """What the vector alone says about the picture: linear, SiLU, linear, SiLU, linear, read as a small picture.

    A convolutional network that sees noise has no place of its own for "a tree is wide at the top"; here each cell of
    the guess has its own weights. Trained towards the clean latent, it is the mean of what the vector may mean.

    vector: numbers of the condition's vector. channels, size: of the guess. width: of the hidden layers.
    Source: the prior of Ramesh et al. 2022 (DALL-E 2), section 2.2, for the idea of guessing first; here by regression.
    """

    def __init__(self, vector: int, channels: int, size: int, width: int) -> None:
        super().__init__()
        self.shape = (channels, size, size)
        self.layers = nn.Sequential(
            nn.Linear(vector, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, channels * size * size),
        )

    def forward(self, y: Tensor) -> Tensor:
        """y: [B, vector] -> [B, channels, size, size]."""
        return self.layers(y).unflatten(1, self.shape)

    def sized(self, y: Tensor, size: tuple[int, ...]) -> Tensor:
        """The guess stretched to another height and width, [B, channels, *size]."""
        guess = self(y)
        return guess if guess.shape[2:] == size else F.interpolate(guess, size, mode="bilinear")
