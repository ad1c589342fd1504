"""Converted files give the outputs of the original, in every layout, and open in the libraries that own the layout."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from golden_cases import case
from safetensors.torch import load_file
from torch import Tensor, nn

from vitrail.core.checkpoints import describe, load
from vitrail.core.checkpoints.convert import convert
from vitrail.core.checkpoints.read import read_header
from vitrail.core.checkpoints.safetensors_file import write_tensors
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion
from vitrail.core.errors import ConfigError
from vitrail.headless.cli import main

SOURCES = {
    "sd1_tiny_safetensors": "model.safetensors",
    "sd2_inpaint": "model.safetensors",
    "diffusers_sd_folder": "",
    "diffusers_ldm_folder_oldkeys": "",
    "diffusers_unet2d_ddpm": "",
    "diffusers_kl": "",
    "diffusers_vqmodel_oldkeys": "",
    "ldm_uncond_vq4": "model.ckpt",
    "ldm_vq_f4": "model.ckpt",
}
TO = [(name, "vitrail") for name in SOURCES]
TO += [(name, "compvis") for name in ("sd1_tiny_safetensors", "sd2_inpaint", "ldm_uncond_vq4", "ldm_vq_f4")]
TO += [(name, "diffusers") for name in SOURCES]


def source(name: str) -> tuple[Path, object]:
    golden = case(name)
    return golden.path / SOURCES[name], golden.config if SOURCES[name] else None


@torch.no_grad()
def outputs(model: nn.Module) -> list[Tensor]:
    """What every part makes of fixed inputs."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if not isinstance(model, LatentDiffusion):
        z = model.encode(draw(1, model.config.in_channels, 16, 16))
        return [z, model.decode(model.quantize(z).latent if model.codebook is not None else z), model.scale(z)]
    unet, found = model.config.unet, [model.table.sigmas]
    context = None if unet.context_dim is None else draw(1, 5, unet.context_dim)
    found.append(model.network(draw(1, unet.in_channels, 8, 8), torch.tensor([17]), context))
    if model.conditioner is not None:
        found.append(model.conditioner(torch.arange(1, 6)[None]))
    return found + ([] if model.autoencoder is None else outputs(model.autoencoder))


@pytest.mark.parametrize(("name", "to"), TO)
def test_a_converted_file_gives_the_same_outputs(name: str, to: str, tmp_path: Path) -> None:
    path, config = source(name)
    out = tmp_path / ("out" if to == "diffusers" else "out.safetensors")
    written = convert(path, out, to=to, config=config)
    assert written[0] == out and all(file.exists() for file in written)
    original, converted = load(path, config=config), load(out)
    for expected, got in zip(outputs(original), outputs(converted), strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)
    if to == "vitrail":
        assert all(torch.equal(a, b) for a, b in zip(outputs(original), outputs(converted), strict=True))
        assert converted.config == original.config
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_the_narrowest_dtype_is_taken_and_another_can_be_asked_for(tmp_path: Path) -> None:
    path, _ = source("diffusers_kl")
    convert(path, tmp_path / "a.safetensors")
    convert(path, tmp_path / "b.safetensors", dtype=torch.float32)
    convert(path, tmp_path / "c.safetensors", dtype=torch.bfloat16)
    found = [describe(tmp_path / f"{name}.safetensors")["dtypes"] for name in "abc"]
    assert [set(dtypes) for dtypes in found] == [{"float16"}, {"float32"}, {"bfloat16"}]


