"""Stock nodes of ComfyUI, written anew for runs without it: the same ids, inputs, defaults and pictures.

A new one is a class in one of these modules and a row in STANDINS.
"""

from typing import Any

from . import batches, images, latents, primitives

STANDINS: dict[str, type[Any]] = {
    "LoadImage": images.LoadImage,
    "LoadImageMask": images.LoadImageMask,
    "SaveImage": images.SaveImage,
    "PreviewImage": images.PreviewImage,
    "ImageScale": images.ImageScale,
    "ImageScaleBy": images.ImageScaleBy,
    "ImageBatch": images.ImageBatch,
    "VAEEncode": latents.VAEEncode,
    "VAEDecode": latents.VAEDecode,
    "VAEEncodeForInpaint": latents.VAEEncodeForInpaint,
    "CLIPTextEncode": latents.CLIPTextEncode,
    "EmptyLatentImage": latents.EmptyLatentImage,
    "LatentUpscale": latents.LatentUpscale,
    "RepeatLatentBatch": latents.RepeatLatentBatch,
    "SetLatentNoiseMask": latents.SetLatentNoiseMask,
    "LatentUpscaleBy": latents.LatentUpscaleBy,
    "LatentBlend": batches.LatentBlend,
    "LatentInterpolate": batches.LatentInterpolate,
    "LatentBatch": batches.LatentBatch,
    "LatentFromBatch": batches.LatentFromBatch,
    "PrimitiveInt": primitives.PrimitiveInt,
    "PrimitiveFloat": primitives.PrimitiveFloat,
    "PrimitiveString": primitives.PrimitiveString,
    "PrimitiveStringMultiline": primitives.PrimitiveStringMultiline,
    "PrimitiveBoolean": primitives.PrimitiveBoolean,
    "PreviewAny": primitives.PreviewAny,
}
