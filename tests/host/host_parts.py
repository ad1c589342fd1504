"""The graph that most checks start from: our model, two prompts, an empty latent, and samplers to put after them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from host_graph import Graph, Link
from host_rig import Host, worst
from torch import Tensor

STEPS = 8
SAME = 1e-4  # largest difference of latents of about unit size whose sums run in another order
TINY = "checkpoints/tiny-diffusion.safetensors"
OTHER_NOISE = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde")
"""Solvers that draw noise of the host's law, but other numbers: the host's come from a tree over the whole batch."""

ONE_LEVEL_LESS = ("dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2")
"""Solvers for which KSampler makes one noise level more and leaves out the last but one."""


LOOSE = dict.fromkeys(("uni_pc", "uni_pc_bh2"), 1e-3)
"""They agree less closely: the host takes log(1 - alpha^2) in float32, which rounds off near the lowest level."""


def relative(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest value where that is above 1."""
    return worst(a, b) / max(1.0, float(a.abs().max()))


def table(figures: dict[str, float]) -> str:
    """The figures as words; AssertionError where there is none or one is above its limit."""
    text = ", ".join(f"{name} {value:.1e}" for name, value in figures.items())
    same = all(value <= LOOSE.get(name, SAME) for name, value in figures.items())
    assert figures and same, text or "nothing to compare"
    return text


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A graph with our model loaded, a prompt and an empty one, and an empty latent, by default of 64 x 64 pixels."""

    graph: Graph
    model: Link
    clip: Link
    vae: Link
    vq_model: Link
    positive: Link
    negative: Link
    latent: Link
    refiner: str

    @classmethod
    def of(cls, host: Host, batch: int = 1, side: int = 64, name: str = "") -> Parts:
        graph = host.graph()
        model, clip, vae, vq_model = (
            graph.add("VitrailLoadDiffusion", name=name or host.diffusion)[i] for i in range(4)
        )
        return cls(
            graph=graph, model=model, clip=clip, vae=vae, vq_model=vq_model,
            positive=graph.add("CLIPTextEncode", clip=clip, text="cat")[0],
            negative=graph.add("CLIPTextEncode", clip=clip, text="")[0],
            latent=graph.add("VitrailEmptyLatent", model=model, width=side, height=side, batch_size=batch)[0],
            refiner=host.refiner,
        )  # fmt: skip

    def stock(self, **changes: Any) -> Link:
        """The latent of the stock KSampler on our model."""
        settings: dict[str, Any] = {
            "model": self.model, "positive": self.positive, "negative": self.negative, "latent_image": self.latent,
            "seed": 7, "steps": STEPS, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
        }  # fmt: skip
        return self.graph.add("KSampler", **{**settings, **changes})[0]

    def ours(self, sigmas: Link | None = None, **changes: Any) -> Link:
        """The latent of our sampler on our model, the same settings."""
        settings: dict[str, Any] = {
            "model": self.model, "positive": self.positive, "negative": self.negative, "latent": self.latent,
            "sigmas": sigmas or self.sigmas(), "seed": 7, "cfg": 3.0, "sampler": "euler",
        }  # fmt: skip
        return self.graph.add("VitrailSampler", **{**settings, **changes})[0]

    def custom(self, sigmas: Link, solver: Link) -> Link:
        """The latent of the stock SamplerCustomAdvanced with stock noise and guider, the same settings."""
        guider = self.graph.add("CFGGuider", model=self.model, positive=self.positive, negative=self.negative, cfg=3.0)
        noise = self.graph.add("RandomNoise", noise_seed=7)
        settings = {"noise": noise[0], "guider": guider[0], "sampler": solver, "latent_image": self.latent}
        return self.graph.add("SamplerCustomAdvanced", sigmas=sigmas, **settings)[0]

    def sigmas(self, kind: str = "VitrailNoiseScheduler", **changes: Any) -> Link:
        """The noise levels of our scheduler, or of the stock BasicScheduler, for our model."""
        settings: dict[str, Any] = {"model": self.model, "scheduler": "normal", "steps": STEPS, "denoise": 1.0}
        return self.graph.add(kind, **{**settings, **changes})[0]

    def picture(self, width: int = 64, height: int = 64) -> Link:
        """A picture of 64 x 64, stretched to that size."""
        picture = self.graph.add("LoadImage", image="vitrail-check.png")[0]
        if (width, height) == (64, 64):
            return picture
        return self.graph.add("ImageScale", image=picture, width=width, height=height, upscale_method="bilinear")[0]


def _combined(parts: Parts, second: Link) -> dict[str, Link]:
    return {"positive": parts.graph.add("ConditioningCombine", conditioning_1=parts.positive, conditioning_2=second)[0]}


def _average(parts: Parts) -> dict[str, Link]:
    ends = {"conditioning_to": parts.positive, "conditioning_from": parts.negative, "conditioning_to_strength": 0.5}
    return {"positive": parts.graph.add("ConditioningAverage", **ends)[0]}


def _area(parts: Parts) -> dict[str, Link]:
    apple = parts.graph.add("CLIPTextEncode", clip=parts.clip, text="red apple")[0]
    box = {"width": 0.5, "height": 1.0, "x": 0.5, "y": 0.0, "strength": 1.0}
    return _combined(parts, parts.graph.add("ConditioningSetAreaPercentage", conditioning=apple, **box)[0])


def _late(parts: Parts) -> dict[str, Link]:
    apple = parts.graph.add("CLIPTextEncode", clip=parts.clip, text="red apple")[0]
    return _combined(parts, parts.graph.add("ConditioningSetTimestepRange", conditioning=apple, start=0.3, end=1.0)[0])


def _patched(kind: str, **widgets: Any) -> Callable[[Parts], dict[str, Link]]:
    return lambda parts: {"model": parts.graph.add(kind, model=parts.model, **widgets)[0]}


STOCK_CHANGES: dict[str, Callable[[Parts], dict[str, Link]]] = {
    "RescaleCFG": _patched("RescaleCFG"),
    "FreeU_V2": _patched("FreeU_V2"),
    "PerturbedAttentionGuidance": _patched("PerturbedAttentionGuidance"),
    "SelfAttentionGuidance": _patched("SelfAttentionGuidance"),
    "UNetCrossAttentionMultiply": _patched("UNetCrossAttentionMultiply", q=1.5),
    "ModelSamplingDiscrete": _patched("ModelSamplingDiscrete", sampling="v_prediction", zsnr=True),
    "ConditioningAverage": _average,
    "ConditioningSetArea": _area,
    "ConditioningSetTimestepRange": _late,
}
"""Stock nodes that change what a sampler is handed."""

CHANGED_MODELS = {"FreeU_V2": TINY}
"""Models for those that need another than the shipped one: FreeU works on layers of 2 or 4 times model_channels."""
