"""Stable Diffusion in one file: the reference's numbers, tiny files of every kind, what no config says."""

import json
from pathlib import Path

import pytest
import torch
from golden_cases import Case, case
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitrail.core.checkpoints import describe, load
from vitrail.core.checkpoints.families import sd
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion
from vitrail.core.diffusion.prediction import Denoiser
from vitrail.core.diffusion.unet import UNet, UNetConfig
from vitrail.core.errors import CheckpointError, ConfigError
from vitrail.core.samplers import SAMPLERS
from vitrail.core.types import Condition

CASES = ("sd1_tiny_safetensors", "sd2_tiny_v", "sd2_inpaint")
STEPS = torch.tensor([801, 601, 401, 201, 1])


def opened(name: str) -> tuple[Case, LatentDiffusion]:
    golden = case(name)
    return golden, load(golden.path / "model.safetensors", config=golden.config)


def conditions(golden: Case, model: LatentDiffusion) -> list[Condition]:
    """The prompt's condition and the empty one's."""
    mask = golden.tensors.get("in.mask_latent")
    concat = None if mask is None else torch.cat([mask, golden.tensors["in.masked_latent"]], dim=1)
    return [
        Condition(context=model.conditioner(golden.tensors[f"in.{name}"]), concat=concat)
        for name in ("tokens", "uc_tokens")
    ]


def answer(model: LatentDiffusion, x: Tensor, time: Tensor, cond: Condition) -> Tensor:
    return model.network(x if cond.concat is None else torch.cat([x, cond.concat], dim=1), time, cond.context)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_networks_autoencoders_and_text_encoders(name: str) -> None:
    golden, model = opened(name)
    given = golden.tensors
    cond, null = conditions(golden, model)
    golden.check("out.context", cond.context)
    golden.check("out.uc_context", null.context)
    latent = model.autoencoder.scale(model.autoencoder.encode(given["in.image"]))
    golden.check("out.first_stage_latent", latent)
    golden.check("out.decoded", model.autoencoder.decode(model.autoencoder.unscale(given["out.first_stage_latent"])))
    out = "eps" if "out.eps" in given else "model_out"
    golden.check(f"out.{out}", answer(model, given["in.x"], given["in.t"], cond))
    golden.check(f"out.{out}_frac", answer(model, given["in.x"], given["in.t_frac"], cond))
    for time in (0, 999):
        golden.check(f"out.{out}_t{time}", answer(model, given["in.x"], torch.tensor(time), cond))
    if "out.eps_uncond" in given:
        golden.check("out.eps_uncond", answer(model, given["in.x"], given["in.t"], null))
    if "out.text_last" in given:
        golden.check("out.text_last", model.conditioner(given["in.tokens"], skip=0))
    else:
        hidden = model.conditioner.hidden(given["in.tokens"])
        golden.check("out.text_last_hidden", model.conditioner(given["in.tokens"]))
        golden.check("out.text_pooled", model.conditioner.pooled(given["in.tokens"]))
        golden.check("out.text_hidden_m2", hidden[-2])
        golden.check("out.text_hidden_m2_ln", model.conditioner(given["in.tokens"], skip=1))


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_noise_levels_and_losses(name: str) -> None:
    golden, model = opened(name)
    given, (cond, _) = golden.tensors, conditions(golden, model)
    alpha = model.table.alphas_cumprod[given["in.t"]].float().reshape(-1, 1, 1, 1)
    x0, noise, x = given["in.x0"], given["in.noise"], given["in.x"]
    noisy = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
    golden.check("out.q_sample", noisy)
    target = noise if model.prediction == "eps" else alpha.sqrt() * noise - (1 - alpha).sqrt() * x0
    error = (answer(model, noisy, given["in.t"], cond) - target).square().mean()
    for loss in {"out.loss", "out.loss_total", "out.loss_simple", "out.loss_loss"} & given.keys():
        golden.check(loss, error)
    got = answer(model, x, given["in.t"], cond)
    if model.prediction == "v":
        golden.check("out.v_target", target)
        golden.check("out.eps_from_v", alpha.sqrt() * got + (1 - alpha).sqrt() * x)
        golden.check("out.x0_from_v", alpha.sqrt() * x - (1 - alpha).sqrt() * got)
    if "out.pm_mean" in given:
        check_posterior(golden, model, got)