def test_averaged_or_plain_weights(tmp_path: Path) -> None:
    path, config = source("ldm_uncond_vq4")
    header = read_header(path)
    state = header.read(list(header.tensors))
    key = "model.diffusion_model.out.2.bias"
    tensors = {name: value.float() for name, value in state.items() if not name.startswith("model_ema.")}
    network = {name: value for name, value in tensors.items() if name.startswith("model.")}
    averages = {f"model_ema.{name[6:].replace('.', '')}": value + 1 for name, value in network.items()}
    write_tensors(tmp_path / "both.safetensors", tensors | averages, {})
    for ema, expected in ((True, tensors[key] + 1), (False, tensors[key])):
        out = tmp_path / f"{ema}.safetensors"
        convert(tmp_path / "both.safetensors", out, config=config, ema=ema, dtype=torch.float32)
        torch.testing.assert_close(load_file(out)["network.out.2.bias"], expected)


@torch.no_grad()
def test_diffusers_opens_what_was_written_for_it(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    path, config = source("sd1_tiny_safetensors")
    convert(path, tmp_path / "sd", to="diffusers", config=config)
    ours, x, context = load(path, config=config), torch.randn(1, 4, 8, 8), torch.randn(1, 5, 32)
    unet = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "sd" / "unet", torch_dtype=torch.float32)
    expected = ours.network(x, torch.tensor(9), context)
    torch.testing.assert_close(unet(x, 9, context).sample, expected, atol=1e-4, rtol=1e-4)
    vae = diffusers.AutoencoderKL.from_pretrained(tmp_path / "sd" / "vae", torch_dtype=torch.float32)
    torch.testing.assert_close(vae.decode(x).sample, ours.autoencoder.decode(x), atol=1e-4, rtol=1e-4)
    convert(*source("ldm_uncond_vq4")[:1], tmp_path / "ldm", to="diffusers", config=source("ldm_uncond_vq4")[1])
    ours = load(source("ldm_uncond_vq4")[0], config=source("ldm_uncond_vq4")[1])
    unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "ldm" / "unet", torch_dtype=torch.float32)
    x = torch.randn(1, unet.config.in_channels, 8, 8)
    torch.testing.assert_close(unet(x, 9).sample, ours.network(x, torch.tensor(9)), atol=1e-4, rtol=1e-4)


def test_what_has_no_place_is_named(tmp_path: Path) -> None:
    path, _ = source("diffusers_kl")
    with pytest.raises(ConfigError, match="no place for norm_groups 8"):
        convert(path, tmp_path / "a.safetensors", to="compvis")
    with pytest.raises(ConfigError, match="no layout"):
        convert(path, tmp_path / "a.safetensors", to="onnx")
    with pytest.raises(ConfigError, match=r"ends in \.safetensors"):
        convert(path, tmp_path / "a.ckpt")
    golden = case("clip_text_quickgelu").path
    with pytest.raises(ConfigError, match="ClipTextEncoder"):
        convert(golden, tmp_path / "a.safetensors")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").touch()
    with pytest.raises(ConfigError, match="is there already"):
        convert(path, tmp_path / "there", to="diffusers")
    assert [file.name for file in tmp_path.iterdir()] == ["there"], "nothing half-written is left"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(case("diffusers_kl").path, tmp_path / "kl")
    out = tmp_path / "out.safetensors"
    assert main(["convert", str(tmp_path / "kl"), str(out), "--dtype", "bf16"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert set(describe(out)["dtypes"]) == {"bfloat16"}
    assert main(["convert", str(tmp_path / "kl"), str(out), "--to", "compvis"]) == 2
    assert "no place for norm_groups" in capsys.readouterr().err
    assert main(["convert", str(tmp_path), str(out)]) == 2


def test_compvis_config_is_yaml_that_says_what_shapes_cannot(tmp_path: Path) -> None:
    path, config = source("sd2_inpaint")
    convert(path, tmp_path / "out.safetensors", to="compvis", config=config)
    said = json.loads((tmp_path / "out.yaml").read_text())
    assert said["text_config"]["heads"] == 2
    assert said["model"]["params"]["unet_config"]["params"]["num_head_channels"] == 16
    names = set(load_file(tmp_path / "out.safetensors"))
    assert "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight" in names
    assert not any(name.endswith("betas") for name in names)
