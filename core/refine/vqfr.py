"""VQFR: faces restored by codes of clean pictures, the picture itself warped in where it fits.

Source: Gu et al. 2022 (VQFR), sections 3.2 and 3.3; github.com/TencentARC/VQFR, vqfr/archs/vqfrv{1,2}_arch.py.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..autoencoders.autoencoder import Autoencoder
from ..autoencoders.config import AutoencoderConfig
from ..bottlenecks import VQConfig
from ..errors import ConfigError
from ..nn.blocks import BilinearUpsample, ResnetBlock, Upsample, enlarged, group_norm
from ..nn.deform import ModulatedDeformConv
from .faces import FaceRestorer


@dataclass(frozen=True, kw_only=True)
class VQFRConfig:
    """A VQFR of the first or the second version.

    autoencoder: its VQGAN, with one codebook; it resizes bilinearly in the first version.
    features: channels that are seen of the picture itself.
    groups: of the deformable convolution at each level, the finest first; the second version has all levels.
    predicts: whether codes are chosen by scores of their own instead of by distance (the second version).
    cells: codes along a side of the pictures that it restores, which have that many times the autoencoder's factor.
    Raises: ConfigError where these do not go together.
    """

    autoencoder: AutoencoderConfig
    features: int = 32
    groups: tuple[int, ...] = (4, 4, 4, 4, 4, 4)
    predicts: bool = False
    cells: int = 16

    def __post_init__(self) -> None:
        widths, bottleneck = self.autoencoder.decoder_widths, self.autoencoder.bottleneck
        if self.features < 1 or self.cells < 1:
            raise ConfigError(f"a VQFR of {self.features} features and {self.cells} cells; expected 1 or more of each")
        if not isinstance(bottleneck, VQConfig):
            raise ConfigError(f"the bottleneck of a VQFR is a codebook (vq), not a {type(bottleneck).__name__}")
        all_levels = range(1 if self.version == 1 else len(widths), len(widths) + 1)
        if len(self.groups) not in all_levels:
            raise ConfigError(f"groups of {len(self.groups)} levels; this VQFR {self.version} has {len(widths)} levels")
        if any(n < 1 or width % n for n, width in zip(self.groups, widths, strict=False)):
            raise ConfigError(f"levels {widths} wide do not fall into {self.groups} groups of a deformable convolution")
        if self.predicts and (self.version == 1 or self.autoencoder.quant_conv):
            raise ConfigError("codes are predicted by a VQFR of the second version, without convolutions around them")

    @property
    def version(self) -> int:
        """1 or 2, as published."""
        return 1 if self.autoencoder.resampling == "bilinear" else 2

    @property
    def size(self) -> int:
        """The side in pixels of the pictures that it restores."""
        return self.cells * self.autoencoder.factor


class TextureWarp(nn.Module):
    """The texture of one level, moved to where the picture has it; and what led it there, for the level above.

    Source: Gu et al. 2022, section 3.3 and figure 5.
    """

    def __init__(self, channels: int, features: int, below: int, groups: int, *, convolved: bool) -> None:
        super().__init__()
        self.downsample = nn.Conv2d(features, features, 3, padding=1) if convolved else nn.Identity()
        self.offset_conv1 = nn.Sequential(
            nn.Conv2d(channels + features, channels, 1),
            group_norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            group_norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 1),
        )
        self.offset_conv2 = nn.Sequential(
            nn.Conv2d(channels + below, channels, 3, padding=1), group_norm(channels), nn.SiLU()
        )
        self.dcn = ModulatedDeformConv(channels, groups)

    def forward(self, texture: Tensor, seen: Tensor, below: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """texture: [B, channels, h, w]; seen: [B, features, H, W]; below: [B, below, h, w] -> two like the texture."""
        seen = F.interpolate(seen, size=texture.shape[2:], mode="bilinear", align_corners=False)
        guide = self.offset_conv1(torch.cat([self.downsample(seen), texture], dim=1))
        guide = self.offset_conv2(guide if below is None else torch.cat([guide, below], dim=1))
        return self.dcn(texture, guide), guide


class MainBranch(nn.Module):
    """The second decoder, from the smallest warped level up: x = block(upsampled x, warped texture)."""

    def __init__(self, config: VQFRConfig) -> None:
        super().__init__()
        first = config.version == 1
        widths = config.autoencoder.decoder_widths[: len(config.groups)]
        self.warp, self.up, self.block = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, (width, groups) in enumerate(zip(widths, config.groups, strict=True)):
            below = widths[level + 1] if level + 1 < len(widths) else 0
            self.warp.append(TextureWarp(width, config.features, below, groups, convolved=first and level > 0))
            if below:
                self.up.append(BilinearUpsample(below, width) if first else Upsample(below, outputs=width))
                self.block.append(ResnetBlock(2 * width, width))

    def forward(self, textures: list[Tensor], seen: Tensor) -> Tensor:
        """textures: of each level, the finest first; seen: [B, features, H, W] -> as the finest texture."""
        last = len(self.warp) - 1
        x, guide = self.warp[last](textures[last], seen)
        for level in reversed(range(last)):
            below = enlarged(guide) * 2  # moves are in pixels, which are half as large here
            warped, guide = self.warp[level](textures[level], seen, below)
            x = self.block[level](torch.cat([self.up[level](x), warped], dim=1))
        return x


class VQFR(FaceRestorer):
    """A picture of a face, aligned, restored; learnt at `config.size` pixels."""

    def __init__(self, config: VQFRConfig) -> None:
        super().__init__()
        self.config = config
        inside = config.autoencoder
        self.vqgan = Autoencoder(inside)
        self.features = nn.Conv2d(inside.in_channels, config.features, 3, padding=1)
        self.branch = MainBranch(config)
        if config.predicts:
            self.norm = nn.LayerNorm(inside.embed_dim)
            self.head = nn.Linear(inside.embed_dim, self.vqgan.codebook_size or 0)
        if config.version == 1:
            self.norm_out = group_norm(inside.decoder_widths[0])
            self.conv_out = nn.Conv2d(inside.decoder_widths[0] + inside.in_channels, inside.out_channels, 3, padding=1)

    @property
    def face(self) -> int:
        return self.config.size

    def forward(self, x: Tensor, fidelity: float = 1.0) -> Tensor:
        """The restored picture.

        version 1: conv([silu(norm(branch)), x]);  version 2: last layers of the decoder (texture + fidelity branch)

        x: [B, 3, H, W] in -1..1, both sides multiples of the autoencoder's factor.
        fidelity: 0 (only what codes say) to 1 (nearest to the input); the first version has no such control.
        Returns the shape of x, about -1..1.
        Raises: ShapeError for other channels or sizes.
        """
        textures = self.textures(self.quantized(x))
        if self.config.version == 1:
            made = F.silu(self.norm_out(self.branch(textures, self.features(x))))
            return self.conv_out(torch.cat([made, x], dim=1))
        decoder, h = self.vqgan.decoder, textures[0]
        if fidelity:
            h = h + fidelity * self.branch(textures, self.features(x))
        return decoder.conv_out(decoder.last(decoder.norm_out(h)))

    def quantized(self, x: Tensor) -> Tensor:
        """The vectors of the codes that it chooses for a picture, [B, embed_dim, h, w]."""
        latent = self.vqgan.encode(x)
        if not self.config.predicts:
            return self.vqgan.quantize(latent).latent
        return self.vqgan.lookup(self.scores(latent).argmax(3)).to(latent)

    def scores(self, latent: Tensor) -> Tensor:
        """The scores of every code at every place: [B, embed_dim, h, w] -> [B, h, w, codes]."""
        return self.head(self.norm(latent.permute(0, 2, 3, 1)))

    def textures(self, latent: Tensor) -> list[Tensor]:
        """What the decoder makes of vectors of codes at each of its levels, the finest first."""
        decoder, found = self.vqgan.decoder, []
        h = decoder.mid(decoder.conv_in(self.vqgan.post_quant_conv(latent)))
        for level in reversed(decoder.up):
            h = level(h)
            found.insert(0, h)
            if upsample := getattr(level, "upsample", None):
                h = upsample(h)
        return found
