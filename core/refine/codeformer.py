"""CodeFormer: faces restored by predicting the codes of a clean picture, with as much of the input as is asked for.

Source: Zhou et al. 2022, sections 3.1 to 3.3; github.com/sczhou/CodeFormer, basicsr/archs/codeformer_arch.py.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..autoencoders.autoencoder import Autoencoder
from ..autoencoders.config import AutoencoderConfig
from ..errors import ConfigError, ShapeError
from ..nn.attention import attend
from ..nn.blocks import ResnetBlock
from .faces import FaceRestorer


@dataclass(frozen=True, kw_only=True)
class CodeFormerConfig:
    """A CodeFormer.

    autoencoder: its VQGAN. width, depth, heads, inner: of the transformer that predicts codes.
    places: number of codes of a picture, a square; pictures have that many times the autoencoder's factor.
    fused: the levels, named by their size for such a picture, at which the decoder may look at the input.
    named_for: side of the pictures that these names are for, where it is another than `size`; 0 where not.
    Raises: ConfigError where these do not go together.
    """

    autoencoder: AutoencoderConfig
    width: int = 512
    depth: int = 9
    heads: int = 8
    inner: int = 1024
    places: int = 256
    fused: tuple[int, ...] = (32, 64, 128, 256)
    named_for: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.heads, self.inner, self.places) < 1 or self.width % self.heads or self.depth < 0:
            raise ConfigError(
                f"a CodeFormer {self.width} wide, {self.heads} heads, {self.inner} inside, depth {self.depth}, "
                f"{self.places} places; expected 1 or more, heads that divide the width"
            )
        if round(self.places**0.5) ** 2 != self.places:
            raise ConfigError(f"{self.places} places are no square")
        side = self.named_for or self.size
        if strange := set(self.fused) - {side // 2**i for i in range(len(self.autoencoder.ch_mult))}:
            raise ConfigError(f"there are no levels of the sizes {sorted(strange)} in a picture of {side} pixels")

    @property
    def size(self) -> int:
        """The side in pixels of the pictures that it restores."""
        return round(self.places**0.5) * self.autoencoder.factor

    def level(self, size: int) -> int:
        """The level that goes by that size."""
        return ((self.named_for or self.size) // size).bit_length() - 1


class TransformerLayer(nn.Module):
    """Attention, then a layer of `inner` width; each normed before and added after, the place added to q and k."""

    def __init__(self, config: CodeFormerConfig) -> None:
        super().__init__()
        self.heads, width = config.heads, config.width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.linear1, self.linear2 = nn.Linear(width, config.inner), nn.Linear(config.inner, width)

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """x: [B, N, width]; place: [N, width] -> the shape of x."""
        normed = self.norm1(x)
        wq, wk, wv = self.qkv.weight.chunk(3)
        bq, bk, bv = self.qkv.bias.chunk(3)
        there = normed + place
        parts = F.linear(there, wq, bq), F.linear(there, wk, bk), F.linear(normed, wv, bv)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        x = x + self.out(attend(q, k, v).transpose(1, 2).flatten(2))
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


class Fuse(nn.Module):
    """h + w (h scale + shift), scale and shift from h and the encoder's features of the same size. Source: eq. 6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encode_enc = ResnetBlock(2 * channels, channels)
        self.scale, self.shift = (_branch(channels) for _ in range(2))

    def forward(self, features: Tensor, h: Tensor, w: float) -> Tensor:
        """features, h: [B, channels, H, W]; w: 0..1 -> the shape of h."""
        seen = self.encode_enc(torch.cat([features, h], dim=1))
        return h + w * (h * self.scale(seen) + self.shift(seen))


def _branch(channels: int) -> nn.Sequential:
    first, last = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
    return nn.Sequential(first, nn.LeakyReLU(0.2), last)


