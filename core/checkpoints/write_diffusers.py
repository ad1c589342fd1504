"""Models as folders of diffusers: tensors and configs by the paths of their files."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from ..autoencoders.autoencoder import Autoencoder
from ..autoencoders.config import AutoencoderConfig
from ..bottlenecks import KLConfig, VQConfig
from ..diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, TableConfig
from ..diffusion.unet import UNetConfig
from ..errors import ConfigError
from ..text.bert import BertConfig
from ..text.clip import ClipTextConfig
from .families.compvis import PALETTE
from .families.diffusers import KINDS, PREDICTIONS, usual_scale
from .families.diffusers_unet import unet_keys
from .families.diffusers_vae import vae_keys
from .write_compvis import AUTOENCODER, refuse
from .write_text import Files, text_parts, turned

WEIGHTS = "diffusion_pytorch_model.safetensors"
WHERE = "diffusers"
VERSION = {"_diffusers_version": "0.30.0"}
"""Of diffusers, whose settings by those names these are; some pipelines ask."""


SAMPLE_SIZE = 64
"""Cells along a side where a caller of diffusers names no size; no weight depends on it."""


def diffusers_layout(model: nn.Module) -> Files:
    """Files by their paths. Raises: ConfigError for a model that has no place there."""
    if isinstance(model, Autoencoder):
        return _autoencoder(model)
    if not isinstance(model, LatentDiffusion):
        raise ConfigError(f"a {type(model).__name__} has no place in {WHERE}; autoencoders and diffusion have")
    config = model.config
    parts: dict[str, Files] = {"unet": _network(config.unet, model.network.state_dict())}
    if model.autoencoder is None and config.latent_scale != usual_scale(config.unet):
        raise ConfigError(f"{WHERE} keeps the latent's scale, {config.latent_scale:g} here, with an autoencoder only")
    if model.autoencoder is not None:
        vq = isinstance(model.autoencoder.config.bottleneck, VQConfig)
        parts["vqvae" if vq or isinstance(config.conditioner, BertConfig) else "vae"] = _autoencoder(model.autoencoder)
    if config.text is not None or (config.conditioner is not None and not _is_text(config.conditioner)):
        raise ConfigError(f"{WHERE} has no place for this model's conditioner; CLIP and BERT text encoders have one")
    if isinstance(config.conditioner, ClipTextConfig | BertConfig):
        parts |= text_parts(config.conditioner, model.conditioner)
    files = {f"{part}/{name}": content for part, inner in parts.items() for name, content in inner.items()}
    index = _index(config, parts)
    files["scheduler/scheduler_config.json"] = _scheduler(config.table, config.prediction)
    if "low_res_scheduler" in index:
        settings = _scheduler(LOW_RESOLUTION, "eps") | {"_class_name": "DDPMScheduler"}
        files["low_res_scheduler/scheduler_config.json"] = settings
    return files | {"model_index.json": index}


def _is_text(config: Any) -> bool:
    return isinstance(config, ClipTextConfig | BertConfig)


LOW_RESOLUTION = TableConfig(kind="scaled_linear", start=1e-4, end=2e-2)
"""Noise levels of the picture that Stable Diffusion's upscaler sees, whose steps are its classes."""

PIPELINES = {
    ClipTextConfig: {7: "StableDiffusionUpscalePipeline", 9: "StableDiffusionInpaintPipeline"},
    BertConfig: {},
    type(None): {6: "LDMSuperResolutionPipeline"},
}
"""By what reads the prompts, pipelines of networks that see more than the latent, by their channels."""

PLAIN = {ClipTextConfig: "StableDiffusionPipeline", BertConfig: "LDMTextToImagePipeline", type(None): "LDMPipeline"}


def _index(config: LatentDiffusionConfig, parts: Mapping[str, Files]) -> dict[str, Any]:
    text = type(config.conditioner)
    kind = PIPELINES[text].get(config.unet.in_channels, PLAIN[text])
    if len(parts) == 1 and config.unet.context_dim is None:
        kind = "DDPMPipeline"
    library = {"text_encoder": "transformers", "tokenizer": "transformers", "bert": "latent_diffusion"}
    found: dict[str, Any] = {"_class_name": kind, **VERSION, "scheduler": ["diffusers", "DDIMScheduler"]}
    for part, files in parts.items():
        said = files.get("config.json") or files["tokenizer_config.json"]
        made = said.get("_class_name") or said.get("tokenizer_class") or said["architectures"][0]
        found[part] = [library.get(part, "diffusers"), made]
    if kind == "StableDiffusionUpscalePipeline":
        found["low_res_scheduler"] = ["diffusers", "DDPMScheduler"]
    unused = ("safety_checker", "feature_extractor") if text is ClipTextConfig else ()
    return found | {name: [None, None] for name in unused}


