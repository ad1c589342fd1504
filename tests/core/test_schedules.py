"""Tables of noise levels against the reference numbers, and what every schedule must hold."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from golden_cases import case
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.core.diffusion.latent_diffusion import TableConfig
from vitrail.core.diffusion.prediction import Denoiser
from vitrail.core.diffusion.schedules import SCHEDULES, make_sigmas
from vitrail.core.diffusion.spacing_time import beta_quantile, quad_times, trailing_times, uniform_times
from vitrail.core.diffusion.tables import FlowTable, LogTable, NoiseTable, Table
from vitrail.core.errors import ConfigError
from vitrail.core.samplers.ancestral import ancestral_split

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


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("quantize", [False, True])
def test_denoisers_are_k_diffusion_s(prediction: str, quantize: bool) -> None:
    golden = case("kdiff_wrappers")
    denoiser = Denoiser(golden_network, SD, prediction, quantize=quantize)
    sigma = golden.tensors["in.sigma"]
    got = denoiser(golden.tensors["in.x"] * sigma.reshape(-1, 1, 1, 1), sigma)
    golden.check(f"out.{prediction}_denoised{'_q' if quantize else ''}", got)


def test_a_network_told_an_angle_is_k_diffusion_s() -> None:
    golden = case("kdiff_wrappers")
    denoiser = Denoiser(golden_network, LogTable(angle=True), "v")
    golden.check("out.vdenoiser", denoiser(golden.tensors["in.x"], golden.tensors["in.sigma"]))
    levels = torch.tensor([0.01, 1.0, 50.0])
    assert torch.allclose(denoiser.table.sigma(denoiser.table.timestep(levels)), levels, rtol=1e-4)


def golden_network(x: torch.Tensor, t: torch.Tensor, cond: object) -> torch.Tensor:
    return torch.tanh(x * (0.5 + t.reshape(-1, 1, 1, 1) / 1000))


@pytest.mark.parametrize("name", ["karras", "exponential", "polyexponential", "vp"])
def test_schedules_without_a_table_are_k_diffusion_s(name: str) -> None:
    golden = case("kdiff_toy")
    config = golden.config
    ends = {"sigma_min": config["sigma_min"], "sigma_max": config["sigma_max"]}
    if name == "vp":  # of sigma(t) = sqrt(e^(19.9 t^2 / 2 + 0.1 t) - 1) from t = 1 to 0.001
        ends = {f"sigma_{end}": math.expm1(19.9 * t**2 / 2 + 0.1 * t) ** 0.5 for end, t in (("min", 1e-3), ("max", 1))}
    rho = config["polyexponential_rho"] if name == "polyexponential" else config["rho"]
    golden.check(f"out.sigmas_{name}", make_sigmas(name, SD, config["steps"], rho=rho, **ends))


@pytest.mark.parametrize("steps", [4, 7, 20, 50])
@pytest.mark.parametrize("spacing", ["uniform", "quad"])
def test_times_levels_and_noise_of_ddim_are_the_reference_s(spacing: str, steps: int) -> None:
    golden, table = case("schedules_1000"), REFERENCE["linear_ldm"]
    times = {"uniform": uniform_times, "quad": quad_times}[spacing](steps, 1000)
    name = f"out.ddim_{spacing}_{steps}"
    golden.check(name, times)
    alpha = table.alphas_cumprod[times]
    before = table.alphas_cumprod[torch.cat([torch.zeros(1, dtype=torch.long), times[:-1]])]
    golden.check(f"{name}_alpha", alpha)
    golden.check(f"{name}_alpha_prev", before)
    sigma, below = ((1 - alpha) / alpha).sqrt(), ((1 - before) / before).sqrt()
    for eta in (0, 1):
        up = ancestral_split(sigma, below, eta)[1] / (1 + below**2).sqrt()
        golden.check(f"{name}_sigma_eta{eta}", up.nan_to_num())
    sigmas = make_sigmas(f"ddim_{spacing}", table, steps)
    assert torch.equal(sigmas, torch.cat([table.sigmas[times].flip(0), torch.zeros(1)]))


def test_times_of_trailing_are_diffusers() -> None:
    golden = case("diffusers_schedulers")
    golden.check("out.timesteps_ddim_trailing", trailing_times(8, 1000).double())
    assert torch.equal(make_sigmas("ddim_trailing", SD, 8)[:-1], SD.sigmas[trailing_times(8, 1000)])


def test_tables_are_diffusers() -> None:
    golden = case("diffusers_schedulers")
    golden.check("out.zero_snr_alphas_cumprod", SD.zero_terminal().alphas_cumprod.float())
    ends = {"start": 1e-4, "end": 0.02}
    tables = {"linear": NoiseTable.linear(**ends), "scaled_linear": NoiseTable.scaled_linear(**ends)}
    tables |= {"squaredcos_cap_v2": NoiseTable.cosine(), "sigmoid": NoiseTable.sigmoid(**ends)}
    for name, table in tables.items():
        golden.check(f"out.alphas_cumprod_{name}", table.alphas_cumprod.float())
    case("schedules_1000").check("out.betas_for_alpha_bar_cos", NoiseTable.cosine().betas)


def test_noise_and_velocity_are_diffusers() -> None:
    golden, level = case("diffusers_schedulers"), SD.sigmas[321]
    x, noise = golden.tensors["in.x"], golden.tensors["in.noise"][0]
    denoiser = Denoiser(golden_network, SD, "v")
    golden.check("out.add_noise", denoiser.inputs(denoiser.noised(x, noise, level), level)[0])
    golden.check("out.velocity", denoiser.target(x, noise, level))


def test_zero_terminal_keeps_the_first_level_and_loses_the_signal_of_the_last() -> None:
    table = SD.zero_terminal()
    assert table.sigma_min == pytest.approx(SD.sigma_min, rel=1e-5)
    assert table.sigma_max == pytest.approx(4518.7, rel=1e-4)
    assert bool((table.sigmas.diff() > 0).all()) and bool((table.sigmas >= SD.sigmas * 0.9999).all())
    assert TableConfig(zero_snr=True).build().sigma_max == table.sigma_max
    with pytest.raises(ConfigError, match="zero_snr"):
        TableConfig(kind="flow", zero_snr=True)


def test_align_your_steps_are_the_published_levels() -> None:
    published = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.0]
    assert make_sigmas("ays", SD, 10).tolist() == pytest.approx(published, abs=0.004)
    assert make_sigmas("ays", SD, 20)[::2].tolist() == pytest.approx(make_sigmas("ays", SD, 10).tolist(), rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(share=st.floats(0.001, 0.999), a=st.floats(0.3, 3), b=st.floats(0.3, 3))
def test_beta_quantiles_invert_the_integral(share: float, a: float, b: float) -> None:
    x = beta_quantile(torch.tensor([share], dtype=torch.float64), a, b)
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(64))

    def area(end: float) -> float:
        """The integral of t^(a-1) (1-t)^(b-1) below end, with t = u^(1/a) up to a half and mirrored above."""
        if end > 0.5:
            return area(0.5) + mirrored(0.5) - mirrored(1 - end)
        u = end**a * (nodes + 1) / 2
        return float((weights * (1 - u ** (1 / a)) ** (b - 1)).sum()) * end**a / 2 / a

    def mirrored(end: float) -> float:
        u = end**b * (nodes + 1) / 2
        return float((weights * (1 - u ** (1 / b)) ** (a - 1)).sum()) * end**b / 2 / b

    assert area(x.item()) / area(1.0) == pytest.approx(share, abs=2e-4)


def test_seven_is_every_schedule_s_own_rho() -> None:
    assert torch.allclose(make_sigmas("polyexponential", SD, 9), make_sigmas("exponential", SD, 9), rtol=1e-5)
    assert not torch.allclose(make_sigmas("polyexponential", SD, 9, rho=2.0), make_sigmas("exponential", SD, 9))


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


@settings(deadline=None)
@given(
    name=st.sampled_from(list(SCHEDULES)),
    table=st.sampled_from(list(TABLES)),
    steps=st.integers(1, 60),
    denoise=st.floats(0.02, 1),
)
def test_every_schedule_falls_to_zero(name: str, table: str, steps: int, denoise: float) -> None:
    sigmas = make_sigmas(name, TABLES[table], steps, denoise)
    assert sigmas.dtype == torch.float32 and sigmas.ndim == 1
    repeats = int(steps / denoise) > len(TABLES[table].sigmas) or name in ("ddim_quad", "laplace", "linear_quadratic")
    assert bool((sigmas.diff() < 0).all()) or repeats and bool((sigmas.diff() <= 0).all())
    assert sigmas[-1] == 0 and bool(torch.isfinite(sigmas).all())
    assert float(sigmas[0]) <= TABLES[table].sigma_max * (1 + 1e-5)
    many = name == "ddim_uniform" and len(sigmas) > steps + 1
    assert len(sigmas) == steps + 1 or many or name == "beta" and 1 < len(sigmas) < steps + 1


def test_denoise_keeps_the_end_of_a_longer_schedule() -> None:
    assert torch.equal(make_sigmas("karras", SD, 6, 0.3), make_sigmas("karras", SD, 20)[-7:])
    assert len(make_sigmas("karras", SD, 6, 0.0)) == 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_limits_narrow_a_schedule(name: str) -> None:
    sigmas = make_sigmas(name, SD, 10, sigma_min=0.1, sigma_max=5.0)
    assert (4 if name != "ddim_quad" else 2) < float(sigmas[0]) <= 5.0001 and float(sigmas[-2]) >= 0.0999


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