class CodeFormer(FaceRestorer):
    """A picture of a face, aligned and `config.size` pixels large, restored."""

    def __init__(self, config: CodeFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.vqgan = Autoencoder(config.autoencoder)
        width, codes = config.width, config.autoencoder.bottleneck.codes  # pyright: ignore[reportAttributeAccessIssue]
        self.position_emb = nn.Parameter(torch.zeros(config.places, width))
        self.feat_emb = nn.Linear(config.autoencoder.z_channels, width)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, codes, bias=False)
        widths = config.autoencoder.widths
        self.fuse = nn.ModuleDict({str(size): Fuse(widths[config.level(size)]) for size in config.fused})

    @property
    def face(self) -> int:
        return self.config.size

    def forward(self, x: Tensor, w: float = 0.5, adain: bool = False) -> Tensor:
        """The restored picture.

        x: [B, 3, size, size] in -1..1. w: fidelity, 0 (only what codes say) to 1 (nearest to the input).
        adain: give the codes' vectors the mean and deviation of the input's latent.
        Returns the shape of x, about -1..1.
        Raises: ShapeError for another size.
        """
        self._check(x)
        features = self.features(x)
        latent = features.pop("latent")
        quantized = self.vqgan.lookup(self.scores(latent).argmax(2).view(len(x), *latent.shape[2:])).to(latent)
        return self._decode(like(quantized, latent) if adain else quantized, features, w)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """What the encoder's last blocks see at the fused sizes, and its "latent" [B, z, h, w]."""
        found, sizes = {}, {self.config.level(size): str(size) for size in self.config.fused}
        encoder: Any = self.vqgan.encoder
        h = encoder.conv_in(x)
        for i, level in enumerate(encoder.down):
            for j, block in enumerate(level.block):
                h = block(h)
                if i in sizes:
                    found[sizes[i]] = h
                if len(level.attn):
                    h = level.attn[j](h)
            if downsample := getattr(level, "downsample", None):
                h = downsample(h)
        return found | {"latent": encoder.conv_out(encoder.last(encoder.norm_out(encoder.mid(h))))}

    def scores(self, latent: Tensor) -> Tensor:
        """The scores of every code at every place: [B, z, h, w] -> [B, h w, codes]."""
        x = self.feat_emb(latent.flatten(2).transpose(1, 2))
        for layer in self.layers:
            x = layer(x, self.position_emb)
        return self.head(self.norm(x))

    def _decode(self, latent: Tensor, features: dict[str, Tensor], w: float) -> Tensor:
        decoder, sizes = self.vqgan.decoder, {self.config.level(size): str(size) for size in self.config.fused}
        h = decoder.mid(decoder.conv_in(latent))
        for i in reversed(range(len(decoder.up))):
            level: Any = decoder.up[i]
            place = len(level.block) - 1 if len(level.attn) else 0  # the reference's, before the last attention
            for j, block in enumerate(level.block):
                h = block(h)
                if j == place and i in sizes and w > 0:
                    h = self.fuse[sizes[i]](features[sizes[i]], h, w)
                if len(level.attn):
                    h = level.attn[j](h)
            if upsample := getattr(level, "upsample", None):
                h = upsample(h)
        return decoder.conv_out(decoder.last(decoder.norm_out(h)))

    def _check(self, x: Tensor) -> None:
        side = self.config.size
        if x.ndim != 4 or tuple(x.shape[1:]) != (self.config.autoencoder.in_channels, side, side):
            raise ShapeError(f"the picture is {tuple(x.shape)}; this network takes [batch, 3, {side}, {side}]")


def like(x: Tensor, other: Tensor, eps: float = 1e-5) -> Tensor:
    """x with the other's mean and deviation in each channel. Source: Huang & Belongie 2017, eq. 8."""
    (mean, std), (mean_, std_) = (
        (part.mean((2, 3), keepdim=True), (part.var((2, 3), keepdim=True) + eps).sqrt()) for part in (x, other)
    )
    return (x - mean) / std * std_ + mean_
