"""Seeds and generators: image i of a batch is the same as in a run of its own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitrail.core.diffusion.noise import image_seeds, noise_source, seeded
from vitrail.core.errors import ShapeError

LATENT = torch.zeros(3, 4, 5, 6)
LAST = 2**64 - 1


@given(seed=st.integers(0, LAST), place=st.integers(0, 2))
def test_image_i_is_the_run_of_seed_plus_i(seed: int, place: int) -> None:
    batch, alone = seeded(LATENT, seed), seeded(LATENT[:1], (seed + place) % 2**64)
    assert torch.equal(batch.start[place], alone.start[0])
    for source, single in ((batch.step, alone.step), (batch.repaint, alone.repaint)):
        for _ in range(2):
            assert torch.equal(source()[place], single()[0])


def test_batch_index_picks_the_images() -> None:
    whole, some = seeded(LATENT, 9), seeded(LATENT[:2], 9, batch_index=[2, 0])
    assert torch.equal(some.start, whole.start[[2, 0]])
    assert image_seeds(LAST, 3) == (LAST, 0, 1)
    with pytest.raises(ShapeError, match="batch_index"):
        seeded(LATENT, 9, batch_index=[0])


def test_one_image_gets_the_numbers_of_a_plain_generator() -> None:
    generator = torch.Generator().manual_seed(7)
    first, second = (torch.randn(1, 4, 5, 6, generator=generator) for _ in range(2))
    noise = seeded(LATENT[:1], 7)
    assert torch.equal(noise.start, first)
    assert torch.equal(noise.step(), first) and torch.equal(noise.step(), second)
    assert torch.equal(noise.repaint(), torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(8)))


def test_draws_are_standard_normal_in_the_latent_s_dtype_and_leave_the_global_state() -> None:
    before = torch.get_rng_state()
    draw = noise_source(torch.zeros(2, 100, 100, dtype=torch.float64), (1, 2))()
    assert draw.dtype == torch.float64 and draw.shape == (2, 100, 100)
    assert draw.mean(dim=(1, 2)).abs().max() < 0.05 and (draw.std(dim=(1, 2)) - 1).abs().max() < 0.05
    assert not torch.equal(draw[0], draw[1])
    assert torch.equal(before, torch.get_rng_state())


def test_a_seed_too_few_is_refused() -> None:
    with pytest.raises(ShapeError):
        noise_source(LATENT, (1, 2))
