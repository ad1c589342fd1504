"""Pictures of any size for networks that halve them: pad on the right and below, crop afterwards."""

import torch.nn.functional as F
from torch import Tensor


def pad_to(x: Tensor, factor: int) -> tuple[Tensor, tuple[int, int]]:
    """Pad the last two sides up to multiples of `factor` by reflection, or by the edge where x is too small for that.

    x: [B, C, H, W].
    Returns the padded x and the size (H, W) to hand to `crop`.
    """
    height, width = x.shape[-2:]
    below, right = -height % factor, -width % factor
    if below or right:
        mode = "reflect" if below < height and right < width else "replicate"
        x = F.pad(x, (0, right, 0, below), mode=mode)
    return x, (height, width)


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The top left part of x, [B, C, H, W], of the given (H, W)."""
    return x[..., : size[0], : size[1]]
