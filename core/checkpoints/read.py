"""Opening a file of weights, whatever it turns out to be, without running anything from it."""

import os
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from ..errors import CheckpointError
from . import folder, safetensors_file, torch_file
from .header import Header, TensorInfo, parallel_prefix
from .plain_file import check_regular, shown

PAGE = "is a web page, not weights: the download went wrong (a login page?), fetch the file again"
TEXT = "is a text, not weights: the download went wrong, fetch the file again"
PACKED = "is {} archive: unpack it and open the checkpoint in it"
PICTURE = "is a {}, not weights; expected safetensors or a torch checkpoint"
OTHER = "is {} file, which Vitrail does not read; expected safetensors or a torch checkpoint"

MARKS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights: fetch the file itself with `git lfs pull`"),
    (b"/annex/objects", "is a git-annex pointer, not the weights: fetch the file itself with `git annex get`"),
    (b".git/annex/objects", "is a git-annex pointer, not the weights: fetch the file itself with `git annex get`"),
    *((mark, PAGE) for mark in (b"<!doctype", b"<html", b"<head", b"<body", b"<!--")),
    (b"<?xml", "is an XML document, not weights: the download went wrong, fetch the file again"),
    (b"<error", "is an XML document, not weights: the download went wrong, fetch the file again"),
    (b"gguf", OTHER.format("a GGUF")),
    (b"lmgg", OTHER.format("a GGML")),
    (b"\x89hdf\r\n", OTHER.format("an HDF5 (Keras)")),
    (b"\x93numpy", OTHER.format("a NumPy")),
    (b"\x89png", PICTURE.format("PNG picture")),
    (b"\xff\xd8\xff", PICTURE.format("JPEG picture")),
    (b"gif8", PICTURE.format("GIF picture")),
    (b"riff", PICTURE.format("WebP picture or a sound")),
    (b"%pdf", PICTURE.format("PDF document")),
    (b"\x1f\x8b", PACKED.format("a gzip")),
    (b"bzh", PACKED.format("a bzip2")),
    (b"\xfd7zxz", PACKED.format("an xz")),
    (b"\x28\xb5\x2f\xfd", PACKED.format("a zstd")),
    (b"7z\xbc\xaf", PACKED.format("a 7z")),
    (b"pk\x05\x06", PACKED.format("an empty zip")),
    (b"rar!", PACKED.format("a RAR")),
)
"""What a file begins with, after blanks and in lower case, that people save for a checkpoint."""

INSIDE = ((4, b"ftyp", PICTURE.format("video")), (257, b"ustar", PACKED.format("a tar")))
"""The same at another place in the file."""


def read_header(path: str | os.PathLike[str]) -> Header:
    """Names, shapes, dtypes and metadata of a file, or of a folder of diffusers; no weight is read.

    Raises: CheckpointError for a file that is missing, empty, cut short or no checkpoint; UnsafeFile for one that is
    no regular file, lies about its size or names code to run.
    """
    path = Path(path)
    try:
        return folder.read_folder(path, _read_file) if path.is_dir() else _read_file(path)
    except OSError as error:  # names that are too long, files that vanish or may not be read
        raise CheckpointError(f"{shown(path)} cannot be read: {error.strerror or error}") from None


def _read_file(path: Path) -> Header:
    if _format(path) == "safetensors":
        header = safetensors_file.read_header(path)
        header = replace(header, reader=partial(_read, header, safetensors_file.read_tensors))
        return header.under(prefix) if (prefix := parallel_prefix(header.tensors)) else header
    found = torch_file.read(path, device="meta")
    infos = {name: TensorInfo(shape=tuple(tensor.shape), dtype=tensor.dtype) for name, tensor in found.tensors.items()}
    averaged = found.wrapper if found.wrapper in torch_file.AVERAGED else ""
    mapped = torch_file.is_zipped(path)
    header = Header(path=path, format="torch", tensors=infos, averaged=averaged, settings=found.settings, mapped=mapped)
    return replace(header, reader=partial(_read, header, torch_file.read_tensors))


def read_tensors(header: Header) -> dict[str, Tensor]:
    """The tensors of the file that a header was read from, on the CPU. Raises: as `read_header`."""
    return header.read(list(header.tensors))


def _read(header: Header, reader: Callable[..., dict[str, Tensor]], names: Collection[str]) -> dict[str, Tensor]:
    """Tensors by name, as the header said that they are."""
    tensors = reader(header.path, names)
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != {n: header.shape(n) for n in names}:
        raise CheckpointError(f"{header.path.name} changed while it was read: open it again")
    return tensors


def _format(path: Path) -> str:
    """ "safetensors" or "torch", from the first bytes: a file's ending proves nothing."""
    start = _start(path)
    if safetensors_file.has_plausible_length(start):
        return "safetensors"
    if torch_file.looks_like_torch(start):
        return "torch"
    bare = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    found = next((what for mark, what in MARKS if bare.startswith(mark)), None)
    if what := found or next((what for at, mark, what in INSIDE if start[at:].startswith(mark)), None):
        raise CheckpointError(f"{path.name} {what}")
    if _is_text(start):
        raise CheckpointError(f"{path.name} {TEXT}; it begins with {start[:40]!r}")
    if safetensors_file.looks_like_safetensors(start):
        return "safetensors"
    if len(start) > 8 and not start.strip(b"\0"):
        raise CheckpointError(
            f"{path.name} begins with nothing but zeros: its download was interrupted, fetch it again"
        )
    raise CheckpointError(f"{path.name} is no checkpoint: expected safetensors or a torch file, found {start[:16]!r}")


def _is_text(start: bytes) -> bool:
    return len(start) > 8 and all(byte > 31 or byte in b"\t\n\r" for byte in start) and start.isascii()


def _start(path: Path) -> bytes:
    """The first bytes of a regular file; anything else is refused before it is opened."""
    check_regular(path)
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise CheckpointError(f"{path.name} is empty: fetch the file again")
    return start
