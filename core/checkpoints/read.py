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
from .plain_file import check_regular

MARKS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights: fetch the file itself with `git lfs pull`"),
    (b"<!doctype", "is a web page, not weights: the download went wrong (a login page?), fetch the file again"),
    (b"<html", "is a web page, not weights: the download went wrong (a login page?), fetch the file again"),
    (b"<?xml", "is an XML document, not weights: the download went wrong, fetch the file again"),
    (b"gguf", "is a GGUF file, which Vitrail does not read; expected safetensors or a torch checkpoint"),
)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Names, shapes, dtypes and metadata of a file, or of a folder of diffusers; no weight is read.

    Raises: CheckpointError for a file that is missing, empty, cut short or no checkpoint; UnsafeFile for one that is
    no regular file, lies about its size or names code to run.
    """
    path = Path(path)
    return folder.read_folder(path, _read_file) if path.is_dir() else _read_file(path)


def _read_file(path: Path) -> Header:
    if _format(path) == "safetensors":
        header = safetensors_file.read_header(path)
        header = replace(header, reader=partial(_read, header, safetensors_file.read_tensors))
        return header.under(prefix) if (prefix := parallel_prefix(header.tensors)) else header
    found = torch_file.read(path, device="meta")
    infos = {name: TensorInfo(shape=tuple(tensor.shape), dtype=tensor.dtype) for name, tensor in found.tensors.items()}
    averaged = found.wrapper if found.wrapper in torch_file.AVERAGED else ""
    mapped = torch_file.is_zipped(path)
    header = Header(
        path=path, format="torch", tensors=infos, averaged=averaged, settings=found.settings, mapped=mapped
    )
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
    for mark, what in MARKS:
        if start.lstrip().lower().startswith(mark):
            raise CheckpointError(f"{path.name} {what}")
    if torch_file.looks_like_torch(start) and not safetensors_file.has_plausible_length(start):
        return "torch"
    if safetensors_file.looks_like_safetensors(start):
        return "safetensors"
    raise CheckpointError(f"{path.name} is no checkpoint: expected safetensors or a torch file, found {start[:16]!r}")


def _start(path: Path) -> bytes:
    """The first bytes of a regular file; anything else is refused before it is opened."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if not start:
        raise CheckpointError(f"{path.name} is empty: fetch the file again")
    return start
