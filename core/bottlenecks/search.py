"""The nearest code of each vector: the pick of a float64 search at the speed and memory of a float32 one."""

import torch
from torch import Tensor

from ..errors import ShapeError

CHUNK = 1 << 20
"""Scores held at once (4 MiB of float32); a GPU takes 16 times as many."""

PAIRS = 1 << 18
"""Numbers of the float64 re-rank held at once."""

ROUNDOFF = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}
"""Relative error of an operand of a float32 matrix product, by torch's precision setting (float32, TF32, bfloat16)."""


@torch.no_grad()
def nearest(flat: Tensor, codebook: Tensor) -> Tensor:
    """argmin_k |flat_n - codebook_k|^2, as float64 finds it; the lowest index of a tie.

    A float32 product scores a chunk of vectors against all codes. Every code whose score is within the proven rounding
    error of the best is measured again in float64, so that no pick is worse than a float64 search's.

    flat: [N, D], any float dtype; rows that are not finite get code 0.
    codebook: [K, D], finite, K >= 1.
    Returns [N] int64.
    Raises: ShapeError for other shapes.
    """
    if flat.ndim != 2 or codebook.ndim != 2 or flat.shape[1] != codebook.shape[1] or not len(codebook):
        raise ShapeError(f"vectors {tuple(flat.shape)} and codes {tuple(codebook.shape)}; expected [N, D] and [K, D]")
    if flat.device.type == "mps":  # no float64 there
        return nearest(flat.cpu(), codebook.cpu()).to(flat.device)
    with torch.autocast(flat.device.type, enabled=False):
        return _nearest(flat.float(), codebook.float())


def _nearest(flat: Tensor, codebook: Tensor) -> Tensor:
    """score = a . k - (r / 2) |k|^2, the codes k centred and scaled to |k| <= 1, and a, r scaled to max(|a|, r) = 1.

    All terms are at most 1, so that nothing overflows and one bound on the rounding error serves every row.
    """
    centre = codebook.double().mean(0)
    codes = codebook.double() - centre
    radius = codes.norm(dim=1).max()
    if radius == 0:
        return torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
    codes = codes / radius
    keys = torch.cat([codes, -codes.square().sum(1, keepdim=True) / 2], 1).float().t().contiguous()
    rows = max(1, (CHUNK if flat.device.type == "cpu" else 16 * CHUNK) // len(codebook))
    parts = [_nearest_of_chunk(part, codebook, centre, radius, keys) for part in flat.split(rows)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=flat.device)


def _nearest_of_chunk(flat: Tensor, codebook: Tensor, centre: Tensor, radius: Tensor, keys: Tensor) -> Tensor:
    queries = flat.double() - centre
    reach = torch.maximum(queries.norm(dim=1, keepdim=True), radius)
    ratio = radius / reach
    scores = torch.cat([queries / reach, ratio], 1).float() @ keys
    # float32: operands rounded, D + 1 products summed, |terms| <= 1.5 in all; float64: what the re-rank itself may blur
    blur = 1.5 * ((keys.shape[0] + 8) * 2.0**-24 + 4 * _roundoff()) + (keys.shape[0] + 8) * 2.0**-51 / ratio
    worst = scores.amax(1, keepdim=True).double() - 2 * blur
    pairs = (scores >= worst.float().nextafter(scores.new_tensor(-torch.inf))).nonzero()
    return _closest_pair(flat, codebook, pairs[:, 0], pairs[:, 1])


def _closest_pair(flat: Tensor, codebook: Tensor, rows: Tensor, codes: Tensor) -> Tensor:
    """Of the sorted candidates (row, code), each row's nearest code in float64; the first of equals; 0 if none."""
    step = max(1, PAIRS // flat.shape[1]) if flat.shape[1] else len(rows) or 1
    squares = [
        (flat[r].double() - codebook[c].double()).square().sum(1)
        for r, c in zip(rows.split(step), codes.split(step), strict=True)
    ]
    distances = torch.cat(squares) if squares else flat.new_empty(0, dtype=torch.float64)
    best = distances.new_full((len(flat),), torch.inf).scatter_reduce_(0, rows, distances, "amin")
    winners = distances == best[rows]
    picks = torch.full((len(flat),), len(codebook), dtype=torch.int64, device=flat.device)
    picks.scatter_reduce_(0, rows[winners], codes[winners], "amin")
    return picks.where(picks < len(codebook), 0)


def _roundoff() -> float:
    """The error of an operand under the precision that torch is set to; the largest where it cannot tell."""
    try:
        return ROUNDOFF[torch.get_float32_matmul_precision()]
    except (RuntimeError, KeyError):
        return ROUNDOFF["medium"]