def _autoencoder(model: Autoencoder) -> Files:
    config = model.config
    refuse(config, AUTOENCODER - {"resamp_with_conv", "tanh_out"}, WHERE)
    if config.attn_type == "linear":
        raise ConfigError(f"{WHERE} has no place for linear attention in an autoencoder")
    vq = isinstance(config.bottleneck, VQConfig) and config.bottleneck.metric == "l2"
    if not vq and not isinstance(config.bottleneck, KLConfig) or vq and not config.quant_conv:
        raise ConfigError(f"{WHERE} has no place for this bottleneck: {config.bottleneck}")
    state = {name: value for name, value in model.state_dict().items() if name != PALETTE}  # there is no place for it
    tensors = {name: _matrix(name, value) for name, value in turned(vae_keys(config), state).items()}
    settings = _vae_settings(config)
    if isinstance(config.bottleneck, VQConfig):
        settings |= {"_class_name": "VQModel", "num_vq_embeddings": config.bottleneck.codes}
        settings |= {"vq_embed_dim": config.embed_dim}
    else:
        settings |= {"_class_name": "AutoencoderKL", "use_quant_conv": config.quant_conv}
        settings |= {"use_post_quant_conv": config.quant_conv}
    return {"config.json": settings, WEIGHTS: tensors}


def _matrix(name: str, value: Tensor) -> Tensor:
    """Projections of attention as matrices."""
    return value.flatten(1) if ".attentions." in name and value.ndim > 2 else value


def _vae_settings(config: AutoencoderConfig) -> dict[str, Any]:
    attends = [config.attends(level) for level in range(len(config.ch_mult))]
    if config.widths[0] != config.ch or (not config.middle_attends and config.attn_type != "none" and not any(attends)):
        raise ConfigError(f"{WHERE} has the first level as wide as the first convolution, {config.ch}")
    down = ["AttnDownEncoderBlock2D" if there else "DownEncoderBlock2D" for there in attends]
    up = ["AttnUpDecoderBlock2D" if there else "UpDecoderBlock2D" for there in reversed(attends)]
    settings: dict[str, Any] = {
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": list(config.widths),
        "layers_per_block": config.num_res_blocks,
        "act_fn": "silu",
        "latent_channels": config.z_channels,
        "norm_num_groups": config.norm_groups,
        "sample_size": config.resolution,
        "mid_block_add_attention": config.middle_attends,
    }
    if len(config.latent_scale) == 1 and len(config.latent_shift) == 1:
        shift = {"shift_factor": config.latent_shift[0]} if config.latent_shift[0] else {}
        return settings | {"scaling_factor": config.latent_scale[0]} | shift
    count = config.embed_dim
    scales, shifts = (v * count if len(v) == 1 else v for v in (config.latent_scale, config.latent_shift))
    means = {"latents_mean": list(shifts), "latents_std": [1 / scale for scale in scales]}
    return settings | {"scaling_factor": 1.0} | means


UNET = {f.name for f in fields(UNetConfig)} - {
    "patch_size", "sketch_size", "sketch_width", "conv_resample", "num_heads_upsample", "n_embed",
}  # fmt: skip


def _network(config: UNetConfig, state: Mapping[str, Tensor]) -> Files:
    refuse(config, UNET, WHERE)
    if config.widths[0] != config.model_channels:
        raise ConfigError(f"{WHERE} has the first level as wide as the first convolution, {config.model_channels}")
    tensors = turned(unet_keys(config), state)
    if config.context_dim is None:
        tensors = {name: value for old in tensors for name, value in _plain(config, old, tensors[old])}
    return {"config.json": _unet_settings(config), WEIGHTS: tensors}


