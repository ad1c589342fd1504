"""Nodes between pictures, latents and codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.strips import StripSteps
from vitrail.core.errors import ConfigError, ShapeError, VitrailError
from vitrail.core.types import Codes
from vitrail.nodes import tiling
from vitrail.nodes.codes import VIEWS, CodebookInspect, CodesToLatent, LatentToCodes, VQDecode, VQEncode

Pictures = Callable[..., Tensor]

CODES, FACTOR = 32, 4


def encode(image: Tensor, model: Any, tile_size: int = 0) -> tuple[Codes, dict[str, Tensor]]:
    return VQEncode().execute(image=image, vq_model=model, tile_size=tile_size)


def decode(model: Any, *, quantize: bool = True, tile_size: int = 0, **source: Any) -> Tensor:
    return VQDecode().execute(vq_model=model, quantize=quantize, tile_size=tile_size, **source)[0]


def inspect(model: Any, view: str = "atlas", code: int = 0, **source: Any) -> dict[str, Any]:
    return CodebookInspect().execute(vq_model=model, view=view, code=code, **source)


@pytest.fixture
def codes(vq_model: Autoencoder, pictures: Pictures) -> Codes:
    return encode(pictures(3), vq_model)[0]


# VQ Encode


def test_encode_gives_the_cores_codes_and_the_latent_before_rounding(vq_model: Autoencoder, pictures: Pictures) -> None:
    image = pictures(3)
    codes, latent = encode(image, vq_model)
    z = vq_model.encode(image.movedim(-1, 1) * 2 - 1)
    torch.testing.assert_close(latent["samples"], z)
    assert torch.equal(codes.indices, vq_model.quantize(z).indices)
    assert (codes.codebook_size, codes.factor, codes.image_size) == (CODES, FACTOR, (32, 32))
    assert codes.indices.shape == (3, 8, 8)


@pytest.mark.parametrize(("height", "width"), [(30, 17), (5, 33), (1, 1)])
def test_odd_sizes_are_padded_and_cropped_back(
    vq_model: Autoencoder, pictures: Pictures, height: int, width: int
) -> None:
    codes, _ = encode(pictures(2, height, width), vq_model)
    assert codes.image_size == (height, width)
    assert codes.indices.shape == (2, -(-height // FACTOR), -(-width // FACTOR))
    assert decode(vq_model, codes=codes).shape == (2, height, width, 3)


def test_alpha_is_laid_on_white(vq_model: Autoencoder, pictures: Pictures) -> None:
    clear = torch.cat([pictures(1), torch.zeros(1, 32, 32, 1)], dim=3)
    assert torch.equal(encode(clear, vq_model)[0].indices, encode(torch.ones(1, 32, 32, 3), vq_model)[0].indices)
    solid = torch.cat([pictures(1), torch.ones(1, 32, 32, 1)], dim=3)
    torch.testing.assert_close(encode(solid, vq_model)[1]["samples"], encode(pictures(1), vq_model)[1]["samples"])


@pytest.mark.parametrize("tile_size", [1, 64, 96, 256])
def test_encode_in_strips_is_the_whole(vq_model: Autoencoder, pictures: Pictures, tile_size: int) -> None:
    image = pictures(2, 201, 134)
    (whole, latent), (strips, other) = (encode(image, vq_model, size) for size in (0, tile_size))
    torch.testing.assert_close(other["samples"], latent["samples"], atol=5e-5, rtol=5e-5)
    assert torch.equal(strips.indices, whole.indices) and strips.image_size == (201, 134)


# VQ Decode


def test_decode_of_codes_is_the_cores(vq_model: Autoencoder, codes: Codes) -> None:
    x = vq_model.decode(vq_model.lookup(codes.indices))
    torch.testing.assert_close(decode(vq_model, codes=codes), ((x + 1) / 2).clamp(0, 1).movedim(1, -1))


def test_decode_of_a_latent_rounds_it_where_asked(vq_model: Autoencoder, pictures: Pictures) -> None:
    codes, latent = encode(pictures(3), vq_model)
    torch.testing.assert_close(decode(vq_model, latent=latent), decode(vq_model, codes=codes))
    x = vq_model.decode(latent["samples"])
    plain = decode(vq_model, latent=latent, quantize=False)
    torch.testing.assert_close(plain, ((x + 1) / 2).clamp(0, 1).movedim(1, -1))
    assert not torch.allclose(plain, decode(vq_model, latent=latent), atol=1e-3)


@pytest.mark.parametrize("tile_size", [1, 64, 128, 256])
def test_decode_in_strips_is_the_whole(vq_model: Autoencoder, pictures: Pictures, tile_size: int) -> None:
    codes, _ = encode(pictures(2, 150, 201), vq_model)
    whole, strips = (decode(vq_model, codes=codes, tile_size=size) for size in (0, tile_size))
    assert whole.std() > 0.01
    torch.testing.assert_close(strips, whole, atol=1e-5, rtol=0)


def test_decode_takes_exactly_one_of_codes_and_latent(vq_model: Autoencoder, codes: Codes) -> None:
    with pytest.raises(ConfigError, match="neither"):
        decode(vq_model)
    with pytest.raises(ConfigError, match="both"):
        decode(vq_model, codes=codes, latent={"samples": torch.zeros(1, 4, 8, 8)})


@pytest.mark.parametrize("node", [VQDecode, CodesToLatent, CodebookInspect])
def test_codes_of_another_codebook_name_both(other_model: Autoencoder, codes: Codes, node: Any) -> None:
    extra = {VQDecode: {"quantize": True, "tile_size": 0}, CodebookInspect: {"view": "usage", "code": 0}}.get(node, {})
    with pytest.raises(ShapeError, match="32 codes, 4 pixels each; this autoencoder has a codebook of 64 codes,"):
        node().execute(vq_model=other_model, codes=codes, **extra)


@pytest.mark.parametrize("quantize", [True, False])
def test_a_latent_of_other_channels_is_refused(vq_model: Autoencoder, quantize: bool) -> None:
    with pytest.raises(ShapeError, match=r"\(1, 16, 8, 8\); this autoencoder takes \[batch, 4"):
        decode(vq_model, latent={"samples": torch.zeros(1, 16, 8, 8)}, quantize=quantize)


# Codes to Latent, Latent to Codes


def test_codes_to_latent_and_back(vq_model: Autoencoder, codes: Codes) -> None:
    (latent,) = CodesToLatent().execute(vq_model=vq_model, codes=codes)
    torch.testing.assert_close(latent["samples"], vq_model.lookup(codes.indices))
    (back,) = LatentToCodes().execute(vq_model=vq_model, latent=latent)
    assert torch.equal(back.indices, codes.indices)
    assert back.image_size == (32, 32)


def test_latent_to_codes_knows_the_full_size(vq_model: Autoencoder) -> None:
    (codes,) = LatentToCodes().execute(vq_model=vq_model, latent={"samples": torch.zeros(2, 4, 3, 5)})
    assert (codes.image_size, codes.factor, codes.codebook_size) == ((12, 20), FACTOR, CODES)


# Codebook Inspect


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_of_codes(vq_model: Autoencoder, codes: Codes, view: str) -> None:
    found = inspect(vq_model, view, codes=codes)
    picture, report, perplexity, used = found["result"]
    assert picture.ndim == 4 and picture.shape[3] == 3 and picture.min() >= 0 and picture.max() <= 1
    assert len(picture) == (3 if view == "token map" else 1)
    said = json.loads(report)
    assert used == len(codes.indices.unique()) == said["used"]
    assert said["tokens"] == 3 * 8 * 8 and said["codes"] == CODES
    assert perplexity == pytest.approx(said["perplexity"], abs=1e-3)
    assert 1 <= perplexity <= used
    assert str(used) in found["ui"]["text"][0]


@pytest.mark.parametrize("view", [view for view in VIEWS if view != "token map"])
def test_every_view_of_the_codebook_alone(vq_model: Autoencoder, view: str) -> None:
    picture, report, perplexity, used = inspect(vq_model, view)["result"]
    assert picture.std() > 0 and (perplexity, used) == (0.0, 0)
    assert "used" not in json.loads(report)


def test_inspect_encodes_pictures_itself(vq_model: Autoencoder, pictures: Pictures) -> None:
    image = pictures(2, 30, 22, channels=4)
    by_image = inspect(vq_model, "token map", image=image)["result"]
    by_codes = inspect(vq_model, "token map", codes=encode(image, vq_model)[0])["result"]
    assert torch.equal(by_image[0], by_codes[0]) and by_image[1:] == by_codes[1:]
    assert by_image[0].shape == (2, 30, 22, 3)


def test_inspect_says_what_is_missing(vq_model: Autoencoder) -> None:
    with pytest.raises(ConfigError, match="needs codes or an image"):
        inspect(vq_model, "token map")
    with pytest.raises(ConfigError, match="there is no code 32; this codebook has 0 to 31"):
        inspect(vq_model, "neighbours", code=CODES)


# Parts that a file lacks


@pytest.mark.parametrize(
    ("node", "others"),
    [
        (VQEncode, {"image": torch.zeros(1, 8, 8, 3), "tile_size": 0}),
        (VQDecode, {"quantize": True, "tile_size": 0}),
        (CodebookInspect, {"view": "atlas", "code": 0}),
        (CodesToLatent, {"codes": None}),
        (LatentToCodes, {"latent": None}),
    ],
)
def test_an_empty_model_says_where_to_look(node: Any, others: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match='"vq_model" is empty.*Load VQ Autoencoder'):
        node().execute(vq_model=None, **others)


def test_an_autoencoder_without_codebook_says_so(kl_model: Autoencoder, codes: Codes) -> None:
    with pytest.raises(ConfigError, match="no codebook"):
        LatentToCodes().execute(vq_model=kl_model, latent={"samples": torch.zeros(1, 4, 8, 8)})
    with pytest.raises(ConfigError, match="no codebook"):
        inspect(kl_model)


# Memory


class Small:
    """Has an autoencoder's method run as on a machine that has room for strips of `rows` pixels."""

    def __init__(self, patch: pytest.MonkeyPatch, model: Autoencoder, method: str, rows: int) -> None:
        self.steps, self.rows = getattr(model, f"{method}_steps"), rows
        self.seen: list[tuple[int, int]] = []
        patch.setattr(model, method, self)
        patch.setattr(model, f"{method}_steps", self)

    def __call__(self, x: Tensor, strip: int = 0) -> StripSteps:
        self.seen.append((len(x), strip))
        if not 0 < strip <= self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.steps(x, strip=strip)


