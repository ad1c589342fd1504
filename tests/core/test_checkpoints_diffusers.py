"""diffusers' models and pipelines: the reference's numbers, live libraries where they are, folders that are wrong."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import Case, case
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitrail.core.checkpoints import describe, load, save_model
from vitrail.core.checkpoints.convert import convert
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion
from vitrail.core.errors import CheckpointError, ConfigError, KeyMismatch, UnsafeFile

UNETS = ("diffusers_unet2d_ddpm", "diffusers_unet2d_ldm_oldkeys", "diffusers_unet_cond", "diffusers_unet_cond_bin")


def weights_of(path: Path) -> Path:
    return next(file for file in path.iterdir() if file.stem in ("diffusion_pytorch_model", "model"))


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("as_folder", [True, False])
@torch.no_grad()
def test_networks(name: str, as_folder: bool) -> None:
    golden = case(name)
    network = load(golden.path if as_folder else weights_of(golden.path)).network
    x, time, context = golden.tensors["in.x"], golden.tensors["in.t"], golden.tensors.get("in.context")
    golden.check("out.eps", network(x, time, context))
    golden.check("out.eps_scalar_t", network(x, torch.tensor(37), context))
    if (mask := golden.tensors.get("in.mask")) is not None:
        parts = [network(x[i : i + 1], time[i : i + 1], context[i : i + 1, mask[i].bool()]) for i in range(len(x))]
        golden.check("out.eps_masked", torch.cat(parts))


@pytest.mark.parametrize("name", ["diffusers_vqmodel", "diffusers_vqmodel_oldkeys"])
@torch.no_grad()
def test_vq_autoencoders(name: str) -> None:
    golden = case(name)
    model = load(golden.path)
    z = model.encode(golden.tensors["in.x"])
    quantized = model.quantize(z)
    golden.check("out.latents", z)
    golden.check("out.quant", quantized.latent)
    golden.check("out.indices", quantized.indices.flatten())
    golden.check("out.commit_loss", quantized.loss)
    golden.check("out.decoded", model.decode(quantized.latent))
    golden.check("out.decoded_noquant", model.decode(z))
    golden.check("out.decoded_codes", model.decode(model.lookup(golden.tensors["in.codes"])))
    flat = z.movedim(1, -1).flatten(0, 2)
    best = torch.cdist(flat.double(), model.codebook.double()).square().topk(2, largest=False).values
    golden.check("out.index_margin", (best[:, 1] - best[:, 0]).float())
    assert model.config.latent_scale == (0.18215,)


@torch.no_grad()
def test_the_kl_autoencoder() -> None:
    golden = case("diffusers_kl")
    model = load(golden.path)
    mean, logvar = model.moments(golden.tensors["in.x"])
    std = (logvar / 2).exp()
    golden.check("out.moments", model.quant_conv(model.encoder(golden.tensors["in.x"])))
    golden.check("out.mean", mean)
    golden.check("out.std", std)
    golden.check("out.sample", mean + std * golden.tensors["in.noise"])
    golden.check("out.decoded_mean", model.decode(mean))
    golden.check("out.decoded_z", model.decode(golden.tensors["in.z"]))


@torch.no_grad()
def test_text_encoders_of_their_own() -> None:
    golden = case("diffusers_ldmbert")
    golden.check("out.last_hidden", load(golden.path)(golden.tensors["in.tokens"]))
    golden = case("clip_text_quickgelu")
    golden.check("out.pooled", load(golden.path).pooled(golden.tensors["in.tokens"]))
    assert describe(golden.path)["kind"] == "text encoder"


def ddim(model: LatentDiffusion, golden: Case, answer: Any, last: float) -> Tensor:
    """diffusers' deterministic DDIM with "leading" steps; `last` stands for the product of alphas before the first."""
    alphas, times = model.table.alphas_cumprod, golden.tensors["out.timesteps"].sort(descending=True).values
    x, stride = golden.tensors["in.latents"], 1000 // golden.config["steps"]
    for time in times:
        alpha = float(alphas[time])
        below = float(alphas[time - stride]) if time >= stride else last
        eps = answer(x, time)
        x0 = (x - (1 - alpha) ** 0.5 * eps) / alpha**0.5
        x = below**0.5 * x0 + (1 - below) ** 0.5 * eps
    return x


