"""Nodes between pictures, latents and codes, and the one that looks into a codebook."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..core.errors import ConfigError, ShapeError
from ..core.types import Codes
from . import host
from .spec import InputTypes, Latent, Node, choice, given, integer, socket, toggle

if TYPE_CHECKING:
    from ..core.autoencoders.autoencoder import Autoencoder

VIEWS = ("atlas", "usage", "token map", "neighbours", "projection")

MODEL_TIP = "The autoencoder with its codebook, from Load VQ Autoencoder or Load Latent Diffusion."
NO_CODEBOOK = (
    "the file that was opened has no autoencoder with a codebook. Look at the loader: open a VQ autoencoder with "
    "Load VQ Autoencoder"
)
TILE_TIP = (
    "0 takes whole pictures at once. Otherwise pictures one by one, in strips of this many pixels in height, which "
    "needs less memory and some more time. The result is the same. When memory runs out, strips are used on their own."
)
LATENT_ADVICE = "wire a latent that was made with this autoencoder"


def _tile_size() -> tuple[Any, ...]:
    return integer(0, 0, 8192, TILE_TIP, step=64)


def _vq_model(tooltip: str = MODEL_TIP) -> tuple[Any, ...]:
    return socket("VQ_MODEL", tooltip)


def encode_image(model: Autoencoder, image: Tensor, tile_size: int = 0) -> tuple[Codes, Tensor]:
    """Codes and latent (before rounding) of pictures [B, H, W, C] of any size; alpha is laid on white."""
    from ..core.nn.pad import pad_to
    from . import tiling

    x, size = pad_to(host.split_alpha(image)[0], model.factor)
    latent = tiling.encode(model, model.from_rgb(x), tile_size)
    return codes_of(model, latent, size), latent


def codes_of(model: Autoencoder, latent: Tensor, image_size: tuple[int, int] | None = None) -> Codes:
    """The nearest codes of a latent; image_size: (H, W) to crop to, by default all of it."""
    indices = _rounded(model, latent).indices
    if indices is None or model.codebook_size is None:
        raise ConfigError(f'the input "vq_model" has no codebook: {NO_CODEBOOK}')
    factor = model.factor
    size = image_size or (latent.shape[2] * factor, latent.shape[3] * factor)
    return Codes(indices=indices.cpu(), codebook_size=model.codebook_size, factor=factor, image_size=size)


def lookup(model: Autoencoder, codes: Codes) -> Tensor:
    """The codebook's vectors, [B, c, h, w] float32 on the CPU. Raises: ShapeError for codes of another codebook."""
    check_codes(model, codes)
    with host.loaded(model) as device:
        return model.lookup(codes.indices.to(device)).float().cpu()


def check_codes(model: Autoencoder, codes: Codes) -> None:
    """Raises: ShapeError where codes were made with an autoencoder of another codebook, factor or number of levels."""
    levels = 1 if codes.indices.ndim == 3 else codes.indices.shape[3]
    found = codes.codebook_size, codes.factor, levels
    expected = model.codebook_size or 0, model.factor, model.levels
    if found != expected:
        raise ShapeError(
            f"the codes are of {_codebook(*found)}; this autoencoder has {_codebook(*expected)}. Use the autoencoder "
            "that made them, or encode the picture again with this one"
        )


def _codebook(codes: int, factor: int, levels: int) -> str:
    return f"{f'{levels} codebooks' if levels > 1 else 'a codebook'} of {codes} codes, {factor} pixels each"


def samples_of(latent: Latent, model: Autoencoder) -> Tensor:
    """The tensor of a LATENT. Raises: ShapeError where it has not the channels of this autoencoder."""
    z, channels = latent["samples"], model.config.embed_dim
    if z.ndim != 4 or z.shape[1] != channels:
        raise ShapeError(
            f"the latent is {tuple(z.shape)}; this autoencoder takes [batch, {channels}, height, width]. It was "
            "probably made with another autoencoder: encode the picture again with this one, or load the one "
            "that made it"
        )
    return z


