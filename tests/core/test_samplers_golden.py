"""Solvers against the numbers of k-diffusion and of diffusers."""

from typing import Any

import pytest
import torch
from golden_cases import Case, case
from torch import Tensor

from vitrail.core.diffusion.prediction import Denoiser
from vitrail.core.diffusion.schedules import make_sigmas
from vitrail.core.diffusion.tables import NoiseTable
from vitrail.core.samplers import SAMPLERS
from vitrail.core.samplers.adams import lms_weights
from vitrail.core.samplers.ancestral import ancestral_split
from vitrail.core.types import Condition, Denoise


def toy(x: Tensor, s: Tensor) -> Tensor:
    return x / (1 + s**2) + 0.25 * torch.tanh(x / (1 + s**2).sqrt()) * s / (1 + s)


def end(
    denoise: Denoise, name: str, x: Tensor, sigmas: Tensor, noises: Tensor | list[Tensor], **options: Any
) -> Tensor:
    draws = iter(noises)
    *_, last = SAMPLERS[name](denoise, x, sigmas, noise=lambda: next(draws), **options)
    return last.x


TOY: list[tuple[str, str, str, dict[str, Any]]] = [
    ("euler", "euler", "karras", {}),
    ("euler", "ddim", "karras", {}),
    ("euler_exp", "euler", "exponential", {}),
    ("heun", "heun", "karras", {}),
    ("dpm_2", "dpm_2", "karras", {}),
    ("lms", "lms", "karras", {"takes_x0": False}),
    ("lms_order2", "lms", "karras", {"order": 2, "takes_x0": False}),
    ("dpmpp_2m", "dpmpp_2m", "karras", {}),
    ("dpmpp_2m_vp", "dpmpp_2m", "vp", {}),
    ("euler_ancestral", "euler_ancestral", "karras", {}),
    ("euler_ancestral_eta05", "euler_ancestral", "karras", {"eta": 0.5, "s_noise": 0.98}),
    ("dpm_2_ancestral", "dpm_2_ancestral", "karras", {}),
    ("dpmpp_2s_ancestral", "dpmpp_2s_ancestral", "karras", {}),
    ("dpmpp_sde", "dpmpp_sde", "karras", {}),
    ("dpmpp_2m_sde_midpoint", "dpmpp_2m_sde", "karras", {}),
    ("dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun", "karras", {}),
    ("dpmpp_2m_sde_heun", "dpmpp_2m_sde", "karras", {"solver_type": "heun"}),
    ("dpmpp_2m_sde_eta0", "dpmpp_2m_sde", "karras", {"eta": 0.0}),
    ("dpmpp_3m_sde", "dpmpp_3m_sde", "karras", {}),
    ("dpm_fast", "dpm_fast", "karras", {}),
    ("dpm_adaptive", "dpm_adaptive", "karras", {}),
]


@pytest.mark.parametrize(("output", "name", "schedule", "options"), TOY)
def test_k_diffusion_s_numbers(output: str, name: str, schedule: str, options: dict[str, Any]) -> None:
    golden = case("kdiff_toy")
    sigmas = golden.tensors[f"out.sigmas_{schedule}"]
    golden.check(f"out.{output}", end(toy, name, golden.tensors["in.x"], sigmas, golden.tensors["in.noise"], **options))


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_2"])
def test_k_diffusion_s_numbers_with_churn(name: str) -> None:
    golden = case("kdiff_toy")
    config, sigmas = golden.config, golden.tensors["out.sigmas_karras"]
    low, high = 2 * config["sigma_min"], 0.9 * config["sigma_max"]
    used = [n for n, s in zip(golden.tensors["in.noise"], sigmas[:-1], strict=False) if low <= s <= high]
    options = {"s_churn": 0.3 * config["steps"], "s_tmin": low, "s_tmax": high, "s_noise": 1.003}
    golden.check(f"out.{name}_churn", end(toy, name, golden.tensors["in.x"], sigmas, used, **options))


def test_k_diffusion_s_split_and_weights() -> None:
    golden = case("kdiff_toy")
    sigmas = golden.tensors["out.sigmas_karras"]
    golden.check("out.ancestral_split", torch.stack(ancestral_split(sigmas[1], sigmas[2], 0.7)[:2]))
    golden.check("out.lms_coeff", torch.from_numpy(lms_weights(sigmas.double().numpy(), 3, 3)))