def check_posterior(golden: Case, model: LatentDiffusion, eps: Tensor) -> None:
    """Ho et al. 2020, eq. 7, and the weight of the variational bound, eq. 12 of Rombach et al.'s code."""
    given, alphas = golden.tensors, model.table.alphas_cumprod
    time = given["in.t"]
    alpha, below = (value.reshape(-1, 1, 1, 1) for value in (alphas[time], alphas[time - 1]))
    beta = model.table.betas[time].reshape(-1, 1, 1, 1)
    x = given["in.x"].double()
    x0 = (x - (1 - alpha).sqrt() * eps) / alpha.sqrt()
    variance = beta * (1 - below) / (1 - alpha)
    mean = beta * below.sqrt() / (1 - alpha) * x0 + (1 - below) * (1 - beta).sqrt() / (1 - alpha) * x
    golden.check("out.pred_x0", x0.float())
    golden.check("out.pm_mean", mean.float())
    golden.check("out.pm_var", variance.float())
    golden.check("out.pm_logvar", variance.log().float())
    golden.check("out.ancestral_step", (mean + variance.sqrt() * given["in.noise"]).float())


def sampled(golden: Case, model: LatentDiffusion, solver: str, sigmas: Tensor, scale: float) -> Tensor:
    """A run from in.x_T, which has the variance of the signal and the noise together."""
    cond, null = conditions(golden, model)
    network = model.denoiser.network
    plain = Denoiser(network, model.table, model.prediction, quantize=False)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        found = plain(x, sigma, cond)
        return found if scale == 1 else (rest := plain(x, sigma, null)) + scale * (found - rest)

    noises = iter(golden.tensors["in.step_noise"])
    x = golden.tensors["in.x_T"] * (1 + sigmas[0] ** 2).sqrt()
    if solver == "dpmpp_2m":  # its last step is of the first order there
        *_, last = SAMPLERS[solver](denoise, x, sigmas[:-1])
        x, sigmas, solver = last.x, sigmas[-2:], "ddim"
    *_, last = SAMPLERS[solver](denoise, x, sigmas, noise=lambda: next(noises))
    return last.x / (1 + sigmas[-1] ** 2).sqrt()


RUNS = [("ddim_eta0", "ddim", 1), ("ddim_eta1", "euler_ancestral", 1), ("plms", "plms", 1), ("plms_cfg5", "plms", 5)]
RUNS += [("ddim_cfg3", "ddim", 3), ("ddim_cfg4", "ddim", 4)]


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_whole_runs(name: str) -> None:
    golden, model = opened(name)
    sigmas = torch.cat([model.table.sigmas[STEPS], model.table.sigmas[:1]])
    for output, solver, scale in RUNS:
        if f"out.{output}" in golden.tensors:
            golden.check(f"out.{output}", sampled(golden, model, solver, sigmas, scale))
    times = torch.linspace(1, 1e-3, 6) * 1000 - 1
    for output, scale in (("dpm", 1), ("dpm_cfg3", 3), ("dpm_cfg4", 4)):
        if f"out.{output}" in golden.tensors:
            golden.check(f"out.{output}", sampled(golden, model, "dpmpp_2m", between(model, times), scale))


def between(model: LatentDiffusion, times: Tensor) -> Tensor:
    """Levels between those of the table, linear in the logarithm of alpha (Lu et al. 2022, appendix D.4)."""
    log_alpha = model.table.alphas_cumprod.log() / 2
    low = times.long().clamp(0, 998)
    value = log_alpha[low] + (times - low) * (log_alpha[low + 1] - log_alpha[low])
    return ((-2 * value).exp() - 1).clamp_min(0).sqrt().float()


def bare(name: str, tmp_path: Path, drop: tuple[str, ...] = (), add: dict[str, Tensor] | None = None) -> Path:
    """A case's file without its config, and without tensors whose names begin so."""
    tensors = load_file(case(name).path / "model.safetensors")
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith(drop or ("\0",))}
    save_file(kept | (add or {}), tmp_path / "sd.safetensors")
    return tmp_path / "sd.safetensors"


