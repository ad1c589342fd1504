"""Nodes of the sampling loop: where it starts, its noise levels, its solver, and the loop itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import ConfigError
from . import host
from .spec import InputTypes, Latent, Node, choice, given, integer, number, seed, socket, text, toggle

if TYPE_CHECKING:
    from ..core.diffusion.tables import Table

NO_MODEL = "the loader that should give a model gave none. Open a diffusion model with Load Latent Diffusion"
SAMPLER, SCHEDULER = "dpmpp_2m", "karras"

SAMPLER_TIP = (
    "How each step is computed. dpmpp_2m: good and fast, a sound choice. euler, ddim: the simplest. ipndm, lms, deis, "
    "plms, uni_pc, res_multistep: use earlier steps. heun, dpm_2, heunpp2: two or more calls of the model a step. With "
    "ancestral or sde in the name, ddpm, lcm (for consistency models): draw new noise. cfg_pp: for a low cfg."
)
ETA_TIP = (
    "How much new noise solvers with ancestral in their names, dpmpp_sde, dpmpp_2m_sde and dpmpp_3m_sde draw: 1 all of "
    "it, 0 none. The others pass it over."
)


def _sampler() -> tuple[Any, ...]:
    from ..core.samplers import SAMPLERS

    return choice(list(SAMPLERS), SAMPLER_TIP, default=SAMPLER)


def _eta() -> tuple[Any, ...]:
    return number(1.0, 0.0, 10.0, ETA_TIP)


class EmptyLatent(Node):
    """Nothing yet."""

    ID, TITLE, CATEGORY = "VitrailEmptyLatent", "Empty Latent", "Vitrail/sampling"
    DESCRIPTION = "An empty latent of the channels and the size that a model takes: where text to image starts."
    SEARCH_ALIASES = ["empty latent image", "blank latent", "size", "width", "height"]
    RETURN_TYPES, RETURN_NAMES = ("LATENT",), ("latent",)
    OUTPUT_TOOLTIPS = ("Zeros of the model's latent space, for the sampler.",)

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "model": socket("MODEL", "The model that will fill it."),
                "width": integer(64, 8, 8192, "Width of the pictures in pixels, rounded up to whole cells.", step=8),
                "height": integer(64, 8, 8192, "Height of the pictures in pixels, rounded up to whole cells.", step=8),
                "batch_size": integer(1, 1, 4096, "How many pictures at once."),
            },
            "optional": {
                "vae": socket("VAE", "The autoencoder that will decode it, where the model does not say its factor."),
            },
        }

    def execute(self, model: Any, width: int, height: int, batch_size: int, vae: Any = None) -> tuple[Latent]:
        return (host.empty_latent(given(model, "model", NO_MODEL), vae, width, height, batch_size),)


class NoiseScheduler(Node):
    """The noise levels that the sampler walks down."""

    ID, TITLE, CATEGORY = "VitrailNoiseScheduler", "Noise Scheduler", "Vitrail/sampling"
    DESCRIPTION = "Chooses the noise levels that the sampler walks down, and draws them."
    SEARCH_ALIASES = ["sigmas", "basic scheduler", "karras", "steps", "denoise", "schedule"]
    RETURN_TYPES, RETURN_NAMES = ("SIGMAS", "IMAGE"), ("sigmas", "curve")
    OUTPUT_TOOLTIPS = (
        "Noise levels from high to low, the last one 0, for Vitrail's sampler and for SamplerCustom.",
        "The noise levels by step, as a picture.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        from ..core.diffusion.schedules import SCHEDULES

        return {
            "required": {
                "scheduler": choice(
                    list(SCHEDULES),
                    "How the levels are spaced. karras: most of them low, good with few steps. exponential, "
                    "polyexponential: evenly in log sigma. normal, simple, sgm_uniform, ddim_uniform, ddim_trailing: "
                    "evenly in the model's own time. beta: more at both ends. ays: tuned for Stable Diffusion 1. "
                    "laplace, kl_optimal, vp, ddim_quad, linear_quadratic: others from papers.",
                    default=SCHEDULER,
                ),
                "steps": integer(20, 1, 10000, "How many steps. More are slower and, up to a point, better."),
                "denoise": number(
                    1.0,
                    0.0,
                    1.0,
                    "How much of a given latent is painted anew: 1 all of it, 0.5 keeps its large forms, 0 keeps all "
                    "of it. The steps stay as many.",
                ),
                "sigma_max": number(0.0, 0.0, 10000.0, "The highest level; 0 takes the model's (without one 14.61)."),
                "sigma_min": number(
                    0.0, 0.0, 10000.0, "The lowest level above 0; 0 takes the model's (without one 0.0292).", digits=5
                ),
                "rho": number(
                    7.0,
                    0.1,
                    100.0,
                    "How strongly karras and polyexponential bend: 1 is even, higher spends more steps low. 7 is right "
                    "for karras, and means 1 to polyexponential.",
                ),
                "custom": text(
                    "",
                    "Levels by hand, from high to low, between commas, blanks or lines; then all above is passed "
                    "over. The 0 at the end may be left out.",
                    multiline=True,
                    placeholder="14.6, 6.5, 2.4, 0.9, 0.3",
                ),
            },
            "optional": {
                "model": socket("MODEL", "The model whose levels are meant. Without one: those of Stable Diffusion."),
            },
        }

    def execute(
        self,
        scheduler: str,
        steps: int,
        denoise: float,
        sigma_max: float,
        sigma_min: float,
        rho: float,
        custom: str,
        model: Any = None,
    ) -> tuple[Tensor, Tensor]:
        from ..core.diffusion.schedules import make_sigmas
        from .curve import curve

        if custom.strip():
            sigmas = parse_sigmas(custom)
            return sigmas, curve(sigmas, "by hand")
        sigmas = make_sigmas(scheduler, table_of(model), steps, denoise, sigma_min, sigma_max, rho)
        return sigmas, curve(sigmas, scheduler)


def table_of(model: Any) -> Table:
    """The noise levels of a model; without one Stable Diffusion's."""
    from ..core.diffusion.tables import NoiseTable

    return NoiseTable.scaled_linear() if model is None else host.table(model)