def _plain(config: UNetConfig, name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """One tensor of theirs, or queries, keys and values apart."""
    if ".attentions." not in name:
        return [(name, value)]
    value = value.flatten(1) if value.ndim == 3 else value
    if ".qkv." not in name:
        return [(name, value)]
    if not config.new_attention_order:
        heads = _heads_of(config, len(value) // 3)
        value = value.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
    names = [name.replace(".qkv.", f".to_{letter}.") for letter in "qkv"]
    return list(zip(names, value.chunk(3), strict=True))


def _heads_of(config: UNetConfig, channels: int) -> int:
    found = {config.heads(level)[0] for level, width in enumerate(config.widths) if width == channels}
    if len(found) > 1:
        raise ConfigError(f"attention over {channels} channels has different numbers of heads: {sorted(found)}")
    return found.pop()


def _unet_settings(config: UNetConfig) -> dict[str, Any]:
    levels = range(len(config.widths))
    attends = [config.attends(level) for level in levels]
    cross = config.context_dim is not None
    resnet, blocks = config.resblock_updown, config.res_blocks
    if not cross and len(set(blocks)) > 1:
        raise ConfigError(f"{WHERE} has as many residual blocks at all levels without a context, not {blocks}")
    if resnet and (cross or not all(not there for there in attends[:1])):
        raise ConfigError(f"{WHERE} has no residual blocks that resample beside attention to a context")
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if resnet else ("DownBlock2D", "UpBlock2D")
    there = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D") if cross else ("AttnDownBlock2D", "AttnUpBlock2D")
    settings: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel" if cross else "UNet2DModel",
        **VERSION,
        "sample_size": SAMPLE_SIZE,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "down_block_types": [there[0] if attends[level] else plain[0] for level in levels],
        "up_block_types": [there[1] if attends[level] else plain[1] for level in reversed(levels)],
        "block_out_channels": list(config.widths),
        "layers_per_block": blocks[0] if len(set(blocks)) == 1 else list(blocks),
        "norm_num_groups": config.norm_groups,
        "norm_eps": config.norm_eps,
        "freq_shift": int(config.time_shift),
        "flip_sin_to_cos": not config.sine_first,
        "downsample_padding": 0 if config.one_sided_downsample else 1,
        "act_fn": "silu",
        "resnet_time_scale_shift": "scale_shift" if config.use_scale_shift_norm else "default",
        "num_class_embeds": config.num_classes,
    }
    return settings | (_cross(config) if cross else _alone(config, attends))


def _cross(config: UNetConfig) -> dict[str, Any]:
    heads = []
    for level, width in enumerate(config.widths):
        count, each = config.heads(level)
        if count * each != width:
            raise ConfigError(f"{WHERE} has no attention of {count} heads of {each} over {width} channels")
        heads.append(count)
    vector = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": config.vector_dim}
    return {
        "cross_attention_dim": config.context_dim,
        "attention_head_dim": heads,
        "transformer_layers_per_block": list(config.depths),
        "use_linear_projection": config.use_linear_in_transformer,
        "only_cross_attention": list(config.disable_self_attentions or [False] * len(heads)),
        **(vector if config.vector_dim is not None else {}),
    }


def _alone(config: UNetConfig, attends: list[bool]) -> dict[str, Any]:
    if config.vector_dim is not None:
        raise ConfigError(f"{WHERE} has no vectors for a network without a context")
    levels = {level for level, there in enumerate(attends) if there}
    levels |= {len(attends) - 1} if config.middle_attention else set()
    pairs = {config.heads(level) for level in levels}
    widths = {each for _, each in pairs}
    if len(widths) > 1 and any(count > 1 for count, _ in pairs):
        raise ConfigError(f"{WHERE} has heads of one width at all levels; these have {sorted(widths)}")
    resnet = {"downsample_type": "resnet", "upsample_type": "resnet"} if config.resblock_updown else {}
    width = None if len(widths) > 1 else next(iter(widths), 8)
    groups = {"attn_norm_num_groups": config.norm_groups} if config.use_scale_shift_norm else {}
    return {"attention_head_dim": width, "add_attention": config.middle_attention, **resnet, **groups}


def _scheduler(table: TableConfig, prediction: str) -> dict[str, Any]:
    kinds, names = ({ours: theirs for theirs, ours in pairs.items()} for pairs in (KINDS, PREDICTIONS))
    odd = table.kind == "cosine" and (table.s or table.end)
    if table.kind not in (*kinds, "betas") or prediction not in names or odd:
        raise ConfigError(f"{WHERE} has no place for {table.kind} noise levels with the prediction {prediction}")
    built = table.build()
    ends = {} if table.kind == "cosine" else {"beta_start": table.start, "beta_end": table.end}
    listed = {} if table.betas is None else {"trained_betas": list(table.betas)}
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": len(built.sigmas),
        "beta_schedule": kinds.get(table.kind, "linear"),
        **listed,
        **{name: value for name, value in ends.items() if value is not None},
        "prediction_type": names[prediction],
        **({"rescale_betas_zero_snr": True} if table.zero_snr else {}),
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
