"""The node that writes codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import ConfigError
from ..core.types import Codes
from . import host
from .spec import InputTypes, Node, given, integer, number, seed, socket

if TYPE_CHECKING:
    from ..core.priors import Prior

NO_PRIOR = "the file that was opened has no prior. Look at Load Code Prior"
NO_AUTOENCODER = (
    "this prior came without its autoencoder, so nobody knows how many pixels a code covers: wire codes of the size "
    "that you want"
)


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
                "width": integer(256, 8, 8192, "Of the picture in pixels. With codes, their size counts.", step=8),
                "height": integer(256, 8, 8192, "Of the picture in pixels. With codes, their size counts.", step=8),
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
                    "CONDITIONING", "A class from Class Condition, or a picture, for priors that are told one."
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
        blank = _blank(prior, width, height) if codes is None else codes
        told = _told(prior, conditioning)
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


def _blank(prior: Prior, width: int, height: int) -> Codes:
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


def _told(prior: Prior, conditioning: Any) -> Tensor | None:
    """What a conditioning tells a prior: labels [B], or a picture [B, C, H, W]."""
    if conditioning is None:
        return None
    if len(conditioning) != 1 or PLACES & conditioning[0][1].keys():
        raise ConfigError(
            "this conditioning holds several conditions, or one for a part of the picture or the run; a prior is told "
            "one for all: take out Conditioning (Combine), (Set Area) and their like"
        )
    cond = host.to_condition(conditioning[0])
    told = cond.vector if cond.vector is not None else cond.concat
    if told is None:
        raise ConfigError(
            "the conditioning holds neither a class nor a picture, which is all that a prior can be told: make it with "
            "Class Condition, or leave it out"
        )
    return told


NODES = (SampleCodes,)