def parse_sigmas(custom: str) -> Tensor:
    """Noise levels from text: numbers between commas, semicolons, blanks or lines; a 0 is added at the end.

    Returns [n + 1] float32, n >= 1, descending, the last one 0.
    Raises: ConfigError for what is no number, or does not descend, or holds no level above 0.
    """
    values = [_level(word) for word in custom.replace(",", " ").replace(";", " ").split()]
    for place, (above, below) in enumerate(zip(values, values[1:], strict=False), 2):
        if below >= above:
            raise ConfigError(
                f"custom levels must go down, but number {place} is {below:g} after {above:g}: start with the highest"
            )
    if not values or values[0] == 0:
        raise ConfigError("custom holds no level above 0: write some, such as 14.6, 2.4, 0.3, or leave it empty")
    return torch.tensor(values if values[-1] == 0 else [*values, 0.0])


def _level(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError(f'custom holds "{word[:40]}"; expected noise levels of 0 or more, such as 14.6, 2.4, 0.3')
    return value


class Sampler(Node):
    """Walk a latent down the noise levels."""

    ID, TITLE, CATEGORY = "VitrailSampler", "Latent Diffusion Sampler", "Vitrail/sampling"
    DESCRIPTION = (
        "Removes noise step by step until a picture is left. Image i of a batch uses seed + i, so that each one can be "
        "made again on its own."
    )
    SEARCH_ALIASES = ["ksampler", "sampler custom", "denoise", "text to image", "image to image", "inpaint"]
    RETURN_TYPES, RETURN_NAMES = ("LATENT", "LATENT"), ("sampled", "denoised")
    OUTPUT_TOOLTIPS = (
        "The latent after the last step.",
        "What the model saw in it at the last step; differs where the levels do not end in 0.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "model": socket("MODEL", "The model that removes the noise."),
                "sigmas": socket("SIGMAS", "The noise levels, from Noise Scheduler or any stock scheduler node."),
                "latent": socket(
                    "LATENT",
                    "Where to start: an empty latent, or one of a picture with a scheduler whose denoise is below 1. "
                    "Its noise mask is painted, the rest kept.",
                ),
                "sampler": _sampler(),
                "cfg": number(
                    3.0,
                    0.0,
                    100.0,
                    "How strongly to follow the positive rather than the negative: 1 is no guidance and twice as fast.",
                    step=0.1,
                    digits=2,
                ),
                "seed": seed("Where the random numbers start: the same seed gives the same picture."),
                "eta": _eta(),
                "add_noise": toggle(
                    True, "Start from noise of the first level on the latent. Off where a run goes on with another's."
                ),
            },
            "optional": {
                "positive": socket("CONDITIONING", "What to paint. Without it: anything."),
                "negative": socket("CONDITIONING", "What to move away from. Without it: the model's empty condition."),
                "solver": socket("SAMPLER", "A solver, from Solver or a stock node; it replaces sampler and eta."),
                "noise": socket("NOISE", "Noise of a stock node; it replaces the seed."),
            },
        }

    def execute(
        self,
        model: Any,
        sigmas: Tensor,
        latent: Latent,
        sampler: str,
        cfg: float,
        seed: int,
        eta: float,
        add_noise: bool,
        positive: Any = None,
        negative: Any = None,
        solver: Any = None,
        noise: Any = None,
    ) -> tuple[Latent, Latent]:
        return host.sample(
            given(model, "model", NO_MODEL),
            given(sigmas, "sigmas", "wire Noise Scheduler or a stock scheduler node"),
            given(latent, "latent", "wire Empty Latent, or a latent of a picture"),
            positive,
            negative,
            host.solver(sampler, eta) if solver is None else solver,
            cfg,
            seed,
            noise,
            add_noise,
        )


