"""A latent as rows of vectors, and what may stand in for codes."""

from torch import Tensor

from ..errors import ShapeError


def to_rows(z: Tensor, dim: int) -> Tensor:
    """[B, D, h, w] -> float32 [B h w, D]. Raises: ShapeError where D is not `dim`."""
    if z.ndim != 4 or z.shape[1] != dim:
        raise ShapeError(f"the latent is {tuple(z.shape)}; this codebook takes [batch, {dim}, height, width]")
    return z.float().permute(0, 2, 3, 1).reshape(-1, dim)


def to_latent(rows: Tensor, like: Tensor) -> Tensor:
    """[B h w, D] -> [B, D, h, w] with B, h, w and the dtype of the latent `like`."""
    b, _, h, w = like.shape
    return rows.view(b, h, w, -1).permute(0, 3, 1, 2).contiguous().to(like.dtype)


def to_map(indices: Tensor, like: Tensor) -> Tensor:
    """[B h w, ...] -> [B, h, w, ...] with B, h, w of the latent `like`."""
    b, _, h, w = like.shape
    return indices.view(b, h, w, *indices.shape[1:])


def check_indices(indices: Tensor, codes: int) -> None:
    """Raises: ShapeError unless these are integers [B, h, w], each 0 <= index < codes."""
    if indices.ndim != 3 or indices.is_floating_point():
        raise ShapeError(f"codes are {tuple(indices.shape)} {indices.dtype}; expected int64 [batch, height, width]")
    check_range(indices, codes)


def check_range(indices: Tensor, codes: int) -> None:
    """Raises: ShapeError where an index is no code."""
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < codes:
        raise ShapeError(
            f"codes run from {int(indices.min())} to {int(indices.max())}; this codebook has 0 to {codes - 1}"
        )
