"""Tables of noise levels against the reference numbers, and what every schedule must hold."""

import math
from dataclasses import dataclass

import pytest
import torch
from golden_cases import case
from hypothesis import given
from hypothesis import strategies as st

from vitrail.core.diffusion.prediction import Denoiser
from vitrail.core.diffusion.schedules import SCHEDULES, Span, make_sigmas
from vitrail.core.diffusion.tables import FlowTable, LogTable, NoiseTable, Table
from vitrail.core.errors import ConfigError

SD = NoiseTable.scaled_linear()
TABLES: dict[str, Table] = {
    "scaled_linear": SD,
    "linear": NoiseTable.linear(),
    "cosine": NoiseTable.cosine(),
    "cosine, stopped early": NoiseTable.cosine(256, end=0.96),
    "flow": FlowTable(shift=3.0),
    "log": LogTable(),
}

REFERENCE = {
    "linear_sd": NoiseTable.scaled_linear(1000, 0.00085, 0.012),
    "linear_ldm": NoiseTable.scaled_linear(1000, 0.0015, 0.0195),
    "linear_default": NoiseTable.scaled_linear(1000, 1e-4, 2e-2),
    "cosine": NoiseTable.cosine(1000),
    "sqrt_linear": NoiseTable.linear(1000),
    "sqrt": NoiseTable.sqrt(1000, 1e-4, 2e-2),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_betas_and_their_products_are_the_reference_s(name: str) -> None:
    golden = case("schedules_1000")
    golden.check(f"out.betas_{name}", REFERENCE[name].betas)
    golden.check(f"out.alphas_cumprod_{name}", REFERENCE[name].alphas_cumprod)


def test_levels_and_times_are_k_diffusion_s() -> None:
    golden = case("kdiff_wrappers")
    golden.check("out.sigmas_all", SD.sigmas)
    golden.check("out.sigmas_10", make_sigmas("normal", SD, 10))
    golden.check("out.t_to_sigma", SD.sigma(golden.tensors["in.t_many"]))
    golden.check("out.sigma_to_t", SD.timestep(golden.tensors["in.sigma_many"], quantize=False))
    golden.check("out.sigma_to_t_q", SD.timestep(golden.tensors["in.sigma_many"], quantize=True))


@pytest.mark.parametrize("name", ["karras", "exponential"])
def test_schedules_without_a_table_are_k_diffusion_s(name: str) -> None:
    golden = case("kdiff_toy")
    config = golden.config
    span = Span(table=SD, sigma_min=config["sigma_min"], sigma_max=config["sigma_max"], rho=config["rho"])
    golden.check(f"out.sigmas_{name}", SCHEDULES[name](config["steps"], span))


def test_cosine_follows_its_formula_up_to_its_end() -> None:
    table, s, end = NoiseTable.cosine(50, s=0.01, end=0.9), 0.01, 0.9

    def alpha_bar(u: float) -> float:
        return math.cos(math.pi / 2 * (u * end + s) / (1 + s)) ** 2

    expected = [alpha_bar((t + 1) / 50) / alpha_bar(0) for t in range(50)]
    assert table.alphas_cumprod.tolist() == pytest.approx(expected, rel=1e-9)
    assert table.sigma_max < 10 < NoiseTable.cosine(50, end=1.0).sigma_max < math.inf


@pytest.mark.parametrize("name", ["scaled_linear", "linear", "cosine", "cosine, stopped early"])
@pytest.mark.parametrize("quantize", [True, False])
def test_every_level_has_its_own_index(name: str, quantize: bool) -> None:
    table = TABLES[name]
    every = torch.arange(len(table.sigmas)).float()
    assert torch.allclose(table.timestep(table.sigmas, quantize=quantize), every, atol=0.01)
    assert torch.allclose(table.sigma(every), table.sigmas, rtol=1e-5)


@given(st.floats(0.03, 14.6))
def test_continuous_times_invert_levels(sigma: float) -> None:
    level = torch.tensor(sigma)
    assert SD.sigma(SD.timestep(level, quantize=False)).item() == pytest.approx(sigma, rel=1e-4)
    assert abs(float(SD.timestep(level, quantize=False) - SD.timestep(level))) <= 0.51


def test_times_are_clamped_to_the_table() -> None:
    outside = torch.tensor([[1e-4, 1e4]])
    for quantize in (True, False):
        assert SD.timestep(outside, quantize=quantize).tolist() == [[0, 999]]
    assert SD.sigma(torch.tensor([-3.0, 2000.0])).tolist() == pytest.approx([SD.sigma_min, SD.sigma_max])


def test_flow_and_log_tables_tell_their_own_time() -> None:
    assert FlowTable().timestep(torch.tensor(0.25)).item() == 250
    assert FlowTable(shift=3.0).sigma(torch.tensor(500.0)).item() == pytest.approx(0.75)
    assert LogTable().timestep(torch.tensor(math.e**2)).item() == pytest.approx(0.5)
    assert LogTable(low=0.01, high=10.0).sigma_max == pytest.approx(10)


@given(
    name=st.sampled_from(list(SCHEDULES)),
    table=st.sampled_from(list(TABLES)),
    steps=st.integers(1, 60),
    denoise=st.floats(0.02, 1),
)
def test_every_schedule_falls_to_zero(name: str, table: str, steps: int, denoise: float) -> None:
    sigmas = make_sigmas(name, TABLES[table], steps, denoise)
    assert sigmas.dtype == torch.float32 and sigmas.ndim == 1
    more_steps_than_levels = int(steps / denoise) > len(TABLES[table].sigmas)
    assert bool((sigmas.diff() < 0).all()) or more_steps_than_levels and bool((sigmas.diff() <= 0).all())
    assert sigmas[-1] == 0 and bool(torch.isfinite(sigmas).all())
    assert float(sigmas[0]) <= TABLES[table].sigma_max * (1 + 1e-5)
    assert len(sigmas) == steps + 1 or name == "ddim_uniform" and len(sigmas) > steps + 1


def test_denoise_keeps_the_end_of_a_longer_schedule() -> None:
    assert torch.equal(make_sigmas("karras", SD, 6, 0.3), make_sigmas("karras", SD, 20)[-7:])
    assert len(make_sigmas("karras", SD, 6, 0.0)) == 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_limits_narrow_a_schedule(name: str) -> None:
    sigmas = make_sigmas(name, SD, 10, sigma_min=0.1, sigma_max=5.0)
    assert 4 < float(sigmas[0]) <= 5.0001 and float(sigmas[-2]) >= 0.0999


@pytest.mark.parametrize("name", SCHEDULES)
def test_limits_at_the_table_s_ends_change_nothing(name: str) -> None:
    limited = make_sigmas(name, SD, 9, sigma_min=SD.sigma_min, sigma_max=SD.sigma_max)
    assert torch.equal(limited, make_sigmas(name, SD, 9))


def test_only_free_schedules_leave_the_table() -> None:
    assert float(make_sigmas("karras", SD, 5, sigma_max=80.0)[0]) == pytest.approx(80)
    with pytest.raises(ConfigError, match="use karras or exponential"):
        make_sigmas("simple", SD, 5, sigma_max=80.0)


@pytest.mark.parametrize(
    "arguments",
    [{"name": "linear"}, {"steps": 0}, {"denoise": 1.1}, {"rho": 0}, {"sigma_min": 3.0, "sigma_max": 2.0}],
)
def test_bad_settings_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        make_sigmas(**{"name": "karras", "table": SD, "steps": 5, **arguments})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("betas", [[0.1], [0.1, 1.0], [0.0, 0.1], [[0.1, 0.2]], [0.9999999] * 12])
def test_bad_betas_are_refused(betas: list[float]) -> None:
    with pytest.raises(ConfigError):
        NoiseTable(torch.tensor(betas, dtype=torch.float64))


def test_bad_tables_are_refused() -> None:
    for make in (
        lambda: NoiseTable.cosine(end=1.2),
        lambda: FlowTable(shift=0.0),
        lambda: LogTable(low=2.0, high=1.0),
        lambda: Denoiser(lambda x, t, c: x, FlowTable(), "eps"),
    ):
        with pytest.raises(ConfigError):
            make()


@dataclass(frozen=True)
class Picky:
    """A table whose second level is as good as zero."""

    flow: bool = False
    sigma_min: float = 1e-7
    sigma_max: float = 1.0

    @property
    def sigmas(self) -> torch.Tensor:
        return torch.tensor([1e-7, 1e-6, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0])

    def timestep(self, sigma: torch.Tensor, quantize: bool = True) -> torch.Tensor:
        return sigma

    def sigma(self, timestep: torch.Tensor) -> torch.Tensor:
        return timestep


def test_a_level_that_is_zero_stands_for_the_zero() -> None:
    assert make_sigmas("ddim_uniform", Picky(), 3).tolist() == pytest.approx([1, 0.6, 0.2, 1e-6])
    assert make_sigmas("normal", Picky(), 4).tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 1e-7])
