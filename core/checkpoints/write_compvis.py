"""Models in CompVis's layout: the tensors of one file and the config that goes beside it."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from ..autoencoders.autoencoder import Autoencoder
from ..autoencoders.config import AutoencoderConfig
from ..bottlenecks import KLConfig, VQConfig
from ..diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ..diffusion.unet import UNetConfig
from ..errors import ConfigError
from ..text.bert import BertConfig
from ..text.clip import ClipTextConfig
from ..text.conditioners import ClassConfig
from .families.compvis import COLOURS, PALETTE
from .families.ldm import COND, FIRST, KINDS, bert_keys
from .families.text_encoders import OPEN_LAYER, OPEN_NAMES
from .keymap import translate

LDM = "ldm.models.autoencoder"
NAMES = {ours: theirs for theirs, ours in KINDS.items()}


def compvis_layout(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, and the config. Raises: ConfigError for a model that has no place there."""
    if isinstance(model, Autoencoder):
        config = model.config
        latent = {"scale": list(config.latent_scale), "shift": list(config.latent_shift)}
        return _autoencoder(model), {"model": _first_stage(config), "latent": latent}
    if not isinstance(model, LatentDiffusion):
        raise ConfigError(f"a {type(model).__name__} has no place in CompVis's layout; autoencoders and diffusion have")
    config = model.config
    tensors = {f"model.diffusion_model.{name}": value for name, value in model.network.state_dict().items()}
    if model.autoencoder is not None:
        tensors |= {FIRST + name: value for name, value in _autoencoder(model.autoencoder).items()}
    if config.conditioner is not None and model.conditioner is not None:
        tensors |= _conditioner(config.conditioner, model.conditioner.state_dict())
    return tensors, _settings(config, None if model.autoencoder is None else model.autoencoder.config)


def _autoencoder(model: Autoencoder) -> dict[str, Tensor]:
    return {COLOURS if name == PALETTE else name: value for name, value in model.state_dict().items()}


def refuse(config: Any, allowed: set[str], layout: str) -> None:
    """ConfigError for settings beside the allowed ones that are not as usual."""
    usual = {f.name: f.default for f in fields(config)}
    if strange := [f"{n} {getattr(config, n)!r}" for n in usual if n not in allowed and getattr(config, n) != usual[n]]:
        raise ConfigError(f"{layout} has no place for {', '.join(strange)}")


AUTOENCODER = {f.name for f in fields(AutoencoderConfig)} - {
    "patch_size", "decoder_blocks", "decoder_ch_mult", "last_activation", "decoder_attn_type", "resampling", "middle",
}  # fmt: skip
UNET = {f.name for f in fields(UNetConfig)} - {
    "patch_size", "sketch_size", "sketch_width", "norm_groups", "norm_eps", "time_shift", "sine_first",
    "one_sided_downsample", "middle_attention",
}  # fmt: skip


def _first_stage(config: AutoencoderConfig) -> dict[str, Any]:
    refuse(config, AUTOENCODER - {"norm_groups", "mid_attention", "quant_conv"}, "CompVis's layout")
    _check_whole(config.ch_mult)
    dd = {
        "double_z": config.double_z,
        "z_channels": config.z_channels,
        "resolution": config.resolution,
        "in_channels": config.in_channels,
        "out_ch": config.out_channels,
        "ch": config.ch,
        "ch_mult": list(config.ch_mult),
        "num_res_blocks": config.num_res_blocks,
        "attn_resolutions": list(config.attn_resolutions),
        "attn_type": config.attn_type,
        "resamp_with_conv": config.resamp_with_conv,
        "tanh_out": config.tanh_out,
        "dropout": 0.0,
    }
    params = {"embed_dim": config.embed_dim, "ddconfig": dd, "lossconfig": {"target": "torch.nn.Identity"}}
    if config.palette:
        params |= {"colorize_nlabels": config.in_channels, "image_key": "segmentation"}
    match config.bottleneck:
        case VQConfig(metric="l2", codes=codes):
            return {"target": f"{LDM}.VQModelInterface", "params": {"n_embed": codes, **params}}
        case KLConfig():
            return {"target": f"{LDM}.AutoencoderKL", "params": params}
    raise ConfigError(f"CompVis's layout has no place for a bottleneck of the kind {type(config.bottleneck).__name__}")


