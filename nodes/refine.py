"""Nodes that make pictures larger and sharper."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ..core.errors import ShapeError
from . import host
from .spec import InputTypes, Node, given, integer, number, socket

TILE_OVERLAP = 16


class GANRefine(Node):
    """Make pictures larger and sharper."""

    ID, TITLE, CATEGORY = "VitrailGANRefine", "GAN Refine", "Vitrail/refine"
    DESCRIPTION = (
        "Makes pictures larger and sharper with a GAN, all over or where a mask says, at any size and strength. "
        "Takes Vitrail's refiners and every stock upscale model."
    )
    SEARCH_ALIASES = ["upscale image", "super resolution", "esrgan", "sharpen", "enhance"]
    RETURN_TYPES, RETURN_NAMES = ("IMAGE",), ("refined",)
    OUTPUT_TOOLTIPS = ("The refined pictures; an alpha channel is made larger with them.",)

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "image": socket("IMAGE", "Pictures of any size; transparent parts are laid on white."),
                "refiner": socket("GAN_REFINER,UPSCALE_MODEL", "From Load GAN Refiner, or a stock upscale model."),
                "scale": number(0.0, 0.0, 16.0, "How many times as large the result is; 0 is what the refiner makes."),
                "strength": number(1.0, 0.0, 1.0, "0 is a plain resize, 1 the refiner, between them a mixture."),
                "fidelity": number(
                    0.5,
                    0.0,
                    1.0,
                    "Near 1 stays closer to the picture, near 0 invents more. Only for refiners that have it: the "
                    "others pass it over.",
                ),
                "tile_size": integer(
                    0,
                    0,
                    8192,
                    "0 takes whole pictures at once; otherwise tiles of so many pixels of the input (at least 16), "
                    "which need less memory. Seams are faded.",
                    step=16,
                ),
            },
            "optional": {"mask": socket("MASK", "Where to refine: 1 the refiner, 0 a plain resize.")},
        }

    def execute(
        self,
        image: Tensor,
        refiner: Any,
        scale: float,
        strength: float,
        fidelity: float,
        tile_size: int,
        mask: Tensor | None = None,
    ) -> tuple[Tensor]:
        from ..core.refine.resize import refine_steps, resize
        from .tiling import finished

        refiner = given(refiner, "refiner", "its loader gave none: look at Load GAN Refiner or Load Upscale Model")
        refiner = host.unwrap_upscaler(refiner) or refiner
        x, alpha = host.split_alpha(image)
        x = ((x + 1) / 2).float().cpu()
        network = partial(refiner.picture, fidelity=fidelity) if hasattr(refiner, "picture") else refiner
        with host.loaded(_module(refiner), _seen(refiner, x)) as device:
            steps = refine_steps(
                network,
                x,
                own=int(refiner.scale),
                scale=scale,
                strength=strength,
                tile=0 if getattr(refiner, "whole", False) else tile_size,
                overlap=TILE_OVERLAP,
                device=device,
            )
            refined = _coloured(finished(steps))
        size = (refined.shape[2], refined.shape[3])
        if mask is not None:
            refined = resize(x, size).lerp(refined, _mask(mask, len(x), size))
        larger = None if alpha is None else resize(alpha[:, None].cpu(), size)[:, 0]
        return (host.to_image(refined * 2 - 1, larger),)


def _module(refiner: Any) -> Any:
    """The network of a refiner, ours or a stock upscale model's, for the host's memory manager."""
    return refiner if hasattr(refiner, "parameters") else refiner.model


def _seen(refiner: Any, x: Tensor) -> tuple[int, ...]:
    """The shape of what the network sees at once: one face of its own size, or the pictures."""
    face = getattr(refiner, "face", None)
    return tuple(x.shape) if face is None else (1, x.shape[1], face, face)


def _coloured(refined: Tensor) -> Tensor:
    """Grey pictures with three channels. Raises: ShapeError for a refiner that makes neither 1 channel nor 3."""
    if refined.shape[1] not in (1, 3):
        raise ShapeError(f"the refiner makes pictures of {refined.shape[1]} channels; expected 3, or 1 for grey")
    return refined.expand(-1, 3, -1, -1)


def _mask(mask: Tensor, batch: int, size: tuple[int, int]) -> Tensor:
    """A mask [H, W], [B, H, W] or [B, 1, H, W] as [batch, 1, *size] in 0..1, the last one repeated.

    Raises: ShapeError for another shape.
    """
    from torch.nn.functional import interpolate

    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim not in (2, 3) or 0 in mask.shape:
        raise ShapeError(f"the mask is {tuple(mask.shape)}; expected [height, width] or [batch, height, width]")
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).float().cpu().clamp(0, 1)
    mask = mask[[min(i, len(mask) - 1) for i in range(batch)]]
    return interpolate(mask, size=size, mode="bilinear", align_corners=False)


NODES = (GANRefine,)
