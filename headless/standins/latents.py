"""Pictures to latents and back, text to conditioning, and what is done to latents.

Headless, VAE is a core `Autoencoder`, CLIP a core `StyleTextEncoder`, CONDITIONING the host's own list
[[context, {"pooled_output": vector}]], and a LATENT's "samples" are in the autoencoder's own space.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.errors import WorkflowError
from ...nodes.host_condition import conditioning
from ...nodes.host_images import to_image
from ...nodes.host_memory import loaded
from .images import LARGEST
from .resize import CROPS, LATENT_METHODS, resize

Latent = dict[str, Any]
SMALLEST_SIDE = 64
"""LatentUpscale makes nothing smaller than this, in pixels."""

CELL = 8
"""Pixels that a latent cell stands for where a stock node does not know the model."""


class VAEEncode:
    """A latent of pictures. Sides that the autoencoder's factor does not divide are cut down around the middle."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION, CATEGORY = "execute", "latent"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"pixels": ("IMAGE",), "vae": ("VAE",)}}

    def execute(self, pixels: Tensor, vae: Any) -> tuple[Latent]:
        return ({"samples": encode(present(vae, "VAE"), pixels)},)


class VAEDecode:
    """Pictures of a latent; where there is a codebook, of the nearest codes."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION, CATEGORY = "execute", "latent"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("LATENT",), "vae": ("VAE",)}}

    def execute(self, samples: Latent, vae: Any) -> tuple[Tensor]:
        return (decode(present(vae, "VAE"), samples["samples"]),)


class VAEEncodeForInpaint:
    """A latent of pictures with the masked part greyed out, and the mask, grown a little, to paint in."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION, CATEGORY = "execute", "latent/inpaint"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        grow = ("INT", {"default": 6, "min": 0, "max": 64, "step": 1})
        return {"required": {"pixels": ("IMAGE",), "vae": ("VAE",), "mask": ("MASK",), "grow_mask_by": grow}}

    def execute(self, pixels: Tensor, vae: Any, mask: Tensor, grow_mask_by: int = 6) -> tuple[Latent]:
        vae = present(vae, "VAE")
        painted = F.interpolate(as_planes(mask), size=pixels.shape[1:3], mode="bilinear").round()
        grey = (pixels[..., :3] - 0.5) * (1 - painted.movedim(1, -1)) + 0.5
        return ({"samples": encode(vae, grey), "noise_mask": grown(middle(painted, vae.factor), grow_mask_by)},)


