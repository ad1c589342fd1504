"""Autoencoders as diffusers saves them, VQModel and AutoencoderKL: CompVis's layers by other names.

Sizes come from shapes, the rest from config.json. Attention projections are matrices there (or 1x1 convolutions), and
have the names query, key, value, proj_attn in files of before 2023.
Source: github.com/huggingface/diffusers, src/diffusers/models/autoencoders/.
"""

import re
from collections.abc import Mapping
from typing import Any

from ...autoencoders.autoencoder import Autoencoder
from ...autoencoders.config import AutoencoderConfig
from ...bottlenecks import KLConfig, VQConfig
from ...errors import CheckpointError, ConfigError
from ..derive import derived, shaped
from ..family import Family, Sidecar, has_all, has_none
from ..header import Header
from ..keymap import KeyMap

RESOLUTION = 256
"""Only names the levels that have attention."""

SCALES = {
    "kl": (0.18215, "0.18215, AutoencoderKL's own default"),
    "vq": (1.0, "1, as latent-diffusion's VQ models are trained; diffusers issue 6725"),
}
"""The latent's scale where the config has none."""

FORMER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of attention's projections before 2023."""

SETTINGS: Mapping[str, tuple[Any, ...]] = {"act_fn": ("silu", "swish"), "norm_type": ("group",)}
"""What a setting may be; the first value is the default."""

_AUTOENCODER = has_all("encoder.down_blocks.0.resnets.0.norm1.weight", "decoder.up_blocks.0.resnets.0.conv1.weight")


def infer_vae(header: Header, sidecar: Sidecar) -> AutoencoderConfig:
    """The config of either kind, from the names that `prepare_vae` leaves."""
    check_settings(sidecar, SETTINGS)
    sizes = _sizes(header) | {"norm_groups": int(sidecar.at("norm_num_groups", 32, "32, diffusers' default"))}
    if "quantize.embedding.weight" in header:
        codes, dim = header.shape("quantize.embedding.weight")
        return AutoencoderConfig(**sizes, **_affine(sidecar, "vq"), bottleneck=VQConfig(codes=codes, dim=dim))
    return AutoencoderConfig(**sizes, **_affine(sidecar, "kl"), bottleneck=KLConfig())


