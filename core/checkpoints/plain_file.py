"""Files that are files: no folder, no pipe, no device, and not larger than they may be."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from ..errors import CheckpointError, UnsafeFile


def check_regular(path: Path) -> int:
    """The size of a regular file; anything else is refused before it is opened.

    Raises: CheckpointError for one that cannot be found or is a folder, UnsafeFile for a pipe or a device.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{shown(path)} cannot be found: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(found.st_mode):
        raise CheckpointError(f"{path} is a folder; expected a file of weights")
    if not stat.S_ISREG(found.st_mode):
        raise UnsafeFile(f"{path} is no regular file (a pipe or a device), so it was not opened")
    return found.st_size


def open_regular(path: Path, largest: int) -> BinaryIO:
    """A small regular file, opened. Raises: OSError for anything else, with what it is."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no regular file")
    if found.st_size > largest:
        raise OSError(f"it has {found.st_size} bytes; at most {largest} are read")
    return path.open("rb")


def shown(path: Path) -> str:
    """A path for a message; of one that is too long to read, its end."""
    return text if len(text := str(path)) <= 300 else f"...{text[-300:]}"
