"""Casting weights and seeing that they are numbers, in one pass."""

import mmap
from math import isfinite

import torch
from torch import Tensor

BLOCK, LARGE = 1 << 17, 1 << 20
"""Numbers cast at a time, and the bytes from which a tensor gets pages of its own."""


def cast(tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
    """A tensor in a dtype (integers as they are), and whether every value is a number.

    By blocks, so that what is looked at is still in the processor's cache, and in the wider dtype: torch adds float32
    faster than halves.
    """
    if tensor.dtype == dtype or not tensor.is_floating_point():
        return tensor, finite(tensor)
    made = empty(tensor.shape, dtype)
    wider = made.element_size() > tensor.element_size()
    sound = True
    for source, target in zip(tensor.reshape(-1).split(BLOCK), made.view(-1).split(BLOCK), strict=True):
        target.copy_(source)
        sound = finite(target if wider else source) and sound
    return made, sound


def empty(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Memory for a tensor; where Linux can make its pages at once, which saves a quarter of the time of a cast.

    torch.empty leaves them to be made one by one, each when it is first written to.
    """
    size = shape.numel() * dtype.itemsize
    if size < LARGE or not hasattr(mmap, "MAP_POPULATE"):
        return torch.empty(shape, dtype=dtype)
    try:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    except OSError:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def finite(tensor: Tensor) -> bool:
    """Whether float32 holds every value: by their sum, which NaN and infinity spoil, looked into where it overflows.

    The sum is in the tensor's own dtype: torch adds halves in float32 eight times as fast as it casts them to it.
    """
    if not tensor.is_floating_point():
        return True
    wide = tensor.float() if tensor.element_size() in (1, 8) else tensor
    return isfinite(wide.sum().item()) or bool(wide.isfinite().all())
