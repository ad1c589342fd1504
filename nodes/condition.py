"""Nodes that tell a model what to paint."""

from __future__ import annotations

from typing import Any

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


NODES = (TextEncode,)
