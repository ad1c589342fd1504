"""Where a run reads pictures from and writes them to."""

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import WorkflowError

DATE_PARTS = {"yyyy": "%Y", "yy": "%y", "MM": "%m", "dd": "%d", "hh": "%H", "mm": "%M", "ss": "%S"}
TIME_FIELDS = {"year": "%Y", "month": "%m", "day": "%d", "hour": "%H", "minute": "%M", "second": "%S"}


@dataclass(kw_only=True)
class Files:
    """The folders of one run.

    output: folder that pictures are written to, made when the first one is.
    inputs: folders that a picture is looked for in, in this order.
    written: what was written so far.
    on_write: called with each file once it is complete.
    """

    output: Path
    inputs: Sequence[Path] = ()
    written: list[Path] = field(default_factory=list)
    on_write: Callable[[Path], None] = lambda path: None

    def find(self, name: str) -> Path:
        """The file that a workflow calls `name`; "x.png [output]" is looked for among the outputs.

        Raises: WorkflowError where none of the folders has it.
        """
        bare, _, place = name.partition(" [")
        folders = [self.output] if place == "output]" else self.inputs
        name = bare if place in ("output]", "input]", "temp]") else name
        found = next((path for path in (folder / name for folder in folders) if path.is_file()), None)
        if found is None:
            raise WorkflowError(f"no file {name!r} in {', '.join(str(folder) for folder in folders)}")
        return found

    def series(self, prefix: str, size: tuple[int, int], suffix: str = ".png") -> "Series":
        """Numbered names for pictures of `size` (width, height), going on behind those that are there already.

        prefix: may name a subfolder, and hold %width%, %height%, %year% ... %second% and %date:yyyy-MM-dd%.
        Raises: WorkflowError for a prefix that leads out of the output folder.
        """
        target = (self.output / expand(prefix, size)).resolve()
        if not target.is_relative_to(self.output.resolve()):
            raise WorkflowError(f"filename_prefix {prefix!r} leads out of the output folder {self.output}")
        return Series(folder=target.parent, stem=target.name, suffix=suffix, files=self)

    def write(self, path: Path, save: Callable[[Path], None]) -> None:
        """Write a file aside, then give it its name: nobody ever sees half a file under that name."""
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".part-{os.getpid()}-{path.name}")
        try:
            save(aside)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        self.written.append(path)
        self.on_write(path)


@dataclass(kw_only=True)
class Series:
    """Names like `prefix_00001_.png`, as the host counts them."""

    folder: Path
    stem: str
    suffix: str
    files: Files

    def next(self, batch_number: int = 0) -> Path:
        """The next free name; %batch_num% in the prefix becomes the picture's place in its batch."""
        taken = (self._number(path.name) for path in self.folder.glob("*")) if self.folder.is_dir() else ()
        stem = self.stem.replace("%batch_num%", str(batch_number))
        return self.folder / f"{stem}_{max(taken, default=0) + 1:05}_{self.suffix}"

    def _number(self, name: str) -> int:
        pattern = re.escape(self.stem).replace(re.escape("%batch_num%"), r"\d+")
        match = re.match(rf"{pattern}_(\d+)_", name, re.IGNORECASE)
        return int(match[1]) if match else 0


def expand(prefix: str, size: tuple[int, int]) -> str:
    """Fill in a prefix's %width%, %height%, %year% and so on, and %date:FORMAT%, from the picture and the clock."""
    now = time.localtime()
    values = {"width": str(size[0]), "height": str(size[1])}
    values |= {name: time.strftime(code, now) for name, code in TIME_FIELDS.items()}
    prefix = re.sub(r"%(\w+)%", lambda match: values.get(match[1], match[0]), prefix)
    return re.sub(r"%date:([^%]*)%", lambda match: _date(match[1], now), prefix)


def _date(pattern: str, now: time.struct_time) -> str:
    return re.sub("|".join(DATE_PARTS), lambda match: time.strftime(DATE_PARTS[match[0]], now), pattern)