@torch.no_grad()
def test_without_a_config_and_noise_levels_the_published_ones_hold(tmp_path: Path) -> None:
    golden = case("sd1_tiny_safetensors")
    path = bare("sd1_tiny_safetensors", tmp_path, ("betas", "alphas", "sqrt", "log_one", "posterior"))
    model = load(path)
    assert (model.config.table.start, model.config.table.end) == (0.00085, 0.012) and model.prediction == "eps"
    assert model.autoencoder.config.latent_scale == (0.18215,)
    given = golden.tensors
    golden.check("out.eps", model.network(given["in.x"], given["in.t"], given["out.context"]))
    assert "as v1-inference.yaml has it" in describe(path)["inferred"]["prediction"]


def test_leftovers_and_text_encoders_of_transformers_5(tmp_path: Path) -> None:
    golden = case("sd1_tiny_safetensors")
    tensors = load_file(golden.path / "model.safetensors")
    short = {key.replace("transformer.text_model.", "transformer."): tensor for key, tensor in tensors.items()}
    for unused in ("logit_scale", "transformer.text_projection.weight"):
        short[f"cond_stage_model.{unused}"] = torch.zeros(2)
    save_file(short, tmp_path / "sd.safetensors")
    model = load(tmp_path / "sd.safetensors", config=golden.config)
    with torch.no_grad():
        golden.check("out.context", model.conditioner(golden.tensors["in.tokens"]))


