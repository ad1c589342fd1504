"""What a codebook looks like in numbers: use, spread, neighbours, health."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import ConfigError, ShapeError

TOP = 16
PAIRS = 1 << 22
"""Distances held at once when all codes are compared."""

COMPARED = 1 << 15
"""The distances between the codes of a larger codebook (a grid, as a rule) are not looked at."""


def usage(indices: Tensor, codes: int) -> Tensor:
    """How often each code occurs: int64 indices of any shape -> int64 [codes].

    Raises: ShapeError for an index that is no code.
    """
    flat = indices.reshape(-1)
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < codes:
        raise ShapeError(f"codes run from {int(flat.min())} to {int(flat.max())}; expected 0 to {codes - 1}")
    return torch.bincount(flat, minlength=codes)


def level_usage(indices: Tensor, codes: int) -> Tensor:
    """How often each code occurs on each level: int64 [B, h, w], one level, or [B, h, w, levels] -> [levels, codes].

    Raises: ShapeError for an index that is no code.
    """
    levels = indices[..., None] if indices.ndim == 3 else indices
    return torch.stack([usage(level, codes) for level in levels.unbind(-1)])


def perplexity(counts: Tensor) -> float:
    """exp(-sum p log p), p = counts / their sum: 1 for a single code, K for all alike; 0 without any.

    counts: [K] of 0 or more.
    """
    total = counts.sum()
    if not total:
        return 0.0
    p = counts.double() / total
    return float(torch.special.entr(p).sum().exp())


def neighbours(codebook: Tensor, code: int, count: int = 24) -> tuple[Tensor, Tensor]:
    """The codes nearest to one, that one left out: their indices int64 [n], nearest first, and distances float32 [n].

    codebook: [K, D]; n = min(count, K - 1); of equal distances the lower index first.
    Raises: ConfigError for a code that is not there.
    """
    if not 0 <= code < len(codebook):
        raise ConfigError(f"there is no code {code}; this codebook has 0 to {len(codebook) - 1}")
    distances = (codebook.double() - codebook[code].double()).norm(dim=1)
    distances[code] = -1
    order = distances.argsort(stable=True)[1 : count + 1]
    return order, distances[order].float()


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Codes in the plane of their two widest directions.

    points: [K, 2] float32; shares: how much of the variance each direction holds, 0..1.
    """

    points: Tensor
    shares: tuple[float, float]


def project(codebook: Tensor) -> Projection:
    """Principal components: the codes, centred, along the two leading right singular vectors.

    codebook: [K, D]. Each direction points to where its largest coordinate is positive, so that pictures are stable.
    Source: Pearson 1901.
    """
    centred = codebook.double().cpu() - codebook.double().cpu().mean(0)
    _, spread, directions = torch.linalg.svd(centred, full_matrices=False)
    signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    points = torch.zeros(len(codebook), 2, dtype=torch.float64)
    found = min(2, len(spread))
    points[:, :found] = centred @ (directions * signs)[:found].T
    variance = spread.square() / spread.square().sum().clamp_min(1e-300)
    first, second = (float(variance[i]) if i < len(variance) else 0.0 for i in range(2))
    return Projection(points=points.float(), shares=(first, second))


def nearest_distances(codebook: Tensor) -> tuple[Tensor, Tensor]:
    """For each code the distance to its nearest other code, float32 [K], and that code, int64 [K] (itself when alone).

    codebook: [K, D]; in chunks, never the K x K matrix at once.
    """
    exact = codebook.double()
    distances, others = [], []
    for start, part in _chunks(exact):
        squares = torch.cdist(part, exact, compute_mode="donot_use_mm_for_euclid_dist")
        squares[torch.arange(len(part)), torch.arange(start, start + len(part))] = torch.inf
        low, other = squares.min(1)
        distances.append(low)
        others.append(other)
    return torch.cat(distances).float(), torch.cat(others)


def _chunks(codebook: Tensor) -> list[tuple[int, Tensor]]:
    rows = max(1, PAIRS // len(codebook))
    return [(start, codebook[start : start + rows]) for start in range(0, len(codebook), rows)]


def report(codebook: Tensor, counts: Tensor | None = None) -> dict[str, Any]:
    """The health of a codebook, as JSON can say it.

    codebook: [K, D] float; counts: [K] of `usage`, or None when no codes were looked at.
    Returns codes, dim, norms and spacing (min, mean, max; None beyond COMPARED codes), duplicates (codes equal to an
    earlier one), not_finite, and with counts: tokens, used, dead, perplexity, top (the most frequent codes).
    """
    finite = codebook.isfinite().all(1)
    sound = codebook.where(finite[:, None], torch.zeros_like(codebook))
    found: dict[str, Any] = {
        "codes": len(codebook),
        "dim": codebook.shape[1],
        "norms": _spread(sound.float().norm(dim=1)),
        "spacing": _spacing(sound),
        "duplicates": len(codebook) - len(torch.unique(codebook, dim=0)),
        "not_finite": int((~finite).sum()),
    }
    return found if counts is None else found | _use(counts)


def _spacing(codebook: Tensor) -> dict[str, float] | None:
    if len(codebook) > COMPARED:
        return None
    return _spread(nearest_distances(codebook)[0] if len(codebook) > 1 else torch.zeros(1))


def _use(counts: Tensor) -> dict[str, Any]:
    total, used = int(counts.sum()), int((counts > 0).sum())
    order = counts.argsort(descending=True, stable=True)[: min(TOP, used)].tolist()
    return {
        "tokens": total,
        "used": used,
        "dead": len(counts) - used,
        "perplexity": round(perplexity(counts), 3),
        "top": [
            {"code": code, "count": int(counts[code]), "share": round(int(counts[code]) / total, 5)} for code in order
        ],
    }


def _spread(values: Tensor) -> dict[str, float]:
    return {
        "min": round(float(values.min()), 6),
        "mean": round(float(values.mean()), 6),
        "max": round(float(values.max()), 6),
    }
