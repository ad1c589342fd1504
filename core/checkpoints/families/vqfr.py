"""VQFR, its first and second version, and the VQGANs that they are trained from.

    first   encoder.{encoder_dict,pre_downsample_dict,enc_convout_dict}.Level_N, quantizer.quantize_dict.Level_N,
            decoder.{decoder_dict,pre_upsample_dict}.Level_N, main_decoder.*; Level_N: a side of 1 / N of the picture's
    second  encoder.blocks.L.N, decoder.blocks.L.N (the smallest first), each level a flat list that begins with what
            changes the size; mid_blocks.N, quantizer, feat2index where codes are predicted, main_branch.*

The first version may have dictionaries for several levels; its decoder takes the smallest level's alone, and the others
only ever gave a loss: they are left in the file.
Source: github.com/TencentARC/VQFR, vqfr/archs/{vqfrv1,vqfrv2,vqganv1,vqganv2,quantizer}_arch.py.
"""

from collections.abc import Callable
from typing import Any

from ...autoencoders.autoencoder import Autoencoder
from ...autoencoders.config import AutoencoderConfig
from ...bottlenecks import VQConfig
from ...errors import CheckpointError
from ...refine.vqfr import VQFR, VQFRConfig
from ..family import Family, Sidecar, has_all, has_none
from ..header import Header, indices
from ..keymap import KeyMap

Names = dict[str, str | None]

CELLS, SOURCE = 16, "16, as both public models have it (512 pixels over 32)"
TAPS = 27
"""Two coordinates and a mask for each of 3 x 3 taps."""

LEFTOVERS = ("usage", "reestimation_reservoir.{*}")
"""What a quantiser counted while it was trained."""

ENCODER, DECODER = r"encoder\.encoder_dict\.", r"decoder\.decoder_dict\."


def level(i: int) -> str:
    return f"Level_{2**i}"


def infer_first(header: Header, _: Sidecar) -> AutoencoderConfig:
    """The config of a VQGANv1, whose levels each halve the size."""
    levels = _count(header, ENCODER + r"Level_(\d+)\..*")
    book = f"quantizer.quantize_dict.{level(levels - 1)}."
    widths = [_shape(header, f"encoder.encoder_dict.{level(i)}.0.conv1.weight")[0] for i in range(levels)]
    return AutoencoderConfig(
        **_sizes(header, widths, "conv_out.2"),
        **_codebook(header, book, widths[-1]),
        num_res_blocks=len(indices(header, ENCODER + r"Level_1\.(\d+)\.conv1\.weight")),
        decoder_blocks=len(indices(header, DECODER + r"Level_1\.(\d+)\.conv1\.weight")),
        attn_type="none",
        attn_resolutions=(),
        resampling="bilinear",
        middle=False,
    )


