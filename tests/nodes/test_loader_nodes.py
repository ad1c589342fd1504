"""Nodes that open files, on tiny files of each kind."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.checkpoints import save_model
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion
from vitrail.core.errors import CheckpointError, ConfigError
from vitrail.core.refine import Refiner
from vitrail.nodes import host
from vitrail.nodes.codes import VQDecode, VQEncode
from vitrail.nodes.host_files import files_below
from vitrail.nodes.loaders import DTYPES, LoadAutoencoder, LoadDiffusion, LoadRefiner

SETTINGS = {"dtype": "auto", "config": "auto"}


@pytest.fixture
def folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vq_model: Autoencoder,
    kl_model: Autoencoder,
    diffusion: LatentDiffusion,
    refiner: Refiner,
) -> Path:
    """A folder that names are looked up in."""
    save_model(vq_model, tmp_path / "tiny-autoencoder.safetensors")
    save_model(kl_model, tmp_path / "kl.safetensors")
    save_model(diffusion, tmp_path / "tiny-diffusion.safetensors")
    save_model(refiner, tmp_path / "tiny-refiner.safetensors")
    monkeypatch.setattr(host, "find", lambda name, kind: tmp_path / name)
    return tmp_path


def same(found: nn.Module, expected: nn.Module) -> None:
    state = found.state_dict()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(state[name], tensor)


def test_an_autoencoder_comes_out_whole(folder: Path, vq_model: Autoencoder) -> None:
    found, vae = LoadAutoencoder().execute(name="tiny-autoencoder.safetensors", **SETTINGS)
    same(found, vq_model)
    assert vae is not None and not found.training


def test_an_autoencoder_without_codebook_has_no_vq_model(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found, vae = LoadAutoencoder().execute(name="kl.safetensors", **SETTINGS)
    assert found is None and vae is not None
    assert "kl.safetensors" in caplog.text and "vq_model" in caplog.text


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_have_the_dtype_asked_for(folder: Path, dtype: str) -> None:
    found, _ = LoadAutoencoder().execute(name="tiny-autoencoder.safetensors", dtype=dtype, config="auto")
    assert found.decoder.conv_in.weight.dtype == (DTYPES[dtype] or torch.float32)
    assert found.codebook.dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_encodes_and_decodes(folder: Path, vq_model: Autoencoder, dtype: str) -> None:
    found, _ = LoadAutoencoder().execute(name="tiny-autoencoder.safetensors", dtype=dtype, config="auto")
    image = torch.rand(2, 18, 13, 3, generator=torch.Generator().manual_seed(0))
    codes, latent = VQEncode().execute(image=image, vq_model=found, tile_size=0)
    (decoded,) = VQDecode().execute(vq_model=found, codes=codes, quantize=True, tile_size=0)
    (expected,) = VQDecode().execute(vq_model=vq_model, codes=codes, quantize=True, tile_size=0)
    assert latent["samples"].dtype == decoded.dtype == torch.float32 and decoded.shape == image.shape
    torch.testing.assert_close(decoded, expected, atol=0.05, rtol=0)


def test_a_diffusion_model_brings_all_its_parts(
    folder: Path, diffusion: LatentDiffusion, vq_model: Autoencoder
) -> None:
    model, clip, vae, found = LoadDiffusion().execute(name="tiny-diffusion.safetensors", prediction="auto", **SETTINGS)
    same(host.unwrap_model(model), diffusion)
    same(host.unwrap_clip(clip), diffusion.conditioner)
    same(found, vq_model)
    assert vae is not None


def test_a_prediction_can_be_given(folder: Path) -> None:
    model, *_ = LoadDiffusion().execute(name="tiny-diffusion.safetensors", prediction="x0", **SETTINGS)
    assert host.unwrap_model(model).prediction == "x0"
    with pytest.raises(ConfigError, match="does not go with"):
        LoadDiffusion().execute(name="tiny-diffusion.safetensors", prediction="flow", **SETTINGS)


def test_a_diffusion_model_may_lack_parts(
    folder: Path, diffusion: LatentDiffusion, caplog: pytest.LogCaptureFixture
) -> None:
    from dataclasses import replace

    bare = LatentDiffusion(replace(diffusion.config, text=None))
    save_model(bare, folder / "bare.safetensors")
    with caplog.at_level(logging.WARNING):
        model, *parts = LoadDiffusion().execute(name="bare.safetensors", prediction="auto", **SETTINGS)
    assert model is not None and parts == [None, None, None]
    assert all(f"bare.safetensors has no {part}" in caplog.text for part in ("text encoder", "autoencoder"))


def test_a_refiner_comes_out_twice(folder: Path, refiner: Refiner) -> None:
    found, upscaler = LoadRefiner().execute(name="tiny-refiner.safetensors", dtype="auto")
    same(found, refiner)
    assert upscaler.scale == 2
    image = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(upscaler(image), refiner(image))


@pytest.mark.parametrize(
    ("node", "name", "right"),
    [
        (LoadAutoencoder, "tiny-diffusion.safetensors", "Load Latent Diffusion"),
        (LoadDiffusion, "tiny-refiner.safetensors", "Load GAN Refiner"),
        (LoadRefiner, "tiny-autoencoder.safetensors", "Load VQ Autoencoder"),
    ],
)
def test_another_kind_of_file_names_its_loader(folder: Path, node: Any, name: str, right: str) -> None:
    extra = {LoadDiffusion: {"prediction": "auto", "config": "auto"}, LoadAutoencoder: {"config": "auto"}}.get(node, {})
    with pytest.raises(ConfigError, match=f"{name} holds .*{right}"):
        node().execute(name=name, dtype="auto", **extra)


def test_a_file_that_is_no_model_is_an_error(folder: Path) -> None:
    (folder / "broken.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="broken.safetensors"):
        LoadAutoencoder().execute(name="broken.safetensors", **SETTINGS)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no-such-file"):
        LoadRefiner().execute(name="no-such-file.safetensors", dtype="auto")


def test_a_config_beside_one_of_our_own_files_is_refused(folder: Path) -> None:
    (folder / "other.json").write_text("{}")
    with pytest.raises(ConfigError, match="carries its own config"):
        LoadAutoencoder().execute(name="tiny-autoencoder.safetensors", dtype="auto", config="other.json")


# -- which files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vq_model: Autoencoder, diffusion: LatentDiffusion) -> Path:
    """The folder `checkpoints` of a models folder, with a diffusion model and its autoencoder."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    save_model(vq_model, folder / "tiny-autoencoder.safetensors")
    save_model(diffusion, folder / "tiny-diffusion.safetensors")
    monkeypatch.setenv("VITRAIL_MODELS", str(tmp_path))
    return folder


