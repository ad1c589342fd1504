"""k-means over the latents of a training batch, to start a codebook from."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .search import nearest


@torch.no_grad()
def kmeans(vectors: Tensor, codes: int, *, steps: int = 10, sphere: bool = False) -> Tensor:
    """Centres of `codes` clusters by Lloyd's iteration from random members; torch's global generator draws them.

    vectors: [N, D] float32, N >= 1; unit vectors where `sphere` is set, and so are the centres then.
    Returns [codes, D]. A cluster that loses its last member restarts from a random vector.
    Source: Lloyd 1982.
    """
    centres = draw(vectors, codes)
    for _ in range(steps):
        sums, counts = totals(vectors, nearest(vectors, centres), codes)
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), draw(vectors, codes))
        centres = F.normalize(centres, dim=1) if sphere else centres
    return centres


def draw(vectors: Tensor, count: int) -> Tensor:
    """`count` random rows of [N, D], all different as long as there are enough."""
    rounds = -(-count // len(vectors))
    order = torch.cat([torch.randperm(len(vectors), device=vectors.device) for _ in range(rounds)])
    return vectors[order[:count]]


def totals(vectors: Tensor, indices: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """Sum [codes, D] and number [codes] of the vectors [N, D] that went to each code, float32."""
    sums = vectors.new_zeros(codes, vectors.shape[1]).index_add_(0, indices, vectors)
    return sums, torch.bincount(indices, minlength=codes).to(vectors.dtype)
