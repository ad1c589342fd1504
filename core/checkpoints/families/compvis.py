"""Autoencoders as taming-transformers and latent-diffusion save them; their layout is Vitrail's own.

Names and shapes tell everything but the old or new place of beta (the old one, as both repositories build it), and a
tanh at the end of the decoder, which only a config speaks of.
Source: github.com/CompVis/taming-transformers, taming/models/vqgan.py; github.com/CompVis/latent-diffusion,
ldm/models/autoencoder.py.
"""

from typing import Any

from ...autoencoders.autoencoder import Autoencoder
from ...autoencoders.config import AutoencoderConfig
from ...bottlenecks import BottleneckConfig, GumbelConfig, GumbelRemapConfig, KLConfig, RemapConfig, VQConfig
from ...errors import CheckpointError
from ..family import Family, Sidecar, has_all, has_none, metadata_is
from ..header import Header, indices
from ..keymap import KeyMap
from .critics import attach_discriminator

RESOLUTION = 256
"""Only names the levels that have attention; a config file may say another."""

BETA, LEGACY = 0.25, True
"""VQModel builds its quantiser with these in both repositories."""

GUMBEL_WEIGHT = 1e-8
"""Of the divergence, as GumbelVQ builds its quantiser unless told otherwise."""

USED, UNKNOWN = "quantize.used", "random"
"""The codes that a `remap` kept, and what the others become unless the config says it."""

EMA_SIZE, EMA_SUM = "quantize.embedding.cluster_size", "quantize.embedding.embed_avg"
DECAY = 0.99
"""EMAVectorQuantizer's averages, and the decay that it is built with."""

_AUTOENCODER = (
    has_all("encoder.conv_in.weight", "decoder.conv_out.weight", "quant_conv.weight", "post_quant_conv.weight")
    & has_none("model.diffusion_model.*", "encoder.conv_blocks.*", "encoder.down_blocks.*")
    & has_none("decoder.*.attn*.norm2.weight")  # RestoreFormer, a refiner
    & ~metadata_is("format", "vitrail")
)


def infer_vq(header: Header, sidecar: Sidecar) -> AutoencoderConfig:
    """The config of a VQModel, or of an EMAVQ, whose codebook followed a moving average without a loss of its own."""
    codes, dim = header.shape("quantize.embedding.weight")
    legacy, ema = (False, DECAY) if EMA_SIZE in header else (LEGACY, None)
    book = VQConfig(codes=codes, dim=dim, beta=BETA, legacy=legacy, ema=ema)
    return _infer(header, sidecar, RemapConfig(book=book, **_kept(header, sidecar)) if USED in header else book)


def _kept(header: Header, sidecar: Sidecar) -> dict[str, Any]:
    """The list of kept codes is in the file; what others become only the config says."""
    unknown = sidecar.at("model.params.unknown_index", UNKNOWN, f'"{UNKNOWN}", as VQModel has it')
    (kept,) = header.shape(USED)
    return {"kept": kept, "unknown": unknown if isinstance(unknown, int) else str(unknown)}


def infer_gumbel(header: Header, sidecar: Sidecar) -> AutoencoderConfig:
    """The config of a GumbelVQ."""
    codes, dim = header.shape("quantize.embed.weight")
    weight = float(sidecar.at("model.params.kl_weight", GUMBEL_WEIGHT, f"{GUMBEL_WEIGHT}, as GumbelVQ has it"))
    book = GumbelConfig(codes=codes, dim=dim, kl_weight=weight)
    return _infer(header, sidecar, GumbelRemapConfig(book=book, **_kept(header, sidecar)) if USED in header else book)


def infer_any(header: Header, sidecar: Sidecar) -> AutoencoderConfig:
    """The config of whichever autoencoder it is. Raises: CheckpointError for none."""
    for family in FAMILIES:
        if family.detect(header):
            return family.infer(header, sidecar)
    raise CheckpointError(f"{header.path.name}: its first stage is no autoencoder known here")


def infer_kl(header: Header, sidecar: Sidecar) -> AutoencoderConfig:
    """The config of an AutoencoderKL."""
    weight = sidecar.at("model.params.lossconfig.params.kl_weight", KLConfig().weight)
    return _infer(header, sidecar, KLConfig(weight=float(weight)))