@torch.no_grad()
def test_a_stable_diffusion_folder() -> None:
    golden = case("diffusers_sd_folder")
    model = load(golden.path)
    context, null = (model.conditioner(golden.tensors[f"in.{name}"]) for name in ("tokens", "uc_tokens"))
    golden.check("out.context", context)
    golden.check("out.uc_context", null)
    golden.check("out.first_model_out", model.network(golden.tensors["in.latents"], torch.tensor(801), context))

    def answer(x: Tensor, time: Tensor) -> Tensor:
        eps, plain = model.network(x, time, context), model.network(x, time, null)
        return plain + golden.config["guidance_scale"] * (eps - plain)

    latents = ddim(model, golden, answer, float(model.table.alphas_cumprod[0]))
    golden.check("out.final_latents", latents)
    latent = model.autoencoder.unscale(golden.tensors["out.final_latents"])
    golden.check("out.decoded", model.autoencoder.decode(latent))


@torch.no_grad()
def test_a_latent_diffusion_folder() -> None:
    golden = case("diffusers_ldm_folder_oldkeys")
    model = load(golden.path)
    golden.check("out.final_latents", ddim(model, golden, model.network, 1.0))
    latent = model.autoencoder.quantize(model.autoencoder.unscale(golden.tensors["out.final_latents"])).latent
    golden.check("out.decoded", model.autoencoder.decode(latent))
    golden.check("out.image", (model.autoencoder.decode(latent) / 2 + 0.5).clamp(0, 1))
    found = describe(golden.path)
    assert (found["family"], found["kind"]) == ("diffusers-pipeline", "diffusion")
    assert found["bytes"] > 300_000 and found["config"]["table"]["end"] == 0.0195


