"""The node that writes codes."""

from __future__ import annotations

from math import lcm
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import ConfigError
from ..core.types import Codes
from . import host
from .codes import check_codes, codes_of, lookup
from .spec import InputTypes, Node, given, integer, number, seed, socket

if TYPE_CHECKING:
    from ..core.priors import Prior

NO_PRIOR = "the file that was opened has no prior. Look at Load Code Prior"
NO_AUTOENCODER = (
    "this prior came without its autoencoder, so nobody knows how many pixels a code covers: wire codes of the size "
    "that you want"
)
SIZE_TIP = "The {} of the picture in pixels. With codes, or a picture from Prior Condition, their size counts."


CODES = "vitrail_codes"
"""The key of a CONDITIONING under which the codes of the picture lie that a prior is told."""


class PriorCondition(Node):
    """A picture to tell a prior."""

    ID, TITLE, CATEGORY = "VitrailPriorCondition", "Prior Condition", "Vitrail/conditioning"
    DESCRIPTION = (
        "Tells a prior what to paint by another picture: a map of segments, a map of depth, or whatever picture it was "
        "trained on."
    )
    SEARCH_ALIASES = ["segmentation", "semantic map", "label map", "depth map", "net2net", "taming", "spade"]
    RETURN_TYPES, RETURN_NAMES = ("CONDITIONING", "IMAGE"), ("conditioning", "reconstruction")
    OUTPUT_TOOLTIPS = (
        "For Sample Codes with the same prior.",
        "The picture as the prior sees it: encoded, rounded to codes and decoded. Labels in the prior's own colours.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "prior": socket("CODE_PRIOR", "A prior that is told a picture, from Load Code Prior."),
                "image": socket(
                    "IMAGE",
                    "The picture, of the size that is to be written. For segments a map whose grey level, 0 to 255, is "
                    "the number of a label, or one in the colours of the output reconstruction; for depth a grey map, "
                    "white where it is near.",
                ),
            }
        }

    def execute(self, prior: Prior, image: Tensor) -> tuple[Any, Tensor]:
        from ..core.nn.pad import crop, pad_to
        from . import tiling

        prior = given(prior, "prior", NO_PRIOR)
        model = prior.condition_autoencoder
        x, size = pad_to(host.split_alpha(image)[0], lcm(model.factor, prior.own_autoencoder().factor))
        told = prior.as_told(x)
        codes = codes_of(model, tiling.encode(model, told), size)
        seen = model.to_rgb(tiling.decode(model, lookup(model, codes)))
        return [[None, {CODES: codes}]], host.to_image(crop(seen, size) if told.shape[2:] == x.shape[2:] else seen)


