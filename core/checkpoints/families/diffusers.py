"""Diffusion models as diffusers saves them: a network alone, or the folder of a pipeline with all its parts.

    unet         UNet2DModel, UNet2DConditionModel     vae, vqvae           AutoencoderKL, VQModel
    scheduler    noise levels and prediction           text_encoder, bert   CLIPTextModel, LDMBertModel

Source: github.com/huggingface/diffusers, src/diffusers/pipelines/, schedulers/scheduling_ddim.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...autoencoders.config import AutoencoderConfig
from ...diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, TableConfig
from ...diffusion.unet import UNetConfig
from ...errors import CheckpointError
from ...text.bert import BertConfig
from ...text.clip import ClipTextConfig
from ..derive import within
from ..family import Family, Sidecar, has_all, has_none
from ..folder import read_scheduler
from ..header import Header
from ..keymap import KeyMap
from . import ldm, text_encoders
from .diffusers_unet import infer_unet, prepare_unet, unet_keys
from .diffusers_vae import infer_vae, prepare_vae, vae_keys
from .sd import SCALE, UPSCALER_SCALE

KINDS: dict[str, Any] = {
    "linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid",
}  # fmt: skip
"""diffusers' names of noise schedules, and ours."""

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
"""diffusers' names of what a network predicts, and ours."""

STEPS = 1000

SD_START, SD_END = 0.00085, 0.012
"""Betas of Stable Diffusion, for a network with a context that came without a scheduler."""

DEFAULT = ("linear", 1e-4, 2e-2)
DEFAULTS = {
    **dict.fromkeys(
        ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
        ("linear", SD_START, SD_END),
    ),
    **dict.fromkeys(("LCMScheduler", "TCDScheduler"), ("scaled_linear", SD_START, SD_END)),
}
"""beta_schedule, beta_start and beta_end of a scheduler whose config leaves them out, by its class."""

OTHER_LEVELS = ("FlowMatch", "EDM", "ScoreSde", "KarrasVe", "CMStochastic", "IPNDM", "Cosine", "Amused", "VQDiffusion")
"""Beginnings of the classes of schedulers whose noise levels are not made from betas."""

