"""What surrounds a refiner: plain resizing, outputs of another scale than its own, and refining by halves."""

import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, ShapeError


def output_size(image: Tensor, scale: float) -> tuple[int, int]:
    """(height, width) of the picture, [B, C, H, W], `scale` times as large: rounded, at least 1 pixel.

    Raises: ConfigError for a scale that is not above 0.
    """
    if not scale > 0:
        raise ConfigError(f"scale is {scale}; expected a number above 0")
    height, width = image.shape[-2:]
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic, averaging over what it skips where a side shrinks; the picture itself where nothing changes.

    image: [B, C, H, W] in 0..1, float. size: (height, width).
    Returns [B, C, height, width] in 0..1, of the image's dtype.
    """
    if image.shape[-2:] == size:
        return image
    shrinks = size[0] < image.shape[-2] or size[1] < image.shape[-1]
    return F.interpolate(image.float(), size=size, mode="bicubic", antialias=shrinks).clamp(0, 1).to(image.dtype)


def blend(plain: Tensor, refined: Tensor, strength: float, mask: Tensor | None = None) -> Tensor:
    """plain + strength mask (refined - plain).

    plain, refined: [B, C, H, W] in 0..1, of one shape.
    strength: 0 (plain) to 1 (refined).
    mask: [B, h, w] or [1, h, w] in 0..1, 1 = refine here, of any size: it is resized; None refines everywhere.
    Raises: ConfigError for a strength out of range, ShapeError for parts that do not fit together.
    """
    if not 0 <= strength <= 1:
        raise ConfigError(f"strength is {strength}; expected 0 (a plain resize) to 1 (the refiner)")
    if plain.shape != refined.shape:
        raise ShapeError(f"the plain picture is {tuple(plain.shape)}, the refined one {tuple(refined.shape)}")
    if mask is None:
        return plain.lerp(refined, strength)
    if mask.ndim != 3 or mask.shape[0] not in (1, len(plain)):
        raise ShapeError(f"the mask is {tuple(mask.shape)}; expected [{len(plain)} or 1, height, width]")
    share = strength * _to_size(mask[:, None].to(plain), (plain.shape[2], plain.shape[3])).clamp(0, 1)
    return plain + share * (refined - plain)


def _to_size(mask: Tensor, size: tuple[int, int]) -> Tensor:
    if mask.shape[-2:] == size:
        return mask
    return F.interpolate(mask, size=size, mode="bilinear", antialias=True)