class Guidance(Node):
    """A model whose guidance is tempered."""

    ID, TITLE, CATEGORY = "VitrailGuidance", "Guidance", "Vitrail/sampling"
    DESCRIPTION = (
        "Tempers guidance: brings back colours and contrast that a high cfg drives too far, and leaves guidance out in "
        "a part of the run. For any sampler after it."
    )
    SEARCH_ALIASES = ["rescale cfg", "guidance interval", "cfg", "limited interval", "classifier free guidance"]
    RETURN_TYPES, RETURN_NAMES = ("MODEL",), ("guided",)
    OUTPUT_TOOLTIPS = ("The same model, for samplers; the one that came in stays as it was.",)

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "model": socket("MODEL", "The model whose guidance is meant."),
                "rescale": number(
                    0.0,
                    0.0,
                    1.0,
                    "How far the guided answer is brought back to the contrast of the positive one: 0 not, 1 all "
                    "of it; 0.7 is usual with a high cfg.",
                ),
                "start": number(
                    0.0, 0.0, 1.0, "From which share of the run guidance works: 0 from the first step; cfg is 1 before."
                ),
                "end": number(
                    1.0, 0.0, 1.0, "Up to which share of the run guidance works: 1 to the last step. After, cfg is 1."
                ),
            }
        }

    def execute(self, model: Any, rescale: float, start: float, end: float) -> tuple[Any]:
        from ..core.diffusion.guidance import Guidance

        guidance = Guidance(rescale=rescale, start=start, end=end)
        return (host.with_guidance(given(model, "model", NO_MODEL), guidance),)


class Solver(Node):
    """A solver for other samplers."""

    ID, TITLE, CATEGORY = "VitrailSolver", "Solver", "Vitrail/sampling"
    DESCRIPTION = "One of Vitrail's solvers, for its own sampler and for SamplerCustom and SamplerCustomAdvanced."
    SEARCH_ALIASES = ["ksampler select", "sampler", "euler", "dpmpp", "heun"]
    RETURN_TYPES, RETURN_NAMES = ("SAMPLER",), ("solver",)
    OUTPUT_TOOLTIPS = ("The solver, for the input solver (or sampler) of a sampling node.",)

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {"required": {"sampler": _sampler(), "eta": _eta()}}

    def execute(self, sampler: str, eta: float) -> tuple[Any]:
        return (host.solver(sampler, eta),)


NODES = (EmptyLatent, NoiseScheduler, Sampler, Solver, Guidance)
