"""Whole prompts without the host, from files to files: low denoise, masks, sizes, alpha, places in a batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.checkpoints import save_model
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion
from vitrail.headless.run import all_classes, run_workflow
from vitrail.nodes.host_env import set_headless_device

Prompt = dict[str, dict[str, Any]]
Run = Callable[[Prompt], list[np.ndarray]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, diffusion: LatentDiffusion, vq_model: Autoencoder) -> Run:
    """Runs a prompt with small models from files and returns what it saved, [H, W, C] in 0..255."""
    folder = tmp_path / "models" / "checkpoints"
    folder.mkdir(parents=True)
    save_model(vq_model, folder / "small-autoencoder.safetensors")
    save_model(diffusion, folder / "small-diffusion.safetensors")
    monkeypatch.setenv("VITRAIL_MODELS", str(tmp_path / "models"))
    set_headless_device("cpu")

    def play(prompt: Prompt) -> list[np.ndarray]:
        (tmp_path / "prompt.json").write_text(json.dumps(prompt))
        written = run_workflow(tmp_path / "prompt.json", output=tmp_path / "out", inputs=[tmp_path])
        return [np.asarray(Image.open(path)).astype(int) for path in written]

    yield play
    set_headless_device(None)


def picture(path: Path, width: int, height: int, *, alpha: bool = False) -> str:
    """A picture of gradients; with alpha, its right half is transparent."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([columns * 255 // width, rows * 255 // height, rows + columns], 2).astype(np.uint8)
    if alpha:
        pixels = np.dstack([pixels, np.where(columns < width // 2, 255, 0).astype(np.uint8)])
    Image.fromarray(pixels).save(path)
    return path.name


def half_mask(path: Path, width: int, height: int) -> str:
    """White on the right half: paint there."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, width // 2 :] = 255
    Image.fromarray(pixels).save(path)
    return path.name


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    required = all_classes()[kind].INPUT_TYPES()["required"]
    defaults = {name: spec[1]["default"] for name, spec in required.items() if len(spec) > 1 and "default" in spec[1]}
    return {"class_type": kind, "inputs": {**defaults, **inputs}}


def graph(source: Prompt, latent: str, *, denoise: float = 1.0, seed: int = 3, **decode: Any) -> Prompt:
    """From a latent to a saved picture; `source` makes node `latent`."""
    return {
        "model": node("VitrailLoadDiffusion", name="checkpoints/small-diffusion.safetensors"),
        "text": node("VitrailTextEncode", clip=["model", 1], text="red cat", style="pixel"),
        "sigmas": node("VitrailNoiseScheduler", model=["model", 0], steps=3, denoise=denoise),
        "sampler": node(
            "VitrailSampler", model=["model", 0], sigmas=["sigmas", 0], latent=[latent, 0], positive=["text", 0],
            sampler="euler", seed=seed,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["model", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="made"),
        **source,
    }  # fmt: skip


def encoded(name: str) -> Prompt:
    return {
        "load": node("LoadImage", image=name),
        "encode": node("VAEEncode", pixels=["load", 0], vae=["model", 2]),
    }


def apart(one: np.ndarray, two: np.ndarray) -> float:
    assert one.shape == two.shape
    return float(np.abs(one - two).mean())


def test_a_low_denoise_keeps_the_picture_and_none_is_the_picture(run: Run, tmp_path: Path) -> None:
    source = encoded(picture(tmp_path / "x.png", 32, 32))
    none, low, full = (run(graph(source, "encode", denoise=share))[0] for share in (0.0, 0.2, 1.0))
    plain = {**graph(source, "encode"), "decode": node("VAEDecode", samples=["encode", 0], vae=["model", 2])}
    assert apart(none, run(plain)[0]) < 0.1
    assert 0.5 < apart(low, none) < apart(full, none)


def test_a_batch_of_three_with_a_mask_keeps_what_is_black(run: Run, tmp_path: Path) -> None:
    """Each picture is painted on the right by its own noise, and equals its own run with seed + i."""
    source = {
        **encoded(picture(tmp_path / "x.png", 64, 32)),
        "paint": node("LoadImageMask", image=half_mask(tmp_path / "mask.png", 64, 32), channel="red"),
        "masked": node("SetLatentNoiseMask", samples=["encode", 0], mask=["paint", 0]),
        "three": node("RepeatLatentBatch", samples=["masked", 0], amount=3),
    }
    made = run(graph(source, "three"))
    assert len(made) == 3 and apart(made[0], made[1]) > 1
    assert apart(made[2], run(graph(source, "masked", seed=5))[0]) < 0.1
    (before,) = run(left_half(graph(source, "masked"), "encode"))
    kept = run(left_half(graph(source, "three"), "sampler"))
    assert len(kept) == 3 and max(apart(after, before) for after in kept) < 0.01, "a batch rounds a number otherwise"


def left_half(prompt: Prompt, latent: str) -> Prompt:
    """The prompt, to save what the left half of a latent holds: the codes on its right are all made the same."""
    return {
        **prompt,
        "codes": node("VitrailLatentToCodes", vq_model=["model", 3], latent=[latent, 0]),
        "filled": node("VitrailEditCodes", codes=["codes", 0], mask=["paint", 0], operation="fill", code=1),
        "decode": node("VitrailVQDecode", vq_model=["model", 3], codes=["filled", 0]),
    }


@pytest.mark.parametrize(("width", "height"), [(48, 32), (32, 56), (45, 30)])
def test_a_picture_that_is_not_square_keeps_its_shape(run: Run, tmp_path: Path, width: int, height: int) -> None:
    """Through VQ Encode and VQ Decode, odd sides are padded and the rim stays; an empty latent covers them."""
    source = {
        "load": node("LoadImage", image=picture(tmp_path / "x.png", width, height)),
        "encode": node("VitrailVQEncode", image=["load", 0], vq_model=["model", 3]),
        "latent": node("VitrailCodesToLatent", vq_model=["model", 3], codes=["encode", 0]),
        "empty": node("VitrailEmptyLatent", model=["model", 0], width=width, height=height),
    }
    made = run(graph(source, "latent", denoise=0.3))[0]
    assert made.shape == (-(-height // 4) * 4, -(-width // 4) * 4, 3)
    assert run(graph(source, "empty"))[0].shape == made.shape
    codes = graph(source, "latent", denoise=0.3)
    codes["decode"] = node("VitrailVQDecode", vq_model=["model", 3], codes=["encode", 0])
    assert run(codes)[0].shape == (height, width, 3)


def test_a_picture_with_alpha_is_painted_where_it_is_transparent(run: Run, tmp_path: Path) -> None:
    """Load Image's mask is 1 there; the opaque half stays."""
    source = {
        **encoded(picture(tmp_path / "clear.png", 64, 32, alpha=True)),
        "paint": node("LoadImageMask", image="clear.png", channel="alpha"),
        "masked": node("SetLatentNoiseMask", samples=["encode", 0], mask=["load", 1]),
    }
    (made,) = run(graph(source, "masked"))
    assert made.shape == (32, 64, 3)
    (before,), (after,) = (run(left_half(graph(source, "masked"), latent)) for latent in ("encode", "sampler"))
    assert apart(after, before) == 0
    assert apart(made, run(graph(source, "masked", seed=4))[0]) > 1


def test_a_latent_with_places_gets_the_noise_of_those_places(run: Run) -> None:
    """Stock LatentFromBatch takes the third of four empty latents: the picture is the third of the whole batch."""
    source = {"empty": node("VitrailEmptyLatent", model=["model", 0], width=32, height=32, batch_size=4)}
    whole = run(graph(source, "empty"))
    source["third"] = node("LatentFromBatch", samples=["empty", 0], batch_index=2, length=2)
    part = run(graph(source, "third"))
    assert len(part) == 2 and [apart(a, b) < 0.1 for a, b in zip(part, whole[2:], strict=True)] == [True, True]
    assert apart(part[0], whole[0]) > 1
    source["turned"] = node("LatentBatch", samples1=["third", 0], samples2=["empty", 0])
    turned = run(graph(source, "turned"))
    assert [apart(a, b) < 0.1 for a, b in zip(turned, [*whole[2:], *whole], strict=True)] == [True] * 6


@pytest.mark.parametrize("solver", ["euler_ancestral", "dpmpp_2m"])
def test_places_reach_the_noise_of_every_step(run: Run, solver: str) -> None:
    source = {"empty": node("VitrailEmptyLatent", model=["model", 0], width=32, height=32, batch_size=3)}
    source["last"] = node("LatentFromBatch", samples=["empty", 0], batch_index=2, length=1)
    prompts = [graph(source, latent) for latent in ("empty", "last")]
    for prompt in prompts:
        prompt["sampler"]["inputs"]["sampler"] = solver
    whole, last = (run(prompt) for prompt in prompts)
    assert apart(last[0], whole[2]) < 0.1 and apart(last[0], whole[0]) > 1
