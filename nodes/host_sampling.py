"""From a latent to a latent: the core's loop headless, the host's around the core's solvers in the host."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..core.errors import ConfigError, ShapeError
from ..core.types import Condition
from .host_concat import concat_channels, shared_picture, with_keys
from .host_condition import Conditioning, conditioning, placed, to_condition
from .host_env import IN_HOST
from .host_images import scaled_preview
from .host_memory import loaded
from .host_model import latent_channels, unwrap_model
from .host_progress import progress, reporter
from .host_table import is_flow

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..core.diffusion.latent_diffusion import LatentDiffusion
    from ..core.diffusion.noise import Noise
    from ..core.diffusion.regions import Region

Latent = dict[str, Any]
"""{"samples": [B, C, h, w] unscaled, "noise_mask"?: mask, "batch_index"?: list of int}"""


@dataclass(frozen=True)
class Solver:
    """SAMPLER headless. name: a key of SAMPLERS; eta: see there."""

    name: str
    eta: float = 1.0


def solver(name: str, eta: float = 1.0) -> Any:
    """A SAMPLER. Raises: ConfigError on an unknown name."""
    from ..core.samplers import SAMPLERS

    if name not in SAMPLERS:
        raise ConfigError(f"no sampler is named {name!r}; there are {', '.join(SAMPLERS)}")
    return _host_solver(Solver(name, eta)) if IN_HOST else Solver(name, eta)


def empty_latent(model: Any, vae: Any, width: int, height: int, batch: int) -> Latent:
    """Zeros in a model's latent space for pictures of width x height pixels, rounded up to whole cells.

    vae: its autoencoder, for the factor where the model does not say it; or None.
    """
    ours = unwrap_model(model)
    if ours is not None:
        channels, factor = latent_channels(ours), None if ours.autoencoder is None else ours.autoencoder.factor
    else:
        form = model.get_model_object("latent_format")
        channels, factor = form.latent_channels, getattr(form, "spacial_downscale_ratio", None)
    factor = factor or factor_of(vae) or 8
    return {"samples": torch.zeros(batch, channels, -(-height // factor), -(-width // factor))}


def sample(
    model: Any,
    sigmas: Tensor,
    latent: Latent,
    positive: Conditioning | None,
    negative: Conditioning | None,
    sampler: Any,
    cfg: float,
    seed: int,
    noise: Any = None,
    add_noise: bool = True,
) -> tuple[Latent, Latent]:
    """Walk a latent down the noise levels; image i of a batch uses seed + i (mod 2^64).

    sigmas: [n + 1], descending. latent: zeros start from nothing; its noise_mask and batch_index count.
    positive, negative: None is the model's own empty condition. cfg: 1 is no guidance.
    sampler: from `solver`, or any SAMPLER in the host. noise: a NOISE that replaces the seed, or None.
    Returns the latent after the last step and what the model saw in it there, both unscaled.
    Raises: ConfigError where a stock model is handed no condition; ShapeError for a latent of another model.
    """
    run = _sample_in_host if IN_HOST else _sample_headless
    latent = {**latent, "samples": _fitted(model, latent["samples"])}
    sampled, denoised = run(model, sigmas, latent, (positive, negative), sampler, cfg, seed, noise, add_noise)
    return {**latent, "samples": sampled}, {**latent, "samples": denoised}


def _fitted(model: Any, z: Tensor) -> Tensor:
    """The latent; zeros get the channels of the model, as in the host."""
    ours = unwrap_model(model)
    if ours is None:
        from comfy.sample import fix_empty_latent_channels

        return fix_empty_latent_channels(model, z)
    channels = latent_channels(ours)
    if z.ndim == 4 and z.shape[1] == channels:
        return z
    if z.ndim != 4 or bool(z.any()):
        raise ShapeError(
            f"the latent is {tuple(z.shape)}, this model works on [batch, {channels}, height, width]: encode the "
            "picture with the model's own VAE, or start from Empty Latent"
        )
    return z.new_zeros(len(z), channels, *z.shape[2:])


def _sample_headless(
    model: "LatentDiffusion",
    sigmas: Tensor,
    latent: Latent,
    conds: Sequence[Conditioning | None],
    sampler: Solver,
    cfg: float,
    seed: int,
    noise: Any,
    add_noise: bool,
) -> tuple[Tensor, Tensor]:
    from ..core.diffusion.guidance import guided
    from ..core.samplers.run import sample as run

    autoencoder = model.autoencoder
    with loaded(model) as device:
        z = latent["samples"].to(device, torch.float32)
        drawn = _drawn(z, latent, seed, noise)
        scaled = model.scale(z) if bool(z.any()) else z
        positive, negative = _core_conditions(model, conds, scaled)
        steps = run(
            guided(model.denoise, positive, negative, cfg, model.guidance, model.table), scaled, sigmas,
            sampler=sampler.name, noise=drawn, eta=sampler.eta, mask=latent.get("noise_mask"), add_noise=add_noise,
            sigma_max=model.table.sigma_max, flow=model.table.flow, top=model.table.at(1e-4),
        )  # fmt: skip
        ends = (_without_steps(model, scaled, drawn.start * add_noise, sigmas),) * 2
        for step in progress(steps, len(sigmas) - 1, lambda step: _picture(autoencoder, step.denoised)):
            ends = step.x, step.denoised
        sampled, denoised = (model.unscale(end).cpu() for end in ends)
    return (sampled, denoised) if len(sigmas) else (latent["samples"], latent["samples"])


def _without_steps(model: "LatentDiffusion", scaled: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """What fewer than two noise levels make of a latent: the noise of the first, as in the host."""
    from ..core.samplers.run import begin, finish

    flow = model.table.flow
    x = begin(scaled, noise, sigmas, sigma_max=model.table.sigma_max, flow=flow)
    return finish(x, sigmas[-1], flow) if len(sigmas) == 1 else x


def _drawn(z: Tensor, latent: Latent, seed: int, noise: Any) -> "Noise":
    """The random numbers of a run, from the seed or from a NOISE."""
    from ..core.diffusion.noise import seeded

    places = latent.get("batch_index")
    if noise is None:
        return seeded(z, seed, places)
    return replace(seeded(z, noise.seed, places), start=noise.generate_noise(latent).to(z))


def _core_conditions(
    model: "LatentDiffusion", conds: Sequence[Conditioning | None], like: Tensor
) -> "tuple[list[Region], list[Region] | None]":
    """Positive and negative for a latent; a missing one, or a missing part, is the model's null.

    A null sees the positive's picture. The negative is None where the model has no null, which means no guidance.
    """
    positive, negative = conds
    null = model.null(1)
    keys = shared_picture(positive)
    rest = negative or (None if null is None else [[None, keys]])
    found = _regions(model, positive or [[None, {}]], null, like)
    return found, None if rest is None else _regions(model, rest, null, like)


def _regions(model: "LatentDiffusion", cond: Conditioning, null: Condition | None, like: Tensor) -> "list[Region]":
    from ..core.diffusion.regions import Region

    made = [_core_condition(model, entry, null or Condition(), like) for entry in cond]
    places = [placed(extra, like, model.table) for _, extra in cond]
    return [Region(condition=condition, **place) for condition, place in zip(made, places, strict=True)]


def _core_condition(model: "LatentDiffusion", entry: list[Any], null: Condition, like: Tensor) -> Condition:
    found = to_condition(entry)
    whole = Condition(
        context=null.context if found.context is None else found.context,
        vector=null.vector if found.vector is None else found.vector,
        concat=concat_channels(model, entry[1], like),
    )
    return whole.map(lambda part: part.to(like.device))


def _picture(autoencoder: Any, scaled: Tensor) -> "Image | None":
    return None if autoencoder is None else scaled_preview(autoencoder, scaled)


def _sample_in_host(
    model: Any,
    sigmas: Tensor,
    latent: Latent,
    conds: Sequence[Conditioning | None],
    sampler: Any,
    cfg: float,
    seed: int,
    noise: Any,
    add_noise: bool,
) -> tuple[Tensor, Tensor]:
    from comfy.model_management import intermediate_device
    from comfy.samplers import CFGGuider

    z = latent["samples"]
    drawn = _drawn(z, latent, seed, noise)
    guider = CFGGuider(model)
    guider.set_conds(*_host_conditions(model, conds, cfg))
    guider.set_cfg(cfg)
    last: list[Tensor] = []
    sampled = guider.sample(
        drawn.start if add_noise else torch.zeros_like(z), z, _placed(sampler, latent),
        sigmas.clone(),  # a copy: the host's uni_pc writes into its sigmas, which another run may still need
        denoise_mask=latent.get("noise_mask"), callback=_callback(model, len(sigmas) - 1, last),
        seed=seed if noise is None else noise.seed,
    )  # fmt: skip
    denoised = model.model.process_latent_out(last[0].float()) if last else sampled
    return sampled.to(intermediate_device()), denoised.to(intermediate_device())


def _host_conditions(model: Any, conds: Sequence[Conditioning | None], cfg: float) -> tuple[Conditioning, Conditioning]:
    """Positive and negative, the model's own empty condition where one is missing."""
    positive, negative = conds
    if unwrap_model(model) is not None:
        null = conditioning(model.model.null)
        return positive or null, negative or with_keys(null, shared_picture(positive))
    if positive is None or (negative is None and cfg != 1):
        raise ConfigError("this model has no empty condition of its own: wire both positive and negative")
    return positive, negative or positive


