"""Diffusion networks as diffusers saves them, UNet2DModel and UNet2DConditionModel: CompVis's layers by other names.

Sizes come from shapes, the rest from config.json, whose `attention_head_dim` means channels a head for UNet2DModel and
the number of heads for UNet2DConditionModel. Plain attention keeps queries, keys and values in three matrices there.
Source: github.com/huggingface/diffusers, src/diffusers/models/unets/.
"""

import re
from collections.abc import Mapping
from typing import Any

from ...diffusion.unet import UNetConfig
from ...errors import CheckpointError
from ..derive import Recipe, derived, joined, shaped
from ..family import Sidecar
from ..header import Header
from ..keymap import KeyMap
from .diffusers_vae import check_settings, indices, multiples, with_present_names

SETTINGS: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"),
    "mid_block_scale_factor": (1,),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1,),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "downsample_padding": (1, 0),
    "class_embed_type": (None, "projection"),
    "class_embeddings_concat": (False,),
    "addition_embed_type": (None,),
    "encoder_hid_dim_type": (None,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
    "cross_attention_norm": (None,),
    "dual_cross_attention": (False,),
    "num_attention_heads": (None,),
    "reverse_transformer_layers_per_block": (None,),
}
"""What a setting may be; the first value is the default."""

BLOCKS = re.compile(r"(?:Cross)?(?:Attn)?(?:Resnet)?(?:Down|Up)(?:sample)?Block2D")
"""Kinds of levels that are built from convolutions, residual blocks and attention alone."""

HEADS = 8
"""diffusers' default of attention_head_dim."""


def infer_unet(header: Header, sidecar: Sidecar) -> UNetConfig:
    """The config of either kind, from the names that `prepare_unet` leaves."""
    if any(name.startswith("add_embedding.") for name in header.tensors):
        raise CheckpointError(
            f"{header.path.name} is told more beside its text (add_embedding), as networks of Stable Diffusion XL "
            "are, which Vitrail does not open: use ComfyUI's own loader"
        )
    check_settings(sidecar, SETTINGS)
    kinds = [*sidecar.at("down_block_types", ()), *sidecar.at("up_block_types", ())]
    if unknown := sorted({str(kind) for kind in kinds if not BLOCKS.fullmatch(str(kind))}):
        raise CheckpointError(f"{header.path.name} has levels of kinds not known here: {', '.join(unknown)}")
    _check_alike(header)
    sizes = _sizes(header)
    groups = int(sidecar.at("norm_num_groups", 32, "32, diffusers' default"))
    if sidecar.at("attn_norm_num_groups", groups) != groups:
        raise CheckpointError(f"{header.path.name}: the norms of attention have other groups than the rest")
    return UNetConfig(
        **sizes,
        **_heads(sizes, sidecar),
        disable_self_attentions=_only_context(header, sidecar, len(sizes["channel_mult"])),
        one_sided_downsample=sidecar.at("downsample_padding", 1) == 0,
        norm_groups=groups,
        norm_eps=float(sidecar.at("norm_eps", 1e-5, "1e-5, diffusers' default")),
        time_shift=float(sidecar.at("freq_shift", 0)),
        sine_first=not sidecar.at("flip_sin_to_cos", True),
        new_attention_order=True,
    )


def _check_alike(header: Header) -> None:
    """CheckpointError where levels attend, or change the size, in different ways."""
    attentions = {found[1] for name in header.tensors if (found := re.match(r"(.*\.attentions\.\d+)\.", name))}
    transformers = {place for place in attentions if f"{place}.transformer_blocks.0.norm1.weight" in header}
    if transformers and attentions != transformers:
        raise CheckpointError(
            f"{header.path.name} has plain attention beside attention to a context; Vitrail's networks have one kind"
        )
    samplers = {found[1] for name in header.tensors if (found := re.match(r".*samplers\.\d+\.(conv\d?)\.weight", name))}
    if "conv" in samplers and len(samplers) > 1:
        raise CheckpointError(
            f"{header.path.name} changes the size in residual blocks at some levels and in convolutions at others; "
            "Vitrail's networks do one of them"
        )


