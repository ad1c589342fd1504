"""Casting weights and seeing that they are numbers, in one pass."""

import mmap
import sys
from contextlib import suppress
from math import isfinite

import torch
from torch import Tensor

BLOCK, LARGE = 1 << 17, 1 << 20
"""Numbers cast at a time, and the bytes from which a tensor gets pages of its own."""

POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE of Linux 5.14, to which Python gives no name."""


def cast(tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
    """A tensor in a dtype (integers as they are), and whether every value is a number.

    By blocks: memory is made, written and looked at while it is in the processor's cache, which takes three quarters
    of the time of a cast that touches each page anew. What is looked at is the wider of the two: torch adds float32
    faster than halves.
    """
    if tensor.dtype == dtype or not tensor.is_floating_point():
        return tensor, finite(tensor)
    made, pages = _empty(tensor.shape, dtype)
    wider = made.element_size() > tensor.element_size()
    sound = True
    for i, (source, target) in enumerate(zip(tensor.reshape(-1).split(BLOCK), made.view(-1).split(BLOCK), strict=True)):
        _populate(pages, i * BLOCK * dtype.itemsize, target.numel() * dtype.itemsize)
        target.copy_(source)
        sound = finite(target if wider else source) and sound
    return made, sound


def _empty(shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, mmap.mmap | None]:
    """Memory for a tensor, and its pages where they can be made by blocks: those of a large tensor on Linux."""
    size = shape.numel() * dtype.itemsize
    if size < LARGE or sys.platform != "linux":
        return torch.empty(shape, dtype=dtype), None
    try:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        return torch.empty(shape, dtype=dtype), None
    return torch.frombuffer(pages, dtype=dtype).view(shape), pages


def _populate(pages: mmap.mmap | None, start: int, length: int) -> None:
    """Make a block of pages at once; a kernel that cannot makes each when it is first written to."""
    if pages is not None:
        with suppress(OSError):
            pages.madvise(POPULATE_WRITE, start, length)


def finite(tensor: Tensor) -> bool:
    """Whether float32 holds every value: by their sum, which NaN and infinity spoil, looked into where it overflows.

    The sum is in the tensor's own dtype: torch adds halves in float32 eight times as fast as it casts them to it.
    """
    if not tensor.is_floating_point():
        return True
    wide = tensor.float() if tensor.element_size() in (1, 8) else tensor
    return isfinite(wide.sum().item()) or bool(wide.isfinite().all())
