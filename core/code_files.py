"""Codes in a file: ceil(log2 K) bits each, in a safetensors file that says what they are.

    tensor    codes: uint8 [bytes]; code after code, the highest bit first, in the order of [B, h, w, levels]
    metadata  {"format": "vitrail-codes", "version": "1", "shape": "B h w [levels]", "codebook_size": "K",
               "factor": "f", "image_size": "H W"}

A codebook of one code takes one bit too, so that a file of few bytes never stands for many codes.
"""

import os
import stat
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checkpoints.safetensors_file import looks_like_safetensors, read_header, read_tensors, write_tensors
from .errors import CheckpointError, ShapeError
from .types import Codes

FORMAT, VERSION = "vitrail-codes", 1
ADVICE = "expected a file that Save Codes wrote"
LARGEST = 2**31
"""No size in a file of codes is larger."""


def bits_of(codebook_size: int) -> int:
    """Bits that a code takes: ceil(log2 K), at least 1."""
    return max(1, (codebook_size - 1).bit_length())


def pack(values: Tensor, bits: int) -> Tensor:
    """Numbers below 2^bits, of any shape, as uint8 [ceil(count bits / 8)]; the last bits are 0."""
    numbers = values.cpu().numpy().reshape(-1, 1)
    return torch.from_numpy(np.packbits((numbers >> np.arange(bits - 1, -1, -1)) & 1))


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The numbers again, int64 [count]."""
    unpacked = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits)
    numbers = np.zeros(count, dtype=np.int64)
    for column in range(bits):
        numbers = numbers * 2 + unpacked[:, column]
    return torch.from_numpy(numbers)


def save_codes(codes: Codes, path: str | os.PathLike[str]) -> None:
    """Write codes as a file that `load_codes` opens; whole or not at all."""
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "shape": _text(codes.indices.shape),
        "codebook_size": str(codes.codebook_size),
        "factor": str(codes.factor),
        "image_size": _text(codes.image_size),
    }
    write_tensors(Path(path), {"codes": pack(codes.indices, bits_of(codes.codebook_size))}, metadata)


def load_codes(path: str | os.PathLike[str]) -> Codes:
    """The codes in a file; every claim of it is checked against its size before memory is taken for them.

    Raises: CheckpointError for a file that is missing, cut short, of a later version or holds something else;
    UnsafeFile for one whose header lies.
    """
    path = Path(path)
    _check_start(path)
    header = read_header(path)
    shape, codebook_size, factor, size = _claims(path, header.metadata)
    bits = bits_of(codebook_size)
    wanted = {"codes": ((-(-prod(shape) * bits // 8),), torch.uint8)}
    if (found := {name: (info.shape, info.dtype) for name, info in header.tensors.items()}) != wanted:
        raise CheckpointError(
            f"{path.name} says it holds {_text(shape)} codes of {bits} bits, but holds {found}; {ADVICE}"
        )
    indices = unpack(read_tensors(path)["codes"], bits, prod(shape)).reshape(shape)
    try:
        return Codes(indices=indices, codebook_size=codebook_size, factor=factor, image_size=size)
    except ShapeError as error:
        raise CheckpointError(f"{path.name} is damaged: {error}") from None


def _text(sizes: tuple[int, ...]) -> str:
    return " ".join(map(str, sizes))


def _check_start(path: Path) -> None:
    """Refuse what is no regular file, or does not begin as safetensors do."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path} is no regular file; {ADVICE}")
        with path.open("rb") as file:
            start = file.read(16)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    if not looks_like_safetensors(start):
        raise CheckpointError(f"{path.name} is no file of codes, it begins with {start!r}; {ADVICE}")


def _claims(path: Path, metadata: Mapping[str, str]) -> tuple[tuple[int, ...], int, int, tuple[int, int]]:
    """Shape, codebook size, factor and image size, each within reason and fitting the others."""
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path.name} holds no codes (its format is {metadata.get('format')!r}); {ADVICE}")
    if (version := _numbers(path, metadata, "version", 1)[0]) > VERSION:
        raise CheckpointError(
            f"{path.name} is of version {version}, this Vitrail reads up to {VERSION}: update Vitrail"
        )
    shape = _numbers(path, metadata, "shape", 3, 4)
    (codebook_size,), (factor,) = (_numbers(path, metadata, name, 1) for name in ("codebook_size", "factor"))
    height, width = _numbers(path, metadata, "image_size", 2)
    if height > shape[1] * factor or width > shape[2] * factor:
        raise CheckpointError(
            f"{path.name} says that its pictures have {height} x {width} pixels in {shape[1]} x {shape[2]} codes of "
            f"{factor} pixels, which do not go together; {ADVICE}"
        )
    return shape, codebook_size, factor, (height, width)


def _numbers(path: Path, metadata: Mapping[str, str], name: str, *counts: int) -> tuple[int, ...]:
    """Whole numbers above 0 by their name."""
    words = metadata.get(name, "").split(" ")
    if len(words) not in counts or not all(word.isascii() and word.isdecimal() and len(word) < 11 for word in words):
        raise CheckpointError(f"{path.name}: its {name} is {metadata.get(name)!r}; {ADVICE}")
    numbers = tuple(map(int, words))
    if not all(0 < number <= LARGEST for number in numbers):
        raise CheckpointError(f"{path.name}: its {name} is {metadata[name]!r}, out of all reason; {ADVICE}")
    return numbers
