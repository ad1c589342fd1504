"""Gumbel codes: the reference's scores, draws and loss; a gradient to all scores; rounding what was looked up."""

import math

import pytest
import torch
from compvis_weights import part_of
from golden_cases import Case, case
from torch import Tensor

from vitrail.core.bottlenecks import GumbelConfig, GumbelQuantizer
from vitrail.core.bottlenecks.rows import to_rows
from vitrail.core.errors import ConfigError, ShapeError


def reference() -> tuple[Case, GumbelQuantizer]:
    golden = case("taming_gumbel_f4")
    params = golden.config["model"]["params"]
    quantizer = GumbelQuantizer(
        GumbelConfig(codes=params["n_embed"], dim=params["embed_dim"], kl_weight=params["kl_weight"])
    )
    quantizer.load_state_dict(part_of(golden, "quantize."))
    return golden, quantizer.eval()


def tiny(**settings: float | bool) -> GumbelQuantizer:
    torch.manual_seed(0)
    return GumbelQuantizer(GumbelConfig(codes=16, dim=4, **settings))


def as_map(rows: Tensor) -> Tensor:
    return rows.view(2, 8, 8, -1).permute(0, 3, 1, 2)


@torch.no_grad()
def test_the_best_code_is_tamings() -> None:
    golden, quantizer = reference()
    z = golden.tensors["out.h_prequant"]
    quantized = quantizer(z)
    golden.check("out.logits", as_map(quantizer.scores(to_rows(z, 32))))
    golden.check("out.indices_argmax", quantized.indices)
    golden.check("out.quant_argmax", quantized.latent)
    golden.check("out.kl_loss", quantized.loss)


@torch.no_grad()
def test_draws_with_given_noise_are_tamings() -> None:
    golden, quantizer = reference()
    scores = quantizer.scores(to_rows(golden.tensors["out.h_prequant"], 32))
    noise = to_rows(golden.tensors["out.gumbel_noise"], 128)
    vectors, indices = quantizer.draw(scores, noise)
    golden.check("out.indices_noisy", indices.view(2, 8, 8))
    golden.check("out.quant_noisy", as_map(vectors))
    soft = GumbelQuantizer(GumbelConfig(codes=128, dim=32, temperature=0.7, straight_through=False))
    soft.load_state_dict(quantizer.state_dict())
    vectors, indices = soft.draw(scores, noise)
    golden.check("out.indices_noisy_temp", indices.view(2, 8, 8))
    golden.check("out.quant_soft_train", as_map(vectors))


def test_training_draws_codes_as_often_as_their_probability() -> None:
    quantizer = tiny().train()
    with torch.no_grad():
        quantizer.proj.weight.zero_()
        quantizer.proj.bias.zero_()
        quantizer.proj.bias[3] = math.log(45.0)  # 45 / (45 + 15) = 0.75
    indices = quantizer(torch.randn(4, 4, 40, 40)).indices
    assert (indices == 3).float().mean() == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("straight_through", [True, False])
def test_while_training_every_score_gets_a_gradient(straight_through: bool) -> None:
    quantizer, z = tiny(straight_through=straight_through).train(), torch.randn(2, 4, 3, 5, requires_grad=True)
    quantized = quantizer(z)
    (quantized.latent.square().sum() + quantized.loss).backward()
    assert (quantizer.proj.weight.grad.flatten(1).norm(dim=1) > 0).all()
    assert z.grad.norm() > 0 and quantizer.embed.weight.grad.norm() > 0
    rows = quantizer.lookup(quantized.indices)
    assert torch.allclose(quantized.latent, rows, atol=1e-5) is straight_through


def test_rounding_what_was_looked_up_changes_nothing() -> None:
    quantizer, indices = tiny().eval(), torch.arange(16).view(1, 4, 4)
    quantized = quantizer(quantizer.lookup(indices))
    assert torch.equal(quantized.indices, indices)
    z = torch.randn(1, 4, 4, 4)
    assert torch.equal(quantizer(z).indices, quantizer.scores(to_rows(z, 4)).argmax(1).view(1, 4, 4))


def test_the_loss_is_the_divergence_from_uniform() -> None:
    quantizer, z = tiny(kl_weight=2.0).eval(), torch.randn(1, 4, 2, 2)
    p = quantizer.proj(z).softmax(1)
    expected = 2.0 * torch.nn.functional.kl_div(torch.full_like(p, 1 / 16).log(), p, reduction="sum") / 4
    assert torch.allclose(quantizer(z).loss, expected, atol=1e-6)


def test_cooling_goes_from_the_first_temperature_to_the_final_one() -> None:
    quantizer = tiny(temperature=2.0, final_temperature=0.5)
    seen = []
    for share in (0.0, 0.5, 1.0):
        quantizer.anneal(share)
        seen.append(quantizer.temperature)
    assert seen == pytest.approx([2.0, 1.25, 0.5])


def test_half_precision_scores_in_float32() -> None:
    quantizer = tiny().half().eval()
    z = torch.randn(1, 4, 3, 3).half()
    quantized = quantizer(z)
    scores = torch.einsum("kd,bdhw->bkhw", quantizer.proj.weight.float()[..., 0, 0], z.float())
    expected = (scores + quantizer.proj.bias.float()[:, None, None]).argmax(1)
    assert torch.equal(quantized.indices, expected) and quantized.latent.dtype == torch.float16


@pytest.mark.parametrize(
    "wrong", [{"codes": 0}, {"dim": 0}, {"kl_weight": -1.0}, {"temperature": 0.0}, {"final_temperature": 2.0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected|at least"):
        GumbelConfig(**wrong)


def test_latents_and_codes_that_do_not_fit_are_refused() -> None:
    for call in (lambda: tiny()(torch.randn(1, 5, 2, 2)), lambda: tiny().lookup(torch.full((1, 2, 2), 16))):
        with pytest.raises(ShapeError):
            call()
