"""Resizing as the host's nodes do it: the same methods, crop and rounding."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

IMAGE_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
LATENT_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]
CROPS = ["disabled", "center"]
PARALLEL = 1e-5
"""Directions whose cosine is this close to 1 or -1 are mixed in a straight line."""


def resize(x: Tensor, width: int, height: int, method: str, crop: str = "disabled") -> Tensor:
    """x [B, C, H, W] at another size; crop "center" first cuts it to the new sides' ratio."""
    if crop == "center":
        x = cut_to_ratio(x, width / height)
    if method == "bislerp":
        return bislerp(x, width, height)
    if method == "lanczos":
        return lanczos(x, width, height)
    return F.interpolate(x, size=(height, width), mode=method)


def cut_to_ratio(x: Tensor, ratio: float) -> Tensor:
    """The middle of x [B, C, H, W] with sides of ratio width / height."""
    height, width = x.shape[-2:]
    left = max(0, round((width - height * ratio) / 2))
    top = max(0, round((height - width / ratio) / 2))
    return x[..., top : height - top, left : width - left]


def lanczos(x: Tensor, width: int, height: int) -> Tensor:
    """Pillow's Lanczos filter, in 8 bits; x [B, C, H, W] in 0..1."""
    return torch.stack([_lanczos_one(picture, width, height) for picture in x]).to(x)


def _lanczos_one(picture: Tensor, width: int, height: int) -> Tensor:
    pixels = (picture.movedim(0, -1).float().cpu().numpy() * 255).clip(0, 255).astype(np.uint8)
    planes = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    out = np.asarray(Image.fromarray(planes).resize((width, height), Image.Resampling.LANCZOS), dtype=np.float32) / 255
    return torch.from_numpy(out.reshape(height, width, -1)).movedim(-1, 0)


def bislerp(x: Tensor, width: int, height: int) -> Tensor:
    """Bilinear sampling that turns between the channel vectors of neighbours instead of averaging them.

    slerp(a, b, t) = |.| (sin((1-t) w) a' + sin(t w) b') / sin w,  w the angle between, |.| the mixed length.
    x: [B, C, H, W]; along the width first, then the height.
    """
    return _slerp_along(_slerp_along(x.float(), -1, width), -2, height).to(x.dtype)


def _slerp_along(x: Tensor, dim: int, size: int) -> Tensor:
    old = x.shape[dim]
    at = ((torch.arange(size, device=x.device, dtype=torch.float32) + 0.5) * (old / size) - 0.5).clamp(0, old - 1)
    low = at.long()
    high = (low + 1).clamp(max=old - 1)
    share = (at - low).view(-1, *[1] * (-1 - dim))
    return _slerp(x.index_select(dim, low), x.index_select(dim, high), share)


def _slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Between vectors along dimension 1 of a and b, at shares t that broadcast to them."""
    long_a, long_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    unit_a, unit_b = (torch.where(n > 0, v / n, torch.zeros_like(v)) for v, n in ((a, long_a), (b, long_b)))
    cosine = (unit_a * unit_b).sum(1, keepdim=True)
    angle = cosine.clamp(-1, 1).acos()
    turned = (((1 - t) * angle).sin() * unit_a + (t * angle).sin() * unit_b) / angle.sin()
    turned = turned * (long_a * (1 - t) + long_b * t)
    turned = torch.where(cosine > 1 - PARALLEL, a, turned)
    return torch.where(cosine < PARALLEL - 1, a * (1 - t) + b * t, turned)
