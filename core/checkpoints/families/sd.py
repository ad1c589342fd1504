"""Stable Diffusion 1 and 2 in one file: latent diffusion whose text encoder is CLIP or OpenCLIP.

    1.x   cond_stage_model.transformer.text_model.    the last layer          context 768
    2.x   cond_stage_model.model.                     the last but one        context 1024

    no text encoder: the network alone, or with the autoencoder; linear proj_in and proj_out tell 2.x

Inpainting networks take 9 channels, depth 5, the x4 upscaler 7. No name or shape tells v from eps: see the tables.
Source: github.com/CompVis/stable-diffusion, configs/; github.com/Stability-AI/stablediffusion, configs/.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...diffusion.latent_diffusion import LatentDiffusionConfig, TableConfig
from ...errors import CheckpointError
from ...text.clip import ClipTextConfig
from ..derive import within
from ..family import Family, Sidecar, has_all, has_none
from ..header import Header
from . import ldm
from .ldm import COND, CONTEXT, Stage
from .text_encoders import CLIP_KEYS, infer_clip, infer_open_clip, prepare_clip, prepare_open_clip
from .unet import PREFIX, infer_unet

CLIP, OPEN_CLIP = f"{COND}transformer.", f"{COND}model."

PREDICTIONS = {
    ("sd2", 7): ("v", "v, as x4-upscaling.yaml has it"),
    ("sd2", 9): ("eps", "eps, as v2-inpainting-inference.yaml has it"),
    ("sd2", 5): ("eps", "eps, as v2-midas-inference.yaml has it"),
    ("sd1", 4): ("eps", "eps, as v1-inference.yaml has it"),
    ("sd1", 9): ("eps", "eps, as v1-inpainting-inference.yaml has it"),
}
"""By family and input channels, where no config says it."""

LAST_NORM = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
SPREAD = 0.09
"""Standard deviation of that bias above which a Stable Diffusion 2 was trained for v (768 pixels), below for eps (512):
a mark that ComfyUI goes by too, as nothing else in the file tells."""

SCALE, UPSCALER_SCALE = 0.18215, 0.08333
TABLE = TableConfig(kind="scaled_linear", start=0.00085, end=0.012)
UPSCALER_HEADS = {"num_heads": 8}
UPSCALER_TABLE = TableConfig(kind="scaled_linear", start=0.0001, end=0.02)


def _infer(header: Header, sidecar: Sidecar, stage: Stage, text: Callable[[Header, Sidecar], Any]) -> Any:
    params = sidecar.part("model.params")
    upscaler = header.shape(f"{PREFIX}input_blocks.0.0.weight")[1] == 7
    unet = infer_unet(header, sidecar, UPSCALER_HEADS if upscaler else stage.heads)
    return LatentDiffusionConfig(
        unet=unet,
        table=_table(header, params, UPSCALER_TABLE if upscaler else TABLE),
        prediction=_prediction(header, params, stage.name, unet.in_channels),
        conditioner=text(header, sidecar),
        **ldm.infer_latent(header, params, UPSCALER_SCALE if upscaler else stage.scale),
    )


def _table(header: Header, params: Sidecar, published: TableConfig) -> TableConfig:
    said = params.at("linear_start") is not None or params.at("beta_schedule") is not None
    if said or ldm.is_whole(params) or "betas" in header:
        return ldm.infer_table(header, params)
    params.found["noise levels"] = f"{published.start} to {published.end}, as the published configs have them"
    return published


def _prediction(header: Header, params: Sidecar, name: str, channels: int) -> str:
    if (given := params.at("parameterization")) is not None:
        return str(given)
    prediction, source = PREDICTIONS.get((name, channels), ("eps", "eps, as v2-inference.yaml has it"))
    if (name, channels) == ("sd2", 4) and LAST_NORM in header:
        spread = float(header.value(LAST_NORM).float().std(correction=0))
        prediction, source = "v" if spread > SPREAD else "eps", f"the spread {spread:.3f} of {LAST_NORM}"
    params.found["prediction"] = source
    return prediction


def _infer_network(header: Header, sidecar: Sidecar) -> LatentDiffusionConfig:
    """A network that came without its text encoder."""
    unet = infer_unet(header, sidecar)
    if unet.vector_dim is not None:
        raise CheckpointError(
            f"{header.path.name} is a network with text and a vector of {unet.vector_dim} numbers beside it, as Stable "
            "Diffusion XL has it, which Vitrail does not open: use ComfyUI's own loader"
        )
    return _infer(header, sidecar, SD2 if unet.use_linear_in_transformer else SD1, lambda *_: None)


def _clip(header: Header, sidecar: Sidecar) -> ClipTextConfig:
    return infer_clip(header.under(CLIP), sidecar.part("text_config"))


def _open_clip(header: Header, sidecar: Sidecar) -> ClipTextConfig:
    layer = sidecar.at("model.params.cond_stage_config.params.layer", "penultimate", "penultimate, as published")
    return infer_open_clip(header.under(OPEN_CLIP), sidecar.part("text_config"), skip=int(layer == "penultimate"))


def _family(stage: Stage, prefix: str, prepare: Callable[[Header], Header], text: Callable[..., Any]) -> Family:
    inner = prefix.removeprefix(COND)
    keys = {inner + old: new for old, new in CLIP_KEYS.items()} | {"{*}": None}
    return replace(
        ldm.family(replace(stage, keys=lambda _: keys)),
        infer=lambda header, sidecar: _infer(header, sidecar, stage, text),
        prepare=lambda header: within(header, prefix, prepare),
    )


SD1 = Stage(
    name="sd1",
    detect=has_all(f"{CLIP}text_model.embeddings.token_embedding.weight")
    | has_all(f"{CLIP}embeddings.token_embedding.weight"),
    infer=infer_clip,
    scale=SCALE,
    heads={"num_heads": 8},
)
SD2 = Stage(
    name="sd2",
    detect=has_all(f"{OPEN_CLIP}transformer.resblocks.0.attn.in_proj_weight"),
    infer=infer_open_clip,
    scale=SCALE,
    heads={"num_head_channels": 64},
)

NETWORK = Stage(name="sd-network", detect=has_none(f"{COND}*") & has_all(CONTEXT), infer=lambda *_: None)

FAMILIES = (
    _family(SD1, CLIP, prepare_clip, _clip),
    _family(SD2, OPEN_CLIP, prepare_open_clip, _open_clip),
    replace(ldm.family(NETWORK), infer=_infer_network),
)
