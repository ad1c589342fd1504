"""Solvers: order on a Gaussian with an exact solution, variance of the stochastic ones."""

from math import log2

import pytest
import torch
from torch import Tensor

from vitrail.core.diffusion.noise import noise_source
from vitrail.core.errors import ConfigError
from vitrail.core.samplers import SAMPLERS
from vitrail.core.samplers.sampler import Sampler

MEAN, STD = 0.7, 0.5


class Gaussian:
    """Data of one Gaussian: its exact denoiser, and where the probability-flow equation takes x."""

    def __init__(self, flow: bool = False) -> None:
        self.flow = flow

    def signal(self, sigma: Tensor) -> Tensor:
        return 1 - sigma if self.flow else torch.ones_like(sigma)

    def variance(self, sigma: Tensor) -> Tensor:
        return (self.signal(sigma) * STD) ** 2 + sigma**2

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        signal = self.signal(sigma)
        return MEAN + signal * STD**2 / self.variance(sigma) * (x - signal * MEAN)

    def exact(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        spread = (self.variance(end) / self.variance(start)).sqrt()
        return self.signal(end) * MEAN + (x - self.signal(start) * MEAN) * spread

    def levels(self, steps: int) -> Tensor:
        top, low = (0.9, 0.1) if self.flow else (10.0, 0.1)
        return torch.linspace(top ** (1 / 3), low ** (1 / 3), steps + 1, dtype=torch.float64) ** 3

    def error(self, sampler: Sampler, steps: int) -> float:
        sigmas, x = self.levels(steps), torch.tensor([[3.0, -2.0, 10.0]], dtype=torch.float64)
        *_, last = sampler(self.denoise, x, sigmas, noise=lambda: torch.zeros_like(x), eta=0.0, flow=self.flow)
        return float((last.x - self.exact(x, sigmas[0], sigmas[-1])).abs().max())


def taking(option: str) -> list[str]:
    return [name for name, sampler in SAMPLERS.items() if option in sampler.options]


ALWAYS_NOISY = {name for name, sampler in SAMPLERS.items() if sampler.stochastic} - set(taking("eta"))
FAST = ("lms", "deis")
"""So exact that what their first steps leave, which is of second order, hardly shows where noise is added."""


@pytest.mark.parametrize("flow", [False, True], ids=["added", "flow"])
@pytest.mark.parametrize("name", [n for n in SAMPLERS if n not in ALWAYS_NOISY and n != "dpm_adaptive"])
def test_solver_converges_with_its_declared_order(name: str, flow: bool) -> None:
    gaussian = Gaussian(flow)
    coarse, fine = (gaussian.error(SAMPLERS[name], steps) for steps in (384, 768))
    if name in FAST and not flow:
        assert 4 > log2(coarse / fine) > SAMPLERS[name].order + 0.5
    else:
        assert log2(coarse / fine) == pytest.approx(SAMPLERS[name].order, abs=0.1)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("flow", [False, True], ids=["added", "flow"])
def test_adaptive_steps_keep_to_their_tolerance(flow: bool, order: int) -> None:
    gaussian = Gaussian(flow)

    def run(tolerance: float) -> tuple[float, int]:
        sigmas, x = gaussian.levels(20), torch.tensor([[3.0, -2.0, 10.0]], dtype=torch.float64)
        steps = list(SAMPLERS["dpm_adaptive"](gaussian.denoise, x, sigmas, rtol=tolerance, atol=tolerance, order=order))
        assert [step.index for step in steps] == sorted(step.index for step in steps) and steps[-1].index == 19
        assert all(step.index < 19 for step in steps[:-1])
        return float((steps[-1].x - gaussian.exact(x, sigmas[0], sigmas[-1])).abs().max()), len(steps)

    (loose, few), (tight, many) = run(1e-2), run(1e-5)
    assert loose < 0.05 and tight < 1e-4 and few < many


OPTIONS = [(name, {"eta": eta}, flow) for name in taking("eta") for eta in (1.0, 0.4) for flow in (False, True)]
OPTIONS += [(name, {"s_churn": 20.0}, False) for name in taking("s_churn")]
OPTIONS += [("er_sde", {}, False), ("er_sde", {}, True), ("ddpm", {}, False), ("ddpm", {"large": True}, False)]
OPTIONS += [("dpm_fast", {"eta": 1.0}, False), ("dpm_adaptive", {"eta": 1.0, "rtol": 1e-4, "atol": 1e-4}, False)]


@pytest.mark.parametrize(("name", "options", "flow"), OPTIONS)
def test_noise_keeps_the_marginal_variance(name: str, options: dict[str, float], flow: bool) -> None:
    gaussian, sigmas = Gaussian(flow), Gaussian(flow).levels(500)
    start = torch.randn(1, 20000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = gaussian.signal(sigmas[0]) * MEAN + start * gaussian.variance(sigmas[0]).sqrt()
    *_, last = SAMPLERS[name](gaussian.denoise, x, sigmas, noise=noise_source(x, (1,)), flow=flow, **options)
    assert last.x.var().item() == pytest.approx(float(gaussian.variance(sigmas[-1])), rel=0.04)
    assert last.x.mean().item() == pytest.approx(float(gaussian.signal(sigmas[-1]) * MEAN), abs=0.02)


@pytest.mark.parametrize("flow", [False, True], ids=["added", "flow"])
def test_lcm_keeps_the_marginal_variance_of_a_consistency_model(flow: bool) -> None:
    gaussian, sigmas = Gaussian(flow), Gaussian(flow).levels(8)
    start = torch.randn(1, 20000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = gaussian.signal(sigmas[0]) * MEAN + start * gaussian.variance(sigmas[0]).sqrt()

    def consistent(x: Tensor, sigma: Tensor) -> Tensor:
        return gaussian.exact(x, sigma, torch.zeros_like(sigma))

    *_, last = SAMPLERS["lcm"](consistent, x, sigmas, noise=noise_source(x, (1,)), flow=flow)
    assert last.x.var().item() == pytest.approx(float(gaussian.variance(sigmas[-1])), rel=0.04)
    assert last.x.mean().item() == pytest.approx(float(gaussian.signal(sigmas[-1]) * MEAN), abs=0.02)


def test_the_two_draws_of_a_step_are_of_one_path() -> None:
    x = torch.zeros(1, 40000)
    source = noise_source(x, (3,))
    first = source()
    whole = source.joined(first, 0.3)
    assert whole.var().item() == pytest.approx(1, rel=0.03)
    assert (whole * first).mean().item() == pytest.approx(0.3**0.5, abs=0.02)
    rest = (whole - 0.3**0.5 * first) / 0.7**0.5
    assert (rest * first).mean().item() == pytest.approx(0, abs=0.02)


LANDING = [name for name, sampler in SAMPLERS.items() if sampler.reaches_zero]


@pytest.mark.parametrize("flow", [False, True], ids=["added", "flow"])
@pytest.mark.parametrize("name", LANDING)
def test_a_step_to_zero_gives_what_was_denoised(name: str, flow: bool) -> None:
    x, levels = torch.randn(2, 3, 4, 4), [1.0, 0.6, 0.3, 0.0] if flow else [3.0, 1.0, 0.3, 0.0]
    steps = list(
        SAMPLERS[name](Gaussian(flow).denoise, x, torch.tensor(levels), noise=noise_source(x, (0, 1)), flow=flow)
    )
    assert [step.index for step in steps] == [0, 1, 2]
    assert [float(step.sigma) for step in steps] == pytest.approx(levels[:3], abs=2e-4)
    assert torch.allclose(steps[-1].x, steps[-1].denoised, atol=1e-6)
    assert all(step.x.shape == x.shape and step.x.dtype == x.dtype for step in steps)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in LANDING])
def test_the_others_end_close_to_it(name: str) -> None:
    """What noise they leave in is that of their last level, or of the floor."""
    x, sigmas = torch.randn(2, 3, 4, 4), torch.tensor([3.0, 1.0, 0.3, 0.01, 0.0])
    *_, last = SAMPLERS[name](Gaussian().denoise, x, sigmas)
    assert last.index == 3
    assert 1e-6 < (last.x - Gaussian().denoise(last.x, torch.tensor(0.01))).abs().max() < 0.05


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_of_one_step_denoises(name: str) -> None:
    x, sigmas = torch.randn(1, 3), torch.tensor([3.0, 0.0])
    (only,) = SAMPLERS[name](Gaussian().denoise, x, sigmas, noise=noise_source(x, (0,)))
    assert only.index == 0 and torch.allclose(only.x, Gaussian().denoise(x, sigmas[0]), atol=2e-3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_equal_neighbours_are_no_step(name: str) -> None:
    x, sigmas = torch.randn(1, 3), torch.tensor([3.0, 1.0, 1.0, 1.0, 0.3, 0.0, 0.0])
    *_, last = SAMPLERS[name](Gaussian().denoise, x, sigmas, noise=noise_source(x, (0,)))
    *_, without = SAMPLERS[name](Gaussian().denoise, x, sigmas.unique().flip(0), noise=noise_source(x, (0,)))
    assert torch.equal(last.x, without.x) and last.index == 5
    assert list(SAMPLERS[name](Gaussian().denoise, x, torch.ones(4), noise=noise_source(x, (0,)))) == []


@pytest.mark.parametrize("name", SAMPLERS)
def test_x_is_never_changed_in_place(name: str) -> None:
    x = torch.randn(1, 3)
    kept, seen = x.clone(), []
    for step in SAMPLERS[name](Gaussian().denoise, x, torch.tensor([3.0, 1.0, 0.3, 0.0]), noise=noise_source(x, (0,))):
        seen.append((step.x, step.x.clone()))
    assert torch.equal(x, kept) and all(torch.equal(now, then) for now, then in seen)


def test_calls_of_the_network() -> None:
    expected = {"euler": 4, "heun": 7, "dpmpp_2m": 4, "ipndm": 4, "ddim": 4, "plms": 5, "dpm_2": 7, "heunpp2": 9}
    expected |= {"uni_pc": 4, "lms": 4, "deis": 4, "dpm_fast": 4, "res_multistep": 4, "gradient_estimation": 4}
    for name, calls in expected.items():
        count = [0]

        def denoise(x: Tensor, sigma: Tensor, count: list[int] = count) -> Tensor:
            count[0] += 1
            assert sigma.ndim == 0
            return x / (1 + sigma)

        list(SAMPLERS[name](denoise, torch.ones(1), torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0])))
        assert count == [calls], name


def test_every_stochastic_solver_is_tested_for_its_variance() -> None:
    stochastic = {name for name, sampler in SAMPLERS.items() if sampler.stochastic}
    assert stochastic <= {name for name, _, _ in OPTIONS} | {"lcm"}


def test_drawing_without_a_source_says_so() -> None:
    with pytest.raises(ConfigError, match="noise source"):
        list(SAMPLERS["euler_ancestral"](Gaussian().denoise, torch.ones(1), torch.tensor([2.0, 1.0, 0.0])))


def test_nothing_to_do() -> None:
    for sigmas in (torch.zeros(0), torch.ones(1)):
        assert list(SAMPLERS["euler"](Gaussian().denoise, torch.ones(1), sigmas)) == []
