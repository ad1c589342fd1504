"""Two latents into one, and some of a batch."""

from typing import Any

import torch
from torch import Tensor

from .latents import Latent
from .resize import resize


class LatentBlend:
    """A weighted sum: blend_factor of the first, the rest of the second, which is brought to the first one's size."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION, CATEGORY = "execute", "latent"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        factor = ("FLOAT", {"default": 0.5, "min": 0, "max": 1, "step": 0.01})
        return {"required": {"samples1": ("LATENT",), "samples2": ("LATENT",), "blend_factor": factor}}

    def execute(self, samples1: Latent, samples2: Latent, blend_factor: float) -> tuple[Latent]:
        first = samples1["samples"]
        second = fitted(samples2["samples"], first, "bicubic")
        return ({**samples1, "samples": first * blend_factor + second * (1 - blend_factor)},)


class LatentInterpolate:
    """Between the directions and between the lengths of each cell's channels; ratio 1 is the first, 0 the second."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION, CATEGORY = "execute", "latent/advanced"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        ratio = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01})
        return {"required": {"samples1": ("LATENT",), "samples2": ("LATENT",), "ratio": ratio}}

    def execute(self, samples1: Latent, samples2: Latent, ratio: float) -> tuple[Latent]:
        first = samples1["samples"]
        second = fitted(samples2["samples"], first)
        second = second.repeat(-(-len(first) // len(second)), 1, 1, 1)[: len(first)]
        lengths = [z.norm(dim=1, keepdim=True) for z in (first, second)]
        mixed = unit(first, lengths[0]) * ratio + unit(second, lengths[1]) * (1 - ratio)
        length = lengths[0] * ratio + lengths[1] * (1 - ratio)
        return ({**samples1, "samples": unit(mixed, mixed.norm(dim=1, keepdim=True)) * length},)


class LatentBatch:
    """Two batches behind each other; the second is brought to the first one's size."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION, CATEGORY = "execute", "latent/batch"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples1": ("LATENT",), "samples2": ("LATENT",)}}

    def execute(self, samples1: Latent, samples2: Latent) -> tuple[Latent]:
        first = samples1["samples"]
        both = torch.cat([first, fitted(samples2["samples"], first)])
        return ({**samples1, "samples": both, "batch_index": [*places(samples1), *places(samples2)]},)


class LatentFromBatch:
    """Some latents of a batch; each keeps the noise that it would have had there."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION, CATEGORY = "execute", "latent/batch"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        index = ("INT", {"default": 0, "min": 0, "max": 63})
        return {
            "required": {
                "samples": ("LATENT",),
                "batch_index": index,
                "length": ("INT", {"default": 1, "min": 1, "max": 64}),
            }
        }

    def execute(self, samples: Latent, batch_index: int, length: int) -> tuple[Latent]:
        z = samples["samples"]
        start = min(len(z) - 1, batch_index)
        part = slice(start, start + length)
        chosen = {**samples, "samples": z[part].clone(), "batch_index": places(samples)[part]}
        if len(mask := samples.get("noise_mask", ())) > 1:
            chosen["noise_mask"] = mask.repeat(-(-len(z) // len(mask)), 1, 1, 1)[: len(z)][part].clone()
        return (chosen,)


def fitted(z: Tensor, like: Tensor, method: str = "bilinear") -> Tensor:
    """A latent at another one's size, the middle of it where their ratios differ."""
    if z.shape[1:] == like.shape[1:]:
        return z
    return resize(z, like.shape[-1], like.shape[-2], method, "center")


def unit(z: Tensor, length: Tensor) -> Tensor:
    """Vectors of length 1; 0 stays 0."""
    return (z / length).nan_to_num()


def places(latent: Latent) -> list[int]:
    """The place of each latent in the batch that its noise belongs to."""
    return list(latent.get("batch_index") or range(len(latent["samples"])))
