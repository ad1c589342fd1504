"""The sizes of a CompVis diffusion network, read off the shapes of its weights.

Shapes tell all but how attention is cut into heads: that comes from the config beside the file, or is what the public
models of that kind have (Rombach et al. 2022, tables 12 to 15; latent-diffusion and stablediffusion, configs/).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...diffusion.unet import UNetConfig
from ...errors import CheckpointError
from ..header import Header
from ..sidecar import Sidecar

PREFIX = "model.diffusion_model."
WHERE = "model.params.unet_config.params"

HEADS: tuple[tuple[str, Any, dict[str, int], str], ...] = (
    ("use_linear_in_transformer", True, {"num_head_channels": 64}, "as Stable Diffusion 2 has it"),
    ("attends", True, {"num_heads": 8}, "as txt2img and Stable Diffusion 1 have it"),
    ("resblock_updown", True, {"num_heads": 8}, "as churches and inpainting have it"),
    ("attends", False, {"num_head_channels": 32}, "as celeba, ffhq and bedrooms have it"),
)
"""The first row whose trait a network has says its heads where no config does."""


PLACES = (PREFIX, "diffusion_model.", "")
"""What stands before a network's keys: in a whole file, and in files of the network alone."""


def place_of(header: Header) -> str | None:
    """Which of PLACES it is; None where there is no network."""
    return next((place for place in PLACES if f"{place}input_blocks.0.0.weight" in header), None)


def placed(header: Header) -> Header:
    """The header with the network's keys where a whole file has them."""
    place = place_of(header)
    if place is None or place == PREFIX:
        return header
    return header.renamed({n: PREFIX + n.removeprefix(place) if n.startswith(place) else n for n in header.tensors})


def infer_unet(header: Header, sidecar: Sidecar, heads: Mapping[str, int] | None = None) -> UNetConfig:
    """The config of the network whose keys start with `model.diffusion_model.`.

    heads: num_heads or num_head_channels of the public models of its kind, where no config says it.
    """
    inner, params = header.under(PREFIX), sidecar.part(WHERE)
    sizes = _sizes(inner)
    only = _only_context_levels(sizes.pop("only_context"), params)
    config = UNetConfig(**sizes, disable_self_attentions=only, **_heads(sizes, params, heads or {}))
    _check_heads(inner, config)
    return config


def _only_context_levels(shown: list[bool | None], params: Sidecar) -> tuple[bool, ...] | None:
    """For each level whether both attentions look at the context: by shapes, else by the config, else not."""
    said = params.at("disable_self_attentions")
    said = said if isinstance(said, list | tuple) and len(said) == len(shown) else [False] * len(shown)
    only = tuple(bool(other) if seen is None else seen for seen, other in zip(shown, said, strict=True))
    return only if any(only) else None


def _check_heads(header: Header, config: UNetConfig) -> None:
    """CheckpointError where the heads do not make attention as wide as it is in the file."""
    if config.context_dim is None:
        return
    wide = {level: header.shape(key)[0] for level, key in _attention_inputs(config) if key in header}
    for level, found in wide.items():
        heads, width = config.heads(level)
        if found != heads * width:
            raise CheckpointError(
                f"{header.path.name}: attention at level {level} is {found} wide, but {heads} heads of {width} make "
                f"{heads * width}: put the config beside the file, with its num_heads or num_head_channels, and legacy"
            )


def _attention_inputs(config: UNetConfig) -> Iterator[tuple[int, str]]:
    """A key of each level, and of the middle, whose first side is as wide as the attention there."""
    yield len(config.widths) - 1, "middle_block.1.proj_in.weight"
    first = 0
    for level, blocks in reversed(list(enumerate(config.res_blocks))):
        yield level, f"output_blocks.{first}.1.proj_in.weight"
        first += blocks + 1


def _heads(sizes: dict[str, Any], params: Sidecar, usual: Mapping[str, int]) -> dict[str, Any]:
    """What shapes cannot tell of the attention."""
    given = {name: params.at(name) for name in ("num_heads", "num_head_channels")}
    heads = {name: int(value) for name, value in given.items() if value is not None and int(value) > 0}
    if not heads:
        traits = {**sizes, "attends": sizes["context_dim"] is not None}
        rows = ((row, why) for trait, value, row, why in HEADS if traits[trait] == value)
        heads, source = (dict(usual), "as public models of this kind have it") if usual else next(rows)
        params.found |= dict.fromkeys(heads, source)
    return {
        **heads,
        "num_heads_upsample": int(params.at("num_heads_upsample", -1)),
        "legacy": bool(params.at("legacy", True)),
        "new_attention_order": bool(params.at("use_new_attention_order", False)),
    }