def _callback(model: Any, total: int, last: list[Tensor]) -> Callable[[int, Tensor, Tensor, int], None]:
    """The host's callback of a step: progress with a preview, and the last denoised latent kept."""
    from latent_preview import get_previewer

    ours, report = unwrap_model(model), reporter(total)
    stock = None if ours is not None else get_previewer(model.load_device, model.get_model_object("latent_format"))

    def picture(denoised: Tensor) -> "Image | None":
        if ours is not None:
            return _picture(ours.autoencoder, denoised)
        return None if stock is None else stock.decode_latent_to_preview(denoised)

    def done(step: int, denoised: Tensor, x: Tensor, steps: int) -> None:
        last[:] = [denoised]
        report(step + 1, partial(picture, denoised))

    return done


def _host_solver(chosen: Solver, places: Sequence[int] | None = None) -> Any:
    """The host's KSAMPLER around one of our solvers; places: the latent's batch_index."""
    from comfy.samplers import KSAMPLER

    made = KSAMPLER(partial(_solve, chosen, places))
    made.vitrail = chosen
    return made


def _placed(sampler: Any, latent: Latent) -> Any:
    """The SAMPLER for one run: ours are told the latent's batch_index."""
    chosen, places = getattr(sampler, "vitrail", None), latent.get("batch_index")
    return sampler if chosen is None or places is None else _host_solver(chosen, places)