@pytest.mark.parametrize(
    ("output", "name", "prediction", "schedule"),
    [
        ("euler", "euler", "eps", "normal"),
        ("euler_v", "euler", "v", "normal"),
        ("dpmpp_2m_karras", "dpmpp_2m", "eps", "karras"),
    ],
)
def test_k_diffusion_s_numbers_through_a_table(output: str, name: str, prediction: str, schedule: str) -> None:
    golden, table = case("kdiff_wrappers"), NoiseTable.scaled_linear()

    def network(x: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        return torch.tanh(x * (0.5 + t.reshape(-1, 1, 1, 1) / 1000))

    denoiser = Denoiser(network, table, prediction, quantize=False)
    x = golden.tensors["in.x"] * make_sigmas("normal", table, 6)[0]
    *_, last = SAMPLERS[name](denoiser, x, make_sigmas(schedule, table, 6))
    golden.check(f"out.{output}", last.x)


SD = NoiseTable.scaled_linear()

DIFFUSERS: list[tuple[str, str, str, dict[str, Any]]] = [  # their scheduler, our solver, the level at the end
    ("ddim", "ddim", "first", {}),
    ("ddim_trailing", "ddim", "zero", {}),
    ("ddim_clip", "ddim", "zero", {}),
    ("ddpm_linspace", "ddpm", "zero", {}),
    ("ddpm_small_leading", "ddpm", "zero", {}),
    ("ddpm_large", "ddpm", "zero", {"large": True}),
    ("pndm", "plms", "first", {}),
    ("euler", "euler", "zero", {}),
    ("euler_trailing", "euler", "zero", {}),
    ("euler_leading_offset", "euler", "zero", {}),
    ("euler_karras", "euler", "zero", {}),
    ("euler_a", "euler_ancestral", "zero", {}),
    ("heun", "heun", "zero", {}),
    ("lms", "lms", "zero", {"takes_x0": False}),
    ("kdpm2", "dpm_2", "zero", {}),
    ("dpmpp_2m", "dpmpp_2m", "zero", {}),
    ("dpmpp_2m_karras", "dpmpp_2m", "zero", {}),
    ("dpmpp_2m_heun", "res_multistep", "zero", {}),
    ("dpm_2m", "euler", "zero", {}),
    ("dpmpp_2m_sde", "dpmpp_2m_sde", "zero", {}),
    ("unipc", "uni_pc_bh2", "zero", {"order": 2, "floor": 0.0}),
    ("unipc_o3", "uni_pc_bh2", "zero", {"order": 3, "floor": 0.0}),
]
V = ("ddim", "ddpm_linspace", "euler", "euler_a", "heun", "dpmpp_2m", "unipc")


FROM_SIGMA = ("euler", "euler_trailing", "euler_karras", "euler_a", "heun", "lms", "kdpm2")
"""Those that start from noise times the first level, without the signal's part."""


def network(x: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
    return 0.8 * torch.tanh(x * (0.5 + t.reshape(-1, 1, 1, 1) / 1000))


def levels(golden: Case, name: str, finish: str) -> Tensor:
    """The scheduler's own levels; or those of its times, down to 0 or to the first of the table."""
    stored = golden.tensors.get(f"out.sigmas_{name}")
    if stored is not None:
        stored = stored.float()
        return stored[stored.diff(prepend=stored[:1] + 1) < 0] if name in ("heun", "kdpm2") else stored
    times = golden.tensors[f"out.timesteps_{name}"].unique().flip(0)
    last = torch.zeros(1) if finish == "zero" else SD.sigmas[:1]
    return torch.cat([SD.sigma(times), last])


def run_diffusers(golden: Case, output: str, name: str, finish: str, options: dict[str, Any], kind: str) -> Tensor:
    sigmas = levels(golden, output, finish)
    plain = Denoiser(network, SD, kind, quantize=output == "dpmpp_2m_karras")
    denoise = (lambda x, sigma: plain(x, sigma).clamp(-1, 1)) if output == "ddim_clip" else plain
    scale = sigmas[0] if output in FROM_SIGMA else (1 + sigmas[0] ** 2).sqrt()
    x = end(denoise, name, golden.tensors["in.x"] * scale, sigmas, golden.tensors["in.noise"], **options)
    return x / (1 + sigmas[-1] ** 2).sqrt()


@pytest.mark.parametrize(("output", "name", "finish", "options"), DIFFUSERS)
def test_diffusers_numbers(output: str, name: str, finish: str, options: dict[str, Any]) -> None:
    golden = case("diffusers_schedulers")
    golden.check(f"out.final_{output}", run_diffusers(golden, output, name, finish, options, "eps"))


@pytest.mark.parametrize(("output", "name", "finish", "options"), [row for row in DIFFUSERS if row[0] in V])
def test_diffusers_numbers_of_v(output: str, name: str, finish: str, options: dict[str, Any]) -> None:
    golden = case("diffusers_schedulers")
    golden.check(f"out.final_{output}_v", run_diffusers(golden, output, name, finish, options, "v"))
