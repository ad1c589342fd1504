"""Encoder and decoder of CompVis's autoencoders; attribute names are the keys of public checkpoints.

Source: Esser et al. 2021, appendix A, table 7; Rombach et al. 2022, appendix G.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.blocks import (
    AttnBlock,
    BilinearDownsample,
    BilinearUpsample,
    Downsample,
    LinearAttnBlock,
    ResnetBlock,
    Upsample,
    group_norm,
)
from .config import AutoencoderConfig


def attention(channels: int, config: AutoencoderConfig) -> nn.Module:
    """The kind of attention that a config has."""
    return LinearAttnBlock(channels) if config.attn_type == "linear" else AttnBlock(channels, config.norm_groups)


def smaller(config: AutoencoderConfig, channels: int, below: int) -> nn.Module:
    """What halves the size after a level; below: the width of the next one, which only a bilinear resize comes to."""
    if config.resampling == "bilinear":
        return BilinearDownsample(channels, below)
    return Downsample(channels, config.resamp_with_conv)


def larger(config: AutoencoderConfig, channels: int, above: int) -> nn.Module:
    """What doubles the size after a level; as `smaller`."""
    if config.resampling == "bilinear":
        return BilinearUpsample(channels, above)
    return Upsample(channels, config.resamp_with_conv)


class Level(nn.Module):
    """Residual blocks of one size, each followed by attention where the config asks for it.

    `downsample` or `upsample` is set by the network that owns the level.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int, attends: bool, config: AutoencoderConfig) -> None:
        super().__init__()
        groups = config.norm_groups
        self.block = nn.ModuleList(ResnetBlock(outputs if i else inputs, outputs, groups) for i in range(blocks))
        self.attn = nn.ModuleList(attention(outputs, config) for _ in range(blocks if attends else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        return x


class Middle(nn.Module):
    """Block, attention, block at the smallest size."""

    def __init__(self, channels: int, config: AutoencoderConfig) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, config.norm_groups)
        self.attn_1 = attention(channels, config) if config.middle_attends else nn.Identity()
        self.block_2 = ResnetBlock(channels, channels, config.norm_groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """[B, in_channels, H, W] in -1..1 -> [B, z_channels (twice that with double_z), H / factor, W / factor]."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        widths = config.widths
        self.conv_in = nn.Conv2d(config.in_channels * config.patch_size**2, config.ch, 3, padding=1)
        self.down = nn.ModuleList()
        bilinear = config.resampling == "bilinear"
        for level, (inputs, outputs) in enumerate(zip((config.ch, *widths), widths, strict=False)):
            inside = outputs if bilinear else inputs
            self.down.append(Level(inside, outputs, config.num_res_blocks, config.attends(level), config))
            if level < len(widths) - 1:
                self.down[level].downsample = smaller(config, outputs, widths[level + 1])
        self.mid = Middle(widths[-1], config) if config.middle else nn.Identity()
        self.norm_out = group_norm(widths[-1], config.norm_groups)
        self.last = nn.SiLU() if config.last_activation else nn.Identity()
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels * (2 if config.double_z else 1), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(F.pixel_unshuffle(x, self.patch_size))
        for level in self.down:
            h = level(h)
            if downsample := getattr(level, "downsample", None):
                h = downsample(h)
        return self.conv_out(self.last(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """[B, z_channels, h, w] -> [B, out_channels, h * factor, w * factor], about -1..1, not clamped (but see tanh_out).

    `up[0]` is the level of full resolution, and runs last.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        config = config.for_decoder
        self.patch_size = config.patch_size
        widths = config.decoder_widths
        self.conv_in = self.mid = nn.Identity()
        if config.middle:
            self.conv_in = nn.Conv2d(config.z_channels, widths[-1], 3, padding=1)
            self.mid = Middle(widths[-1], config)
        self.up = nn.ModuleList()
        blocks, bilinear = config.decoder_blocks or config.num_res_blocks + 1, config.resampling == "bilinear"
        for level, outputs in enumerate(widths):
            inputs = outputs if bilinear else widths[min(level + 1, len(widths) - 1)]
            self.up.append(Level(inputs, outputs, blocks, config.attends(level), config))
            if level > 0:
                self.up[level].upsample = larger(config, outputs, widths[level - 1])
        self.norm_out = group_norm(widths[0], config.norm_groups)
        self.last = nn.SiLU() if config.last_activation else nn.Identity()
        self.conv_out = nn.Conv2d(widths[0], config.out_channels * config.patch_size**2, 3, padding=1)
        self.bound = nn.Tanh() if config.tanh_out else nn.Identity()

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
            if upsample := getattr(level, "upsample", None):
                h = upsample(h)
        return F.pixel_shuffle(self.bound(self.conv_out(self.last(self.norm_out(h)))), self.patch_size)
