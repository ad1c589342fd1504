"""Codes in files: as small as they can be, back as they were, and nothing else is taken for them."""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save, save_file

from vitrail.core.code_files import bits_of, load_codes, pack, save_codes, unpack
from vitrail.core.errors import CheckpointError, UnsafeFile, VitrailError
from vitrail.core.types import Codes

FITTING = {
    "format": "vitrail-codes", "version": "1", "shape": "1 2 3", "codebook_size": "32", "factor": "4",
    "image_size": "8 11",
}  # fmt: skip


def made(*shape: int, k: int = 1000, factor: int = 4, seed: int = 0) -> Codes:
    indices = torch.randint(k, shape, generator=torch.Generator().manual_seed(seed))
    size = shape[1] * factor - 1, shape[2] * factor
    return Codes(indices=indices, codebook_size=k, factor=factor, image_size=size)


def written(path: Path, changes: dict[str, str | None], data: int = 4) -> Path:
    metadata = {name: value for name, value in {**FITTING, **changes}.items() if value is not None}
    save_file({"codes": torch.zeros(data, dtype=torch.uint8)}, path, metadata)
    return path


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**31 - 1), max_size=40), st.integers(0, 4))
def test_packed_numbers_come_back(numbers: list[int], spare: int) -> None:
    bits = min(40, max(1, max(numbers, default=0).bit_length()) + spare)
    packed = pack(torch.tensor(numbers, dtype=torch.int64), bits)
    assert packed.dtype == torch.uint8 and len(packed) == math.ceil(len(numbers) * bits / 8)
    assert unpack(packed, bits, len(numbers)).tolist() == numbers


def test_the_highest_bit_comes_first() -> None:
    assert pack(torch.tensor([0b101, 0b001, 0b110]), 3).tolist() == [0b10100111, 0b00000000]


@pytest.mark.parametrize(("k", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (1024, 10), (1025, 11), (16384, 14)])
def test_a_code_takes_as_many_bits_as_it_must(tmp_path: Path, k: int, bits: int) -> None:
    codes = made(2, 16, 16, k=k)
    save_codes(codes, tmp_path / "x.safetensors")
    assert bits_of(k) == bits == max(1, math.ceil(math.log2(k)))
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.get_tensor("codes").numel() == 2 * 16 * 16 * bits / 8
    assert (tmp_path / "x.safetensors").stat().st_size < 2 * 16 * 16 * bits / 8 + 300


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 4, 3, 5)])
def test_codes_come_back_as_they_were(tmp_path: Path, shape: tuple[int, ...]) -> None:
    codes = made(*shape)
    save_codes(codes, tmp_path / "new" / "x.safetensors")
    found = load_codes(tmp_path / "new" / "x.safetensors")
    assert torch.equal(found.indices, codes.indices) and found.indices.dtype == torch.int64
    assert (found.codebook_size, found.factor, found.image_size) == (1000, 4, codes.image_size)


# Files that are something else, or lie


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no file of codes"),
        (b"GIF89a" + bytes(20), "no file of codes"),
        (pickle.dumps({"codes": 3}), "no file of codes"),
        (save({"a": torch.zeros(3)}), "holds no codes"),
        (save({"codes": torch.zeros(3)}, {"format": "vitrail"}), "holds no codes"),
        (struct.pack("<Q", 50) + b"{" + bytes(3), "cut short"),
        (struct.pack("<Q", 2**60) + b"{" + bytes(3), "claims a header"),
        (struct.pack("<Q", 5) + b"{oops", "not JSON"),
    ],
)
def test_what_is_no_file_of_codes_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_codes(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "2"}, "of version 2, this Vitrail reads up to 1: update"),
        ({"version": None}, "its version is None"),
        ({"shape": "1 2"}, "its shape is '1 2'"),
        ({"shape": "1 2 3 4 5"}, "its shape is"),
        ({"shape": "1 -2 3"}, "its shape is"),
        ({"shape": "1 2.0 3"}, "its shape is"),
        ({"shape": "1 2 \u0663"}, "its shape is"),
        ({"shape": "0 2 3"}, "out of all reason"),
        ({"shape": "1 2 4000000000"}, "out of all reason"),
        ({"shape": "1 2 " + "9" * 5000}, "its shape is"),
        ({"shape": "2000000000 2000000000 2000000000"}, "but holds"),
        ({"shape": "1000000 1000 1000", "codebook_size": "1"}, "but holds"),
        ({"codebook_size": "64"}, "but holds"),
        ({"codebook_size": "0"}, "out of all reason"),
        ({"factor": ""}, "its factor is ''"),
        ({"image_size": "8"}, "its image_size is '8'"),
        ({"image_size": "9 12"}, "do not go together"),
    ],
)
def test_claims_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, str | None], message: str) -> None:
    assert load_codes(written(tmp_path / "good.safetensors", {})).image_size == (8, 11)
    with pytest.raises(CheckpointError, match=message):
        load_codes(written(tmp_path / "x.safetensors", changes))


def test_codes_beyond_the_codebook_are_damage(tmp_path: Path) -> None:
    metadata = {**FITTING, "codebook_size": "31"}
    save_file({"codes": torch.full((4,), 255, dtype=torch.uint8)}, tmp_path / "x.safetensors", metadata)
    with pytest.raises(CheckpointError, match="is damaged: codes run from"):
        load_codes(tmp_path / "x.safetensors")


def test_a_header_that_lies_is_unsafe(tmp_path: Path) -> None:
    entry = {"dtype": "U8", "shape": [4], "data_offsets": [0, 400]}
    header = json.dumps({"__metadata__": FITTING, "codes": entry}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(UnsafeFile, match="the header lies"):
        load_codes(tmp_path / "x.safetensors")


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("pipe", "no regular file"), (".", "no regular file"), ("none", "cannot be opened")):
        with pytest.raises(CheckpointError, match=message):
            load_codes(tmp_path / name)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_load_or_are_refused_in_words(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.safetensors"
    save_codes(made(1, 3, 3), path)
    content = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert isinstance(load_codes(path), Codes)
    except VitrailError as error:
        assert len(str(error)) < 2000