def _solve(
    chosen: Solver,
    places: Sequence[int] | None,
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
) -> Tensor:
    """One of our solvers as the host calls a sampler function. model: (x, sigma [B], **extra_args) -> denoised."""
    from ..core.diffusion.noise import SEEDS, image_seeds, noise_source
    from ..core.samplers import SAMPLERS

    given, row = extra_args or {}, SAMPLERS[chosen.name]
    seeds = image_seeds(given.get("seed") or 0, len(x), places)
    if row.repaints and given.get("denoise_mask") is not None:
        model.noise = noise_source(x, [(seed + 1) % SEEDS for seed in seeds])()
    sampling = model.inner_model.inner_model.model_sampling
    kind = {"flow": True, "top": float(sampling.percent_to_sigma(1e-4))} if is_flow(sampling) else {}
    steps = row(HostDenoise(model, given), x, sigmas, noise=noise_source(x, seeds), eta=chosen.eta, **kind)
    with closing(steps), tqdm(total=len(sigmas) - 1, disable=disable) as bar:
        for step in steps:
            bar.update(step.index + 1 - bar.n)
            if callback is not None:
                callback({"i": step.index, "denoised": step.denoised, "x": x, "sigma": step.sigma})
            x = step.x
    return x


class HostDenoise:
    """The model that the host hands a sampler function, (x, sigma [B], **given) -> denoised, as a core Denoise."""

    def __init__(self, model: Any, given: dict[str, Any]) -> None:
        self.model, self.given = model, given

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.model(x, sigma * x.new_ones(len(x)), **self.given)

    def apart(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(denoised, denoised by the negative alone); see core/samplers/cfg_pp.py."""
        from comfy.model_patcher import set_model_options_post_cfg_function

        seen: list[Tensor] = []

        def keep(args: dict[str, Any]) -> Tensor:
            seen[:] = [args["uncond_denoised"]]
            return args["denoised"]

        options = dict(self.given.get("model_options") or {})
        options = set_model_options_post_cfg_function(options, keep, disable_cfg1_optimization=True)
        denoised = self.model(x, sigma * x.new_ones(len(x)), **{**self.given, "model_options": options})
        return denoised, seen[0]


def factor_of(vae: Any) -> int | None:
    """Pixels of a latent's cell, as a VAE of ours or of the host says it."""
    if vae is None:
        return None
    return vae.factor if hasattr(vae, "factor") else int(vae.spacial_compression_encode())