def _heads(sizes: dict[str, Any], sidecar: Sidecar) -> dict[str, Any]:
    given = sidecar.at("attention_head_dim", HEADS, f"{HEADS}, diffusers' default")
    if sizes["context_dim"] is None:
        given = sidecar.data.get("attention_head_dim", given)
        return {"num_heads": 1} if given is None else {"num_head_channels": int(given)}
    if sizes["use_linear_in_transformer"] and not sidecar:
        sidecar.found["attention_head_dim"] = "64 channels a head, as Stable Diffusion 2 has it"
        return {"num_head_channels": 64}
    return {"num_heads": tuple(map(int, given)) if isinstance(given, list | tuple) else int(given)}


def _only_context(header: Header, sidecar: Sidecar, levels: int) -> tuple[bool, ...] | None:
    """Levels whose transformers have no attention to themselves (SD's x4 upscaler)."""
    given = sidecar.at("only_cross_attention", False)
    if isinstance(given, list | tuple):
        return tuple(map(bool, given)) if any(given) else None
    return (True,) * levels if given else None


def _sizes(header: Header) -> dict[str, Any]:
    width, inputs = header.shape("conv_in.weight")[:2]
    levels = 1 + max(indices(header, r"down_blocks\.(\d+)\..*"))
    found = [_level(header, f"down_blocks.{level}") for level in range(levels)]
    _check_mirrored(header, found)
    widths = [level["width"] for level in found]
    middle = _transformers(header, "mid_block.attentions.0")
    depths = [level["depth"] or 1 for level in found]
    depths[-1] = found[-1]["depth"] or middle or 1
    if middle and middle != depths[-1]:
        raise CheckpointError(
            f"{header.path.name}: the middle has {middle} transformer blocks, the last level {depths[-1]}; expected as "
            "many"
        )
    res_blocks = tuple(level["blocks"] for level in found)
    return {
        "in_channels": inputs,
        "out_channels": header.shape("conv_out.weight")[0],
        "model_channels": width,
        "channel_mult": multiples(widths, width),
        "num_res_blocks": res_blocks[0] if len(set(res_blocks)) == 1 else res_blocks,
        "attention_resolutions": tuple(2**i for i, level in enumerate(found) if level["attends"]),
        "transformer_depth": depths[0] if len(set(depths)) == 1 else tuple(depths),
        "context_dim": _context(header),
        "num_classes": header.shape("class_embedding.weight")[0] if "class_embedding.weight" in header else None,
        "vector_dim": _vector(header),
        "use_scale_shift_norm": _films(header),
        "resblock_updown": any(name.endswith("samplers.0.conv1.weight") for name in header.tensors),
        "use_linear_in_transformer": any(
            name.endswith("proj_in.weight") and len(info.shape) == 2 for name, info in header.tensors.items()
        ),
        "middle_attention": any(name.startswith("mid_block.attentions.0.") for name in header.tensors),
    }


def _level(header: Header, where: str) -> dict[str, Any]:
    blocks = 1 + max(indices(header, re.escape(where) + r"\.resnets\.(\d+)\..*"))
    return {
        "blocks": blocks,
        "width": header.shape(f"{where}.resnets.{blocks - 1}.conv2.weight")[0],
        "attends": any(name.startswith(f"{where}.attentions.0.") for name in header.tensors),
        "depth": _transformers(header, f"{where}.attentions.0"),
    }


def _transformers(header: Header, where: str) -> int:
    """Transformer blocks of one attention; 0 for none."""
    return 1 + max(indices(header, re.escape(where) + r"\.transformer_blocks\.(\d+)\..*"), default=-1)


def _check_mirrored(header: Header, down: list[dict[str, Any]]) -> None:
    """CheckpointError unless the way up has the levels of the way down, with one more residual block each."""
    up = [_level(header, f"up_blocks.{block}") for block in range(len(down))][::-1]
    expected = [{**level, "blocks": level["blocks"] + 1} for level in down]
    resnets = indices(header, r"mid_block\.resnets\.(\d+)\..*")
    if up != expected or resnets != {0, 1} or f"up_blocks.{len(down)}.resnets.0.conv1.weight" in header:
        raise CheckpointError(
            f"{header.path.name}: the way up does not mirror the way down, or the middle has not two residual blocks; "
            "Vitrail's networks need both"
        )


def _context(header: Header) -> int | None:
    key = next((name for name in header.tensors if name.endswith(".attn2.to_k.weight")), None)
    return None if key is None else header.shape(key)[1]


def _vector(header: Header) -> int | None:
    key = "class_embedding.linear_1.weight"
    return header.shape(key)[1] if key in header else None