def seeded(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


COND = dict(sample_size=8, norm_num_groups=4, block_out_channels=(8, 12), cross_attention_dim=6, attention_head_dim=2)
CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
BOTH = {
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
CONDITIONED = [
    COND | CROSS,
    COND | BOTH | {"layers_per_block": (1, 2), "transformer_layers_per_block": (1, 2), "attention_head_dim": (2, 3)},
    COND | CROSS | {"use_linear_projection": True, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6},
    COND | BOTH | {"only_cross_attention": (True, False), "num_class_embeds": 5, "in_channels": 7},
    COND | BOTH | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 9},
    COND | CROSS | {"resnet_time_scale_shift": "scale_shift", "downsample_padding": 0},
]


@pytest.mark.parametrize("config", CONDITIONED)
@torch.no_grad()
def test_diffusers_computes_the_same_with_a_context(config: dict[str, Any], tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    peer = seeded(diffusers.UNet2DConditionModel(**config))
    peer.save_pretrained(tmp_path)
    x, time, context = torch.randn(2, peer.config.in_channels, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 6)
    y = torch.tensor([1, 4]) if "num_class_embeds" in config else torch.randn(2, 9) if len(config) > 8 else None
    if config.get("class_embed_type") is None and "num_class_embeds" not in config:
        y = None
    expected = peer(x, time, context, class_labels=y).sample
    torch.testing.assert_close(load(tmp_path).network(x, time, context, y), expected, atol=1e-4, rtol=1e-4)


PLAIN = dict(sample_size=8, norm_num_groups=4, block_out_channels=(8, 16), attention_head_dim=4, layers_per_block=1)
ATTENDING = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
UNCONDITIONED = [
    PLAIN | ATTENDING,
    PLAIN | ATTENDING | {"attention_head_dim": None, "freq_shift": 1, "flip_sin_to_cos": False},
    PLAIN | ATTENDING | {"downsample_padding": 0, "block_out_channels": (8, 12)},
    PLAIN | ATTENDING | {"add_attention": False, "norm_eps": 1e-6, "layers_per_block": 2, "in_channels": 6},
    PLAIN | {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "num_class_embeds": 3},
    PLAIN
    | {
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 4,
    },
]


@pytest.mark.parametrize("config", UNCONDITIONED)
@torch.no_grad()
def test_diffusers_computes_the_same_without_a_context(config: dict[str, Any], tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    peer = seeded(diffusers.UNet2DModel(**config))
    peer.save_pretrained(tmp_path, safe_serialization=False)
    x, time = torch.randn(2, peer.config.in_channels, 8, 8), torch.tensor([3, 700])
    y = torch.tensor([0, 2]) if "num_class_embeds" in config else None
    expected = peer(x, time, class_labels=y).sample
    torch.testing.assert_close(load(tmp_path).network(x, time, None, y), expected, atol=1e-4, rtol=1e-4)


VAE = dict(norm_num_groups=4, block_out_channels=(8, 12), latent_channels=4)
PAIR = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
VAES = [
    ("AutoencoderKL", VAE | PAIR),
    ("AutoencoderKL", VAE | PAIR | {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.1}),
    ("AutoencoderKL", VAE | PAIR | {"mid_block_add_attention": False, "layers_per_block": 2, "in_channels": 4}),
    ("AutoencoderKL", VAE | PAIR | {"latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 3.0, 4.0]}),
    ("VQModel", VAE | PAIR | {"vq_embed_dim": 3, "num_vq_embeddings": 20}),
    (
        "VQModel",
        VAE | {"down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), "num_vq_embeddings": 9}
        | {"up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"), "mid_block_add_attention": False},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "config"), VAES)
@torch.no_grad()
def test_diffusers_computes_the_same_pictures(kind: str, config: dict[str, Any], tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    peer = seeded(getattr(diffusers, kind)(**config))
    peer.save_pretrained(tmp_path)
    model = load(tmp_path)
    x = torch.randn(2, peer.config.in_channels, 8, 8)
    encoded = peer.encode(x)
    z = encoded.latents if kind == "VQModel" else encoded.latent_dist.mean
    torch.testing.assert_close(model.encode(x), z, atol=1e-4, rtol=1e-4)
    latent = model.quantize(z).latent if kind == "VQModel" else z
    torch.testing.assert_close(model.decode(latent), peer.decode(z).sample, atol=1e-4, rtol=1e-4)
    if "latents_std" in config:
        assert model.config.latent_scale[1] == pytest.approx(0.18215 / 2) and model.config.latent_shift[1] == 0.2


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"act_fn": "gelu"}, ConfigError, "act_fn 'gelu'"),
        ({"time_embedding_type": "fourier"}, ConfigError, "fourier"),
        ({"down_block_types": ["SkipDownBlock2D"]}, CheckpointError, "SkipDownBlock2D"),
        ({"attention_head_dim": 5}, ConfigError, "heads"),
        ({"norm_num_groups": 7}, ConfigError, "7"),
    ],
)
def test_settings_that_cannot_be_built_are_named(
    changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    shutil.copytree(case("diffusers_unet2d_ddpm").path, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text()) | changes
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=message):
        load(tmp_path / "m")


def test_without_a_config_shapes_and_defaults_make_a_model(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    config = COND | CROSS | {"block_out_channels": (32, 64), "norm_num_groups": 32, "attention_head_dim": 8}
    peer = seeded(diffusers.UNet2DConditionModel(**config))
    save_file(peer.state_dict(), tmp_path / "unet.safetensors")
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 2, 6)
    with torch.no_grad():
        got = load(tmp_path / "unet.safetensors").network(x, torch.tensor(5), context)
        torch.testing.assert_close(got, peer(x, 5, context).sample, atol=1e-4, rtol=1e-4)
    found = describe(tmp_path / "unet.safetensors")["inferred"]
    assert found["attention_head_dim"] == "8, diffusers' default"
    assert "Stable Diffusion" in found["noise levels, prediction"]


def split(folder: Path) -> Path:
    """The weights of a folder in two files and an index."""
    weights = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    names = list(tensors)
    places = {}
    for i, part in enumerate((names[:5], names[5:])):
        file = f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    weights.unlink()
    (folder / f"{weights.name}.index.json").write_text(json.dumps({"weight_map": places}))
    return folder / f"{weights.name}.index.json"


def copied(name: str, tmp_path: Path) -> Path:
    shutil.copytree(case(name).path, tmp_path / name, dirs_exist_ok=True)
    return tmp_path / name


def test_weights_in_several_files(tmp_path: Path) -> None:
    folder = copied("diffusers_kl", tmp_path)
    whole = load(folder).state_dict()
    split(folder)
    parts = load(folder).state_dict()
    assert all(torch.equal(parts[name], whole[name]) for name in whole) and describe(folder)["format"] == "diffusers"


@pytest.mark.parametrize(
    ("file", "error", "message"),
    [
        ("../x.safetensors", UnsafeFile, "points to '../x.safetensors'"),
        ("/etc/passwd", UnsafeFile, "points to"),
        ("a\\b.safetensors", UnsafeFile, "points to"),
        ("missing.safetensors", CheckpointError, "cannot be found"),
        (3, CheckpointError, "weight_map"),
    ],
)
def test_an_index_that_points_elsewhere(file: object, error: type[Exception], message: str, tmp_path: Path) -> None:
    index = split(copied("diffusers_kl", tmp_path))
    places = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": places | {"encoder.conv_in.weight": file}}))
    with pytest.raises(error, match=message):
        load(index.parent)


def test_an_index_that_lies_about_its_files(tmp_path: Path) -> None:
    index = split(copied("diffusers_kl", tmp_path))
    places = json.loads(index.read_text())["weight_map"]
    first = next(iter(places.values()))
    index.write_text(json.dumps({"weight_map": places | {"ghost": first}}))
    with pytest.raises(CheckpointError, match="do not hold: ghost"):
        load(index.parent)


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        ({"unet": ["diffusers", "UNet2DModel"], "x": ["d", "DiT"]}, CheckpointError, "DiT"),
        ({"../unet": ["diffusers", "UNet2DModel"]}, UnsafeFile, "points to"),
        ({"image_unet": ["diffusers", "UNet2DModel"]}, CheckpointError, "lacks the folder of its part image_unet"),
        ({"scheduler": ["diffusers", "DDIMScheduler"]}, CheckpointError, "no part with weights"),
        ([], CheckpointError, "no JSON object"),
    ],
)
def test_pipelines_that_cannot_be_opened(index: object, error: type[Exception], message: str, tmp_path: Path) -> None:
    folder = copied("diffusers_ldm_folder_oldkeys", tmp_path)
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(error, match=message):
        load(folder)


