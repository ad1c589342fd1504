"""The autoencoder: encoder, bottleneck, decoder, and the scale of its latent."""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..bottlenecks import FiniteScalarQuantizer, KLBottleneck, build_bottleneck
from ..errors import ConfigError, ShapeError
from ..nn.channels import Palette, from_rgb, to_rgb
from ..types import Quantized
from .config import AutoencoderConfig
from .convnet import Decoder, Encoder
from .strips import StripSteps, decode_strips, drained, encode_strips


class Autoencoder(nn.Module):
    """Pictures to latents (or codes) and back; children are named as in CompVis's checkpoints.

    `quantize(z)` is the bottleneck: it returns a `Quantized`.
    discriminator: the critic that it learnt from, [B, out_channels, H, W] -> logits of patches, where its file holds
    one; kept beside the model, not in it: it is in neither `parameters()` nor `state_dict()`.
    Source: Esser et al. 2021; Rombach et al. 2022, section 3.1.
    """

    discriminator: nn.Module | None

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.discriminator = None
        wide = 2 if config.double_z else 1
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantize = build_bottleneck(config.bottleneck)
        self.palette = Palette(config.in_channels) if config.palette else None
        self.quant_conv = self.post_quant_conv = nn.Identity()
        if config.quant_conv:
            self.quant_conv = nn.Conv2d(wide * config.z_channels, wide * config.embed_dim, 1)
            self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep the critic an ordinary attribute, not a child module."""
        if name == "discriminator":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def encode(self, x: Tensor, generator: Generator | None = None, *, strip: int = 0) -> Tensor:
        """The latent before the bottleneck rounds it; for KL the mean, or a sample where a generator is given.

        x: [B, in_channels, H, W] in -1..1, both sides multiples of `config.factor`.
        strip: 0, or the height in pixels of strips: the same latent within rounding for less memory and more time,
        without gradients.
        Returns [B, embed_dim, H / factor, W / factor].
        Raises: ShapeError for other channels or sizes, ConfigError for a negative strip.
        """
        if strip:
            return drained(self.encode_steps(x, generator, strip=strip))
        self._check_picture(x)
        return self._drawn(self._before_bottleneck(self.encoder(x)), generator)

    @torch.no_grad()
    def encode_steps(self, x: Tensor, generator: Generator | None = None, *, strip: int) -> StripSteps:
        """`encode` in strips, a strip a step; the caller's loop is where progress and cancelling live.

        Yields how far it is after each strip, and returns the latent (`latent = yield from model.encode_steps(...)`).
        strip: at least 1; other arguments and errors as in `encode`.
        """
        self._check_picture(x)
        h = yield from encode_strips(self.encoder, x, strip)
        return self._drawn(self._before_bottleneck(h), generator)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent's posterior, each [B, embed_dim, h, w]; ConfigError unless KL."""
        if not isinstance(self.quantize, KLBottleneck):
            raise ConfigError("this autoencoder has a codebook, not a posterior: use encode and quantize")
        self._check_picture(x)
        return self.quantize.split(self.quant_conv(self.encoder(x)))

    def lookup(self, indices: Tensor) -> Tensor:
        """The codebook's vectors, [B, embed_dim, h, w] float, of int64 codes [B, h, w] or [B, h, w, levels].

        Raises: ConfigError without a codebook; ShapeError for codes that the codebook does not have.
        """
        if self.codebook_size is None:
            raise ConfigError("this autoencoder has no codebook: its latent is continuous (KL), so there are no codes")
        return self.quantize.lookup(indices)  # pyright: ignore[reportCallIssue]

    def rounded(self, latent: Tensor) -> Tensor:
        """The latent as the decoder learnt to see it: rounded to codes; as it is where there are none (KL).

        latent: [B, embed_dim, h, w], as `encode` or a sampler made it.
        """
        return latent if self.codebook_size is None else self.quantize(latent).latent

    def decode(self, latent: Tensor, *, strip: int = 0) -> Tensor:
        """A picture, about -1..1 and not clamped, from a latent as it is: quantise first where codes are wanted.

        latent: [B, embed_dim, h, w]. strip: as in `encode`, of the picture's pixels.
        Returns [B, out_channels, h * factor, w * factor].
        Raises: ShapeError for another number of channels, ConfigError for a negative strip.
        """
        if strip:
            return drained(self.decode_steps(latent, strip=strip))
        self._check_latent(latent)
        return self.decoder(self.post_quant_conv(latent))

    @torch.no_grad()
    def decode_steps(self, latent: Tensor, *, strip: int) -> StripSteps:
        """`decode` in strips, a strip a step; as `encode_steps`."""
        self._check_latent(latent)
        return (yield from decode_strips(self.decoder, self.post_quant_conv(latent), strip))

    def from_rgb(self, x: Tensor) -> Tensor:
        """A picture [B, 3, H, W] in -1..1 as `encode` takes it: grey, itself, or a map of labels (`nn.channels`)."""
        return from_rgb(x, self.config.in_channels, self.palette)

    def to_rgb(self, decoded: Tensor) -> Tensor:
        """What `decode` made, [B, out_channels, H, W], as a picture [B, 3, H, W]; the inverse of `from_rgb`."""
        return to_rgb(decoded, self.palette)

    def forward(self, x: Tensor) -> tuple[Tensor, Quantized]:
        """The reconstruction of x and what the bottleneck made of it."""
        quantized = self.quantize(self._before_bottleneck(self.encoder(x)))
        return self.decode(quantized.latent), quantized

    def scale(self, z: Tensor) -> Tensor:
        """(z - shift) * scale: the space that diffusion works in, about unit variance."""
        shift, scale = self._affine(z)
        return (z - shift) * scale

    def unscale(self, z: Tensor) -> Tensor:
        """The inverse of `scale`."""
        shift, scale = self._affine(z)
        return z / scale + shift

    @property
    def codebook(self) -> Tensor | None:
        """The codes' vectors, [K, D] float32 (of several levels the first one's), or None for a continuous latent."""
        return getattr(self.quantize, "codebook", None)

    @property
    def codebook_size(self) -> int | None:
        """The number of codes K, without making the codebook; None for a continuous latent."""
        return getattr(self.config.bottleneck, "codes", None)

    @property
    def levels(self) -> int:
        """Codes a cell: 1, but for a residual codebook."""
        return getattr(self.config.bottleneck, "depth", 1)

    @property
    def factor(self) -> int:
        return self.config.factor

    def _drawn(self, h: Tensor, generator: Generator | None) -> Tensor:
        return self.quantize.sample(h, generator) if isinstance(self.quantize, KLBottleneck) else h

    def _before_bottleneck(self, encoded: Tensor) -> Tensor:
        h = self.quant_conv(encoded)
        return self.quantize.bound(h) if isinstance(self.quantize, FiniteScalarQuantizer) else h

    def _affine(self, z: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = (torch.tensor(v, dtype=z.dtype, device=z.device).view(1, -1, 1, 1) for v in self._shift_scale)
        return shift, scale

    @property
    def _shift_scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.config.latent_shift, self.config.latent_scale

    def _check_picture(self, x: Tensor) -> None:
        factor = self.config.factor
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise ShapeError(
                f"the picture is {tuple(x.shape)}; expected [batch, {self.config.in_channels}, height, width]"
            )
        if x.shape[2] % factor or x.shape[3] % factor:
            raise ShapeError(
                f"the picture is {x.shape[3]} x {x.shape[2]} pixels; both sides must be multiples of {factor}: pad it"
            )

    def _check_latent(self, latent: Tensor) -> None:
        if latent.ndim != 4 or latent.shape[1] != self.config.embed_dim:
            raise ShapeError(
                f"the latent is {tuple(latent.shape)}; this autoencoder takes [batch, {self.config.embed_dim}, height, "
                "width]. It was probably made with another autoencoder: encode the picture again with this one"
            )
