"""What a network that inpaints, or enlarges pictures, sees stacked on the noisy latent.

| kind | channels | who takes it |
|---|---|---|
| mask, latent | 0 or 1; scaled latent of the picture with a grey hole | Stable Diffusion's inpainting networks |
| latent, mask | latent of the picture with a black hole, unscaled; -1 or 1 | CompVis's inpainting network |
| latent | latent of the picture, unscaled | networks that edit pictures |
| image | the picture itself, at the size of the latent | networks that enlarge pictures |

Source: Rombach et al. 2022, appendix D; CompVis's inpaint.py, and its inpaint_st.py for Stable Diffusion.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..nn.channels import Palette, from_rgb
from .unet import UNetConfig


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a condition knows of the picture that a network paints into.

    latent: [B, c, h, w] unscaled, of the picture with its hole grey (0 in -1..1); the whole picture without a mask.
    dark: the same with the hole black (-1), or None for the same as `latent`.
    image: [B, 3, H, W] in -1..1. mask: [B, 1, H, W] or [B, H, W], 1 = paint, 0 = keep; None paints everything.
    """

    latent: Tensor | None = None
    dark: Tensor | None = None
    image: Tensor | None = None
    mask: Tensor | None = None


Scale = Callable[[Tensor], Tensor]
Channels = Callable[[Picture, Tensor, Scale], list[Tensor]]
"""(picture, like [B, c, h, w], latent -> scaled latent) -> the parts to stack."""


def mask_latent(picture: Picture, like: Tensor, scale: Scale) -> list[Tensor]:
    latent = fitted(_needed(picture.latent), like)
    return [hole(picture.mask, like), scale(latent)]


def latent_mask(picture: Picture, like: Tensor, _: Scale) -> list[Tensor]:
    latent = fitted(_needed(picture.latent if picture.dark is None else picture.dark), like)
    return [latent, hole(picture.mask, like) * 2 - 1]


def latent(picture: Picture, like: Tensor, _: Scale) -> list[Tensor]:
    return [fitted(_needed(picture.latent), like)]


def image(picture: Picture, like: Tensor, _: Scale) -> list[Tensor]:
    return [fitted(_needed(picture.image), like)]


CONCATS: dict[str, Channels] = {
    "mask, latent": mask_latent,
    "latent, mask": latent_mask,
    "latent": latent,
    "image": image,
}
IMAGE_CHANNELS = 3


def kind_of(unet: UNetConfig) -> str | None:
    """The key of CONCATS that a network's channels and context speak for; None for a plain network.

    One channel more than a second latent is a mask: before the latent where there is text, as in Stable Diffusion,
    else behind it, as CompVis's own network has it. Three are a picture, unless latents have three channels as well
    and there is text.
    """
    channels, extra = unet.out_channels, unet.in_channels - unet.out_channels
    if extra == channels + 1:
        return "latent, mask" if unet.context_dim is None else "mask, latent"
    if extra == IMAGE_CHANNELS and (channels != extra or unet.context_dim is None):
        return "image"
    return "latent" if extra == channels else None


def concat(kind: str, picture: Picture, like: Tensor, scale: Scale) -> Tensor:
    """The channels that go on top of a latent.

    kind: a key of CONCATS. like: [B, c, h, w], the latent. scale: the autoencoder's, from its own space to the model's.
    Returns [B, extra, h, w], of the latent's device and dtype.
    Raises: ConfigError where the picture lacks what the kind needs.
    """
    return torch.cat(CONCATS[kind](picture, like, scale), dim=1)


def shrunk(
    rescale: Callable[[Tensor], Tensor], channels: int, picture: Picture, like: Tensor, palette: Palette | None = None
) -> Tensor:
    """The picture as a model's own layers make it small, [B, extra, h, w].

    channels: that they take; a map of labels has one for each label, palette: its colours (`nn.channels`).
    """
    return fitted(rescale(from_rgb(_needed(picture.image), channels, palette).to(like)), like)


def hole(mask: Tensor | None, like: Tensor) -> Tensor:
    """A mask for a latent, [B, 1, h, w] of zeros and ones; where there is none, everything is to be painted."""
    if mask is None:
        return torch.ones_like(like[:, :1])
    return fitted(mask.reshape(-1, 1, *mask.shape[-2:]), like).round()


def fitted(x: Tensor, like: Tensor) -> Tensor:
    """x [B', C, H, W] at the size of a latent, bilinear, repeated or cut to its batch."""
    x = x.to(like)
    if x.shape[-2:] != like.shape[-2:]:
        x = F.interpolate(x, size=like.shape[-2:], mode="bilinear")
    return x.repeat(-(-len(like) // len(x)), 1, 1, 1)[: len(like)]


def _needed(part: Tensor | None) -> Tensor:
    if part is None:
        raise ConfigError(
            "this model paints into a picture (or enlarges one), and a condition names none: send both the positive "
            "and the negative through Concat Condition, with the picture"
        )
    return part
