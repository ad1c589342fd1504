"""One report a step: the host's bar with its preview and its Cancel, or a function of the caller's."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from .host_env import IN_HOST

if TYPE_CHECKING:
    from PIL.Image import Image


class Counted(Protocol):
    """A step that knows how many there will be."""

    @property
    def total(self) -> int: ...


T = TypeVar("T")
C = TypeVar("C", bound=Counted)
Picture = Callable[[], "Image | None"]
Report = Callable[[int, Picture], None]
"""`(steps done, what makes the preview)`."""

Listener = Callable[[int, int, Picture], None]
"""`(steps done, total, what makes the preview)`."""

_headless: Listener | None = None


def set_headless_progress(report: Listener | None) -> None:
    """Have steps reported outside the host; None: nobody listens. A preview is made only when it is called for."""
    global _headless
    _headless = report


def progress(steps: Iterable[T], total: int, preview: "Callable[[T], Image | None] | None" = None) -> Iterator[T]:
    """Hand the steps on with one report each.

    total: how many there will be. preview: the picture to show of a step; not called where nobody looks.
    Raises: in the host, its interrupt once a person cancels. However it ends, the inner generator is closed.
    """
    report = reporter(total)
    with closing(steps) if isinstance(steps, Generator) else nullcontext():
        for done, step in enumerate(steps, 1):
            report(done, lambda step=step: preview(step) if preview else None)
            yield step


def counted(steps: Iterator[C], times: int = 1) -> Iterator[C]:
    """`progress` of steps of which the first says how many there will be; one alone is not reported.

    times: how many such runs they are, one after the other.
    """
    first = next(steps)

    def all_steps() -> Iterator[C]:
        yield first
        yield from steps

    return progress(all_steps(), first.total * times) if first.total * times > 1 else all_steps()


def one_by_one(
    run: Callable[[Tensor], Generator[Counted, None, Tensor]], batch: Tensor, device: torch.device | str
) -> Tensor:
    """What `run` returns for each picture of a batch, in float32 on the device, with one report a step."""
    made: list[Tensor] = []

    def steps() -> Iterator[Counted]:
        for one in batch.split(1):
            made.append((yield from run(one)).to(device, torch.float32))

    for _ in counted(steps(), len(batch)):
        pass
    return torch.cat(made)


def reporter(total: int) -> Report:
    """What to call after each step."""
    if IN_HOST:
        return _host_reporter(total)
    return lambda done, picture: _headless(done, total, picture) if _headless else None


def _host_reporter(total: int) -> Report:
    from comfy.cli_args import args
    from comfy.utils import ProgressBar

    bar: Any = ProgressBar(total)

    def report(done: int, picture: Picture) -> None:
        image = picture()
        bar.update_absolute(done, total, None if image is None else ("JPEG", image, args.preview_size))

    return report
