"""Noise levels across the door: the host's `model_sampling` as a core Table, and our tables as the host's."""

import logging
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from ..core.diffusion.latent_diffusion import LatentDiffusion
    from ..core.diffusion.tables import Table

log = logging.getLogger(__name__)

SAMPLING = {  # prediction: the host's class of it, and the host's type of model nearest to it
    "eps": ("EPS", "EPS"),
    "v": ("V_PREDICTION", "V_PREDICTION"),
    "x0": ("X0", "EPS"),
    "edm": ("EDM", "EDM"),
    "flow": ("CONST", "FLOW"),
}


def table(model: Any) -> "Table":
    """The noise levels of a MODEL, whoever made it and whatever a stock node did to them."""
    if not hasattr(model, "get_model_object"):
        return model.table
    sampling = model.get_model_object("model_sampling")
    return getattr(sampling, "vitrail_table", None) or HostTable(sampling)


class HostTable:
    """The host's `model_sampling` as a core Table."""

    def __init__(self, sampling: Any) -> None:
        self.sampling = sampling

    @property
    def flow(self) -> bool:
        return is_flow(self.sampling)

    @property
    def sigmas(self) -> Tensor:
        return self.sampling.sigmas.detach().float().cpu()

    @property
    def sigma_min(self) -> float:
        return float(self.sampling.sigma_min)

    @property
    def sigma_max(self) -> float:
        return float(self.sampling.sigma_max)

    def timestep(self, sigma: Tensor, quantize: bool = True) -> Tensor:
        return self.sampling.timestep(sigma).float()

    def sigma(self, timestep: Tensor) -> Tensor:
        return self.sampling.sigma(timestep).float()

    def at(self, share: float) -> float:
        return float(self.sampling.percent_to_sigma(share))


def is_flow(sampling: Any) -> bool:
    """Whether x is (1 - sigma) x0 + sigma noise in the host's `model_sampling`."""
    from comfy.model_sampling import CONST

    return isinstance(sampling, CONST)


class HostSampling:
    """Our noise levels in the host's `model_sampling`."""

    vitrail_table: "Table"

    def percent_to_sigma(self, percent: float) -> float:
        """The level at a share of the run, 0..1; the host counts on 1000 of them."""
        return self.vitrail_table.at(percent) if 0 < percent < 1 else super().percent_to_sigma(percent)  # type: ignore[misc]


def host_sampling(diffusion: "LatentDiffusion") -> Any:
    """The host's `model_sampling` with our levels and our prediction."""
    from comfy import model_sampling

    from ..core.diffusion.tables import FlowTable, LogTable

    levels, sigma_data = diffusion.table, diffusion.config.sigma_data
    kind = {FlowTable: "ModelSamplingDiscreteFlow", LogTable: "ModelSamplingContinuousEDM"}.get(type(levels))
    bases = (
        getattr(model_sampling, kind or "ModelSamplingDiscrete"),
        getattr(model_sampling, SAMPLING[diffusion.prediction][0]),
    )
    made = type("VitrailSampling", (HostSampling, *bases), {})()
    if isinstance(levels, FlowTable):
        made.set_parameters(shift=levels.shift, timesteps=levels.timesteps, multiplier=levels.multiplier)
    elif isinstance(levels, LogTable):
        made.set_parameters(levels.low, levels.high, sigma_data)
        made.register_buffer("sigmas", levels.sigmas)
        made.register_buffer("log_sigmas", levels.sigmas.log())
    else:
        made._register_schedule(given_betas=levels.betas)
    made.sigma_data, made.vitrail_table = sigma_data, levels
    return made


def fit_levels(sampling: Any, diffusion: "LatentDiffusion") -> None:
    """Give a `model_sampling` of a stock node, which knows the host's own schedules only, the levels of our network.

    What the node is for stays: another prediction, zero terminal SNR, another shift or range. Levels of a kind that
    the network was not trained on stay too, with a warning.
    """
    from comfy import model_sampling

    from ..core.diffusion.tables import FlowTable, LogTable, NoiseTable

    levels = diffusion.table
    other = model_sampling.StableCascadeSampling, model_sampling.ModelSamplingDiscreteEDM
    discrete = isinstance(sampling, model_sampling.ModelSamplingDiscrete) and not isinstance(sampling, other)
    if isinstance(levels, NoiseTable) and discrete:
        sampling._register_schedule(given_betas=levels.betas, zsnr=sampling.zsnr)
        if hasattr(sampling, "skip_steps"):
            _distil(sampling)
    elif isinstance(levels, FlowTable) and isinstance(sampling, model_sampling.ModelSamplingDiscreteFlow):
        sampling.set_parameters(shift=sampling.shift, timesteps=levels.timesteps, multiplier=levels.multiplier)
    elif isinstance(levels, LogTable) and isinstance(sampling, model_sampling.ModelSamplingContinuousEDM):
        sampling.sigma_data = diffusion.config.sigma_data
    else:
        log.warning(
            "a node gives this model noise levels that it was not trained on (%s; its own are a %s): the picture will "
            "be wrong; take that node out",
            ", ".join(base.__name__ for base in type(sampling).__bases__),
            type(levels).__name__,
        )


def _distil(sampling: Any) -> None:
    """Every k-th level, the last one among them, as the host's LCM sampling keeps."""
    count, kept = len(sampling.sigmas), min(sampling.original_timesteps, len(sampling.sigmas))
    sampling.skip_steps = count // kept
    sampling.set_sigmas(sampling.sigmas[count - 1 - (kept - 1) * sampling.skip_steps :: sampling.skip_steps])