DIFFUSION_FILE = "checkpoints/tiny-diffusion.safetensors"


@pytest.mark.parametrize(
    "touched", ["tiny-diffusion.safetensors", "tiny-autoencoder.safetensors", "tiny-diffusion.json"]
)
def test_a_loader_runs_again_when_any_of_its_files_changes(models: Path, touched: str) -> None:
    inputs = {"name": DIFFUSION_FILE, **SETTINGS, "prediction": "auto"}
    before = LoadDiffusion.IS_CHANGED(**inputs)
    assert before and before == LoadDiffusion.IS_CHANGED(**inputs)
    with (models / touched).open("ab") as file:
        file.write(b" ")
    assert LoadDiffusion.IS_CHANGED(**inputs) != before


def test_a_chosen_config_counts_too(models: Path) -> None:
    (models / "other.json").write_text("{}")
    inputs = {"name": DIFFUSION_FILE, "dtype": "auto", "config": "checkpoints/other.json"}
    before = LoadAutoencoder.IS_CHANGED(**inputs)
    (models / "other.json").write_text('{"a": 1}')
    assert "" != LoadAutoencoder.IS_CHANGED(**inputs) != before


def test_wired_names_are_not_known_before_the_run() -> None:
    assert LoadDiffusion.VALIDATE_INPUTS() is True
    assert LoadDiffusion.IS_CHANGED(name=None, dtype="auto", config=None) == ""


def test_files_that_are_not_there_are_named_before_the_run(models: Path) -> None:
    assert LoadDiffusion.VALIDATE_INPUTS(name=DIFFUSION_FILE, config="auto") is True
    assert LoadRefiner.VALIDATE_INPUTS(name="vitrail-1") is True
    assert 'no diffusion "checkpoints/gone.ckpt"' in str(LoadDiffusion.VALIDATE_INPUTS(name="checkpoints/gone.ckpt"))
    assert 'no config "gone.json"' in str(LoadDiffusion.VALIDATE_INPUTS(name=DIFFUSION_FILE, config="gone.json"))


def test_links_to_folders_above_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "m.ckpt").touch()
    for link, target in (("a", "."), ("b", "."), ("real/up", ".."), ("other", "real")):
        (tmp_path / link).symlink_to(target)
    assert sorted(files_below(tmp_path)) == ["other/m.ckpt", "real/m.ckpt"]
