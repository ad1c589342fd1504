"""Pickles and archives that no honest program writes: read through opcode by opcode, and refused by what they claim."""

import argparse
import collections
import datetime
import io
import pathlib
import pickle
import struct
import time
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitrail.core.checkpoints import pickle_scan
from vitrail.core.checkpoints.placeholders import DICTIONARIES, placeholder
from vitrail.core.checkpoints.read import read_header, read_tensors
from vitrail.core.errors import CheckpointError, UnsafeFile

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(module: str, short: str) -> bytes:
    return f"c{module}\n{short}\n".encode()


def items(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def entries(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


ORDERED = name("collections", "OrderedDict") + b")R"
TWICE = b"h\x00h\x00\x86q\x00"


def tensor(numbers: int = 4, key: str = "0", legacy: bool = False) -> bytes:
    """Four numbers of a storage that claims more or fewer."""
    last = b"N" if legacy else b""
    storage = items(text("storage"), name("torch", "FloatStorage"), text(key), text("cpu"), number(numbers), last)
    parts = storage + b"Q", number(0), items(number(4)), items(number(1)), b"\x89", ORDERED
    return name("torch._utils", "_rebuild_tensor_v2") + items(*parts) + b"R"


def archive(path: Path, pickled: bytes, order: str = "little", *more: str) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as made:
        warnings.simplefilter("ignore")
        made.writestr("m/data.pkl", pickled)
        made.writestr("m/byteorder", order)
        made.writestr("m/data/0", bytes(16))
        made.writestr("m/version", "3")
        for record in more:
            made.writestr(record, b"")
    return path


def of_pickles(path: Path, pickled: bytes, keys: list[str]) -> Path:
    """What torch wrote before 1.6."""
    path.write_bytes(MAGIC + pickled + pickle.dumps(keys, 2) + struct.pack("<q", 4) + bytes(16))
    return path


def test_made_by_hand_they_are_as_good_as_torch_s(tmp_path: Path) -> None:
    for path in (
        archive(tmp_path / "m.pt", pickled(entries(a=tensor()))),
        of_pickles(tmp_path / "old.pt", pickled(entries(a=tensor(legacy=True))), ["0"]),
    ):
        assert torch.equal(read_tensors(read_header(path))["a"], torch.zeros(4))


UNSAFE = {
    "instance": (b"(" + text("true") + b"ios\nsystem\n", "names os.system"),
    "object": (b"(" + name("os", "system") + text("true") + b"o", "names os.system"),
    "arguments": (b"\x80\x04" + name("os", "system") + text("true") + b"\x85}\x92", "names os.system"),
    "names on the stack": (b"\x80\x04\x8c\x05posix\x8c\x06system\x93)R", "names posix.system"),
    "made-up name": (b"\x80\x04)\x8c\x06system\x93)R", "other than text"),
    "module of Python 2": (name("__builtin__", "eval") + b")R", "names builtins.eval"),
    "extension": (b"\x82\x07", "by the number 7"),
    "reference": (b"Pos.system\n", "outside of it: 'os.system'"),
    "reference to a class": (items(text("module"), ORDERED) + b"Q", "other than weights"),
    "no storage": (items(text("storage"), *map(number, range(4))) + b"Q", "torch does not have"),
    "call of a list": (b"]])R", "has no name"),
    "much memory": (name("builtins", "bytearray") + items(number(2**33)) + b"R", "builtins.bytearray"),
    "slow text": (name("_codecs", "encode") + items(text("x"), text("punycode")) + b"R", "unusual"),
    "endless key": (b"}" + number(1) + b"q\x00" + TWICE * 60 + b"Ns", "unfolds"),
    "endless pickle": (b"]" * 600_000, "unfolds"),
    "storage past its record": (entries(a=tensor(5)), "claims 20 bytes"),
    "storage past all": (entries(a=tensor(2**50)), "claims"),
    "less than nothing": (entries(a=tensor(-5)), "torch does not have"),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_pickles_are_refused_at_once(name: str, tmp_path: Path) -> None:
    body, message = UNSAFE[name]
    started = time.process_time()
    for path in (archive(tmp_path / "m.ckpt", pickled(body)), archive(tmp_path / "m.safetensors", pickled(body))):
        with pytest.raises(UnsafeFile, match=message) as error:
            read_header(path)
        assert len(str(error.value)) < 400
    assert time.process_time() - started < 5


BROKEN = {
    "storage that is not there": (entries(a=tensor(key="../data.pkl")), "lacks the weights"),
    "nothing to call": (b"R", "cut short or broken"),
    "mark without end": (b"(" * 9, "cut short or broken"),
    "memory of nothing": (b"h\x07", "cut short or broken"),
    "text past the end": (b"X\xff\xff\xff\xffabc", "cut short or broken"),
    "wrapped in itself": (b"}q\x00" + text("state_dict") + b"h\x00s", "no tensors by name"),
    "wrapped too deep": (b"".join(b"}" + text("model") for _ in range(9000)) + b"}" + b"s" * 9000, "no tensors by"),
    "nothing in it": (b"}", "no tensors by name"),
    "attributes for methods": (
        ORDERED + text("x") + b"N" + b"s" + entries(get=name("builtins", "dict"), items=number(3)) + b"b",
        "no tensors by name",
    ),
    "newer protocol": (b"\x80\x04" + entries(a=tensor()), "protocol 4"),
    "quantised": (entries(a=name("torch._utils", "_rebuild_qtensor")), "quantised"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pickles_say_what_is_wrong(name: str, tmp_path: Path) -> None:
    body, message = BROKEN[name]
    with pytest.raises(CheckpointError, match=message) as error:
        read_header(archive(tmp_path / "m.ckpt", pickled(body)))
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("numbers", "keys", "message"),
    [(2**40, ["0"], "more than the file holds"), (4, [], "no numbers for 1"), (4, ["7"], "no numbers for 1")],
)
def test_old_files_hold_what_they_claim(numbers: int, keys: list[str], message: str, tmp_path: Path) -> None:
    body = pickled(entries(a=tensor(numbers, legacy=True)))
    with pytest.raises(UnsafeFile, match=message):
        read_header(of_pickles(tmp_path / "m.pt", body, keys))


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_pickles_are_told_from_torch_files(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"a": [1, 2]}, protocol))
    with pytest.raises(CheckpointError, match="is a plain pickle"):
        read_header(tmp_path / "m.pkl")
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"a": print}, protocol))
    with pytest.raises(UnsafeFile, match=r"names builtins\.print"):
        read_header(tmp_path / "m.pkl")


