"""VQFR's files: names and shapes as its published code makes them, filled by a formula, alike on every machine.

Level i is the one of 1 / 2^i of the picture's size; `widths` are those of the levels, the finest first.
"""

from collections.abc import Mapping
from zlib import crc32

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


def conv(name: str, inputs: int, outputs: int, kernel: int = 3) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}


def norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def block(name: str, inputs: int, outputs: int, shortcut: str) -> Shapes:
    short = conv(f"{name}.{shortcut}", inputs, outputs, 1) if inputs != outputs else {}
    first = norm(f"{name}.norm1", inputs) | conv(f"{name}.conv1", inputs, outputs)
    return first | norm(f"{name}.norm2", outputs) | conv(f"{name}.conv2", outputs, outputs) | short


def attention(name: str, channels: int) -> Shapes:
    found = norm(f"{name}.norm", channels)
    for part in ("q", "k", "v", "proj_out"):
        found |= conv(f"{name}.{part}", channels, channels, 1)
    return found


def last(name: str, inputs: int, outputs: int) -> Shapes:
    return norm(f"{name}.0", inputs) | conv(f"{name}.2", inputs, outputs)


def quantizer(name: str, channels: int, codes: int, dim: int | None) -> Shapes:
    """dim: None for vectors of the channels themselves, without convolutions around them."""
    if dim is None:
        return {f"{name}.embedding.weight": (codes, channels)}
    convs = conv(f"{name}.quant_conv", channels, dim, 1) | conv(f"{name}.post_quant_conv", dim, channels, 1)
    return convs | {f"{name}.embedding.weight": (codes, dim)}


def main_branch(prefix: str, widths: tuple[int, ...], groups: tuple[int, ...], features: int, first: bool) -> Shapes:
    shortcut, up = ("shortcut_conv", "conv") if first else ("residual_func", "1")
    found: Shapes = {}
    for i, (width, count) in enumerate(zip(widths, groups, strict=False)):
        level, below = f"Level_{2**i}", widths[i + 1] if i + 1 < len(groups) else 0
        name = f"{prefix}.align_func_dict.{level}"
        if below:
            found |= block(f"{prefix}.decoder_dict.{level}", 2 * width, width, shortcut)
            found |= conv(f"{prefix}.pre_upsample_dict.{level}.{up}", below, width)
        if first and i:
            found |= conv(f"{name}.downsample.conv", features, features)
        found |= conv(f"{name}.offset_conv1.0", width + features, width, 1) | norm(f"{name}.offset_conv1.1", width)
        found |= conv(f"{name}.offset_conv1.3", 1, width, 7) | norm(f"{name}.offset_conv1.4", width)
        found |= conv(f"{name}.offset_conv1.6", width, width, 1)
        found |= conv(f"{name}.offset_conv2.0", width + below, width) | norm(f"{name}.offset_conv2.1", width)
        found |= conv(f"{name}.dcn", width, width) | conv(f"{name}.dcn.conv_offset", width, 27 * count)
    return found


def first_version(
    widths: tuple[int, ...],
    blocks: tuple[int, int] = (1, 1),
    codes: int = 12,
    dim: int | None = 6,
    dictionaries: tuple[int, ...] | None = None,
    groups: tuple[int, ...] = (),
    features: int = 5,
) -> Shapes:
    """A VQFRv1, or without groups a VQGANv1. dictionaries: the levels that have one, by default the smallest."""
    found = conv("encoder.conv_in", 3, widths[0])
    for i, width in enumerate(widths):
        for part, count in zip(("encoder", "decoder"), blocks, strict=True):
            for j in range(count):
                found |= block(f"{part}.{part}_dict.Level_{2**i}.{j}", width, width, "shortcut_conv")
        if i:
            found |= conv(f"encoder.pre_downsample_dict.Level_{2**i}.conv", widths[i - 1], width)
            found |= conv(f"decoder.pre_upsample_dict.Level_{2 ** (i - 1)}.conv", width, widths[i - 1])
    for i in (len(widths) - 1,) if dictionaries is None else dictionaries:
        found |= last(f"encoder.enc_convout_dict.Level_{2**i}", widths[i], widths[i])
        found |= quantizer(f"quantizer.quantize_dict.Level_{2**i}", widths[i], codes, dim)
    found |= last("decoder.conv_out", widths[0], 3)
    if groups:
        found |= main_branch("main_decoder", widths, groups, features, first=True)
        found |= norm("main_decoder.conv_out_1.0", widths[0]) | conv("main_decoder.conv_out.0", widths[0] + 3, 3)
        found |= conv("inpfeat_extraction.conv", 3, features)
    return found


def second_version(
    widths: tuple[int, ...],
    blocks: tuple[int, int] = (1, 1),
    codes: int = 12,
    dim: int = 6,
    attends: tuple[bool, bool] = (True, True),
    own: int | None = None,
    groups: int = 0,
    features: int = 5,
    predicts: bool = False,
) -> Shapes:
    """A VQFRv2, or without groups a VQGANv2. own: numbers of a vector where convolutions change them from `dim`."""
    found = conv("encoder.conv_in", 3, widths[0]) | conv("decoder.conv_in", dim, widths[-1])
    end = len(widths) - 1
    for part, count, there in zip(("encoder", "decoder"), blocks, attends, strict=True):
        for k in range(end + 1):
            i = k if part == "encoder" else end - k
            before = widths[max(k - 1, 0)] if part == "encoder" else widths[min(i + 1, end)]
            layers = [conv("conv", before, before)] if k else []
            for j in range(count):
                layers.append(block("", widths[i] if j else before, widths[i], "residual_func"))
                layers += [attention("", widths[i])] if there and i == end else []
            found |= numbered(f"{part}.blocks.{k}", layers)
        middle = block("", widths[-1], widths[-1], "residual_func")
        found |= numbered(f"{part}.mid_blocks", [middle, *([attention("", widths[-1])] if there else []), middle])
    found |= last("encoder.conv_out", widths[-1], dim) | last("decoder.conv_out", widths[0], 3)
    found |= quantizer("quantizer", dim, codes, own) if own else {"quantizer.embedding.weight": (codes, dim)}
    if groups:
        found |= main_branch("main_branch", widths, (groups,) * len(widths), features, first=False)
        found |= conv("inpfeat_extraction", 3, features)
    if predicts:
        found |= norm("feat2index.0", dim) | {"feat2index.1.weight": (codes, dim), "feat2index.1.bias": (codes,)}
    return found


def numbered(where: str, layers: list[Shapes]) -> Shapes:
    return {f"{where}.{j}.{name.lstrip('.')}": shape for j, layer in enumerate(layers) for name, shape in layer.items()}


def filled(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights of about unit gain, offsets of a few pixels, each by its name."""
    return {name: _tensor(name, shape) for name, shape in shapes.items()}


def _tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    noise = hashed(name, shape)
    if "embedding" in name:
        return noise * 2
    if len(shape) == 1:
        is_norm = name.endswith("weight")
        return 1 + noise / 2 if is_norm else noise / 2
    spread = 2.0 * (3.0 if "conv_offset" in name else 1.0)
    return noise * spread / torch.Size(shape[1:]).numel() ** 0.5


def hashed(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers in -1..1 that look random, made of name and place: 16 bits of a mixed counter, exact in float32."""
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.int64) * 2654435761 + crc32(name.encode())
    for factor in (73244475, 73244475, 1):
        x = ((x ^ (x >> 16)) * factor) % 2**32
    return (((x >> 8) % 2**16).float() / 2**15 - 1).view(shape)