def _rounded(model: Autoencoder, latent: Tensor) -> Any:
    with host.loaded(model) as device:
        return model.quantize(latent.to(device).float())


class VQEncode(Node):
    """Turn pictures into codes."""

    ID, TITLE, CATEGORY = "VitrailVQEncode", "VQ Encode", "Vitrail/codes"
    DESCRIPTION = "Turns pictures into codes of a codebook, one code for each patch. Pictures may have any size."
    SEARCH_ALIASES = ["vqgan encode", "tokenize image", "image to codes", "image to tokens"]
    RETURN_TYPES, RETURN_NAMES = ("VQ_CODES", "LATENT"), ("codes", "latent")
    OUTPUT_TOOLTIPS = (
        "One code for each patch of each picture.",
        "The latent as it was before it was rounded to codes.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "image": socket(
                    "IMAGE",
                    "Pictures of any size; transparent parts are laid on white. For a model over segments a map whose "
                    "grey level, 0 to 255, is the number of a label.",
                ),
                "vq_model": _vq_model(),
                "tile_size": _tile_size(),
            }
        }

    def execute(self, image: Tensor, vq_model: Autoencoder, tile_size: int) -> tuple[Codes, Latent]:
        codes, latent = encode_image(given(vq_model, "vq_model", NO_CODEBOOK), image, tile_size)
        return codes, {"samples": latent}


class VQDecode(Node):
    """Turn codes or latents into pictures."""

    ID, TITLE, CATEGORY = "VitrailVQDecode", "VQ Decode", "Vitrail/codes"
    DESCRIPTION = "Turns codes, or a latent, into pictures. Wire exactly one of the two."
    SEARCH_ALIASES = ["vqgan decode", "codes to image", "tokens to image", "vae decode"]
    RETURN_TYPES, RETURN_NAMES = ("IMAGE",), ("decoded",)
    OUTPUT_TOOLTIPS = ("The pictures. Those of codes have the size of the pictures that were encoded.",)

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "vq_model": _vq_model(),
                "quantize": toggle(True, "Round a latent to the nearest codes first, as in training. Codes need none."),
                "tile_size": _tile_size(),
            },
            "optional": {
                "codes": socket("VQ_CODES", "Codes to decode. Wire either this or a latent."),
                "latent": socket("LATENT", "A latent to decode. Wire either this or codes."),
            },
        }

    def execute(
        self,
        vq_model: Autoencoder,
        quantize: bool,
        tile_size: int,
        codes: Codes | None = None,
        latent: Latent | None = None,
    ) -> tuple[Tensor]:
        from ..core.nn.pad import crop
        from . import tiling

        model = given(vq_model, "vq_model", NO_CODEBOOK)
        if (codes is None) == (latent is None):
            found = "neither codes nor a latent" if codes is None else "both codes and a latent"
            raise ConfigError(f"{self.TITLE} has {found}: wire exactly one of the two")
        if codes is not None:
            decoded = crop(tiling.decode(model, lookup(model, codes), tile_size), codes.image_size)
        else:
            z = samples_of(given(latent, "latent", LATENT_ADVICE), model)
            decoded = tiling.decode(model, _rounded(model, z).latent if quantize else z, tile_size)
        return (host.to_image(model.to_rgb(decoded)),)