def test_a_folder_that_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model of diffusers: expected model_index.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has no weights"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    shutil.copy(case("diffusers_kl").path / "diffusion_pytorch_model.safetensors", tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        load(tmp_path)


def test_noise_levels_that_end_in_pure_noise(tmp_path: Path) -> None:
    folder = copied("diffusers_sd_folder", tmp_path)
    file = folder / "scheduler" / "scheduler_config.json"
    plain = load(folder)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rescale_betas_zero_snr": True}))
    changed = load(folder)
    assert changed.config.table == replace(plain.config.table, zero_snr=True)
    assert changed.table.sigma_max > 100 * plain.table.sigma_max
    convert(folder, tmp_path / "again", to="diffusers")
    assert load(tmp_path / "again").config.table == changed.config.table


def test_noise_levels_listed_one_by_one(tmp_path: Path) -> None:
    folder = copied("diffusers_sd_folder", tmp_path)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"trained_betas": [0.1, 0.3, 0.2]}))
    loaded = load(folder)
    assert loaded.table.betas.tolist() == [0.1, 0.3, 0.2] and loaded.config.prediction == "eps"
    save_model(loaded, tmp_path / "own.safetensors")
    convert(tmp_path / "own.safetensors", tmp_path / "again", to="diffusers")
    assert load(tmp_path / "again").config.table == loaded.config.table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta_schedule": "laplace"}, "beta_schedule 'laplace'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({"prediction_type": "flow_prediction"}, "flow_prediction"),
    ],
)
def test_schedulers_that_are_not_known(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = copied("diffusers_sd_folder", tmp_path)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_prediction_and_noise_levels_come_from_the_scheduler(tmp_path: Path) -> None:
    folder = copied("diffusers_sd_folder", tmp_path)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}))
    model = load(folder)
    assert model.prediction == "v" and model.config.table.kind == "cosine"
    assert load(folder, prediction="eps").prediction == "eps"


def test_a_key_too_many_is_named_in_a_pipeline_too(tmp_path: Path) -> None:
    folder = copied("diffusers_sd_folder", tmp_path)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"down_blocks.0.surplus": torch.zeros(1)}, file)
    with pytest.raises(KeyMismatch, match=r"unet\.down_blocks\.0\.surplus"):
        load(folder)
