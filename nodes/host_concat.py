"""The keys of a CONDITIONING that name a picture to paint into, as the host's nodes write them, for our networks.

concat_latent_image  [B, c, h, w] unscaled: the picture with its hole grey;  concat_mask  [B, 1, H, W], 1 = paint
concat_image         [B, 3, H, W] in -1..1: the picture itself;  noise_concat  [B, extra, h, w]: ready to be stacked
vitrail_concat_dark  [B, c, h, w] unscaled: the picture with its hole black
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .host_env import IN_HOST

if TYPE_CHECKING:
    from ..core.diffusion.latent_diffusion import LatentDiffusion

DARK = "vitrail_concat_dark"
KEYS = ("concat_latent_image", DARK, "concat_image", "concat_mask", "noise_concat")

Conditioning = list[list[Any]]


def concat_channels(diffusion: "LatentDiffusion", named: Mapping[str, Any], like: Tensor) -> Tensor | None:
    """What goes on top of a latent, [B, extra, h, w]; None where the network takes nothing, or it is there already.

    named: the keys above. like: [B, c, h, w], scaled. Raises: ConfigError where they lack what the network needs.
    """
    from ..core.diffusion.concat import Picture

    if named.get("noise_concat") is not None:
        return named["noise_concat"]
    picture = Picture(
        latent=named.get("concat_latent_image"),
        dark=named.get(DARK),
        image=named.get("concat_image"),
        mask=named.get("concat_mask"),
    )
    return diffusion.stacked(picture, like)


def picture_keys(vae: Any, x: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """The keys for a picture. x: [B, 3, H, W] in -1..1; mask: [B or 1, 1, H, W] of zeros and ones, or None."""
    if mask is None:
        return {"concat_latent_image": encode_with(vae, x), "concat_image": x}
    keep = 1 - mask
    return {
        "concat_latent_image": encode_with(vae, x * keep),
        DARK: encode_with(vae, (x + 1) * keep - 1),
        "concat_image": x,
        "concat_mask": mask,
    }


def encode_with(vae: Any, x: Tensor) -> Tensor:
    """The latent [B, c, h, w] of pictures x in -1..1, on the CPU, by any VAE."""
    if IN_HOST:
        return vae.encode(((x + 1) / 2).movedim(1, -1))
    from .host_memory import loaded

    with loaded(vae) as device, torch.no_grad():
        weight = next(vae.parameters())
        return vae.encode(vae.from_rgb(x).to(device, weight.dtype)).float().cpu()


def with_keys(conditioning: Conditioning, keys: Mapping[str, Any]) -> Conditioning:
    """A conditioning with keys added to each of its entries."""
    return [[context, {**extra, **keys}] for context, extra in conditioning]


def shared_picture(conditioning: Conditioning | None) -> dict[str, Any]:
    """The keys of a conditioning's picture, for one that stands in for a missing one."""
    extra = conditioning[0][1] if conditioning else {}
    return {name: extra[name] for name in KEYS if name in extra}
