"""CodeFormer and its VQGAN, whose layers stand in two flat lists.

    encoder.blocks    conv, then each level's residual blocks (each with its attention, if any) and downsampling, the
                      middle (block, attention, block), norm, conv
    generator.blocks  conv, the middle, the levels from the smallest up, with as many blocks as below, norm, conv

Source: github.com/sczhou/CodeFormer, basicsr/archs/{codeformer_arch,vqgan_arch}.py.
"""

import re
from typing import Any

from ...autoencoders.autoencoder import Autoencoder
from ...autoencoders.config import AutoencoderConfig
from ...bottlenecks import GumbelConfig, VQConfig
from ...errors import CheckpointError
from ...refine.codeformer import CodeFormer, CodeFormerConfig
from ..family import Family, Sidecar, has_all, has_none
from ..header import Header, indices
from ..keymap import KeyMap

HEADS = 8

LEVELS, NAMED_FOR = 6, 512
"""The levels of every CodeFormer of its own code, which names what it fuses by pictures of this side, whatever the
number of its places."""

MIDDLE = ("mid.block_1", "mid.attn_1", "mid.block_2")


def infer_vqgan(header: Header, sidecar: Sidecar) -> AutoencoderConfig:
    """The config of a VQAutoEncoder, read off the flat list of its encoder."""
    count = 1 + max(indices(header, r"encoder\.blocks\.(\d+)\..*"))
    kinds = [_kind(header, f"encoder.blocks.{i}") for i in range(count)]
    levels = _levels(kinds[1:-5])
    ch, inputs = header.shape("encoder.blocks.0.weight")[:2]
    last, widths = 1, []
    for level in levels:
        widths.append(header.shape(f"encoder.blocks.{last}.conv1.weight")[0])
        last += len(level) + 1
    generator = 1 + max(indices(header, r"generator\.blocks\.(\d+)\..*"))
    z = header.shape(f"encoder.blocks.{len(kinds) - 1}.weight")[0]
    attending = [i for i, level in enumerate(levels) if "attn" in level]
    resolution = 2 ** (len(levels) + 3)
    blocks = levels[0].count("res")
    return AutoencoderConfig(
        in_channels=inputs,
        out_channels=header.shape(f"generator.blocks.{generator - 1}.weight")[0],
        ch=ch,
        ch_mult=tuple(width // ch for width in widths),
        num_res_blocks=blocks,
        decoder_blocks=blocks,
        attn_resolutions=tuple(resolution // 2**i for i in attending),
        resolution=resolution,
        z_channels=z,
        embed_dim=z,
        quant_conv=False,
        last_activation=False,
        bottleneck=_bottleneck(header),
    )


def _bottleneck(header: Header) -> VQConfig | GumbelConfig:
    if "quantize.embed.weight" in header:
        codes, dim = header.shape("quantize.embed.weight")
        return GumbelConfig(codes=codes, dim=dim)
    codes, dim = header.shape("quantize.embedding.weight")
    return VQConfig(codes=codes, dim=dim, legacy=True)


def _kind(header: Header, block: str) -> str:
    """What one entry of the list is, by the names of its weights."""
    marks = {"conv1.weight": "res", "q.weight": "attn", "conv.weight": "resample", "weight": "plain"}
    found = next((kind for mark, kind in marks.items() if f"{block}.{mark}" in header), None)
    if found is None:
        raise CheckpointError(f"{header.path.name}: {block} is no layer of a CodeFormer")
    return found


def _levels(kinds: list[str]) -> list[list[str]]:
    """The layers between the first convolution and the middle, parted where the size halves."""
    levels: list[list[str]] = [[]]
    for kind in kinds:
        if kind == "resample":
            levels.append([])
        else:
            levels[-1].append(kind)
    return levels


def infer(header: Header, sidecar: Sidecar) -> CodeFormerConfig:
    """The config of a CodeFormer; its number of heads comes from the config (`n_head`)."""
    places, width = header.shape("position_emb")
    autoencoder, layers = infer_vqgan(header, sidecar), indices(header, r"ft_layers\.(\d+)\..*")
    heads = sidecar.first(("network_g.n_head", "n_head"), HEADS, f"{HEADS}, as the public model has it")
    sizes = {int(found[1]) for name in header.tensors if (found := re.match(r"fuse_convs_dict\.(\d+)\.", name))}
    return CodeFormerConfig(
        autoencoder=autoencoder,
        width=width,
        depth=len(layers),
        heads=int(heads),
        inner=header.shape("ft_layers.0.linear1.weight")[0] if layers else 2 * width,
        places=places,
        fused=tuple(sorted(sizes)),
        named_for=NAMED_FOR if len(autoencoder.ch_mult) == LEVELS else 0,
    )


def vqgan_keys(config: AutoencoderConfig, prefix: str = "") -> dict[str, str | None]:
    """Every entry of the two flat lists by its own name."""
    table: dict[str, str | None] = {}
    for old, names in (("encoder", encoder_names(config)), ("generator", decoder_names(config))):
        for i, name in enumerate(names):
            here = f"{old}.blocks.{i}."
            if ".block" in name:
                table[f"{here}conv_out.{{*}}"] = f"{prefix}{name}.nin_shortcut.{{*}}"
            table[f"{here}{{*}}"] = f"{prefix}{name}.{{*}}"
    return table | {"quantize.{*}": f"{prefix}quantize.{{*}}"}


def encoder_names(config: AutoencoderConfig) -> list[str]:
    """Our names of the entries of `encoder.blocks`, in order."""
    names = ["conv_in"]
    for i in range(len(config.ch_mult)):
        names += _level(f"down.{i}", config.num_res_blocks, config.attends(i))
        names += [f"down.{i}.downsample"] if i < len(config.ch_mult) - 1 else []
    return [f"encoder.{name}" for name in (*names, *MIDDLE, "norm_out", "conv_out")]


def decoder_names(config: AutoencoderConfig) -> list[str]:
    """Our names of the entries of `generator.blocks`, in order."""
    names = ["conv_in", *MIDDLE]
    for i in reversed(range(len(config.ch_mult))):
        names += _level(f"up.{i}", config.decoder_blocks or config.num_res_blocks + 1, config.attends(i))
        names += [f"up.{i}.upsample"] if i else []
    return [f"decoder.{name}" for name in (*names, "norm_out", "conv_out")]


def _level(where: str, blocks: int, attends: bool) -> list[str]:
    pairs = [(f"{where}.block.{j}", f"{where}.attn.{j}") for j in range(blocks)]
    return [name for pair in pairs for name in (pair if attends else pair[:1])]


def keys(config: CodeFormerConfig) -> KeyMap:
    """The VQGAN behind `vqgan.`, the transformer's packed attention by our names."""
    own: dict[str, Any] = {
        "ft_layers.{}.self_attn.in_proj_{*}": "layers.{}.qkv.{*}",
        "ft_layers.{}.self_attn.out_proj.{*}": "layers.{}.out.{*}",
        "ft_layers.{}.{*}": "layers.{}.{*}",
        "idx_pred_layer.0.{*}": "norm.{*}",
        "idx_pred_layer.1.{*}": "head.{*}",
        "fuse_convs_dict.{}.encode_enc.conv_out.{*}": "fuse.{}.encode_enc.nin_shortcut.{*}",
        "fuse_convs_dict.{}.{*}": "fuse.{}.{*}",
    }
    return own | vqgan_keys(config.autoencoder, "vqgan.") | {"{*}": "{*}"}


_VQGAN = has_all("encoder.blocks.0.weight", "generator.blocks.0.weight")

FAMILIES = (
    Family(
        name="codeformer",
        kind="refiner",
        detect=_VQGAN & has_all("position_emb", "feat_emb.weight"),
        infer=infer,
        keys=keys,
        build=CodeFormer,
    ),
    Family(
        name="codeformer-vqgan",
        kind="autoencoder",
        detect=_VQGAN & has_none("position_emb"),
        infer=infer_vqgan,
        keys=lambda config: vqgan_keys(config),
        build=Autoencoder,
    ),
)
