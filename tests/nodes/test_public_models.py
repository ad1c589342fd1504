"""Public models through the nodes: Stable Diffusion files and diffusers folders, listed, opened and run headless."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from golden_cases import case

from vitrail.core.errors import ConfigError
from vitrail.core.text.byte_pairs import vocabulary_of
from vitrail.nodes import host
from vitrail.nodes.condition import TextEncode
from vitrail.nodes.loaders import LoadAutoencoder, LoadDiffusion
from vitrail.nodes.sampling import EmptyLatent, NoiseScheduler, Sampler

SETTINGS = {"dtype": "auto", "config": "auto"}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITRAIL_MODELS", str(tmp_path))
    shutil.copytree(case("diffusers_sd_folder").path, tmp_path / "diffusers" / "my-sd")
    shutil.copytree(case("diffusers_vqmodel_oldkeys").path, tmp_path / "diffusers" / "deep" / "my-vq")
    shutil.copytree(case("diffusers_unet2d_ddpm").path, tmp_path / "diffusers" / "my-unet")
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(case("sd2_inpaint").path / "model.safetensors", tmp_path / "checkpoints" / "sd2.safetensors")
    (tmp_path / "checkpoints" / "sd2.yaml").write_text(json.dumps(case("sd2_inpaint").config))
    return tmp_path


def test_a_folder_is_one_entry(models: Path) -> None:
    found = [name for name in host.names("diffusion") if name.startswith("diffusers/")]
    assert {"diffusers/my-sd", "diffusers/my-unet", "diffusers/deep/my-vq"} == {
        name for name in found if not name.endswith("golden.safetensors")
    }
    found = [name for name in host.names("autoencoder") if name.startswith("diffusers/")]
    assert {"diffusers/my-sd/vae", "diffusers/deep/my-vq"} <= set(found) and "diffusers/my-sd" not in found
    assert not any(name.startswith("diffusers/") for name in host.names("refiner"))
    assert "checkpoints/sd2.yaml" in host.names("config")
    assert host.find("diffusers/my-sd", "diffusion") == models / "diffusers" / "my-sd"
    assert host.find(str(models / "diffusers" / "my-sd"), "diffusion").is_dir()
    with pytest.raises(ConfigError, match="no diffusion"):
        host.find(str(models), "diffusion")


def test_a_folder_that_changes_is_loaded_again(models: Path) -> None:
    before = host.changed("diffusers/my-sd", "diffusion")
    file = models / "diffusers" / "my-sd" / "scheduler" / "scheduler_config.json"
    file.write_text(file.read_text() + " ")
    assert before and host.changed("diffusers/my-sd", "diffusion") != before


@torch.no_grad()
def test_a_pipeline_paints(models: Path) -> None:
    model, clip, vae, vq = LoadDiffusion().execute(name="diffusers/my-sd", prediction="auto", **SETTINGS)
    assert vq is None and clip.config.length == 8
    with pytest.raises(ConfigError, match=r"vocab\.json"):
        TextEncode().execute(clip=clip, text="red", style="")
    with pytest.raises(ConfigError, match="knows no styles"):
        TextEncode().execute(clip=clip, text="", style="pixel")
    positive, negative = ([[clip(torch.tensor([[78, i, 79, 79, 79, 79, 79, 79]])), {}]] for i in (3, 4))
    (latent,) = EmptyLatent().execute(model=model, vae=vae, width=32, height=32, batch_size=1)
    sigmas, _ = NoiseScheduler().execute(
        scheduler="karras", steps=2, denoise=1.0, sigma_max=0.0, sigma_min=0.0, rho=7.0, custom="", model=model
    )
    result = Sampler().execute(
        model=model, sigmas=sigmas, latent=latent, sampler="euler", cfg=3.0, seed=1, eta=1.0, add_noise=True,
        positive=positive, negative=negative,
    )  # fmt: skip
    sampled = result["result"][0] if isinstance(result, dict) else result[0]
    assert sampled["samples"].shape == (1, 4, 16, 16) and sampled["samples"].isfinite().all()


def test_a_vocabulary_beside_the_weights_is_used(models: Path) -> None:
    folder = models / "diffusers" / "my-sd"
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary_of([])))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    clip = LoadDiffusion().execute(name="diffusers/my-sd", prediction="auto", **SETTINGS)[1]
    assert config["vocab_size"] == 80 and clip.tokenizer is None, "514 tokens do not fit an encoder of 80"


@torch.no_grad()
def test_a_stable_diffusion_file_brings_its_parts(models: Path) -> None:
    golden = case("sd2_inpaint")
    model, clip, vae, _ = LoadDiffusion().execute(name="checkpoints/sd2.safetensors", prediction="auto", **SETTINGS)
    golden.check("out.context", clip(golden.tensors["in.tokens"]))
    golden.check("out.first_stage_latent", vae.scale(vae.encode(golden.tensors["in.image"])))
    assert model.config.unet.in_channels == 9


@torch.no_grad()
def test_an_autoencoder_of_diffusers(models: Path) -> None:
    golden = case("diffusers_vqmodel_oldkeys")
    model, _ = LoadAutoencoder().execute(name="diffusers/deep/my-vq", **SETTINGS)
    golden.check("out.latents", model.encode(golden.tensors["in.x"]))
    none, vae = LoadAutoencoder().execute(name="diffusers/my-sd/vae", **SETTINGS)
    assert none is None and vae.config.latent_scale == (0.18215,)