class CLIPTextEncode:
    """Text as conditioning; "style:NAME" in the text chooses a style."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION, CATEGORY = "execute", "conditioning"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"text": ("STRING", {"multiline": True, "dynamicPrompts": True}), "clip": ("CLIP",)}}

    def execute(self, text: str, clip: Any) -> dict[str, Any]:
        encoder = present(clip, "CLIP")
        with loaded(encoder):
            condition = encoder.encode([text])
        return {"ui": {"text": encoder.notes(text)}, "result": (conditioning(condition),)}


class EmptyLatentImage:
    """A latent of zeros with 4 channels, each cell 8 pixels; Vitrail's own Empty Latent fits any model."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION, CATEGORY = "execute", "latent"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        side = ("INT", {"default": 512, "min": 16, "max": LARGEST, "step": 8})
        batch_size = ("INT", {"default": 1, "min": 1, "max": 4096})
        return {"required": {"width": side, "height": side, "batch_size": batch_size}}

    def execute(self, width: int, height: int, batch_size: int = 1) -> tuple[Latent]:
        return ({"samples": torch.zeros(batch_size, 4, height // CELL, width // CELL)},)


class LatentUpscale:
    """A latent at a given size in pixels of 8 to a cell; 0 for one side keeps the ratio, 0 for both changes nothing."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION, CATEGORY = "execute", "latent"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        side = ("INT", {"default": 512, "min": 0, "max": LARGEST, "step": 8})
        return {
            "required": {
                "samples": ("LATENT",),
                "upscale_method": (LATENT_METHODS,),
                "width": side,
                "height": side,
                "crop": (CROPS,),
            }
        }

    def execute(self, samples: Latent, upscale_method: str, width: int, height: int, crop: str) -> tuple[Latent]:
        if not width and not height:
            return (samples,)
        z = samples["samples"]
        ratio = z.shape[-1] / z.shape[-2]
        width, height = (max(SMALLEST_SIDE, side) if side else 0 for side in (width, height))
        width = width or max(SMALLEST_SIDE, round(height * ratio))
        height = height or max(SMALLEST_SIDE, round(width / ratio))
        return ({**samples, "samples": resize(z, width // CELL, height // CELL, upscale_method, crop)},)


class LatentUpscaleBy:
    """A latent at a multiple of its size."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION, CATEGORY = "execute", "latent"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        factor = ("FLOAT", {"default": 1.5, "min": 0.01, "max": 8.0, "step": 0.01})
        return {"required": {"samples": ("LATENT",), "upscale_method": (LATENT_METHODS,), "scale_by": factor}}

    def execute(self, samples: Latent, upscale_method: str, scale_by: float) -> tuple[Latent]:
        z = samples["samples"]
        height, width = (round(side * scale_by) for side in z.shape[-2:])
        return ({**samples, "samples": resize(z, width, height, upscale_method)},)


class RepeatLatentBatch:
    """A latent several times; each copy gets noise of its own."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION, CATEGORY = "execute", "latent/batch"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("LATENT",), "amount": ("INT", {"default": 1, "min": 1, "max": 64})}}

    def execute(self, samples: Latent, amount: int) -> tuple[Latent]:
        repeated = {**samples, "samples": samples["samples"].repeat(amount, 1, 1, 1)}
        if len(samples.get("noise_mask", ())) > 1:
            repeated["noise_mask"] = samples["noise_mask"].repeat(amount, 1, 1, 1)
        if places := samples.get("batch_index"):
            apart = max(places) - min(places) + 1
            repeated["batch_index"] = [place + copy * apart for copy in range(amount) for place in places]
        return (repeated,)


class SetLatentNoiseMask:
    """A latent with a mask: 1 is painted anew, 0 is kept."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION, CATEGORY = "execute", "latent/inpaint"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("LATENT",), "mask": ("MASK",)}}

    def execute(self, samples: Latent, mask: Tensor) -> tuple[Latent]:
        return ({**samples, "noise_mask": as_planes(mask)},)


def present(part: Any, socket: str) -> Any:
    """The part, or a WorkflowError where the loader's file has none."""
    if part is None:
        raise WorkflowError(f"the {socket} input is empty: the file that the loader opened has no such part")
    return part


def encode(autoencoder: Any, pixels: Tensor) -> Tensor:
    """pixels [B, H, W, C] in 0..1 to a latent [B, c, h, w] on the CPU, in float32."""
    whole = middle(pixels[..., :3].movedim(-1, 1), autoencoder.factor)
    with loaded(autoencoder):
        x = autoencoder.from_rgb((whole * 2 - 1).expand(-1, 3, -1, -1))
        return autoencoder.encode(x.to(next(autoencoder.parameters()))).float().cpu()


def middle(x: Tensor, factor: int) -> Tensor:
    """x [..., H, W] without what its sides have beyond a multiple of `factor`, cut off around the middle."""
    height, width = x.shape[-2:]
    top, left = (height % factor) // 2, (width % factor) // 2
    return x[..., top : top + height - height % factor, left : left + width - width % factor]


def decode(autoencoder: Any, latent: Tensor) -> Tensor:
    """A latent to pictures [B, H, W, C] in 0..1 on the CPU, in float32."""
    with loaded(autoencoder) as device:
        if autoencoder.codebook is not None:
            latent = autoencoder.quantize(latent.to(device).float()).latent
        return to_image(autoencoder.to_rgb(autoencoder.decode(latent.to(next(autoencoder.parameters())))))


def as_planes(mask: Tensor) -> Tensor:
    """A mask [H, W] or [B, H, W] as [B, 1, H, W]."""
    return mask.reshape(-1, 1, *mask.shape[-2:])


def grown(mask: Tensor, pixels: int) -> Tensor:
    """mask [B, 1, H, W] of zeros and ones, grown by a square of `pixels` a side: half of that in each direction."""
    if not pixels:
        return mask
    before, after = pixels // 2, (pixels - 1) // 2
    padded = F.pad(mask, (before, after, before, after))
    return F.max_pool2d(padded, pixels, stride=1)