def _infer(header: Header, sidecar: Sidecar, bottleneck: BottleneckConfig) -> AutoencoderConfig:
    resolution = sidecar.at("model.params.ddconfig.resolution", RESOLUTION, f"{RESOLUTION}, as public configs have it")
    bounded = bool(sidecar.at("model.params.ddconfig.tanh_out", False))
    said = {**_sizes(header, resolution), **_latent(sidecar), "tanh_out": bounded}
    return AutoencoderConfig(**said, bottleneck=bottleneck)


def _latent(sidecar: Sidecar) -> dict[str, Any]:
    """How the latent is scaled, which only the config of a converted file says."""
    found = {f"latent_{name}": sidecar.at(f"latent.{name}") for name in ("scale", "shift")}
    return {name: tuple(map(float, value)) for name, value in found.items() if isinstance(value, list | tuple)}


def _sizes(header: Header, resolution: int) -> dict[str, Any]:
    ch, inputs = header.shape("encoder.conv_in.weight")[:2]
    levels = 1 + max(indices(header, r"encoder\.down\.(\d+)\..*"))
    widths = [header.shape(f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels)]
    attending = indices(header, r"encoder\.down\.(\d+)\.attn\..*")
    z_channels = header.shape("decoder.conv_in.weight")[1]
    return {
        "in_channels": inputs,
        "out_channels": header.shape("decoder.conv_out.weight")[0],
        "ch": ch,
        "ch_mult": tuple(width // ch for width in widths),
        "num_res_blocks": 1 + max(indices(header, r"encoder\.down\.0\.block\.(\d+)\..*")),
        "attn_resolutions": tuple(resolution // 2**level for level in sorted(attending)),
        "resolution": resolution,
        "z_channels": z_channels,
        "embed_dim": header.shape("post_quant_conv.weight")[1],
        "double_z": header.shape("encoder.conv_out.weight")[0] == 2 * z_channels,
        "attn_type": next((kind for kind, name in ATTENTION.items() if name in header), "none"),
        "resamp_with_conv": levels == 1 or "encoder.down.0.downsample.conv.weight" in header,
        "palette": inputs > 1 and COLOURS in header and header.shape(COLOURS) == (3, inputs, 1, 1),
    }


ATTENTION = {"vanilla": "encoder.mid.attn_1.norm.weight", "linear": "encoder.mid.attn_1.to_qkv.weight"}

COLOURS, PALETTE = "colorize", "palette.colours"


def keys(config: AutoencoderConfig) -> KeyMap:
    """Vitrail's own names are CompVis's, but for a codebook's averages and a palette; a trainer's leftovers go."""
    palette = PALETTE if config.palette else None
    averages = {EMA_SIZE: "quantize.ema_size", EMA_SUM: "quantize.ema_sum"}
    return {"loss.{*}": None, "model_ema.{*}": None, COLOURS: palette, **averages, "{*}": "{*}"}


def keys_behind(old: str, new: str, config: AutoencoderConfig | None) -> dict[str, str | None]:
    """The same table for an autoencoder behind a prefix; all is dropped where there is no config."""
    if config is None:
        return {old + "{*}": None}
    return {old + name: None if ours is None else new + ours for name, ours in keys(config).items()}


FAMILIES = (
    Family(
        name="compvis-vq",
        kind="autoencoder",
        detect=_AUTOENCODER & has_all("quantize.embedding.weight"),
        infer=infer_vq,
        keys=keys,
        build=Autoencoder,
        finish=attach_discriminator,
    ),
    Family(
        name="compvis-gumbel",
        kind="autoencoder",
        detect=_AUTOENCODER & has_all("quantize.embed.weight", "quantize.proj.weight"),
        infer=infer_gumbel,
        keys=keys,
        build=Autoencoder,
        finish=attach_discriminator,
    ),
    Family(
        name="compvis-kl",
        kind="autoencoder",
        detect=_AUTOENCODER & has_none("quantize.*"),
        infer=infer_kl,
        keys=keys,
        build=Autoencoder,
        finish=attach_discriminator,
    ),
)