class CodebookInspect(Node):
    """Look into a codebook."""

    ID, TITLE, CATEGORY = "VitrailCodebookInspect", "Codebook Inspect", "Vitrail/codes"
    DESCRIPTION = (
        "Shows a codebook and how codes use it: all codes as patches, how often each occurs, where each lies in the "
        "picture, which are alike, and all of them in a plane. Without codes or a picture, the codebook alone."
    )
    SEARCH_ALIASES = ["codebook", "atlas", "perplexity", "token map", "codebook usage", "visualize codes"]
    RETURN_TYPES = ("IMAGE", "STRING", "FLOAT", "INT")
    RETURN_NAMES = ("view_image", "report", "perplexity", "used")
    OUTPUT_TOOLTIPS = (
        "The chosen view.",
        "Everything in numbers, as JSON.",
        "How many codes are in use, weighted by how often: 1 for a single one, the size of the codebook for all alike.",
        "How many different codes occur.",
    )
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "vq_model": _vq_model(),
                "view": choice(
                    VIEWS,
                    "atlas: every code as a patch. usage: how often each occurs. token map: each picture as its codes, "
                    "a colour a code (needs codes or a picture). neighbours: the codes most like one. projection: all "
                    "codes in the plane of their two widest directions.",
                    default=VIEWS[0],
                ),
                "code": integer(0, 0, 2**31 - 1, "The code whose neighbours are shown."),
            },
            "optional": {
                "codes": socket("VQ_CODES", "Codes made with this autoencoder, to see how they use the codebook."),
                "image": socket("IMAGE", "Pictures to encode first, where no codes are wired."),
            },
        }

    def execute(
        self, vq_model: Autoencoder, view: str, code: int, codes: Codes | None = None, image: Tensor | None = None
    ) -> dict[str, Any]:
        from ..core.codebook import perplexity, report
        from ..core.codebook_views import VIEWS as DRAWN
        from ..core.codebook_views import Look

        model = given(vq_model, "vq_model", NO_CODEBOOK)
        if codes is None and image is not None:
            codes = encode_image(model, image)[0]
        if codes is not None:
            check_codes(model, codes)
        look = Look(model=model, codes=codes, code=code)
        with host.loaded(model):
            picture, counts = DRAWN[view](look), look.counts
        found = report(look.codebook, counts) | look.levels
        figures = (0.0, 0) if counts is None else (perplexity(counts), found["used"])
        ui = {**host.preview_ui(picture), "text": [look.summary()]}
        return {"ui": ui, "result": (picture, json.dumps(found, indent=2), *figures)}


class CodesToLatent(Node):
    """Codes to the codebook's vectors."""

    ID, TITLE, CATEGORY = "VitrailCodesToLatent", "Codes to Latent", "Vitrail/codes"
    DESCRIPTION = "Looks codes up in the codebook: a latent for samplers, or for any node that works on latents."
    SEARCH_ALIASES = ["codebook lookup", "tokens to latent", "dequantize"]
    RETURN_TYPES, RETURN_NAMES = ("LATENT",), ("latent",)
    OUTPUT_TOOLTIPS = ("The codebook's vectors, one for each code.",)

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "vq_model": _vq_model(),
                "codes": socket("VQ_CODES", "Codes made with this autoencoder."),
            }
        }

    def execute(self, vq_model: Autoencoder, codes: Codes) -> tuple[Latent]:
        model = given(vq_model, "vq_model", NO_CODEBOOK)
        return ({"samples": lookup(model, given(codes, "codes", "wire codes from VQ Encode"))},)


class LatentToCodes(Node):
    """A latent to its nearest codes."""

    ID, TITLE, CATEGORY = "VitrailLatentToCodes", "Latent to Codes", "Vitrail/codes"
    DESCRIPTION = "Rounds a latent to the nearest codes of the codebook."
    SEARCH_ALIASES = ["quantize", "latent to tokens", "nearest code"]
    RETURN_TYPES, RETURN_NAMES = ("VQ_CODES",), ("codes",)
    OUTPUT_TOOLTIPS = ("The nearest code for each cell of the latent.",)

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "vq_model": _vq_model(),
                "latent": socket("LATENT", "A latent of this autoencoder, as its encoder or a sampler made it."),
            }
        }

    def execute(self, vq_model: Autoencoder, latent: Latent) -> tuple[Codes]:
        model = given(vq_model, "vq_model", NO_CODEBOOK)
        return (codes_of(model, samples_of(given(latent, "latent", LATENT_ADVICE), model)),)


NODES = (VQEncode, VQDecode, CodebookInspect, CodesToLatent, LatentToCodes)
