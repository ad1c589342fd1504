"""Zip archives as torch.save writes them: records stored as they are, one directory, nothing that claims more.

Two readers may take two directories of one archive for its own: only archives that leave no choice are read.
Source: PKWARE, APPNOTE.TXT, sections 4.3.14 to 4.3.16.
"""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ..errors import CheckpointError, UnsafeFile

END, LOCATOR, END64 = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
LARGEST_DIRECTORY, LARGEST_PICKLE = 10_000_000, 100_000_000
"""Bytes: of the directory (one of 100,000 records) and of the pickle that says what the records are."""


BROKEN = (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, RuntimeError, OSError, EOFError)
"""What Python's reader raises for damaged archives."""


def check_archive(path: Path) -> tuple[bytes, Mapping[str, int]]:
    """The pickle in an archive of torch's, and how many bytes each storage has by its key.

    Raises: UnsafeFile for an archive that is compressed, a program or lies; CheckpointError for one that is broken or
    none of torch's.
    """
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as archive:
            records, start = archive.infolist(), archive.start_dir
            root = _check_records(path, records)
            if start != _directory(path)[0]:
                raise UnsafeFile(f"{path.name} has a directory in another place than it says: the archive lies")
            text = archive.read(f"{root}/data.pkl")
            order = archive.read(f"{root}/byteorder") if f"{root}/byteorder" in archive.namelist() else b"little"
    except BROKEN as error:
        raise CheckpointError(
            f"{path.name} is cut short or broken ({error or type(error).__name__}): fetch the file again"
        ) from None
    if order != b"little":
        raise CheckpointError(
            f"{path.name} has its bytes in another order ({order[:9]!r}): save it again as safetensors"
        )
    data = f"{root}/data/"
    sizes = {r.filename.removeprefix(data): r.file_size for r in records if r.filename.startswith(data)}
    return text, sizes


def _check_records(path: Path, records: list[zipfile.ZipInfo]) -> str:
    """The folder that all records of torch's lie in."""
    names = [record.filename for record in records]
    short = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in short:
        raise UnsafeFile(f"{path.name} is a TorchScript program, not weights; expected a state dict")
    root = names[0].partition("/")[0] if names else ""
    if f"{root}/data.pkl" not in names:
        inside = next((name for name in names if name.endswith((".ckpt", ".pt", ".pth", ".safetensors", ".bin"))), None)
        advice = f"unpack it and open {inside}" if inside else "expected safetensors or a torch file"
        raise CheckpointError(f"{path.name} is a zip archive but none of torch's: it has no data.pkl; {advice}")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise UnsafeFile(f"{path.name} is a compressed archive, which torch.save does not write: unpack it first")
    if sum(record.file_size for record in records) > path.stat().st_size:
        raise UnsafeFile(f"{path.name} claims records larger than itself: its directory lies")
    lower = [name.lower() for name in names]
    if len(set(lower)) < len(lower) or sum(name.endswith("data.pkl") for name in lower) > 1:
        raise UnsafeFile(f"{path.name} has two records of one name: readers would differ on what it holds")
    if next(r.file_size for r in records if r.filename == f"{root}/data.pkl") > LARGEST_PICKLE:
        raise UnsafeFile(f"{path.name} has a data.pkl of more than {LARGEST_PICKLE} bytes, far more than names take")
    return root


def _check_directory(path: Path) -> None:
    size = _directory(path)[1]
    if size > LARGEST_DIRECTORY:
        raise UnsafeFile(
            f"{path.name} has a directory of {size} bytes, far more than any model takes; at most "
            f"{LARGEST_DIRECTORY} are read"
        )


def _directory(path: Path) -> tuple[int, int]:
    """Where an archive says that its directory is, and its size. Raises: BadZipFile where it does not say."""
    whole = path.stat().st_size
    with path.open("rb") as file:
        base = max(0, whole - (1 << 16) - 98)
        file.seek(base)
        tail = file.read()
    end = tail.rfind(END)
    if end < 0:
        raise zipfile.BadZipFile("its end is missing")
    size, start = struct.unpack_from("<II", tail, end + 12)
    if tail[max(0, end - 20) : end].startswith(LOCATOR):
        (at,) = struct.unpack_from("<Q", tail, end - 12)
        if at != base + end - 76 or tail[at - base :][:4] != END64:
            raise zipfile.BadZipFile("its end points elsewhere")
        size, start = struct.unpack_from("<QQ", tail, at - base + 40)
    return start, size
