"""Every prediction against its definition and against k-diffusion's wrappers."""

import math
from dataclasses import dataclass

import pytest
import torch
from golden_cases import case
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vitrail.core.diffusion.prediction import PREDICTIONS, Denoiser
from vitrail.core.diffusion.tables import FlowTable, LogTable, NoiseTable, Table
from vitrail.core.errors import ConfigError
from vitrail.core.types import Condition

SD = NoiseTable.scaled_linear()


def table_for(prediction: str) -> Table:
    return {"flow": FlowTable(), "edm": LogTable()}.get(prediction, SD)


def toy(x: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
    return torch.tanh(x * (0.5 + t.reshape(-1, 1, 1, 1) / 1000))


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_wrappers_agree_with_k_diffusion(prediction: str, quantize: bool) -> None:
    golden = case("kdiff_wrappers")
    x, sigma = golden.tensors["in.x"], golden.tensors["in.sigma"]
    denoised = Denoiser(toy, SD, prediction, quantize=quantize)(x * sigma.reshape(-1, 1, 1, 1), sigma)
    golden.check(f"out.{prediction}_denoised{'_q' if quantize else ''}", denoised)


@dataclass(frozen=True)
class Atan:
    """The continuous time of a v network without a table: t = 2 atan(sigma) / pi."""

    flow: bool = False
    sigma_min: float = 1e-3
    sigma_max: float = 1e3
    sigmas: Tensor = torch.empty(0)

    def timestep(self, sigma: Tensor, quantize: bool = True) -> Tensor:
        return sigma.atan() / math.pi * 2

    def sigma(self, timestep: Tensor) -> Tensor:
        return (timestep * math.pi / 2).tan()


def test_another_table_changes_only_the_time() -> None:
    golden = case("kdiff_wrappers")
    golden.check("out.vdenoiser", Denoiser(toy, Atan(), "v")(golden.tensors["in.x"], golden.tensors["in.sigma"]))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@given(sigma=st.floats(0.003, 0.999), sigma_data=st.floats(0.3, 3), seed=st.integers(0, 99))
def test_a_network_that_answers_its_target_denoises_exactly(
    prediction: str, sigma: float, sigma_data: float, seed: int
) -> None:
    x0, noise = torch.randn(2, 2, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    level = torch.tensor([sigma, sigma / 2], dtype=torch.float64)

    def network(x: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        return denoiser.target(x0, noise, level)

    denoiser = Denoiser(network, table_for(prediction), prediction, sigma_data=sigma_data)
    denoised = denoiser(denoiser.noised(x0, noise, level), level)
    assert torch.allclose(denoised, x0, atol=1e-6)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0", "edm"])
def test_network_sees_unit_variance(prediction: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 5000, generator=generator)
    sigma = torch.tensor([0.05, 1.0, 3.0, 14.0])
    denoiser = Denoiser(lambda x, t, c: x, table_for(prediction), prediction)
    x, time = denoiser.inputs(denoiser.noised(x0, noise, sigma), sigma)
    assert torch.allclose(x.var(dim=1), torch.ones(4), atol=0.08)
    assert torch.equal(time, denoiser.table.timestep(sigma))


def test_the_target_of_v_and_edm_has_unit_variance_too() -> None:
    x0, noise = torch.randn(2, 4, 5000, generator=torch.Generator().manual_seed(1))
    for prediction in ("v", "edm"):
        denoiser = Denoiser(lambda x, t, c: x, table_for(prediction), prediction)
        target = denoiser.target(x0, noise, torch.tensor([0.05, 1.0, 3.0, 14.0]))
        assert torch.allclose(target.var(dim=1), torch.ones(4), atol=0.08)


def test_scalar_and_batched_sigma_agree_and_the_condition_arrives() -> None:
    seen: list[Condition | None] = []

    def network(x: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        seen.append(cond)
        assert t.shape == (3,) and t.dtype == torch.float32
        return toy(x, t, cond)

    x, cond, denoiser = torch.randn(3, 4, 2, 5), Condition(vector=torch.ones(3, 1)), Denoiser(network, SD)
    assert torch.equal(denoiser(x, torch.tensor(2.0), cond), denoiser(x, torch.full((3,), 2.0), cond))
    assert seen == [cond, cond]


def test_half_precision_answers_come_back_in_the_dtype_of_x() -> None:
    denoiser = Denoiser(lambda x, t, c: x.half(), SD, "v")
    assert denoiser(torch.randn(1, 1, 2, 2), torch.tensor(1.0)).dtype == torch.float32


@pytest.mark.parametrize(
    ("prediction", "table", "sigma_data"),
    [("epsilon", SD, 1.0), ("flow", SD, 1.0), ("v", FlowTable(), 1.0), ("edm", LogTable(), 0.0)],
)
def test_what_does_not_go_together_is_refused(prediction: str, table: Table, sigma_data: float) -> None:
    with pytest.raises(ConfigError):
        Denoiser(toy, table, prediction, sigma_data=sigma_data)
