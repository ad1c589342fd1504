"""A whole run: start, mask, cancel, batches, and what is refused."""

import gc
import weakref

import pytest
import torch
from torch import Tensor

from vitrail.core.diffusion.noise import seeded
from vitrail.core.diffusion.prediction import Denoiser
from vitrail.core.diffusion.schedules import make_sigmas
from vitrail.core.diffusion.tables import FlowTable, NoiseTable, Table
from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.samplers import SAMPLERS
from vitrail.core.samplers.run import begin, latent_mask, sample
from vitrail.core.types import Condition

TABLES: dict[str, Table] = {"v": NoiseTable.cosine(end=0.98), "flow": FlowTable()}


def toy(x: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
    return torch.tanh(x * (0.5 + t.reshape(-1, 1, 1, 1) / 1000) + 0.2)


def run(name: str, latent: Tensor, kind: str = "v", seed: int = 5, denoise: float = 1.0, **options: object) -> Tensor:
    table = TABLES[kind]
    sigmas = make_sigmas("karras", table, 5, denoise)
    options = {"noise": seeded(latent, seed), "flow": table.flow, "sigma_max": table.sigma_max, **options}
    *_, last = sample(Denoiser(toy, table, kind), latent, sigmas, sampler=name, **options)  # pyright: ignore
    return last.x


def picture(batch: int = 1) -> Tensor:
    return torch.linspace(-2, 2, 24).reshape(1, 2, 3, 4).repeat(batch, 1, 1, 1)


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "dpm_adaptive"])  # one length of step for all
def test_image_i_of_a_batch_is_its_own_run(name: str, masked: bool, kind: str) -> None:
    mask = torch.tensor([0.0, 1.0, 1.0, 0.0]) if masked else None
    mask = None if mask is None else mask.expand(3, 4)
    together = run(name, picture(3), kind, mask=mask)
    for i in range(3):
        assert torch.allclose(together[i], run(name, picture(), kind, seed=5 + i, mask=mask)[0], atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_mask_keeps_what_it_keeps(name: str, kind: str) -> None:
    mask = torch.zeros(1, 1, 3, 4)
    mask[..., 2:] = 1
    out, free = run(name, picture(), kind, mask=mask), run(name, picture(), kind)
    left = 1e-6 if SAMPLERS[name].reaches_zero else 0.05
    assert torch.allclose(out[..., :2], picture()[..., :2], atol=left)
    assert not torch.allclose(out[..., 2:], picture()[..., 2:], atol=0.1)
    assert torch.allclose(run(name, picture(), kind, mask=torch.ones(6, 8)), free, atol=1e-6)


def test_less_denoise_stays_closer_to_the_picture() -> None:
    distances = [float((run("ddim", picture(), denoise=d) - picture()).abs().mean()) for d in (0.02, 0.4, 1.0)]
    assert distances[0] < 0.1 < distances[1] < distances[2]


def test_the_start_is_the_latent_and_the_noise() -> None:
    latent, noise = picture(), seeded(picture(), 0).start
    sigmas = torch.tensor([3.0, 0.0])
    assert torch.allclose(begin(latent, noise, sigmas), latent + 3 * noise)
    assert torch.allclose(begin(latent, noise, sigmas, sigma_max=3.00001), latent + 10**0.5 * noise)
    assert torch.allclose(begin(latent, noise, sigmas, sigma_max=2.0), latent + 10**0.5 * noise)
    quarter = torch.tensor([0.25, 0.0])
    assert torch.allclose(begin(latent, noise, quarter, sigma_max=0.25, flow=True), 0.75 * latent + 0.25 * noise)
    assert begin(latent, noise, torch.zeros(0)) is latent


@pytest.mark.parametrize("kind", TABLES)
def test_a_run_in_two_parts_is_the_run(kind: str) -> None:
    table, latent = TABLES[kind], picture()
    sigmas, noise = make_sigmas("karras", table, 6), seeded(picture(), 1)
    fixed = {"sampler": "heun", "noise": noise, "sigma_max": table.sigma_max, "flow": table.flow}
    denoiser = Denoiser(toy, table, kind)
    *_, whole = sample(denoiser, latent, sigmas, **fixed)
    *_, first = sample(denoiser, latent, sigmas[:4], **fixed)
    *_, second = sample(denoiser, first.x, sigmas[3:], add_noise=False, **fixed)
    assert torch.allclose(second.x, whole.x, atol=1e-5)


class Cancelled(Exception):
    pass


@pytest.mark.parametrize("how", ["close", "raise"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_cancelling_leaves_nothing_behind(name: str, how: str) -> None:
    class Model:
        calls = 0

        def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            self.calls += 1
            if how == "raise" and self.calls > 3:
                raise Cancelled
            return x * weight

    weight, model, state = torch.ones(1, requires_grad=True), Model(), torch.get_rng_state()
    gone, latent = weakref.ref(model), picture()
    steps = sample(model, latent, torch.linspace(4, 0, 9), sampler=name, noise=seeded(latent, 0))
    next(steps)
    assert torch.is_grad_enabled()
    if how == "close":
        steps.close()
    else:
        with pytest.raises(Cancelled):
            list(steps)
    del model
    gc.collect()
    assert gone() is None and list(steps) == []
    assert torch.is_grad_enabled() and torch.equal(state, torch.get_rng_state())
    assert torch.isfinite(run(name, latent)).all()


def test_no_gradient_is_kept() -> None:
    weight = torch.ones(1, requires_grad=True)
    latent = picture()
    *_, last = sample(
        lambda x, s: x * weight, latent, torch.tensor([2.0, 1.0, 0.0]), sampler="heun", noise=seeded(latent, 0)
    )
    assert not last.x.requires_grad


@pytest.mark.parametrize("shape", [(6, 8), (1, 6, 8), (2, 6, 8), (5, 1, 6, 8)])
def test_masks_of_any_shape_fit_the_latent(shape: tuple[int, ...]) -> None:
    mask = latent_mask(torch.ones(shape), picture(3))
    assert mask.shape == (3, 1, 3, 4) and bool((mask == 1).all())


def test_nothing_to_do() -> None:
    assert list(sample(lambda x, s: x, picture(), torch.zeros(0), sampler="euler", noise=seeded(picture(), 0))) == []


@pytest.mark.parametrize(
    ("sigmas", "error"),
    [
        ([[1.0, 0.0]], ShapeError),
        ([1.0, 2.0, 0.0], ConfigError),
        ([1.0, float("nan"), 0.0], ConfigError),
        ([float("inf"), 0.0], ConfigError),
        ([1.0, -0.1], ConfigError),
    ],
)
def test_bad_sigmas_are_refused_before_anything_runs(sigmas: list[float], error: type[Exception]) -> None:
    with pytest.raises(error):
        sample(lambda x, s: x, picture(), torch.tensor(sigmas), sampler="euler", noise=seeded(picture(), 0))


def test_other_bad_inputs_are_refused_before_anything_runs() -> None:
    sigmas = torch.tensor([1.0, 0.0])
    with pytest.raises(ConfigError, match="dpmpp_2m"):
        sample(lambda x, s: x, picture(), sigmas, sampler="fast", noise=seeded(picture(), 0))
    with pytest.raises(ShapeError, match="noise"):
        sample(lambda x, s: x, picture(2), sigmas, sampler="euler", noise=seeded(picture(), 0))
    with pytest.raises(ShapeError, match="mask"):
        sample(lambda x, s: x, picture(), sigmas, sampler="euler", noise=seeded(picture(), 0), mask=torch.ones(3))