def check_settings(sidecar: Sidecar, settings: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises: ConfigError for settings that no network here has."""
    found = {name: sidecar.at(name, allowed[0]) for name, allowed in settings.items()}
    if wrong := [f"{name} {value!r}" for name, value in found.items() if value not in settings[name]]:
        raise ConfigError(f"{sidecar.name} asks for what Vitrail's networks do not have: {', '.join(wrong)}")


def _affine(sidecar: Sidecar, kind: str) -> dict[str, Any]:
    """scaled = (z - shift) scale, from one factor or from means and deviations of each channel."""
    default, source = SCALES[kind]
    scale, shift = float(sidecar.at("scaling_factor", default, source)), float(sidecar.at("shift_factor", 0.0))
    means, deviations = sidecar.at("latents_mean"), sidecar.at("latents_std")
    if means is None or deviations is None:
        return {"latent_scale": (scale,), "latent_shift": (shift,)}
    return {
        "latent_shift": tuple(float(mean) for mean in means),
        "latent_scale": tuple(scale / float(deviation) for deviation in deviations),
    }


def _sizes(header: Header) -> dict[str, Any]:
    ch, inputs = header.shape("encoder.conv_in.weight")[:2]
    levels = 1 + max(indices(header, r"encoder\.down_blocks\.(\d+)\..*"))
    widths = [header.shape(f"encoder.down_blocks.{level}.resnets.0.conv1.weight")[0] for level in range(levels)]
    attending = indices(header, r"encoder\.down_blocks\.(\d+)\.attentions\..*")
    if attending != {levels - 1 - block for block in indices(header, r"decoder\.up_blocks\.(\d+)\.attentions\..*")}:
        raise CheckpointError(f"{header.path.name}: attention is at other levels in the decoder than in the encoder")
    middle = "encoder.mid_block.attentions.0.to_q.weight" in header
    z_channels = header.shape("decoder.conv_in.weight")[1]
    quant = "post_quant_conv.weight" in header
    if quant != ("quant_conv.weight" in header):
        raise CheckpointError(f"{header.path.name} has one of quant_conv and post_quant_conv; expected both or none")
    return {
        "in_channels": inputs,
        "out_channels": header.shape("decoder.conv_out.weight")[0],
        "ch": ch,
        "ch_mult": multiples(widths, ch),
        "num_res_blocks": 1 + max(indices(header, r"encoder\.down_blocks\.0\.resnets\.(\d+)\..*")),
        "attn_resolutions": tuple(RESOLUTION // 2**level for level in sorted(attending)),
        "resolution": RESOLUTION,
        "z_channels": z_channels,
        "embed_dim": header.shape("post_quant_conv.weight")[1] if quant else z_channels,
        "double_z": header.shape("encoder.conv_out.weight")[0] == 2 * z_channels,
        "attn_type": "vanilla" if middle or attending else "none",
        "mid_attention": middle or not attending,
        "quant_conv": quant,
    }


def indices(header: Header, pattern: str) -> set[int]:
    """The numbers that a pattern finds among the names."""
    return {int(found[1]) for name in header.tensors if (found := re.fullmatch(pattern, name))}


def multiples(widths: list[int], base: int) -> tuple[int | float, ...]:
    """Widths as multiples of one, whole numbers where they are."""
    return tuple(width // base if width % base == 0 else width / base for width in widths)


def prepare_vae(header: Header) -> Header:
    """Attention's projections by their present names, as 1x1 convolutions."""
    header = with_present_names(header)
    pattern = re.compile(r".*\.attentions\.\d+\.(?:to_q|to_k|to_v|to_out\.0)\.weight")
    flat = {name for name, info in header.tensors.items() if pattern.fullmatch(name) and len(info.shape) == 2}
    return derived(header, {name: shaped(name, (*header.shape(name), 1, 1)) for name in flat})


def with_present_names(header: Header) -> Header:
    """Former names of plain attention's projections replaced; those of transformers never changed."""
    pattern = re.compile(rf"(.*attentions\.\d+)\.({'|'.join(FORMER)})\.(weight|bias)")
    names = {name: pattern.sub(lambda m: f"{m[1]}.{FORMER[m[2]]}.{m[3]}", name) for name in header.tensors}
    return header.renamed(names)


ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def vae_keys(config: AutoencoderConfig) -> KeyMap:
    """diffusers' names to ours, one to one: turned round it is the way back."""
    levels = len(config.ch_mult)
    blocks = {f"encoder.down_blocks.{level}": f"encoder.down.{level}" for level in range(levels)}
    blocks |= {f"decoder.up_blocks.{levels - 1 - level}": f"decoder.up.{level}" for level in range(levels)}
    table: dict[str, str] = {}
    for theirs, ours in blocks.items():
        table |= {
            f"{theirs}.resnets.{{}}.conv_shortcut.{{*}}": f"{ours}.block.{{}}.nin_shortcut.{{*}}",
            f"{theirs}.resnets.{{}}.{{*}}": f"{ours}.block.{{}}.{{*}}",
            f"{theirs}.downsamplers.0.{{*}}": f"{ours}.downsample.{{*}}",
            f"{theirs}.upsamplers.0.{{*}}": f"{ours}.upsample.{{*}}",
        }
        table |= {f"{theirs}.attentions.{{}}.{a}.{{*}}": f"{ours}.attn.{{}}.{b}.{{*}}" for a, b in ATTENTION.items()}
    for half in ("encoder", "decoder"):
        table |= {
            f"{half}.mid_block.resnets.0.{{*}}": f"{half}.mid.block_1.{{*}}",
            f"{half}.mid_block.resnets.1.{{*}}": f"{half}.mid.block_2.{{*}}",
            f"{half}.conv_norm_out.{{*}}": f"{half}.norm_out.{{*}}",
        }
        table |= {
            f"{half}.mid_block.attentions.0.{a}.{{*}}": f"{half}.mid.attn_1.{b}.{{*}}" for a, b in ATTENTION.items()
        }
    return table


FAMILIES = (
    Family(
        name="diffusers-vq",
        kind="autoencoder",
        detect=_AUTOENCODER & has_all("quantize.embedding.weight"),
        infer=infer_vae,
        keys=vae_keys,
        build=Autoencoder,
        prepare=prepare_vae,
    ),
    Family(
        name="diffusers-kl",
        kind="autoencoder",
        detect=_AUTOENCODER & has_none("quantize.*"),
        infer=infer_vae,
        keys=vae_keys,
        build=Autoencoder,
        prepare=prepare_vae,
    ),
)
