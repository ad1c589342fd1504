"""Random numbers: one CPU generator an image, so that image i of a batch is the same as in a run of its own."""

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


def noise_source(like: Tensor, seeds: Sequence[int]) -> NoiseSource:
    """A source whose image i comes from a generator of its own, seeded with seeds[i].

    like: [B, ...]; each call gives the next standard normal tensor of its shape, device and dtype. The numbers are
    drawn on the CPU in float32, so they are the same on every device.
    """
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    if len(generators) != len(like):
        raise ShapeError(f"{len(generators)} seeds for a batch of {len(like)}")
    shape = like.shape[1:]
    device, dtype = like.device, like.dtype

    def draw() -> Tensor:
        return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device, dtype)

    return draw


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
    a whole batch from one generator, and a stochastic solver's noise on the device that it runs on.
    """
    seeds = image_seeds(seed, len(latent), batch_index)
    after = tuple((s + 1) % SEEDS for s in seeds)
    return Noise(
        start=noise_source(latent, seeds)(), step=noise_source(latent, seeds), repaint=noise_source(latent, after)
    )
