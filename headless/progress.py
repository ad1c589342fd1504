"""What a person sees on stderr while a workflow runs: a line for each node, a bar while it works."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm


class Progress:
    """Bars on a terminal; elsewhere (a log, a pipe) one line for each node once it is done.

    quiet: print nothing.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self.quiet = quiet
        self.live = not quiet and self.stream.isatty()
        self.bar: tqdm[Any] | None = None

    def note(self, text: str) -> None:
        """One line of text, above the bar if there is one."""
        if not self.quiet:
            tqdm.write(text, file=self.stream)

    @contextmanager
    def node(self, name: str, index: int, total: int) -> Iterator[None]:
        """Around the work of one node. index: 1-based."""
        head, start = f"[{index}/{total}] {name}", time.perf_counter()
        if self.live:
            self.bar = tqdm(total=0, desc=head, file=self.stream, leave=False, bar_format="{desc}", dynamic_ncols=True)
        try:
            yield
            self._close()
            self.note(f"{head}  {time.perf_counter() - start:.1f} s")
        finally:
            self._close()

    def step(self, value: int, total: int, preview: Any = None) -> None:
        """One step of the node at work: `value` of `total` are done. What makes the preview is not called here."""
        if self.bar is None:
            return
        if self.bar.total != total:
            self._close_into_steps(total)
        self.bar.update(value - self.bar.n)

    def _close_into_steps(self, total: int) -> None:
        head = self.bar.desc if self.bar is not None else ""
        self._close()
        self.bar = tqdm(total=total, desc=head, unit="step", file=self.stream, leave=False, dynamic_ncols=True)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
