"""Safetensors: a header that is checked against the file before anything believes it, and safe writing.

Source: github.com/huggingface/safetensors, README, "Format".
"""

import json
from collections.abc import Collection, Mapping
from math import prod
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError, UnsafeFile
from .header import Header, TensorInfo
from .replacing import replacing

LIMIT = 16_000_000
"""Bytes of header that are read, room for 100,000 tensors; the format allows six times as many."""

SIDES, LARGEST = 32, 1 << 48
"""Sides of a tensor, and numbers or bytes along one: their product is reckoned with before anything else checks it."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def looks_like_safetensors(start: bytes) -> bool:
    """Whether the first bytes are a plausible length and the brace of a header."""
    return len(start) > 8 and start[8:9] == b"{"


def has_plausible_length(start: bytes) -> bool:
    """Whether the first bytes are surely a header's, though its length may begin like a pickle: 640 is 80 02 00 ..."""
    return looks_like_safetensors(start) and int.from_bytes(start[:8], "little") <= LIMIT


def read_header(path: Path) -> Header:
    """The header of a safetensors file, every claim in it checked against the file's size.

    Raises: UnsafeFile for a header that lies or is no header; CheckpointError for a file that is cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LIMIT:
            raise UnsafeFile(
                f"{path.name} claims a header of {length} bytes; at most {LIMIT} are read, models take far less: it is "
                "damaged or no safetensors file"
            )
        if 8 + length > size:
            raise CheckpointError(f"{path.name} is cut short: {size} bytes, its header alone {8 + length}. {AGAIN}")
        entries = _parse(path, file.read(length))
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UnsafeFile(f"{path.name} has metadata that is not text; the format allows only text")
    spans = {name: _span(path, name, entry) for name, entry in entries.items()}
    _check_spans(path, list(spans.values()), size - 8 - length)
    tensors = {
        name: TensorInfo(shape=tuple(entry["shape"]), dtype=DTYPES[entry["dtype"]]) for name, entry in entries.items()
    }
    return Header(path=path, format="safetensors", tensors=tensors, metadata=metadata)


AGAIN = "The download was probably interrupted: fetch the file again"


def read_tensors(path: Path, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Tensors by name (all where no names are given), on the CPU, mapped from the file where the system can."""
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            found = set(file.keys())
            return {name: file.get_tensor(name) for name in (found if names is None else found.intersection(names))}
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name} cannot be read as safetensors: {error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file beside its place, then move it there, so that no half-written file is ever seen."""
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as aside:
        save_file(own, aside, metadata=dict(metadata))


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(text, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise UnsafeFile(f"{path.name} has a header that is not JSON ({error}); it is no safetensors file") from error
    if not isinstance(entries, dict):
        raise UnsafeFile(f"{path.name} has a header that is no JSON object; it is no safetensors file")
    return entries


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _span(path: Path, name: str, entry: Any) -> tuple[int, int]:
    """Where the tensor's bytes lie; UnsafeFile when shape, dtype and span do not go together."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise UnsafeFile(f"{path.name}: the header's entry of {name} lacks dtype, shape or data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise CheckpointError(f"{path.name}: {name} is of dtype {entry['dtype']!r}; known are {', '.join(DTYPES)}")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        found = f"shape {shape!s:.80} and offsets {offsets!s:.80}"
        raise UnsafeFile(f"{path.name}: {name} has {found}; expected sizes of 0 or more: the header lies")
    length = offsets[1] - offsets[0]
    if length != prod(shape) * DTYPES[entry["dtype"]].itemsize:
        raise UnsafeFile(
            f"{path.name}: {name} has shape {shape} of {entry['dtype']} in {length} bytes: the header lies"
        )
    return offsets[0], offsets[1]


def _sizes(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= SIDES
        and all(type(value) is int and 0 <= value <= LARGEST for value in values)
    )


def _check_spans(path: Path, spans: list[tuple[int, int]], size: int) -> None:
    """The tensors must cover the rest of the file, none of them over another."""
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise UnsafeFile(f"{path.name}: tensors overlap or leave a gap at byte {min(start, end)}: the header lies")
        end = stop
    if end > size:
        raise CheckpointError(f"{path.name} is cut short: its tensors need {end} bytes, {size} are there. {AGAIN}")
    if end < size:
        raise UnsafeFile(f"{path.name} has {size - end} bytes that no tensor claims: the header lies")