@pytest.mark.parametrize("cut", [-1, -20, -60])
def test_archives_say_where_their_directory_is(cut: int, tmp_path: Path) -> None:
    path = archive(tmp_path / "m.pt", pickled(entries(a=tensor())))
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    with pytest.raises(CheckpointError, match="cut short or broken"):
        read_header(path)
    end = whole.rfind(b"PK\x05\x06")
    path.write_bytes(whole[: end + 16] + struct.pack("<I", 7) + whole[end + 20 :])
    with pytest.raises(CheckpointError, match="another place|cut short or broken"):
        read_header(path)


@pytest.mark.parametrize("more", ["M/DATA.PKL", "other/data.pkl", "m/data/0"])
def test_archives_with_two_records_of_one_name_are_refused(more: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeFile, match="two records"):
        read_header(archive(tmp_path / "m.pt", pickled(entries(a=tensor())), "little", more))


def test_archives_of_the_other_byte_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="another (byte )?order"):
        read_header(archive(tmp_path / "m.pt", pickled(entries(a=tensor())), "big"))


def test_an_archive_of_more_records_than_any_model_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrail.core.checkpoints.zip_file.LARGEST_DIRECTORY", 100)
    with pytest.raises(UnsafeFile, match="far more than any model"):
        read_header(archive(tmp_path / "m.pt", pickled(entries(a=tensor()))))


