"""Nodes of the sampling loop."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitrail.core.diffusion.guidance import guided
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion
from vitrail.core.diffusion.noise import seeded
from vitrail.core.diffusion.schedules import SCHEDULES, make_sigmas
from vitrail.core.diffusion.tables import NoiseTable
from vitrail.core.errors import ConfigError
from vitrail.core.samplers import SAMPLERS
from vitrail.core.samplers.run import sample as core_sample
from vitrail.nodes import NODE_CLASS_MAPPINGS, host
from vitrail.nodes.condition import TextEncode
from vitrail.nodes.curve import curve
from vitrail.nodes.sampling import EmptyLatent, NoiseScheduler, Sampler, Solver, parse_sigmas


def defaults(node: str) -> dict[str, Any]:
    required = NODE_CLASS_MAPPINGS[node].INPUT_TYPES()["required"]
    return {name: options["default"] for name, (_, options) in required.items() if "default" in options}


def schedule(**changes: Any) -> tuple[Tensor, Tensor]:
    return NoiseScheduler().execute(**{**defaults("VitrailNoiseScheduler"), **changes})


def empty(model: Any, width: int = 32, height: int = 32, batch_size: int = 1, vae: Any = None) -> dict[str, Any]:
    return EmptyLatent().execute(model=model, width=width, height=height, batch_size=batch_size, vae=vae)[0]


def encoded(model: LatentDiffusion, text: str, style: str = "") -> Any:
    found = TextEncode().execute(clip=host.wrap_clip(model.conditioner), text=text, style=style)
    return found["result"][0] if isinstance(found, dict) else found[0]


def sampled(diffusion: LatentDiffusion, /, **changes: Any) -> tuple[Tensor, Tensor]:
    model = host.wrap_model(diffusion)
    wired = {"model": model, "sigmas": schedule(steps=4, model=model)[0], "latent": empty(model)}
    found = Sampler().execute(**{**defaults("VitrailSampler"), **wired, **changes})
    return found[0]["samples"], found[1]["samples"]


# Empty Latent


def test_an_empty_latent_has_the_models_channels_and_size(diffusion: LatentDiffusion) -> None:
    latent = empty(host.wrap_model(diffusion), width=40, height=24, batch_size=3)["samples"]
    assert latent.shape == (3, 4, 6, 10) and not latent.any()


def test_an_empty_latent_covers_odd_sizes(diffusion: LatentDiffusion) -> None:
    assert empty(host.wrap_model(diffusion), width=33, height=30)["samples"].shape == (1, 4, 8, 9)


# Noise Scheduler


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_scheduler_is_the_cores(diffusion: LatentDiffusion, name: str) -> None:
    sigmas, picture = schedule(scheduler=name, steps=7, denoise=0.5, model=host.wrap_model(diffusion))
    torch.testing.assert_close(sigmas, make_sigmas(name, diffusion.table, 7, 0.5))
    assert picture.ndim == 4 and picture.shape[3] == 3 and picture.min() >= 0 and picture.max() <= 1


def test_without_a_model_the_levels_are_stable_diffusions() -> None:
    sigmas, _ = schedule()
    assert len(sigmas) == 21 and sigmas[-1] == 0
    assert (float(sigmas[0]), float(sigmas[-2])) == pytest.approx((14.61, 0.0292), abs=5e-3)


def test_ends_and_bend_are_given_by_hand() -> None:
    sigmas, _ = schedule(steps=9, sigma_max=80.0, sigma_min=0.002, rho=3.0)
    expected = make_sigmas("karras", NoiseTable.scaled_linear(), 9, 1.0, 0.002, 80.0, 3.0)
    torch.testing.assert_close(sigmas, expected)


def test_denoise_zero_gives_no_step() -> None:
    sigmas, picture = schedule(denoise=0.0)
    assert len(sigmas) == 0 and picture.std() > 0


@pytest.mark.parametrize("custom", ["10, 5, 1", "10 5\n1", "10;5,1,0", "\n 1e1,5.0\t1 0.0 "])
def test_levels_by_hand(custom: str) -> None:
    sigmas, picture = schedule(custom=custom, steps=3, sigma_max=1.0)
    assert sigmas.tolist() == [10.0, 5.0, 1.0, 0.0] and sigmas.dtype == torch.float32
    assert not torch.equal(picture, schedule()[1])


@pytest.mark.parametrize(
    ("custom", "message"),
    [
        ("10, five, 1", 'holds "five"'),
        ("10, nan", 'holds "nan"'),
        ("inf, 1", 'holds "inf"'),
        ("10, -1", 'holds "-1"'),
        ("1, 5", "number 2 is 5 after 1"),
        ("5, 5, 1", "number 2 is 5 after 5"),
        ("5, 0, 0", "number 3 is 0 after 0"),
        ("0", "no level above 0"),
        (",;", "no level above 0"),
    ],
)
def test_wrong_levels_by_hand(custom: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        schedule(custom=custom)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(2**-10, 2**13, width=32), min_size=1, max_size=30, unique=True))
def test_levels_by_hand_come_back_as_written(levels: list[float]) -> None:
    levels = sorted(levels, reverse=True)
    assert parse_sigmas(", ".join(map(repr, levels))).tolist() == [*levels, 0.0]


@pytest.mark.parametrize("sigmas", [[], [0.0], [1.0, 0.0], [5.0, 5.0, 0.0], [1e4, 1e-4, 0.0], [3.0, 2.0]])
def test_the_curve_draws_anything(sigmas: list[float]) -> None:
    picture = curve(torch.tensor(sigmas), "levels")
    assert picture.shape == (1, 512, 768, 3) and picture.std() > 0


# Solver, Sampler


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_sampler_runs_the_cores_solver(diffusion: LatentDiffusion, name: str) -> None:
    sigmas = schedule(steps=4, model=diffusion)[0]
    positive, negative = encoded(diffusion, "red apple", "pixel"), encoded(diffusion, "cat")
    found, denoised = sampled(diffusion, sampler=name, positive=positive, negative=negative, seed=5, cfg=2.5, eta=0.5)
    start = torch.zeros(1, 4, 8, 8)
    prompts = (("red apple", "pixel"), ("cat", ""))
    conditions = [diffusion.conditioner.encode([text], [style]) for text, style in prompts]
    steps = core_sample(
        guided(diffusion.denoise, *conditions, 2.5),
        start,
        sigmas,
        sampler=name,
        noise=seeded(start, 5),
        eta=0.5,
        sigma_max=diffusion.table.sigma_max,
    )
    *_, last = steps
    torch.testing.assert_close(found, diffusion.autoencoder.unscale(last.x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(denoised, diffusion.autoencoder.unscale(last.denoised), atol=1e-4, rtol=1e-4)


def test_each_picture_of_a_batch_is_its_own_run(diffusion: LatentDiffusion) -> None:
    positive = encoded(diffusion, "cat")
    batch, _ = sampled(diffusion, latent=empty(diffusion, batch_size=3), positive=positive, seed=2**64 - 2)
    assert batch.shape == (3, 4, 8, 8)
    for i, seed in enumerate((2**64 - 2, 2**64 - 1, 0)):
        single, _ = sampled(diffusion, positive=positive, seed=seed)
        torch.testing.assert_close(batch[i : i + 1], single, atol=1e-4, rtol=1e-4)


def test_a_solver_replaces_sampler_and_eta(diffusion: LatentDiffusion) -> None:
    (solver,) = Solver().execute(sampler="euler_ancestral", eta=0.3)
    direct, _ = sampled(diffusion, sampler="euler_ancestral", eta=0.3)
    torch.testing.assert_close(sampled(diffusion, sampler="heun", solver=solver)[0], direct)
    assert not torch.allclose(sampled(diffusion, sampler="heun")[0], direct, atol=1e-3)


def test_a_mask_keeps_the_rest(diffusion: LatentDiffusion) -> None:
    start = {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))}
    mask = torch.zeros(1, 32, 32)
    mask[:, :, 16:] = 1
    found, _ = sampled(diffusion, latent={**start, "noise_mask": mask})
    torch.testing.assert_close(found[..., :3], start["samples"][..., :3], atol=1e-4, rtol=1e-4)
    assert (found - start["samples"])[..., 5:].abs().mean() > 1e-2


def test_a_low_denoise_stays_near_the_latent(diffusion: LatentDiffusion) -> None:
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigmas = [schedule(steps=4, denoise=denoise, model=diffusion)[0] for denoise in (0.0, 0.1, 1.0)]
    found = [sampled(diffusion, latent={"samples": start}, sigmas=levels)[0] for levels in sigmas]
    changed = [float((latent - start).abs().mean()) for latent in found]
    assert changed[0] == pytest.approx(0, abs=1e-6)
    assert changed[0] < changed[1] < changed[2]


def test_a_missing_negative_is_the_models_null(diffusion: LatentDiffusion) -> None:
    positive, null = encoded(diffusion, "cat"), encoded(diffusion, "")
    torch.testing.assert_close(
        sampled(diffusion, positive=positive)[0], sampled(diffusion, positive=positive, negative=null)[0]
    )


@pytest.mark.parametrize("part", ["model", "sigmas", "latent"])
def test_an_empty_input_says_where_to_look(diffusion: LatentDiffusion, part: str) -> None:
    with pytest.raises(ConfigError, match=f'"{part}" is empty'):
        sampled(diffusion, **{part: None})


def test_an_empty_model_says_where_to_look() -> None:
    with pytest.raises(ConfigError, match='"model" is empty.*Load Latent Diffusion'):
        empty(None)


# Text & Style Encode


def test_text_and_style_become_the_cores_condition(diffusion: LatentDiffusion) -> None:
    found = host.to_condition(encoded(diffusion, "red apple", "Pixel")[0])
    expected = diffusion.conditioner.encode(["red apple"], ["pixel"])
    torch.testing.assert_close(found.context, expected.context)
    torch.testing.assert_close(found.vector, expected.vector)


@pytest.mark.parametrize("style", ["", "none", "None", " "])
def test_no_style_is_any_style(diffusion: LatentDiffusion, style: str) -> None:
    found = host.to_condition(encoded(diffusion, "cat", style)[0])
    torch.testing.assert_close(found.vector, diffusion.conditioner.encode(["cat"]).vector)


def test_unknown_words_are_named(diffusion: LatentDiffusion, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = TextEncode().execute(clip=host.wrap_clip(diffusion.conditioner), text="cat zeppelin", style="")
    assert "zeppelin" in caplog.text
    assert any("zeppelin" in note for note in found["ui"]["text"])


def test_an_unknown_style_lists_those_known(diffusion: LatentDiffusion) -> None:
    with pytest.raises(ConfigError, match="cubist.*noto, pixel"):
        encoded(diffusion, "cat", "cubist")


def test_an_empty_clip_says_where_to_look() -> None:
    with pytest.raises(ConfigError, match='"clip" is empty.*Load Latent Diffusion'):
        TextEncode().execute(clip=None, text="cat", style="")
