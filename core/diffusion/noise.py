"""Random numbers: one CPU generator an image, so that image i of a batch is the same as in a run of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ShapeError
from ..types import NoiseSource

SEEDS = 2**64


def image_seeds(seed: int, batch: int, batch_index: Sequence[int] | None = None) -> tuple[int, ...]:
    """The seed of each image: (seed + i) mod 2^64, i its place in the batch or its entry of batch_index.

    Raises: ShapeError when batch_index has another length than the batch.
    """
    places = range(batch) if batch_index is None else batch_index
    if len(places) != batch:
        raise ShapeError(f"batch_index names {len(places)} images, but the batch has {batch}")
    return tuple((seed + int(i)) % SEEDS for i in places)


class Draws:
    """A source whose image i comes from a generator of its own; see `noise_source`."""

    def __init__(self, like: Tensor, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        if len(self.generators) != len(like):
            raise ShapeError(f"{len(self.generators)} seeds for a batch of {len(like)}")
        self.like = like.new_empty(()).expand(like.shape)

    def __call__(self) -> Tensor:
        drawn = [torch.randn(self.like.shape[1:], generator=g) for g in self.generators]
        return torch.stack(drawn).to(self.like)

    def joined(self, first: Tensor, share: float) -> Tensor:
        """The noise of a whole interval of a Brownian path, given that of its first part.

        sqrt(share) first + sqrt(1 - share) (the next draw)

        first: what an earlier call gave for the first part. share: of the interval's variance, 0 .. 1.
        """
        return math.sqrt(share) * first + math.sqrt(1 - share) * self()


def noise_source(like: Tensor, seeds: Sequence[int]) -> Draws:
    """A source whose image i comes from a generator of its own, seeded with seeds[i].

    like: [B, ...]; each call gives the next standard normal tensor of its shape, device and dtype. The numbers are
    drawn on the CPU in float32, so they are the same on every device.
    """
    return Draws(like, seeds)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """All the random numbers of one run.

    start: [B, c, h, w], what the latent is mixed with at the first sigma (zeros to add none).
    step: the source that stochastic solvers draw from.
    repaint: the source for the kept part of an inpainted latent, used by solvers that do not take `start` for it.
    """

    start: Tensor
    step: NoiseSource
    repaint: NoiseSource


def seeded(latent: Tensor, seed: int, batch_index: Sequence[int] | None = None) -> Noise:
    """The noise of a run from one seed; a batch of one gets stock ComfyUI's numbers (0.3.64, on the CPU).

    There the start and the steps are both drawn from generators seeded with `seed`, so the first draw of a stochastic
    solver repeats the starting noise, and the repaint noise from one seeded with `seed + 1`. What differs: stock draws
    a whole batch from one generator, a stochastic solver's noise on the device that it runs on, and that of dpmpp_sde,
    dpmpp_2m_sde and dpmpp_3m_sde from a Brownian tree, whose numbers are others of the same law.
    """
    seeds = image_seeds(seed, len(latent), batch_index)
    after = tuple((s + 1) % SEEDS for s in seeds)
    return Noise(
        start=noise_source(latent, seeds)(), step=noise_source(latent, seeds), repaint=noise_source(latent, after)
    )