def infer_second(header: Header, _: Sidecar) -> AutoencoderConfig:
    """The config of a VQGANv2: attention, if any, is at the smallest size."""
    levels = len(indices(header, r"encoder\.blocks\.(\d+)\..*"))
    widths = [_shape(header, f"encoder.blocks.{i}.{min(i, 1)}.conv1.weight")[0] for i in range(levels)]
    there, decoding = (f"{part}.mid_blocks.1.q.weight" in header for part in ("encoder", "decoder"))
    sizes = _sizes(header, widths, "conv_out.2")
    return AutoencoderConfig(
        **sizes,
        **_codebook(header, "quantizer.", _shape(header, "encoder.conv_out.2.weight")[0]),
        num_res_blocks=len(indices(header, r"encoder\.blocks\.0\.(\d+)\.conv1\.weight")),
        decoder_blocks=len(indices(header, r"decoder\.blocks\.0\.(\d+)\.conv1\.weight")),
        attn_resolutions=(sizes["resolution"] // 2 ** (levels - 1),) if there or decoding else (),
        attn_type="vanilla" if there else "none",
        decoder_attn_type=None if there == decoding else "vanilla" if decoding else "none",
    )


def _sizes(header: Header, widths: list[int], last: str) -> dict[str, Any]:
    ch, inputs = _shape(header, "encoder.conv_in.weight")[:2]
    return {
        "in_channels": inputs,
        "out_channels": _shape(header, f"decoder.{last}.weight")[0],
        "ch": ch,
        "ch_mult": tuple(width / ch if width % ch else width // ch for width in widths),
        "resolution": 2 ** (len(widths) + 3),
    }


def _codebook(header: Header, book: str, z_channels: int) -> dict[str, Any]:
    """The codes, and the convolutions around them where the quantiser is of the kind that has some."""
    codes, dim = _shape(header, f"{book}embedding.weight")
    return {
        "bottleneck": VQConfig(codes=codes, dim=dim, legacy=True),
        "z_channels": z_channels,
        "embed_dim": dim,
        "quant_conv": f"{book}quant_conv.weight" in header,
    }


def _shape(header: Header, name: str) -> tuple[int, ...]:
    if name not in header:
        raise CheckpointError(f"{header.path.name} lacks {name}, which says how large this VQFR is")
    return header.shape(name)


def _count(header: Header, pattern: str) -> int:
    """How many levels there are. Raises: CheckpointError unless they are Level_1, Level_2, Level_4 and so on."""
    found = indices(header, pattern)
    if not found or found != {2**i for i in range(len(found))}:
        raise CheckpointError(
            f"{header.path.name} has levels {sorted(found)[:8]}; expected 1, 2, 4 and so on, each half as large"
        )
    return len(found)


def _restorer(first: bool) -> Callable[[Header, Sidecar], VQFRConfig]:
    branch, features = ("main_decoder", "inpfeat_extraction.conv") if first else ("main_branch", "inpfeat_extraction")
    aligned = f"{branch}.align_func_dict."

    def infer(header: Header, sidecar: Sidecar) -> VQFRConfig:
        levels = _count(header, aligned.replace(".", r"\.") + r"Level_(\d+)\..*")
        places = [_shape(header, f"{aligned}{level(i)}.dcn.conv_offset.weight")[0] for i in range(levels)]
        return VQFRConfig(
            autoencoder=(infer_first if first else infer_second)(header, sidecar),
            features=_shape(header, f"{features}.weight")[0],
            groups=tuple(place // TAPS for place in places),
            predicts=not first and "feat2index.1.weight" in header,
            cells=_cells(sidecar),
        )

    return infer


def _cells(sidecar: Sidecar) -> int:
    """Codes along a side, which only the options of its training say: all of them, or the network's."""
    asked = ("network_sr.quantizer_opt.spatial_size", "quantizer_opt.spatial_size")
    said = sidecar.first(asked, (CELLS, CELLS), SOURCE)
    return int(said[0])


def first_keys(config: AutoencoderConfig, prefix: str = "") -> Names:
    """Levels by their names; a convolution beside a resize belongs to the level before it."""
    encoder, decoder, last = f"{prefix}encoder.", f"{prefix}decoder.", len(config.ch_mult) - 1
    table: Names = {}
    for i in range(last + 1):
        table[f"encoder.encoder_dict.{level(i)}.{{}}.{{*}}"] = f"{encoder}down.{i}.block.{{}}.{{*}}"
        table[f"decoder.decoder_dict.{level(i)}.{{}}.{{*}}"] = f"{decoder}up.{i}.block.{{}}.{{*}}"
    for i in range(last):
        table[f"encoder.pre_downsample_dict.{level(i + 1)}.{{*}}"] = f"{encoder}down.{i}.downsample.{{*}}"
        table[f"decoder.pre_upsample_dict.{level(i)}.{{*}}"] = f"{decoder}up.{i + 1}.upsample.{{*}}"
        table[f"encoder.enc_convout_dict.{level(i)}.{{*}}"] = None
        table[f"quantizer.quantize_dict.{level(i)}.{{*}}"] = None
    return (
        table
        | _last(f"encoder.enc_convout_dict.{level(last)}", encoder)
        | _last("decoder.conv_out", decoder)
        | _quantizer(f"quantizer.quantize_dict.{level(last)}.", prefix)
        | {"encoder.{*}": f"{encoder}{{*}}"}
    )


def second_keys(config: AutoencoderConfig, prefix: str = "") -> Names:
    """Every entry of the flat lists by its own name."""
    table: Names = {}
    for part, names in (("encoder", _encoder_names(config)), ("decoder", _decoder_names(config.for_decoder))):
        for old, name in names.items():
            table[f"{part}.{old}.residual_func.{{*}}"] = f"{prefix}{part}.{name}.nin_shortcut.{{*}}"
            table[f"{part}.{old}.{{*}}"] = f"{prefix}{part}.{name}.{{*}}"
        table |= _last(f"{part}.conv_out", f"{prefix}{part}.") | {f"{part}.{{*}}": f"{prefix}{part}.{{*}}"}
    return table | _quantizer("quantizer.", prefix)


def _last(old: str, part: str) -> Names:
    return {f"{old}.0.{{*}}": f"{part}norm_out.{{*}}", f"{old}.2.{{*}}": f"{part}conv_out.{{*}}"}


def _quantizer(old: str, prefix: str) -> Names:
    named: Names = {f"{old}{name}.{{*}}": f"{prefix}{name}.{{*}}" for name in ("quant_conv", "post_quant_conv")}
    return {f"{old}{name}": None for name in LEFTOVERS} | named | {f"{old}{{*}}": f"{prefix}quantize.{{*}}"}


def _encoder_names(config: AutoencoderConfig) -> dict[str, str]:
    found: dict[str, str] = {}
    for i in range(len(config.ch_mult)):
        names = [f"down.{i - 1}.downsample"] if i else []
        names += _blocks(f"down.{i}", config.num_res_blocks, config.attends(i))
        found |= {f"blocks.{i}.{j}": name for j, name in enumerate(names)}
    return found | _middle(config)


def _decoder_names(config: AutoencoderConfig) -> dict[str, str]:
    found, last = _middle(config), len(config.ch_mult) - 1
    for i in range(last + 1):
        names = [f"up.{i + 1}.upsample"] if i < last else []
        names += _blocks(f"up.{i}", config.decoder_blocks or config.num_res_blocks + 1, config.attends(i))
        found |= {f"blocks.{last - i}.{j}": name for j, name in enumerate(names)}
    return found


def _blocks(where: str, blocks: int, attends: bool) -> list[str]:
    pairs = [(f"{where}.block.{j}", f"{where}.attn.{j}") for j in range(blocks)]
    return [name for pair in pairs for name in (pair if attends else pair[:1])]


def _middle(config: AutoencoderConfig) -> dict[str, str]:
    names = ["block_1", *(["attn_1"] if config.middle_attends else []), "block_2"]
    return {f"mid_blocks.{j}": f"mid.{name}" for j, name in enumerate(names)}


def keys(config: VQFRConfig) -> KeyMap:
    """The VQGAN behind `vqgan.`, the main branch's dictionaries of levels as lists."""
    first, inside = config.version == 1, config.autoencoder
    old = "main_decoder." if first else "main_branch."
    table: Names = {}
    for i in range(len(config.groups)):
        here = f"{old}decoder_dict.{level(i)}."
        shortcut, up = ("shortcut_conv", "conv") if first else ("residual_func", "1")
        table[f"{here}{shortcut}.{{*}}"] = f"branch.block.{i}.nin_shortcut.{{*}}"
        table[f"{here}{{*}}"] = f"branch.block.{i}.{{*}}"
        table[f"{old}pre_upsample_dict.{level(i)}.{up}.{{*}}"] = f"branch.up.{i}.conv.{{*}}"
        there = f"{old}align_func_dict.{level(i)}."
        table[f"{there}downsample.conv.{{*}}"] = f"branch.warp.{i}.downsample.{{*}}"
        table[f"{there}{{*}}"] = f"branch.warp.{i}.{{*}}"
    if first:
        table |= {f"{old}conv_out_1.0.{{*}}": "norm_out.{*}", f"{old}conv_out.0.{{*}}": "conv_out.{*}"}
        return table | {"inpfeat_extraction.conv.{*}": "features.{*}"} | first_keys(inside, "vqgan.")
    own: Names = {
        "feat2index.0.{*}": "norm.{*}",
        "feat2index.1.{*}": "head.{*}",
        "inpfeat_extraction.{*}": "features.{*}",
    }
    return table | own | second_keys(inside, "vqgan.")


_FIRST = has_all("encoder.encoder_dict.*", "decoder.decoder_dict.*", "quantizer.quantize_dict.*")
_SECOND = has_all("encoder.blocks.0.0.*", "encoder.mid_blocks.*", "decoder.blocks.0.0.*", "quantizer.embedding.*")

FAMILIES = (
    Family(
        name="vqfr-1",
        kind="refiner",
        detect=_FIRST & has_all("main_decoder.*"),
        infer=_restorer(first=True),
        keys=keys,
        build=VQFR,
    ),
    Family(
        name="vqfr-2",
        kind="refiner",
        detect=_SECOND & has_all("main_branch.*"),
        infer=_restorer(first=False),
        keys=keys,
        build=VQFR,
    ),
    Family(
        name="vqfr-1-vqgan",
        kind="autoencoder",
        detect=_FIRST & has_none("main_decoder.*"),
        infer=infer_first,
        keys=lambda config: first_keys(config),
        build=Autoencoder,
    ),
    Family(
        name="vqfr-2-vqgan",
        kind="autoencoder",
        detect=_SECOND & has_none("main_branch.*"),
        infer=infer_second,
        keys=lambda config: second_keys(config),
        build=Autoencoder,
    ),
)
