"""The node Guidance, and conditionings bound to a part of the picture or of the run, without the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vitrail.core.diffusion.guidance import Guidance as Tempered
from vitrail.core.diffusion.guidance import guided
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion
from vitrail.core.diffusion.noise import seeded
from vitrail.core.diffusion.regions import Region
from vitrail.core.diffusion.schedules import make_sigmas
from vitrail.core.errors import ConfigError
from vitrail.core.samplers.run import sample as core_sample
from vitrail.nodes import host
from vitrail.nodes.sampling import Guidance, Sampler


def encoded(model: LatentDiffusion, text: str) -> list[list[Any]]:
    return host.encode_text(host.wrap_clip(model.conditioner), text, "")


def sampled(model: LatentDiffusion, positive: Any, negative: Any = None, batch: int = 1) -> Tensor:
    latent, sigmas = {"samples": torch.zeros(batch, 4, 8, 8)}, make_sigmas("karras", model.table, 4)
    prompts = {"positive": positive, "negative": negative}
    options = {"sampler": "euler", "cfg": 6.0, "seed": 3, "eta": 1.0, "add_noise": True}
    return Sampler().execute(model=model, sigmas=sigmas, latent=latent, **options, **prompts)[0]["samples"]


def tempered(model: LatentDiffusion, rescale: float = 0.0, start: float = 0.0, end: float = 1.0) -> LatentDiffusion:
    return Guidance().execute(model=model, rescale=rescale, start=start, end=end)[0]


def in_core(model: LatentDiffusion, positive: Any, negative: Any, guidance: Tempered | None, batch: int) -> Tensor:
    start = torch.zeros(batch, 4, 8, 8)
    denoise = guided(model.denoise, positive, negative, 6.0, guidance, model.table)
    sigmas = make_sigmas("karras", model.table, 4)
    options = {"noise": seeded(start, 3), "sigma_max": model.table.sigma_max}
    *_, last = core_sample(denoise, start, sigmas, sampler="euler", **options)
    return model.autoencoder.unscale(last.x)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("settings", [{"rescale": 0.7}, {"start": 0.3, "end": 0.8}, {"rescale": 1.0, "end": 0.5}, {}])
def test_the_sampler_honours_it(diffusion: LatentDiffusion, settings: dict[str, float], batch: int) -> None:
    prompts = encoded(diffusion, "red apple"), encoded(diffusion, "cat")
    found = sampled(tempered(diffusion, **settings), *prompts, batch)
    conditions = [diffusion.conditioner.encode([text], [""]) for text in ("red apple", "cat")]
    expected = in_core(diffusion, *conditions, Tempered(**settings), batch)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    plain = sampled(diffusion, *prompts, batch)
    assert torch.allclose(found, plain, atol=1e-4) == (settings == {})


def test_the_model_that_came_in_stays_as_it_was(diffusion: LatentDiffusion) -> None:
    model = tempered(tempered(diffusion, rescale=0.5), end=0.5)
    assert diffusion.guidance is None and model.guidance == Tempered(end=0.5)
    assert next(model.parameters()) is next(diffusion.parameters()) and model.autoencoder is diffusion.autoencoder


@pytest.mark.parametrize("settings", [{"start": 0.8, "end": 0.2}, {"rescale": 2.0}])
def test_bad_settings_are_refused(diffusion: LatentDiffusion, settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="start"):
        tempered(diffusion, **settings)
    with pytest.raises(ConfigError, match="model"):
        tempered(None)  # pyright: ignore


def test_parts_of_the_picture_and_of_the_run(diffusion: LatentDiffusion) -> None:
    mask = torch.zeros(1, 32, 32)
    mask[:, :16] = 1
    places = [
        {"area": (8, 4, 0, 4), "strength": 0.8},
        {"mask": mask, "mask_strength": 0.5, "start_percent": 0.2, "end_percent": 0.9},
        {"area": ("percentage", 0.5, 1.0, 0.5, 0.0)},
    ]
    texts = ("red apple", "cat", "apple", "red")
    entries = [encoded(diffusion, text)[0] for text in texts]
    bound = [[context, {**extra, **place}] for (context, extra), place in zip(entries[1:], places, strict=True)]
    found = sampled(diffusion, [entries[0], *bound], batch=2)
    conditions = [diffusion.conditioner.encode([text], [""]) for text in texts]
    table = diffusion.table
    cells = torch.nn.functional.interpolate(mask[None], size=(8, 8), mode="bilinear")[0]
    regions = [
        Region(condition=conditions[0]),
        Region(condition=conditions[1], area=(8, 4, 0, 4), strength=0.8),
        Region(condition=conditions[2], mask=cells * 0.5, high=table.at(0.2), low=table.at(0.9)),
        Region(condition=conditions[3], area=(4, 8, 4, 0)),
    ]
    expected = in_core(diffusion, regions, diffusion.null(1), None, 2)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
