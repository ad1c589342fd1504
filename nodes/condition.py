"""Nodes that tell a model what to paint."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..core.errors import ConfigError
from . import host
from .spec import InputTypes, Node, given, socket, text

NO_STYLE = ("", "none")


class TextEncode(Node):
    """Text and style to a condition."""

    ID, TITLE, CATEGORY = "VitrailTextEncode", "Text & Style Encode", "Vitrail/conditioning"
    DESCRIPTION = "Turns words and a style into what the sampler is told to paint. Unknown words are named, not hidden."
    SEARCH_ALIASES = ["prompt", "clip text encode", "text to image", "style", "conditioning"]
    RETURN_TYPES, RETURN_NAMES = ("CONDITIONING",), ("conditioning",)
    OUTPUT_TOOLTIPS = ("For the sampler's positive or negative input.",)

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "clip": socket("CLIP", "The text encoder, from Load Latent Diffusion."),
                "text": text(
                    "",
                    "What to paint, in words that the model knows; the others are named in the log. Leave it empty "
                    "for a picture of anything.",
                    multiline=True,
                    placeholder="red apple",
                ),
                "style": text(
                    "",
                    "A style by its name; empty or none for any. A wrong name lists those that there are. "
                    '"style:name" in the text does the same and comes first.',
                    placeholder="any style",
                ),
            }
        }

    def execute(self, clip: Any, text: str, style: str) -> Any:
        advice = "the model that was opened has no text encoder. Look at Load Latent Diffusion: open one that has"
        encoder = host.unwrap_clip(given(clip, "clip", advice))
        if encoder is None and style.strip().lower() not in NO_STYLE:
            raise ConfigError(f'this text encoder has no styles, so no "{style}": leave it empty, name it in the text')
        notes = encoder.notes(text) if encoder is not None else []
        result = (host.encode_text(clip, text, style),)
        return {"ui": {"text": notes}, "result": result} if notes else result


class ClassCondition(Node):
    """A numbered class to a condition."""

    ID, TITLE, CATEGORY = "VitrailClassCondition", "Class Condition", "Vitrail/conditioning"
    DESCRIPTION = "Tells a class-conditional model what to paint, by the number or the name of a class."
    SEARCH_ALIASES = ["label", "imagenet", "class label", "cin256", "class conditional"]
    RETURN_TYPES, RETURN_NAMES = ("CONDITIONING",), ("conditioning",)
    OUTPUT_TOOLTIPS = ("For the sampler's positive or negative input.",)

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "model": socket(
                    "MODEL,CODE_PRIOR",
                    "A model that was trained on classes, from Load Latent Diffusion or Load Code Prior.",
                ),
                "label": text(
                    "0",
                    "The class: its number, from 0, or its name where the model's file names its classes. Empty or "
                    "none for the last class, which means no class in models that were trained with guidance.",
                    placeholder="none",
                ),
            }
        }

    def execute(self, model: Any, label: str) -> tuple[Any]:
        from ..core.text.classes import class_number

        advice = "the file that was opened has no diffusion network. Look at Load Latent Diffusion"
        ours = host.unwrap_model(given(model, "model", advice))
        if ours is None or ours.classes is None:
            raise ConfigError(
                "this model takes no numbered classes: open one that was trained on classes, or tell this one in words"
            )
        number = class_number(label, ours.classes, ours.config.class_names)
        with nullcontext() if ours.conditioner is None else host.loaded(ours.conditioner):
            return (host.conditioning(ours.of_class(torch.tensor([number]))),)


class ConcatCondition(Node):
    """A picture to paint into, as a condition."""

    ID, TITLE, CATEGORY = "VitrailConcatCondition", "Concat Condition", "Vitrail/conditioning"
    DESCRIPTION = (
        "Shows a picture, and what is to be painted in it, to models that were trained to inpaint, to enlarge "
        "pictures or to paint over a map of labels: networks with more input channels than latents have."
    )
    SEARCH_ALIASES = ["inpaint", "inpainting model", "super resolution", "masked image", "concat latent", "label map"]
    RETURN_TYPES, RETURN_NAMES = ("CONDITIONING",), ("conditioned",)
    OUTPUT_TOOLTIPS = ("The conditioning with the picture, for the sampler's positive or negative input.",)

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "vae": socket("VAE", "The autoencoder of the model, from the same loader."),
                "image": socket(
                    "IMAGE",
                    "The picture to paint into, of the size that is made; for a model that enlarges, the small one. "
                    "For semantic synthesis a map whose grey level, 0 to 255, is the number of a label.",
                ),
            },
            "optional": {
                "conditioning": socket("CONDITIONING", "Text for the same model. Without it, its empty condition."),
                "mask": socket(
                    "MASK",
                    "Where to paint: 0.5 and more. The rest is shown to the model. For models that inpaint.",
                ),
            },
        }

    def execute(self, vae: Any, image: Tensor, conditioning: Any = None, mask: Tensor | None = None) -> tuple[Any]:
        from ..core.diffusion.concat import hole
        from ..core.nn.pad import pad_to

        vae = given(vae, "vae", "the model that was opened has no autoencoder. Look at the loader")
        x, _ = host.split_alpha(image)
        padded, _ = pad_to(x, host.factor_of(vae) or 8)
        if mask is not None:
            mask, _ = pad_to(hole(mask, x), host.factor_of(vae) or 8)
        return (host.with_keys(conditioning or [[None, {}]], host.picture_keys(vae, padded, mask)),)


NODES = (TextEncode, ClassCondition, ConcatCondition)
