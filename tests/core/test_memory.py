"""Out of memory: smaller parts, then a clear error."""

import pytest
import torch

from vitrail.core.errors import VitrailError
from vitrail.core.memory import with_less_memory

OUT = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
)


class Work:
    """Fits into memory in strips of `room` pixels or less."""

    def __init__(self, room: int, error: BaseException = OUT[0]) -> None:
        self.room, self.error, self.seen = room, error, []

    def __call__(self, size: int) -> str:
        self.seen.append(size)
        if not 0 < size <= self.room:
            raise self.error
        return f"done in {size}"


@pytest.mark.parametrize("error", OUT, ids=lambda error: type(error).__name__)
def test_the_size_is_halved_until_it_fits(error: BaseException) -> None:
    work = Work(70, error)
    assert with_less_memory(work, 0, then=500, smallest=16) == "done in 62"
    assert work.seen == [0, 500, 250, 125, 62]


def test_what_fits_is_done_once() -> None:
    work = Work(70)
    assert with_less_memory(work, 64, then=500, smallest=16) == "done in 64" and work.seen == [64]


@pytest.mark.parametrize(("size", "then", "seen"), [(0, 40, [0, 40, 20, 16]), (20, 40, [20, 16]), (0, 3, [0, 16])])
def test_the_smallest_is_the_last(size: int, then: int, seen: list[int]) -> None:
    work = Work(0)
    with pytest.raises(VitrailError, match="even with strips of 16 pixels") as caught:
        with_less_memory(work, size, then=then, smallest=16)
    assert work.seen == seen and caught.value.__cause__ is work.error


def test_other_errors_pass() -> None:
    work = Work(0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="multiplied"):
        with_less_memory(work, 0, then=40, smallest=16)
    assert work.seen == [0]