def _sizes(header: Header) -> dict[str, Any]:
    ends, count = _level_ends(header)
    firsts = [0, *(end + 1 for end in ends)]
    last = [*ends, count - 1]
    levels = list(reversed([_level(header, first, end) for first, end in zip(firsts, last, strict=True)]))
    width = header.shape("input_blocks.0.0.weight")[0]
    conv = header.shape("input_blocks.0.0.weight")
    depths = tuple(level["depth"] for level in levels)
    context = _context(header)
    res_blocks = tuple(level["blocks"] - 1 for level in levels)
    attending = tuple(2**i for i, level in enumerate(levels) if level["attends"])
    middle = _depth(header, "middle_block.1")
    return {
        "in_channels": conv[1],
        "out_channels": header.shape("out.2.weight")[0],
        "model_channels": width,
        "channel_mult": tuple(level["width"] // width for level in levels),
        "num_res_blocks": res_blocks[0] if len(set(res_blocks)) == 1 else res_blocks,
        "attention_resolutions": attending,
        "transformer_depth": _same(depths, attending, middle),
        "context_dim": context,
        "num_classes": header.shape("label_emb.weight")[0] if "label_emb.weight" in header else None,
        "vector_dim": header.shape("label_emb.0.0.weight")[1] if "label_emb.0.0.weight" in header else None,
        "use_scale_shift_norm": _films(header),
        "resblock_updown": _updown(header, ends),
        "conv_resample": not ends or _resamples(header, ends),
        "use_linear_in_transformer": _linear(header),
        "only_context": [level["only_context"] for level in levels],
        "n_embed": header.shape("id_predictor.1.weight")[0] if "id_predictor.1.weight" in header else None,
    }


def _level_ends(header: Header) -> tuple[list[int], int]:
    """Which output blocks end a level, the deepest first, and how many output blocks there are.

    A level ends where the size doubles: in a convolution, a residual block, or by nothing that has weights, which
    leaves a gap among the input blocks.
    """
    outs = {int(found[1]) for name in header.tensors if (found := re.match(r"output_blocks\.(\d+)\.", name))}
    ends = [i for i in sorted(outs) if _upsample(header, i) is not None]
    if not ends and (gaps := _gaps(header)):
        ends = sorted(len(outs) - 1 - gap for gap in gaps)
    return ends, len(outs)


def _gaps(header: Header) -> list[int]:
    ins = {int(found[1]) for name in header.tensors if (found := re.match(r"input_blocks\.(\d+)\.", name))}
    last = min(max(ins), len(header.tensors))  # a number in a name may be anything
    return [i for i in range(last) if i not in ins]


def _upsample(header: Header, i: int) -> str | None:
    """The key that shows how output block i doubles the size."""
    for j in (1, 2):
        for key in (f"output_blocks.{i}.{j}.conv.weight", f"output_blocks.{i}.{j}.in_layers.2.weight"):
            if key in header:
                return key
    return None


def _level(header: Header, first: int, last: int) -> dict[str, Any]:
    """One level by its output blocks."""
    return {
        "blocks": last - first + 1,
        "width": header.shape(f"output_blocks.{last}.0.out_layers.3.weight")[0],
        "attends": any(f"output_blocks.{first}.1.{key}" in header for key in ("qkv.weight", "proj_in.weight")),
        "depth": _depth(header, f"output_blocks.{first}.1"),
        "only_context": _only_context(header, f"output_blocks.{first}.1.transformer_blocks.0.attn"),
    }


def _only_context(header: Header, where: str) -> bool | None:
    """Whether what should be attention to itself looks at the context (SD's x4 upscaler); None: cannot be seen."""
    queries, keys, context = (f"{where}{end}.weight" for end in ("1.to_q", "1.to_k", "2.to_k"))
    if not all(name in header for name in (queries, keys, context)):
        return False
    width = header.shape(queries)[1]
    return None if width == header.shape(context)[1] else width != header.shape(keys)[1]


def _depth(header: Header, where: str) -> int:
    pattern = re.compile(re.escape(where) + r"\.transformer_blocks\.(\d+)\.")
    return 1 + max((int(found[1]) for name in header.tensors if (found := pattern.match(name))), default=-1)


def _same(depths: tuple[int, ...], attending: tuple[int, ...], middle: int) -> int | tuple[int, ...]:
    """Transformer blocks of each level; one number where all that have any (and the middle) have as many."""
    found = {depth for depth in depths if depth} | ({middle} if middle else set())
    if len(found) <= 1:
        return found.pop() if found else 1
    return depths


def _context(header: Header) -> int | None:
    key = next((name for name in header.tensors if name.endswith(".attn2.to_k.weight")), None)
    return None if key is None else header.shape(key)[1]


def _films(header: Header) -> bool:
    made = header.shape("middle_block.0.emb_layers.1.weight")[0]
    return made == 2 * header.shape("middle_block.0.out_layers.3.weight")[0]


def _updown(header: Header, ends: list[int]) -> bool:
    return any((_upsample(header, i) or "").endswith("in_layers.2.weight") for i in ends)


def _resamples(header: Header, ends: list[int]) -> bool:
    return all(_upsample(header, i) is not None for i in ends)


def _linear(header: Header) -> bool:
    key = "middle_block.1.proj_in.weight"
    return key in header and len(header.shape(key)) == 2
