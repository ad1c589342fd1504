"""Pictures from files, to files, and at other sizes. IMAGE is [B, H, W, C] float32 in 0..1, MASK [B, H, W]."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ...core.errors import WorkflowError
from ...nodes.host_data import FILES
from ..files import Files
from .resize import CROPS, IMAGE_METHODS, resize

LARGEST = 16384
METADATA = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO", "files": FILES}
"""Hidden inputs of the nodes that write pictures."""

BLANK_MASK = (64, 64)
"""Size of the empty mask that comes with a picture that has no alpha."""


class LoadImage:
    """A picture from a file, all its frames, and the inverse of its alpha as a mask."""

    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION, CATEGORY = "execute", "image"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ([], {"image_upload": True})}, "hidden": {"files": FILES}}

    @classmethod
    def VALIDATE_INPUTS(cls, image: str, files: Files) -> bool | str:
        return picture_exists(image, files)

    def execute(self, image: str, files: Files) -> tuple[Tensor, Tensor]:
        with Image.open(files.find(image)) as opened:
            frames = [opened] if opened.format == "MPO" else ImageSequence.Iterator(opened)
            turned = [eight_bits(ImageOps.exif_transpose(frame)) for frame in frames]
        same = [frame for frame in turned if frame.size == turned[0].size]
        masks = [channel(frame, "A") for frame in same]
        return torch.stack([rgb(frame) for frame in same]), torch.stack([1 - mask for mask in masks])


class LoadImageMask:
    """One channel of a picture as a mask; alpha is inverted."""

    RETURN_TYPES = ("MASK",)
    FUNCTION, CATEGORY = "execute", "mask"
    CHANNELS: ClassVar = ["alpha", "red", "green", "blue"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"image": ([], {"image_upload": True}), "channel": (cls.CHANNELS,)},
            "hidden": {"files": FILES},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, image: str, files: Files) -> bool | str:
        return picture_exists(image, files)

    def execute(self, image: str, channel: str, files: Files) -> tuple[Tensor]:
        with Image.open(files.find(image)) as opened:
            picture = eight_bits(ImageOps.exif_transpose(opened)).convert("RGBA")
        plane = plane_of(picture, channel[0].upper())
        return ((1 - plane if channel == "alpha" else plane)[None],)


class SaveImage:
    """Pictures to PNG files that carry the workflow, so that dropping one onto the canvas brings the graph back."""

    RETURN_TYPES = ()
    FUNCTION, OUTPUT_NODE, CATEGORY = "execute", True, "image"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        prefix = ("STRING", {"default": "ComfyUI"})
        return {"required": {"images": ("IMAGE",), "filename_prefix": prefix}, "hidden": dict(METADATA)}

    def execute(
        self,
        images: Tensor,
        filename_prefix: str = "ComfyUI",
        prompt: dict[str, Any] | None = None,
        extra_pnginfo: dict[str, Any] | None = None,
        *,
        files: Files,
    ) -> dict[str, Any]:
        series = files.series(filename_prefix, (images.shape[2], images.shape[1]))
        parts = {**({"prompt": prompt} if prompt is not None else {}), **(extra_pnginfo or {})}
        for number, image in enumerate(images):
            files.write(series.next(number), lambda path, image=image: save_png(path, image, parts))
        return {"ui": {}}


class PreviewImage(SaveImage):
    """Pictures to look at; without a page they are files too, named preview_00001_.png."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("IMAGE",)}, "hidden": dict(METADATA)}

    def execute(self, images: Tensor, **hidden: Any) -> dict[str, Any]:  # pyright: ignore
        return super().execute(images, "preview", **hidden)


class ImageScale:
    """Pictures at a given size; 0 for one side keeps the ratio, 0 for both changes nothing."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION, CATEGORY = "execute", "image/upscaling"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        side = ("INT", {"default": 512, "min": 0, "max": LARGEST, "step": 1})
        return {
            "required": {
                "image": ("IMAGE",),
                "upscale_method": (IMAGE_METHODS,),
                "width": side,
                "height": side,
                "crop": (CROPS,),
            }
        }

    def execute(self, image: Tensor, upscale_method: str, width: int, height: int, crop: str) -> tuple[Tensor]:
        if not width and not height:
            return (image,)
        width = width or max(1, round(image.shape[2] * height / image.shape[1]))
        height = height or max(1, round(image.shape[1] * width / image.shape[2]))
        return (resize(image.movedim(-1, 1), width, height, upscale_method, crop).movedim(1, -1),)


class ImageScaleBy:
    """Pictures at a multiple of their size."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION, CATEGORY = "execute", "image/upscaling"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        factor = ("FLOAT", {"default": 1.0, "min": 0.01, "max": 8.0, "step": 0.01})
        return {"required": {"image": ("IMAGE",), "upscale_method": (IMAGE_METHODS,), "scale_by": factor}}

    def execute(self, image: Tensor, upscale_method: str, scale_by: float) -> tuple[Tensor]:
        height, width = (round(side * scale_by) for side in image.shape[1:3])
        return (resize(image.movedim(-1, 1), width, height, upscale_method).movedim(1, -1),)


class ImageBatch:
    """Two batches behind each other; the second is brought to the first one's size."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION, CATEGORY = "execute", "image"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image1": ("IMAGE",), "image2": ("IMAGE",)}}

    def execute(self, image1: Tensor, image2: Tensor) -> tuple[Tensor]:
        if image1.shape[1:3] != image2.shape[1:3]:
            height, width = image1.shape[1:3]
            image2 = resize(image2.movedim(-1, 1), width, height, "bilinear", "center").movedim(1, -1)
        channels = max(image1.shape[3], image2.shape[3])
        return (torch.cat([opaque(image1, channels), opaque(image2, channels)]),)


def picture_exists(name: str, files: Files) -> bool | str:
    """True, or the message of what was looked for and where."""
    try:
        return bool(files.find(name))
    except WorkflowError as error:
        return str(error)


def eight_bits(picture: Image.Image) -> Image.Image:
    """A picture of 16 or 32 bit integers in 8; others as they are."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture, dtype=np.float64) / 255).clip(0, 255).astype(np.uint8))


def rgb(picture: Image.Image) -> Tensor:
    """[H, W, 3] in 0..1."""
    return torch.from_numpy(np.array(picture.convert("RGB"), dtype=np.float32) / 255)


def channel(picture: Image.Image, name: str) -> Tensor:
    """Alpha of a picture, transparency of a palette included; all ones of a small size where it has none."""
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return plane_of(picture, name) if name in picture.getbands() else torch.ones(BLANK_MASK)


def plane_of(picture: Image.Image, name: str) -> Tensor:
    """One band, [H, W] in 0..1."""
    return torch.from_numpy(np.array(picture.getchannel(name), dtype=np.float32) / 255)


def opaque(image: Tensor, channels: int) -> Tensor:
    """image [B, H, W, C] with channels of ones added up to `channels`."""
    missing = channels - image.shape[3]
    return torch.cat([image, torch.ones(*image.shape[:3], missing).to(image)], dim=3) if missing else image


def save_png(path: Path, image: Tensor, parts: dict[str, Any]) -> None:
    """image [H, W, C] in 0..1 as PNG, each of `parts` a text chunk of JSON. Values are cut to 8 bits, not rounded."""
    pixels = (image.float().cpu().numpy() * 255).clip(0, 255).astype(np.uint8)
    info = PngInfo()
    for name, value in parts.items():
        info.add_text(name, json.dumps(value))
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path, pnginfo=info, compress_level=4)