class SampleCodes(Node):
    """Write codes."""

    ID, TITLE, CATEGORY = "VitrailSampleCodes", "Sample Codes", "Vitrail/codes"
    DESCRIPTION = (
        "Writes the codes of new pictures one after the other, as a language model writes words; with a mask, new ones "
        "among those that are kept."
    )
    SEARCH_ALIASES = ["transformer", "autoregressive", "taming transformers", "generate codes", "outpaint", "inpaint"]
    RETURN_TYPES, RETURN_NAMES = ("VQ_CODES",), ("sampled_codes",)
    OUTPUT_TOOLTIPS = ("The codes, for VQ Decode with the prior's own vq_model.",)

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "prior": socket("CODE_PRIOR", "From Load Code Prior."),
                "width": integer(256, 8, 8192, SIZE_TIP.format("width"), step=8),
                "height": integer(256, 8, 8192, SIZE_TIP.format("height"), step=8),
                "temperature": number(
                    1.0, 0.0, 10.0, "Above 1 takes unlikely codes more often, below 1 less; 0 always the likeliest."
                ),
                "top_k": integer(100, 0, 65536, "Draw among so many of the likeliest codes; 0 among all."),
                "top_p": number(
                    1.0, 0.01, 1.0, "Draw among the likeliest codes that together have this probability; 1 among all."
                ),
                "seed": seed("Picture i of a batch is drawn with seed + i, so that it equals a run of its own."),
            },
            "optional": {
                "conditioning": socket(
                    "CONDITIONING", "A class from Class Condition, or a picture from Prior Condition."
                ),
                "codes": socket("VQ_CODES", "Codes that are there already, from VQ Encode with the prior's vq_model."),
                "mask": socket("MASK", "Where to write new codes: 0.5 and more. The other codes are kept."),
            },
        }

    def execute(
        self,
        prior: Prior,
        width: int,
        height: int,
        temperature: float,
        top_k: int,
        top_p: float,
        seed: int,
        conditioning: Any = None,
        codes: Codes | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Codes]:
        from ..core.code_edits import mask_cells
        from ..core.priors import sample

        prior = given(prior, "prior", NO_PRIOR)
        told, size = _told(prior, conditioning)
        blank = _blank(prior, *(size or (height, width))) if codes is None else codes
        batch = max(len(blank.indices), 1 if told is None else len(told))
        with host.loaded(prior):
            steps = sample(
                prior,
                (blank.indices.shape[1], blank.indices.shape[2]),
                [seed + i for i in range(batch)],
                condition=told,
                codes=None if codes is None else _fitting(prior, blank).indices,
                mask=None if mask is None else mask_cells(mask, blank),
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
            )
            total = blank.indices[0].numel()
            *_, last = host.progress(steps, total, None)
        return (_codes(prior, last.codes.cpu(), blank),)


def _blank(prior: Prior, height: int, width: int) -> Codes:
    """Codes of the size of a picture, for one that is written whole."""
    if prior.autoencoder is None:
        raise ConfigError(NO_AUTOENCODER)
    factor = prior.autoencoder.factor
    cells = torch.zeros(1, -(-height // factor), -(-width // factor), dtype=torch.int64)
    return _codes(prior, cells, None, factor, (height, width))


def _codes(prior: Prior, indices: Tensor, like: Codes | None, factor: int = 1, size: tuple[int, int] = (0, 0)) -> Codes:
    known = None if prior.autoencoder is None else prior.autoencoder.codebook_size
    return Codes(
        indices=indices,
        codebook_size=known or prior.config.transformer.vocab,
        factor=factor if like is None else like.factor,
        image_size=size if like is None else like.image_size,
    )


PLACES = frozenset(("area", "mask", "strength", "start_percent", "end_percent"))
"""Keys of a conditioning that bind it to a part."""


def _fitting(prior: Prior, codes: Codes) -> Codes:
    """Codes that this prior can go on from. Raises: ConfigError for those of another codebook."""
    size = None if prior.autoencoder is None else prior.autoencoder.codebook_size
    if codes.indices.ndim != 3 or (size is not None and codes.codebook_size != size):
        raise ConfigError(
            f"the codes are of a codebook of {codes.codebook_size}, the prior writes those of {size}: encode the "
            "picture with the prior's own vq_model"
        )
    return codes


def _told(prior: Prior, conditioning: Any) -> tuple[Tensor | None, tuple[int, int] | None]:
    """What a conditioning tells a prior, labels [B] or the codes of a picture [B, h, w], and that picture's (H, W)."""
    if conditioning is None:
        return None, None
    if len(conditioning) != 1 or PLACES & conditioning[0][1].keys():
        raise ConfigError(
            "this conditioning holds several conditions, or one for a part of the picture or the run; a prior is told "
            "one for all: take out Conditioning (Combine), (Set Area) and their like"
        )
    if (picture := conditioning[0][1].get(CODES)) is not None:
        check_codes(prior.condition_autoencoder, picture)
        return picture.indices, picture.image_size
    cond = host.to_condition(conditioning[0])
    told = cond.vector if cond.vector is not None else cond.concat
    if told is None:
        raise ConfigError(
            "the conditioning holds neither a class nor a picture, which is all that a prior can be told: make it with "
            "Class Condition or Prior Condition, or leave it out"
        )
    return told, None


NODES = (SampleCodes, PriorCondition)
