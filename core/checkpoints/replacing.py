"""Writing a file so that its place holds either the old one or the whole new one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; when the block ends well it is on the disk and takes the place of `path`.

    An error in the block removes what was written and leaves `path` as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.chmod(_usual_mode())
        os.replace(aside, path)
    except BaseException:
        with suppress(FileNotFoundError):
            aside.unlink()
        raise


def _usual_mode() -> int:
    """The permissions of a new file; some writers give theirs to nobody else."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