@pytest.mark.parametrize(("spread", "prediction"), [(0.05, "eps"), (0.2, "v")])
def test_a_norm_tells_v_from_eps_where_nothing_else_does(
    spread: float, prediction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "model.diffusion_model.output_blocks.3.1.transformer_blocks.0.norm1.bias"
    monkeypatch.setattr(sd, "LAST_NORM", key)
    bias = torch.tensor([spread, -spread]).repeat(16)
    path = bare("sd2_tiny_v", tmp_path, add={key: bias})
    config = {key: value for key, value in case("sd2_tiny_v").config.items()}
    config["model"] = json.loads(json.dumps(config["model"]))
    del config["model"]["params"]["parameterization"]
    assert load(path, config=config).prediction == prediction
    assert load(path, config=config, prediction="x0").prediction == "x0"


def test_the_x4_upscaler_is_told_by_its_channels(tmp_path: Path) -> None:
    config = UNetConfig(
        in_channels=7, out_channels=4, model_channels=32, num_res_blocks=1, channel_mult=(1, 2), num_head_channels=16,
        attention_resolutions=(1, 2), context_dim=64, num_classes=10, use_linear_in_transformer=True, legacy=False,
        disable_self_attentions=(True, False),
    )  # fmt: skip
    torch.manual_seed(0)
    network = UNet(config)
    state = {f"model.diffusion_model.{name}": tensor for name, tensor in network.state_dict().items()}
    cond = {k: v for k, v in load_file(case("sd2_inpaint").path / "model.safetensors").items() if k.startswith("cond_")}
    wide = {k: widened(v) for k, v in cond.items()}
    leftovers = {"low_scale_model.betas": torch.zeros(3)}
    save_file(state | wide | leftovers, tmp_path / "x4.safetensors")
    unet = {"num_head_channels": 16, "legacy": False}
    model = load(tmp_path / "x4.safetensors", config={"model": {"params": {"unet_config": {"params": unet}}}})
    assert model.config.unet == config and model.prediction == "v" and model.autoencoder is None
    assert (model.config.table.start, model.config.table.end) == (0.0001, 0.02)


def widened(tensor: Tensor) -> Tensor:
    """The same encoder, twice as wide."""
    for side, size in enumerate(tensor.shape):
        if size in (32, 96, 128):
            tensor = tensor.repeat_interleave(2, dim=side)
    return tensor


def test_a_text_encoder_that_does_not_fit_its_network_is_named(tmp_path: Path) -> None:
    golden = case("sd2_inpaint")
    tensors = load_file(golden.path / "model.safetensors")
    save_file({k: widened(v) if k.startswith("cond_") else v for k, v in tensors.items()}, tmp_path / "sd.safetensors")
    with pytest.raises(ConfigError, match="text encoder's context_dim is 64, the network's 32"):
        load(tmp_path / "sd.safetensors", config=golden.config)


@pytest.mark.parametrize("place", ["model.diffusion_model.", "diffusion_model.", ""])
@pytest.mark.parametrize("linear", [False, True], ids=["sd1", "sd2"])
@torch.no_grad()
def test_a_network_alone_keeps_what_stable_diffusion_was_trained_with(place: str, linear: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    heads = {"num_head_channels": 64} if linear else {"num_heads": 8}
    network = UNet(
        UNetConfig(
            in_channels=4, out_channels=4, model_channels=64, num_res_blocks=1, attention_resolutions=(1,),
            channel_mult=(1, 2), context_dim=16, use_linear_in_transformer=linear, **heads,
        )
    ).eval()  # fmt: skip
    save_file({place + name: value for name, value in network.state_dict().items()}, tmp_path / "unet.safetensors")
    model = load(tmp_path / "unet.safetensors")
    assert model.config.unet == network.config
    assert model.config.table == sd.TABLE
    z, time, context = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 3, 16)
    assert torch.equal(model.network(z, time, context), network(z, time, context))
    assert torch.allclose(model.scale(z), z * 0.18215) and torch.allclose(model.unscale(model.scale(z)), z)
    (tmp_path / "unet.json").write_text(json.dumps({"model": {"params": {"scale_factor": 0.5}}}))
    assert load(tmp_path / "unet.safetensors").config.latent_scale == 0.5


def test_the_network_of_stable_diffusion_xl_is_told_apart(tmp_path: Path) -> None:
    network = UNet(
        UNetConfig(
            in_channels=4, out_channels=4, model_channels=32, num_res_blocks=1, attention_resolutions=(1,),
            channel_mult=(1,), context_dim=16, num_heads=2, vector_dim=8,
        )
    )  # fmt: skip
    save_file(network.state_dict(), tmp_path / "xl.safetensors")
    with pytest.raises(CheckpointError, match="Stable Diffusion XL"):
        load(tmp_path / "xl.safetensors")


def test_the_heads_of_an_upscaler_without_a_config(tmp_path: Path) -> None:
    """x4-upscaling.yaml has 8 heads, where other networks of Stable Diffusion 2 have 64 channels a head."""
    config = UNetConfig(
        in_channels=7, out_channels=4, model_channels=64, num_res_blocks=1, channel_mult=(1, 2), num_heads=8,
        attention_resolutions=(1, 2), context_dim=32, num_classes=10, use_linear_in_transformer=True,
        disable_self_attentions=(True, False),
    )  # fmt: skip
    state = {f"model.diffusion_model.{name}": tensor for name, tensor in UNet(config).state_dict().items()}
    save_file(state, tmp_path / "x4.safetensors")
    model = load(tmp_path / "x4.safetensors")
    assert model.config.unet == config and model.prediction == "v" and model.config.table.end == 0.02


def test_a_file_without_its_text_encoder_is_stable_diffusion_still(tmp_path: Path) -> None:
    tensors = load_file(case("sd1_tiny_safetensors").path / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if key.startswith(("model.", "first_stage_model."))}
    save_file(kept, tmp_path / "x.safetensors")
    found = load(tmp_path / "x.safetensors").config
    assert found.conditioner is None and found.autoencoder.latent_scale == (0.18215,)
    assert (found.table.kind, found.table.start, found.table.end) == ("scaled_linear", 0.00085, 0.012)


def test_an_autoencoder_beside_a_network_keeps_its_names(tmp_path: Path) -> None:
    golden = case("sd2_inpaint")
    state = load_file(golden.path / "model.safetensors")
    network = {n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.diffusion_model.")}
    first = {name: tensor for name, tensor in state.items() if name.startswith("first_stage_model.")}
    save_file(network | first, tmp_path / "m.safetensors")
    assert load(tmp_path / "m.safetensors", config=golden.config).autoencoder is not None