_UNET = ("conv_in.weight", "time_embedding.linear_1.weight", "down_blocks.0.resnets.0.norm1.weight")
UNET = has_all(*_UNET) & has_none("controlnet_cond_embedding.*")
PIPELINE = has_all(*(f"unet.{name}" for name in _UNET))


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a pipeline beside the network.

    folders: what it is called there. ours: where its weights are in our model. config: of what they make.
    """

    folders: tuple[str, ...]
    ours: str
    config: type
    prepare: Callable[[Header], Header]
    infer: Callable[[Header, Sidecar], Any]
    keys: Callable[[Any], KeyMap]


PARTS = (
    Part(
        folders=("vae", "vqvae"),
        ours="autoencoder",
        config=AutoencoderConfig,
        prepare=prepare_vae,
        infer=infer_vae,
        keys=vae_keys,
    ),
    Part(
        folders=("text_encoder",),
        ours="conditioner",
        config=ClipTextConfig,
        prepare=text_encoders.prepare_clip,
        infer=text_encoders.infer_clip_part,
        keys=lambda _: text_encoders.CLIP_KEYS,
    ),
    Part(
        folders=("bert",),
        ours="conditioner",
        config=BertConfig,
        prepare=lambda header: header,
        infer=text_encoders.infer_ldm_bert,
        keys=text_encoders.ldm_bert_keys,
    ),
)


def infer_pipeline(header: Header, sidecar: Sidecar) -> LatentDiffusionConfig:
    """The config of all parts of a folder."""
    parts = {part.ours: part.infer(header.under(f"{name}."), sidecar.part(name)) for name, part in _present(header)}
    unet = infer_unet(header.under("unet."), sidecar.part("unet"))
    table, prediction = infer_schedule(sidecar.part("scheduler"), unet.context_dim is not None)
    alone: dict[str, Any] = {} if "autoencoder" in parts else {"latent_scale": usual_scale(unet)}
    return LatentDiffusionConfig(unet=unet, table=table, prediction=prediction, **parts, **alone)


def infer_network(header: Header, sidecar: Sidecar) -> LatentDiffusionConfig:
    """The config of a network alone; its noise levels are those of the pipeline whose folder it lies in."""
    unet = infer_unet(header, sidecar)
    scheduler = sidecar.holding(read_scheduler(header.path), "scheduler: ")
    table, prediction = infer_schedule(scheduler, unet.context_dim is not None)
    if not scheduler:
        sidecar.found["noise levels, prediction"] = "Stable Diffusion's" if unet.context_dim is not None else "DDPM's"
    scale = usual_scale(unet)
    sidecar.found["latent_scale"] = f"{scale:g}, as public models of this kind have it"
    return LatentDiffusionConfig(unet=unet, table=table, prediction=prediction, latent_scale=scale)


def usual_scale(unet: UNetConfig) -> float:
    """The scale of a network's latents where its autoencoder is not there to tell: Stable Diffusion's, or none."""
    if unet.context_dim is None or unet.out_channels != 4:
        return 1.0
    return UPSCALER_SCALE if unet.in_channels == 7 else SCALE


def infer_schedule(scheduler: Sidecar, context: bool) -> tuple[TableConfig, str]:
    """Noise levels and prediction of a scheduler_config.json, or what networks of that kind were trained with."""
    if not scheduler:
        start, end = (SD_START, SD_END) if context else DEFAULT[1:]
        return TableConfig(kind="scaled_linear" if context else "linear", start=start, end=end), "eps"
    name = str(scheduler.get("_class_name"))
    schedule, start, end = DEFAULTS.get(name, DEFAULT)
    kind = KINDS.get(str(scheduler.at("beta_schedule", schedule)))
    said = str(scheduler.at("prediction_type", "epsilon"))
    listed = scheduler.at("trained_betas")
    if (kind is None and listed is None) or name.startswith(OTHER_LEVELS):
        raise CheckpointError(
            f"the scheduler's noise levels ({name}, beta_schedule {scheduler.get('beta_schedule')!r}) are not known "
            f"here; known are {', '.join(KINDS)}"
        )
    if said not in PREDICTIONS:
        raise CheckpointError(f"the scheduler's prediction_type is {said!r}; known are {', '.join(PREDICTIONS)}")
    zero_snr = bool(scheduler.at("rescale_betas_zero_snr"))
    if listed is not None:
        return ldm.listed_table(listed, zero_snr), PREDICTIONS[said]
    shared: dict[str, Any] = {
        "kind": kind,
        "timesteps": int(scheduler.at("num_train_timesteps", STEPS)),
        "zero_snr": zero_snr,
    }
    if kind == "cosine":
        return TableConfig(**shared), PREDICTIONS[said]
    start, end = float(scheduler.at("beta_start", start)), float(scheduler.at("beta_end", end))
    return TableConfig(**shared, start=start, end=end), PREDICTIONS[said]


def _present(header: Header) -> list[tuple[str, Part]]:
    """The parts that a pipeline has, each with its folder's name."""
    folders = {name.partition(".")[0] for name in header.tensors}
    return [(name, part) for part in PARTS for name in part.folders if name in folders]


def prepare_pipeline(header: Header) -> Header:
    """Every part as its own family prepares it."""
    header = within(header, "unet.", prepare_unet)
    for name, part in _present(header):
        header = within(header, f"{name}.", part.prepare)
    return header


def pipeline_keys(config: LatentDiffusionConfig) -> KeyMap:
    """The tables of all parts, one after another."""
    table: dict[str, str | None] = _prefixed("unet.", "network.", unet_keys(config.unet))
    for part in PARTS:
        inner = getattr(config, part.ours)
        if isinstance(inner, part.config):
            for name in part.folders:
                table |= _prefixed(f"{name}.", f"{part.ours}.", {**part.keys(inner), "{*}": "{*}"})
    return table


def _prefixed(theirs: str, ours: str, table: Mapping[str, str | None]) -> dict[str, str | None]:
    return {theirs + old: None if new is None else ours + new for old, new in table.items()}


def _finish(model: nn.Module, header: Header, _: Any) -> None:
    text_encoders.give_tokenizer(model.conditioner, header)


FAMILIES = (
    Family(
        name="diffusers-unet",
        kind="diffusion",
        detect=UNET,
        infer=infer_network,
        keys=lambda config: _prefixed("", "network.", unet_keys(config.unet)),
        build=LatentDiffusion,
        prepare=prepare_unet,
    ),
    Family(
        name="diffusers-pipeline",
        kind="diffusion",
        detect=PIPELINE,
        infer=infer_pipeline,
        keys=pipeline_keys,
        build=LatentDiffusion,
        parts=lambda model: model.stored,
        prepare=prepare_pipeline,
        finish=_finish,
    ),
)