@pytest.mark.parametrize(("batch", "heights"), [(1, [0, 64, 32]), (2, [0, 128, 64, 32])])
def test_out_of_memory_halves_the_strips(
    vq_model: Autoencoder, monkeypatch: pytest.MonkeyPatch, batch: int, heights: list[int]
) -> None:
    x = torch.rand(batch, 3, 128, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z = vq_model.encode(x)
    for name, value in (("encode", x), ("decode", z)):
        whole = getattr(vq_model, name)(value)
        with monkeypatch.context() as patch:
            small = Small(patch, vq_model, name, 32)
            found = getattr(tiling, name)(vq_model, value)
        assert small.seen == [(batch, 0), *((1, height) for height in heights[1:]), *[(1, 32)] * (batch - 1)]
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)


def test_out_of_memory_begins_with_the_strips_asked_for(
    vq_model: Autoencoder, monkeypatch: pytest.MonkeyPatch, pictures: Pictures
) -> None:
    small = Small(monkeypatch, vq_model, "encode", 32)
    encode(pictures(1, 200, 64), vq_model, 64)
    assert small.seen == [(1, 64), (1, 32)]


def test_out_of_memory_to_the_end_is_an_error(vq_model: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("encode", torch.zeros(1, 3, 128, 128)), ("decode", torch.zeros(1, 4, 32, 32))):
        Small(monkeypatch, vq_model, name, 0)
        with pytest.raises(VitrailError, match="memory ran out even with strips of 16 pixels: free some"):
            getattr(tiling, name)(vq_model, value)


# Progress


class Person:
    """Watches the bar, and cancels at a step."""

    def __init__(self, patience: int = 0) -> None:
        self.seen: list[tuple[int, int]] = []
        self.patience = patience

    def __call__(self, done: int, total: int, _: Any) -> None:
        self.seen.append((done, total))
        if done == self.patience:
            raise KeyboardInterrupt


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("way", ["encode", "decode"])
def test_strips_are_reported_and_can_be_cancelled(
    vq_model: Autoencoder, pictures: Pictures, monkeypatch: pytest.MonkeyPatch, way: str, batch: int
) -> None:
    x = pictures(batch, 80, 32).movedim(-1, 1)
    value = x if way == "encode" else vq_model.encode(x)
    patient, hasty = Person(), Person(20)
    monkeypatch.setattr("vitrail.nodes.host_progress._headless", patient)
    getattr(tiling, way)(vq_model, value, 16)
    total = len(patient.seen)
    assert total > 20 * batch and patient.seen == [(done, total) for done in range(1, total + 1)]
    monkeypatch.setattr("vitrail.nodes.host_progress._headless", hasty)
    with pytest.raises(KeyboardInterrupt):
        getattr(tiling, way)(vq_model, value, 16)
    assert hasty.seen == patient.seen[:20]
