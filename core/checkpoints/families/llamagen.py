"""LlamaGen's tokenizers: a VQGAN with normed codes, its decoder's levels numbered as they run.

Source: github.com/FoundationVision/LlamaGen, tokenizer/tokenizer_image/vq_model.py (VQ-8 and VQ-16).
"""

from ...autoencoders.autoencoder import Autoencoder
from ...autoencoders.config import AutoencoderConfig
from ...bottlenecks import VQConfig
from ..family import Family, Sidecar, has_all
from ..header import Header, indices
from ..keymap import KeyMap

RESOLUTION = 256


def infer(header: Header, sidecar: Sidecar) -> AutoencoderConfig:
    """The config of a VQModel; its codes are normed unless the config says otherwise."""
    codes, dim = header.shape("quantize.embedding.weight")
    ch, inputs = header.shape("encoder.conv_in.weight")[:2]
    levels = 1 + max(indices(header, r"encoder\.conv_blocks\.(\d+)\..*"))
    mults = tuple(header.shape(f"encoder.conv_blocks.{level}.res.0.conv1.weight")[0] // ch for level in range(levels))
    normed = bool(sidecar.at("codebook_l2_norm", True, "on, as both public tokenizers have it"))
    return AutoencoderConfig(
        in_channels=inputs,
        out_channels=header.shape("decoder.conv_out.weight")[0],
        ch=ch,
        ch_mult=mults,
        decoder_ch_mult=_decoder_mults(header, ch, levels, mults),
        num_res_blocks=1 + max(indices(header, r"encoder\.conv_blocks\.0\.res\.(\d+)\..*")),
        attn_resolutions=(RESOLUTION // 2 ** (levels - 1),),
        resolution=RESOLUTION,
        z_channels=header.shape("encoder.conv_out.weight")[0],
        embed_dim=header.shape("post_quant_conv.weight")[1],
        bottleneck=VQConfig(
            codes=codes,
            dim=dim,
            beta=float(sidecar.at("commit_loss_beta", 0.25)),
            legacy=False,
            metric="cosine" if normed else "l2",
        ),
    )


def _decoder_mults(header: Header, ch: int, levels: int, mults: tuple[int, ...]) -> tuple[int, ...] | None:
    """The decoder's, where they are whole, sound, and other than the encoder's."""
    blocks = [f"decoder.conv_blocks.{levels - 1 - level}.res.0" for level in range(levels)]
    shapes = [[header.tensors.get(f"{block}.{name}.weight") for name in ("conv1", "norm2")] for block in blocks]
    if any(conv is None or norm is None or conv.shape[:1] != norm.shape for conv, norm in shapes):
        return None
    found = tuple(norm.shape[0] // ch for _, norm in shapes if norm is not None)
    return found if found != mults else None


def keys(config: AutoencoderConfig) -> KeyMap:
    """The decoder runs from its level 0, the smallest; ours numbers levels by size."""
    table: dict[str, str | None] = {
        "quantize.codebook_used": None,
        "encoder.conv_blocks.{}.res.{*}": "encoder.down.{}.block.{*}",
        "encoder.conv_blocks.{}.{*}": "encoder.down.{}.{*}",
    }
    last = len(config.ch_mult) - 1
    for i in range(last + 1):
        here, there = f"decoder.conv_blocks.{i}.", f"decoder.up.{last - i}."
        table |= {f"{here}res.{{*}}": f"{there}block.{{*}}", f"{here}{{*}}": f"{there}{{*}}"}
    for part in ("encoder", "decoder"):
        table |= {f"{part}.mid.{i}.{{*}}": f"{part}.mid.{name}.{{*}}" for i, name in enumerate(MIDDLE)}
    return table


MIDDLE = ("block_1", "attn_1", "block_2")

FAMILIES = (
    Family(
        name="llamagen-vq",
        kind="autoencoder",
        detect=has_all("encoder.conv_blocks.0.res.0.conv1.weight", "quantize.embedding.weight"),
        infer=infer,
        keys=keys,
        build=Autoencoder,
    ),
)