def _settings(config: LatentDiffusionConfig, first: AutoencoderConfig | None) -> dict[str, Any]:
    table = config.table
    if table.kind not in NAMES or config.prediction not in ("eps", "v", "x0") or config.text is not None:
        raise ConfigError(
            f"CompVis's layout has no place for noise levels of the kind {table.kind}, the prediction "
            f"{config.prediction} or Vitrail's own text encoder"
        )
    ends = {"linear_start": table.start, "linear_end": table.end, "cosine_s": table.s}
    params: dict[str, Any] = {
        "beta_schedule": NAMES[table.kind],
        "timesteps": table.timesteps,
        **{name: value for name, value in ends.items() if value is not None},
        "parameterization": config.prediction,
        "scale_factor": config.latent_scale,
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": _unet(config.unet)},
    }
    if first is not None:
        scale, *others = first.latent_scale
        if others or any(first.latent_shift):
            raise ConfigError("CompVis's layout has one scale for all channels of a latent and no shift")
        params |= {"scale_factor": scale, "first_stage_config": _first_stage(first)}
    said: dict[str, Any] = {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}
    if isinstance(config.conditioner, BertConfig):
        params["cond_stage_config"] = _bert(config.conditioner)
    if isinstance(config.conditioner, ClipTextConfig):
        text = config.conditioner
        params["cond_stage_config"] = {"params": {"layer": "penultimate" if text.skip else "last"}}
        said["text_config"] = {"heads": text.heads, "num_attention_heads": text.heads, "hidden_act": text.activation}
        said["text_config"]["layer_norm_eps"] = text.eps
        said["text_config"] |= {"bos_token_id": text.start, "eos_token_id": text.end, "pad_token_id": text.pad}
    return said


def _bert(config: BertConfig) -> dict[str, Any]:
    """The encoder's settings; `heads` stands where the reference, which always has 8, passes it over."""
    sizes = {"n_embed": config.width, "n_layer": config.depth, "vocab_size": config.vocab, "max_seq_len": config.length}
    return {"target": "ldm.modules.encoders.modules.BERTEmbedder", "params": sizes, "heads": config.heads}


def _unet(config: UNetConfig) -> dict[str, Any]:
    refuse(config, UNET, "CompVis's layout")
    _check_whole(config.channel_mult)
    given = {f.name: getattr(config, f.name) for f in fields(config) if f.name in UNET}
    given |= _heads(config)
    given["use_spatial_transformer"] = config.context_dim is not None
    given["use_new_attention_order"] = given.pop("new_attention_order")
    if (vector := given.pop("vector_dim")) is not None:
        given |= {"num_classes": "sequential", "adm_in_channels": vector}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    return {name: value for name, value in plain.items() if value is not None}


def _check_whole(multiples: tuple[int | float, ...]) -> None:
    if any(isinstance(multiple, float) for multiple in multiples):
        raise ConfigError(f"CompVis's layout has whole multiples of the first width, not {multiples}")


def _heads(config: UNetConfig) -> dict[str, int]:
    """The heads of all levels as one number, or one width."""
    if not isinstance(config.num_heads, tuple) or config.num_head_channels > 0:
        return {}
    found = {config.heads(level) for level in range(len(config.widths)) if config.attends(level)}
    found |= {config.heads(len(config.widths) - 1)}
    counts, widths = ({pair[i] for pair in found} for i in (0, 1))
    if len(counts) > 1 and len(widths) > 1:
        raise ConfigError(f"CompVis's layout has one number or width of heads for all levels, not {config.num_heads}")
    return {"num_heads": counts.pop()} if len(counts) == 1 else {"num_heads": -1, "num_head_channels": widths.pop()}


def _conditioner(config: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(config, ClipTextConfig):
        return _open_clip(state) if config.activation == "gelu" else _prefixed("transformer.", state)
    if isinstance(config, BertConfig):
        back = {new: old for old, new in bert_keys(config).items() if new is not None}
        return _prefixed("", {new: state[old] for old, new in translate(back, state).items()})
    if isinstance(config, ClassConfig):
        return _prefixed("", state)
    raise ConfigError(f"CompVis's layout has no place for a {type(config).__name__} here")


def _prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {COND + prefix + name: value for name, value in state.items()}


def _open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's names, queries, keys and values joined."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if part := re.fullmatch(r"(.*\.self_attn)\.q_proj\.(weight|bias)", name):
            value = torch.cat([state[f"{part[1]}.{letter}_proj.{part[2]}"] for letter in "qkv"])
            name = f"{part[1]}.in_proj_{part[2]}"
        elif re.search(r"\.self_attn\.[kv]_proj\.", name):
            continue
        for theirs, ours in OPEN_LAYER.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        for theirs, ours in OPEN_NAMES.items():
            name = theirs + name[len(ours) :] if name.startswith(ours) else name
        found[name] = value
    return _prefixed("model.", found)
