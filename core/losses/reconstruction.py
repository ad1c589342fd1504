"""How far a picture is from the one it should be."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def l1(made: Tensor, truth: Tensor) -> Tensor:
    """mean |made - truth|, [] float32; both of one shape."""
    return F.l1_loss(made.float(), truth.float())


def mse(made: Tensor, truth: Tensor) -> Tensor:
    """mean (made - truth)^2, [] float32; both of one shape."""
    return F.mse_loss(made.float(), truth.float())


def gradient_l1(made: Tensor, truth: Tensor, scales: int = 3) -> Tensor:
    """L1 of the differences of neighbouring pixels, in both directions, the mean over scales halved by averaging.

    It asks for edges where the truth has edges, so that what L1 would blur stays sharp.
    made, truth: [B, C, H, W], H and W at least 2 ** scales.
    Returns [] float32. Source: Mathieu et al. 2016, eq. 6, at several scales.
    """
    error = made.float() - truth.float()  # differences and averages are linear: one picture of errors is enough
    total = error.new_zeros(())
    for scale in range(scales):
        if scale:
            error = F.avg_pool2d(error, 2)
        total = total + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return total / scales


def feature_matching(made: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
    """mean over a critic's layers of L1 between its activations, [] float32; those of the truth get no gradient.

    Source: Salimans et al. 2016, section 3.1; Wang et al. 2018 (pix2pixHD), eq. 4.
    """
    return torch.stack([l1(a, b.detach()) for a, b in zip(made, truth, strict=True)]).mean()
