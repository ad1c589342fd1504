"""What to do when memory runs out: the same work in smaller parts, down to a clear error."""

from collections.abc import Callable
from typing import TypeVar

import torch

from .errors import VitrailError

T = TypeVar("T")

LOWEST_STRIP = 16
"""The lowest strip of an autoencoder that is tried, in pixels."""


def with_less_memory(run: Callable[[int], T], size: int, *, then: int, smallest: int) -> T:
    """run(size); where memory runs out, again with half the size, and so on down to the smallest.

    run: the whole work in strips of `size` pixels, or at once for 0; it begins anew each time.
    size: to begin with. then: what follows 0.
    Raises: VitrailError where memory runs out with the smallest too, and whatever else `run` raises.
    """
    while True:
        try:
            return run(size)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            size = max(smallest, then) if not size else halved(size, smallest, error, "strips")
        release()


def out_of_memory(error: BaseException) -> bool:
    """Whether torch raised this for want of memory, on any device."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()
    return any(words in said for words in ("out of memory", "can't allocate memory", "not enough memory"))


def halved(size: int, smallest: int, error: BaseException, parts: str) -> int:
    """Half the size, the smallest at least. Raises: VitrailError where it is the smallest; parts: their name."""
    if size <= smallest:
        raise VitrailError(
            f"memory ran out even with {parts} of {size} pixels: free some (other models, other programs), "
            "use a smaller model or half precision"
        ) from error
    return max(smallest, size // 2)


def release() -> None:
    """Give back what the device's allocator keeps; to call where the error and its frames are gone."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
