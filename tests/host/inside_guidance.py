"""The node Guidance inside the host: on models of every prediction, and on a network of the host's own."""

from __future__ import annotations

from typing import Any

from inside_parts import STEPS, Parts, differs, same
from inside_patches import twins

SETTINGS = {"rescale": 0.7, "start": 0.2, "end": 0.9}


def tempered(model: Any, **settings: float) -> Any:
    from vitrail.nodes.sampling import Guidance

    return Guidance().execute(model=model, **{**SETTINGS, **settings})[0]


def in_core(parts: Parts, diffusion: Any) -> Any:
    """The run by the core alone, as Parts.ours makes it."""
    import torch

    from vitrail.core.diffusion.guidance import Guidance, guided
    from vitrail.core.diffusion.noise import seeded
    from vitrail.core.diffusion.schedules import make_sigmas
    from vitrail.core.samplers.run import sample

    table, like, encode = diffusion.table, torch.zeros(1, 4, 8, 8), parts.diffusion.conditioner.encode
    conds = encode(["red cat"], ["pixel"]), encode([""])
    denoise = guided(diffusion.denoise, *conds, 3.0, Guidance(**SETTINGS), table)
    options = {"noise": seeded(like, 7), "sigma_max": table.sigma_max, "flow": table.flow}
    *_, last = sample(denoise, like, make_sigmas("karras", table, STEPS), sampler="euler", **options)
    return parts.autoencoder.unscale(last.x)


def guidance_equals_the_core_for_every_prediction(parts: Parts) -> str:
    """By our sampler and by stock KSampler."""
    from inside_checks import TABLES
    from tiny import DIFFUSION, LatentDiffusion, LatentDiffusionConfig, TableConfig, randomise

    figures = {}
    for prediction, kind in TABLES.items():
        config = LatentDiffusionConfig(
            unet=DIFFUSION.unet, text=DIFFUSION.text, table=TableConfig(kind=kind, timesteps=300),
            prediction=prediction, sigma_data=0.7 if prediction == "edm" else 1.0,
        )  # fmt: skip
        diffusion = randomise(LatentDiffusion(config), 2)
        diffusion.autoencoder = parts.autoencoder
        model = tempered(parts.host.wrap_model(diffusion))
        expected, found = in_core(parts, diffusion), (parts.ours(model), parts.stock(model))
        scale = max(1.0, float(expected.abs().max()))
        figures[prediction] = max(same(latent / scale, expected / scale) for latent in found)
        differs(found[0], parts.ours(parts.host.wrap_model(diffusion)))
    return ", ".join(f"{name} {value:.1e}" for name, value in figures.items())


def guidance_works_on_a_network_of_the_hosts(parts: Parts) -> float:
    return twins(parts).compare(tempered)


def guidance_costs_one_side_where_it_is_off(parts: Parts) -> str:
    """Pictures through the network in a run of 4 steps, at the shares i / 3: two a step, or one where it is off."""
    pair, seen = twins(parts), []
    pair.stock.model.diffusion_model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    counts = []
    for settings in ({"start": 0.0, "end": 1.0}, {"start": 0.0, "end": 0.5}, {"start": 0.0, "end": 0.0}):
        seen.clear()
        pair.sampled(tempered(pair.stock, **settings))
        counts.append(sum(seen))
    assert counts == [8, 6, 4], counts
    return f"{counts[0]} with guidance throughout, {counts[1]} up to the middle, {counts[2]} without"


CHECKS = (
    guidance_equals_the_core_for_every_prediction,
    guidance_works_on_a_network_of_the_hosts,
    guidance_costs_one_side_where_it_is_off,
)
