"""Loading priors and writing codes, as nodes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import case

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.checkpoints import save_model
from vitrail.core.errors import ConfigError
from vitrail.core.priors import Prior, PriorConfig
from vitrail.core.priors.conditions import LabelConfig, StartConfig
from vitrail.core.priors.gpt import GPTConfig
from vitrail.core.types import Codes
from vitrail.nodes import host
from vitrail.nodes.codes import VQDecode, VQEncode
from vitrail.nodes.condition import ClassCondition
from vitrail.nodes.host_progress import set_headless_progress
from vitrail.nodes.loaders import LoadAutoencoder, LoadPrior
from vitrail.nodes.prior import SampleCodes

SETTINGS: dict[str, Any] = {"width": 14, "height": 12, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 3}


def made(vq_model: Autoencoder, condition: Any = None) -> Prior:
    torch.manual_seed(0)
    gpt = GPTConfig(vocab=32, block=24, width=16, depth=1, heads=2)
    config = PriorConfig(transformer=gpt, autoencoder=vq_model.config, condition=condition or StartConfig())
    prior = Prior(config, vq_model).eval()
    torch.nn.init.normal_(prior.transformer.head.weight)
    return prior


@pytest.fixture
def prior(vq_model: Autoencoder) -> Prior:
    return made(vq_model)


def test_a_prior_comes_out_with_its_autoencoder(
    prior: Prior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vq_model: Autoencoder
) -> None:
    save_model(prior, tmp_path / "p.safetensors")
    monkeypatch.setattr(host, "find", lambda name, kind: tmp_path / name)
    loaded, model = LoadPrior().execute(name="p.safetensors", dtype="auto", config="auto")
    assert loaded.config == prior.config and torch.equal(model.codebook, vq_model.codebook)
    with pytest.raises(ConfigError, match="Load Code Prior"):
        LoadAutoencoder().execute(name="p.safetensors", dtype="auto", config="auto")


def test_a_transformer_alone_comes_out_without_an_autoencoder(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    golden = case("gpt_small")
    monkeypatch.setattr(host, "find", lambda name, kind: golden.path / name)
    with caplog.at_level(logging.WARNING):
        loaded, model = LoadPrior().execute(name="gpt.ckpt", dtype="auto", config="auto")
    assert model is None and "gpt.ckpt has no autoencoder" in caplog.text
    cells = Codes(indices=torch.zeros(1, 4, 5, dtype=torch.int64), codebook_size=2048, factor=1, image_size=(4, 5))
    (codes,) = SampleCodes().execute(loaded, **SETTINGS, codes=cells)
    assert codes.indices.shape == (1, 4, 5)


def test_a_prior_is_opened_again_when_its_config_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vq").mkdir()
    (tmp_path / "vq" / "p.ckpt").write_bytes(b"weights")
    (tmp_path / "vq" / "p.yaml").write_text("a: 1")
    monkeypatch.setenv("VITRAIL_MODELS", str(tmp_path))
    inputs = {"name": "vq/p.ckpt", "dtype": "auto", "config": "vq/p.yaml"}
    before = LoadPrior.IS_CHANGED(**inputs)
    (tmp_path / "vq" / "p.yaml").write_text("a: 12")
    assert LoadPrior.IS_CHANGED(**inputs) != before
    assert LoadPrior.VALIDATE_INPUTS(name="vq/p.ckpt", config="auto") is True
    assert "gone.ckpt" in str(LoadPrior.VALIDATE_INPUTS(name="vq/gone.ckpt", config="auto"))


def test_a_written_picture_has_the_size_asked_for(prior: Prior, vq_model: Autoencoder) -> None:
    (codes,) = SampleCodes().execute(prior, **SETTINGS)
    factor = vq_model.factor
    assert codes.indices.shape == (1, -(-12 // factor), -(-14 // factor)) and codes.image_size == (12, 14)
    (picture,) = VQDecode().execute(vq_model=vq_model, quantize=True, tile_size=0, codes=codes)
    assert picture.shape == (1, 12, 14, 3)
    (again,) = SampleCodes().execute(prior, **SETTINGS)
    (other,) = SampleCodes().execute(prior, **{**SETTINGS, "seed": 4})
    assert torch.equal(again.indices, codes.indices) and not torch.equal(other.indices, codes.indices)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_mask_writes_anew_and_keeps_the_rest_for_each_of_a_batch(
    prior: Prior, vq_model: Autoencoder, channels: int
) -> None:
    codes, _ = VQEncode().execute(torch.rand(3, 13, 17, channels), vq_model, 0)
    mask = torch.zeros(1, 13, 17)
    mask[:, :8] = 1
    (drawn,) = SampleCodes().execute(prior, **SETTINGS, codes=codes, mask=mask)
    new = (drawn.indices != codes.indices).any(0)
    assert new.any() and drawn.image_size == (13, 17) and not new[-1].any()
    for i in range(3):
        one = type(codes)(
            indices=codes.indices[i : i + 1], codebook_size=32, factor=codes.factor, image_size=codes.image_size
        )
        (alone,) = SampleCodes().execute(prior, **{**SETTINGS, "seed": 3 + i}, codes=one, mask=mask)
        assert torch.equal(alone.indices[0], drawn.indices[i])


def test_a_class_is_told_by_class_condition(vq_model: Autoencoder) -> None:
    prior = made(vq_model, LabelConfig(classes=5))
    pictures = []
    for label in ("1", "4"):
        (cond,) = ClassCondition().execute(prior, label)
        (codes,) = SampleCodes().execute(prior, **SETTINGS, conditioning=cond)
        pictures.append(codes.indices)
    assert not torch.equal(*pictures)
    with pytest.raises(ConfigError, match="class"):
        SampleCodes().execute(prior, **SETTINGS)
    with pytest.raises(ConfigError, match="neither a class nor a picture"):
        SampleCodes().execute(prior, **SETTINGS, conditioning=[[torch.zeros(1, 2, 3), {}]])


def test_every_code_is_a_step_that_can_be_cancelled(prior: Prior) -> None:
    seen = []

    def cancel(done: int, total: int, _: Any) -> None:
        seen.append((done, total))
        if done == 3:
            raise InterruptedError

    set_headless_progress(cancel)
    try:
        with pytest.raises(InterruptedError):
            SampleCodes().execute(prior, **SETTINGS)
    finally:
        set_headless_progress(None)
    assert [done for done, _ in seen] == [1, 2, 3] and len({total for _, total in seen}) == 1


def test_what_is_missing_is_named(prior: Prior, vq_model: Autoencoder) -> None:
    with pytest.raises(ConfigError, match="Load Code Prior"):
        SampleCodes().execute(None, **SETTINGS)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no codes"):
        SampleCodes().execute(prior, **SETTINGS, mask=torch.ones(1, 4, 4))
    other, _ = VQEncode().execute(torch.rand(1, 12, 14, 3), vq_model, 0)
    object.__setattr__(other, "codebook_size", 64)
    with pytest.raises(ConfigError, match="codebook of 64"):
        SampleCodes().execute(prior, **SETTINGS, codes=other)
    prior.autoencoder = None
    with pytest.raises(ConfigError, match="without its autoencoder"):
        SampleCodes().execute(prior, **SETTINGS)