def _films(header: Header) -> bool:
    made = header.shape("mid_block.resnets.0.time_emb_proj.weight")[0]
    return made == 2 * header.shape("mid_block.resnets.0.conv1.weight")[0]


def prepare_unet(header: Header) -> Header:
    """Plain attention by its present names, its projections as 1-D convolutions, queries, keys and values as one."""
    header = with_present_names(header)
    places = {name.rpartition(".to_q.")[0] for name in header.tensors if re.search(r"attentions\.\d+\.to_q\.", name)}
    recipes: dict[str, Recipe] = {}
    for place in places:
        for end in ("weight", "bias"):
            parts = tuple(f"{place}.{part}.{end}" for part in ("to_q", "to_k", "to_v"))
            if all(part in header for part in parts):
                shape = (sum(header.shape(part)[0] for part in parts), header.shape(parts[0])[-1], 1)
                recipes[f"{place}.qkv.{end}"] = joined(header, parts, shape if end == "weight" else None)
        out = f"{place}.to_out.0.weight"
        if out in header and len(header.shape(out)) == 2:
            recipes[out] = shaped(out, (*header.shape(out), 1))
    return derived(header, recipes)


RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
PLAIN = {"group_norm": "norm", "to_out.0": "proj_out", "qkv": "qkv"}
ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "class_embedding.linear_1": "label_emb.0.0", "class_embedding.linear_2": "label_emb.0.2",
    "class_embedding": "label_emb", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def unet_keys(config: UNetConfig) -> KeyMap:
    """diffusers' names to ours, one to one: turned round it is the way back."""
    table = {f"{theirs}.{{*}}": f"{ours}.{{*}}" for theirs, ours in ENDS.items()}
    for theirs, ours in _resnets(config).items():
        table |= {f"{theirs}.{a}.{{*}}": f"{ours}.{b}.{{*}}" for a, b in RESNET.items()}
    for theirs, ours in _attentions(config).items():
        if config.context_dim is None:
            table |= {f"{theirs}.{a}.{{*}}": f"{ours}.{b}.{{*}}" for a, b in PLAIN.items()}
        else:
            table[f"{theirs}.{{*}}"] = f"{ours}.{{*}}"
    return table | {f"{theirs}.conv.{{*}}": f"{ours}.{{*}}" for theirs, ours in _resamplers(config).items()}


def _ways(config: UNetConfig) -> list[tuple[str, str, int, bool, bool]]:
    """Each residual block outside the middle: their level, our block, its number in the level, attention, the last."""
    found, i = [], 1
    last = len(config.widths) - 1
    for level, blocks in enumerate(config.res_blocks):
        for j in range(blocks):
            found.append((f"down_blocks.{level}", f"input_blocks.{i}", j, config.attends(level), False))
            i += 1
        i += level < last
    i = 0
    for level in reversed(range(last + 1)):
        for j in range(config.res_blocks[level] + 1):
            end = j == config.res_blocks[level] and level > 0
            found.append((f"up_blocks.{last - level}", f"output_blocks.{i}", j, config.attends(level), end))
            i += 1
    return found


def _resnets(config: UNetConfig) -> dict[str, str]:
    table = {f"{level}.resnets.{j}": f"{block}.0" for level, block, j, _, _ in _ways(config)}
    table |= {"mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}
    return table | (_resampling(config) if config.resblock_updown else {})


def _attentions(config: UNetConfig) -> dict[str, str]:
    table = {f"{level}.attentions.{j}": f"{block}.1" for level, block, j, attends, _ in _ways(config) if attends}
    return table | ({"mid_block.attentions.0": "middle_block.1"} if config.middle_attention else {})


def _resamplers(config: UNetConfig) -> dict[str, str]:
    """Convolutions that change the size, theirs and ours."""
    if config.resblock_updown:
        return {}
    ends = {"downsamplers": ".op", "upsamplers": ".conv"}
    return {theirs: ours + ends[theirs.split(".")[2]] for theirs, ours in _resampling(config).items()}


def _resampling(config: UNetConfig) -> dict[str, str]:
    """The modules that change the size, theirs and ours."""
    table, i = {}, 0
    for level, blocks in enumerate(config.res_blocks[:-1]):
        i += blocks + 1
        table[f"down_blocks.{level}.downsamplers.0"] = f"input_blocks.{i}.0"
    ups = {level: f"{block}.{1 + attends}" for level, block, _, attends, end in _ways(config) if end}
    return table | {f"{level}.upsamplers.0": place for level, place in ups.items()}