def test_a_packed_checkpoint_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.ckpt", "w") as made:
        made.writestr("folder/model.ckpt", b"x")
    with pytest.raises(CheckpointError, match="unpack it and open folder/model.ckpt"):
        read_header(tmp_path / "m.ckpt")


def test_weights_that_lie_over_each_other_are_refused(tmp_path: Path) -> None:
    whole = torch.zeros(4000)
    torch.save({f"layer{i}": whole for i in range(9)}, tmp_path / "m.pt")
    with pytest.raises(UnsafeFile, match="lie over each other"):
        read_header(tmp_path / "m.pt")
    torch.save({f"layer{i}": whole for i in range(4)}, tmp_path / "m.pt")
    assert len(read_tensors(read_header(tmp_path / "m.pt"))) == 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.zeros(3, device="meta"), "without its numbers"),
        (lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8), "quantised"),
        (lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "nested"),
    ],
    ids=["sparse", "meta", "quantised", "nested"],
)
def test_tensors_of_other_kinds_are_named(value: Any, message: str, tmp_path: Path) -> None:
    torch.save({"a": value(), "b": torch.zeros(99)}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=message):
        read_tensors(read_header(tmp_path / "m.pt"))


SETTINGS = {
    "np scalar": np.float64(3), "np array": np.zeros(3), "path": Path("x"), "windows": pathlib.PureWindowsPath("c:/x"),
    "wait": datetime.timedelta(1), "when": datetime.datetime(2020, 1, 1),
    "frozen": frozenset([1]), "slice": slice(1, 2), "range": range(3), "bytes": b"\xff", "complex": 1j, "set": {1},
    "space": argparse.Namespace(a=1), "more": types.SimpleNamespace(a=1), "counter": collections.Counter("ab"),
    "filled": collections.defaultdict(list, a=[1]), "size": torch.Size([1]), "dtype": torch.float16,
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
def test_settings_that_public_checkpoints_hold_open(
    zipped: bool, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    content = {"state_dict": {"a": torch.ones(3)}, "hyper_parameters": SETTINGS, "list": [*SETTINGS.values()]}
    torch.save(content, tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_tensors(read_header(tmp_path / "m.ckpt"))["a"], torch.ones(3))
    assert not recwarn.list


@pytest.mark.parametrize("full", [full for full in DICTIONARIES if not full.startswith("collections.")])
def test_kinds_of_dictionary_are_read_as_plain_ones(full: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, short = full.rpartition(".")
    cls = type(short, (dict,), {"__module__": module})
    parts = module.split(".")
    for i in range(len(parts)):
        monkeypatch.setitem(__import__("sys").modules, ".".join(parts[: i + 1]), types.SimpleNamespace(**{short: cls}))
    torch.save({"hyper_parameters": cls(lr=1), "state_dict": cls(a=torch.ones(3))}, tmp_path / "m.ckpt")
    for i in range(len(parts)):
        monkeypatch.delitem(__import__("sys").modules, ".".join(parts[: i + 1]))
    assert list(read_tensors(read_header(tmp_path / "m.ckpt"))) == ["a"]
    assert placeholder(full)().__class__.__module__ == module


def test_a_file_whose_name_is_no_utf8_opens(tmp_path: Path) -> None:
    path = tmp_path / b"m\xff.ckpt".decode("utf-8", "surrogateescape")
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system takes only text for names")
    with path.open("wb") as file:
        torch.save({"a": torch.ones(3)}, file)
    assert torch.equal(read_tensors(read_header(path))["a"], torch.ones(3))


def test_a_scan_makes_nothing() -> None:
    found = pickle_scan.scan(io.BytesIO(pickled(entries(a=tensor(7, "9")))), lambda _: True)
    assert found.storages == {"9": 28} and found.protocol == 2 and {"a", "storage", "cpu"} <= found.texts
    assert found.names == {"torch.FloatStorage", "torch._utils._rebuild_tensor_v2", "collections.OrderedDict"}
