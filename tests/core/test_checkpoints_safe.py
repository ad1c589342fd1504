"""Files that are broken, lie or are malicious get one clear error each, and nothing from them ever runs."""

import argparse
import collections
import io
import json
import os
import pickle
import random
import struct
import tarfile
import types
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from vitrail.core.checkpoints import load
from vitrail.core.checkpoints.placeholders import TRAINING_CLASSES, placeholder
from vitrail.core.checkpoints.read import read_header, read_tensors
from vitrail.core.errors import CheckpointError, KeyMismatch, UnknownFamily, UnsafeFile, VitrailError
from vitrail.headless.cli import main

GOOD = save({"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(4, dtype=torch.float16)}, {"made": "here"})


def safetensors(entries: Any, data: bytes = b"") -> bytes:
    header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + data


def entry(shape: Any = (2,), span: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": span}


def tar_that_begins_like_a_pickle() -> bytes:
    """Older versions of torch unpack such a file, whatever is in it."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("\udc80\x02storages"))
    return made.getvalue()


BAD = {
    "empty": (b"", CheckpointError, "empty"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", CheckpointError, "git lfs pull"),
    "web page": (b"\n<!DOCTYPE html><html>login</html>", CheckpointError, "web page"),
    "bare html": (b"<html><body>", CheckpointError, "web page"),
    "noise": (b"hello, this is not a model at all", CheckpointError, "is a text"),
    "short": (b"abc", CheckpointError, "no checkpoint"),
    "cut header": (GOOD[:40], CheckpointError, "cut short"),
    "cut data": (GOOD[:-3], CheckpointError, "cut short"),
    "trailing bytes": (GOOD + b"x", UnsafeFile, "no tensor claims"),
    "huge header": (struct.pack("<Q", 2**62) + b"{" + b" " * 99, UnsafeFile, "at most"),
    "no json": (safetensors(b"{nope}   "), UnsafeFile, "not JSON"),
    "deep json": (safetensors(b'{"a":' + b"[" * 90_000), UnsafeFile, "not JSON"),
    "name twice": (safetensors(b'{"a": 1, "a": 2}'), UnsafeFile, "twice"),
    "no fields": (safetensors({"a": {"dtype": "F32"}}), UnsafeFile, "lacks"),
    "no entry": (safetensors({"a": 3}), UnsafeFile, "lacks"),
    "unknown dtype": (safetensors({"a": entry(dtype="Q4")}, b"12345678"), CheckpointError, "Q4"),
    "shape lies": (safetensors({"a": entry(shape=[2**40])}, b"12345678"), UnsafeFile, "lies"),
    "negative": (safetensors({"a": entry(shape=[-2], span=[8, 0])}, b"12345678"), UnsafeFile, "0 or more"),
    "no numbers": (safetensors({"a": entry(shape=["2"])}, b"12345678"), UnsafeFile, "0 or more"),
    "true shape": (safetensors({"a": entry(shape=[True, 2])}, b"12345678"), UnsafeFile, "0 or more"),
    "overlap": (safetensors({"a": entry(), "b": entry()}, b"12345678"), UnsafeFile, "overlap"),
    "gap": (safetensors({"a": entry(span=[8, 16])}, b"0" * 16), UnsafeFile, "gap"),
    "metadata": (safetensors({"__metadata__": {"a": 1}}), UnsafeFile, "not text"),
    "zip of nothing": (b"PK\x03\x04" + b"0" * 60, CheckpointError, "broken"),
    "pickle of nothing": (b"\x80\x02" + b"0" * 60, VitrailError, "cut short or broken"),
    "tar": (tar_that_begins_like_a_pickle(), UnsafeFile, "tar archive"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + b"0" * 60, CheckpointError, "GGUF"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_gets_its_own_error(name: str, tmp_path: Path) -> None:
    content, error, message = BAD[name]
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        read_header(tmp_path / "m.safetensors")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_good_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.ckpt").write_bytes(GOOD)  # the ending does not matter
    header = read_header(tmp_path / "m.ckpt")
    assert header.metadata == {"made": "here"}
    assert {name: (info.shape, info.dtype) for name, info in header.tensors.items()} == {
        "a": ((2, 3), torch.float32),
        "b": ((4,), torch.float16),
    }
    assert torch.equal(read_tensors(header)["a"], torch.arange(6.0).view(2, 3))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(GOOD)), at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_any_damage_is_our_error_or_harmless(cut: int, at: int, byte: int, tmp_path: Path) -> None:
    damaged = bytearray(GOOD)
    damaged[at] = byte
    for content in (bytes(damaged), GOOD[:cut]):
        (tmp_path / "m").write_bytes(content)
        with suppress(CheckpointError):
            read_tensors(read_header(tmp_path / "m"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_torch_files_are_our_error_or_harmless(zipped: bool, tmp_path: Path) -> None:
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(4, dtype=torch.float16)}
    torch.save({"state_dict": state, "n": [1, {"x": 3}]}, tmp_path / "m", _use_new_zipfile_serialization=zipped)
    good, chance = (tmp_path / "m").read_bytes(), random.Random(0)
    for _ in range(300):
        damaged = bytearray(good)
        for _ in range(chance.choice((1, 1, 5))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        (tmp_path / "m").write_bytes(damaged)
        with suppress(CheckpointError):
            read_tensors(read_header(tmp_path / "m"))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be found"):
        read_header(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="folder"):
        read_header(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UnsafeFile, match="no regular file"):
            read_header(path)


class Bomb:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("function", "name"), [(os.system, "posix.system"), (eval, "eval"), (Path.touch, "getattr"), (open, "open")]
)
def test_code_in_a_pickle_is_refused_by_its_name_and_not_run(
    function: Any, name: str, zipped: bool, tmp_path: Path
) -> None:
    argument = {os.system: f"touch {tmp_path}/ran", eval: f"open({str(tmp_path / 'ran')!r}, 'w')"}.get(
        function, str(tmp_path / "ran")
    )
    content = {"state_dict": {"a": torch.zeros(2)}, "x": Bomb(function, argument)}
    torch.save(content, tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeFile, match=name) as error:
        read_header(tmp_path / "m.ckpt")
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(Bomb(os.system, f"touch {tmp_path}/ran"), protocol=2))
    with pytest.raises(CheckpointError):
        read_header(tmp_path / "m.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", TRAINING_CLASSES)
@pytest.mark.parametrize("zipped", [True, False])
def test_known_training_classes_become_placeholders(
    name: str, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = placeholder(name)
    module: Any = types.SimpleNamespace(**{cls.__name__: cls})
    parts = name.split(".")[:-1]
    for i in range(len(parts)):
        monkeypatch.setitem(__import__("sys").modules, ".".join(parts[: i + 1]), module)
    instance = cls()
    instance.path = "x"
    content = {"callbacks": {cls: {"best": 1}}, "instance": instance, "state_dict": {"a": torch.ones(3)}}
    torch.save(content, tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
    for i in range(len(parts)):
        monkeypatch.delitem(__import__("sys").modules, ".".join(parts[: i + 1]))
    assert list(read_tensors(read_header(tmp_path / "m.ckpt"))) == ["a"]
    assert parts[0] not in __import__("sys").modules


def test_placeholders_are_taken_back(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "m.ckpt")
    before = set(torch.serialization.get_safe_globals())
    read_header(tmp_path / "m.ckpt")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "params_ema", "params", "model", "params_d", "ema"])
def test_state_dicts_are_found_bare_and_wrapped(wrapper: str | None, zipped: bool, tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0), "n": torch.tensor(4)}
    content = state if wrapper is None else {wrapper: state, "epoch": 3, "optimizer_states": [{"x": torch.zeros(9)}]}
    torch.save(content, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    header = read_header(tmp_path / "m.pt")
    assert {name: info.shape for name, info in header.tensors.items()} == {"a": (3,), "n": ()}
    assert torch.equal(read_tensors(header)["a"], state["a"])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_what_parallel_training_puts_before_names_is_left_out(prefix: str, tmp_path: Path) -> None:
    state = {prefix + "a": torch.arange(3.0), prefix + "module.b": torch.zeros(1)}
    torch.save({"params": state}, tmp_path / "m.pth")
    (tmp_path / "m.safetensors").write_bytes(save(state))
    for name in ("m.pth", "m.safetensors"):
        tensors = read_tensors(read_header(tmp_path / name))
        assert sorted(tensors) == ["a", "module.b"] and torch.equal(tensors["a"], state[prefix + "a"])
    torch.save({**state, "c": torch.zeros(1)}, tmp_path / "m.pth")
    assert prefix + "a" in read_header(tmp_path / "m.pth").tensors, "not every name begins so"


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "m.pt")
    with pytest.raises(UnsafeFile, match="claims shape"):
        read_header(tmp_path / "m.pt")


def test_archives_that_torch_does_not_write_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt") as whole, zipfile.ZipFile(tmp_path / "c.pt", "w") as small:
        for name in whole.namelist():
            small.writestr(name, whole.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsafeFile, match="compressed"):
        read_header(tmp_path / "c.pt")
    with zipfile.ZipFile(tmp_path / "z.pt", "w") as other:
        other.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="no data.pkl"):
        read_header(tmp_path / "z.pt")


def test_a_program_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as program:
        for name in ("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"):
            program.writestr(name, b"")
    with pytest.raises(UnsafeFile, match="TorchScript"):
        read_header(tmp_path / "m.pt")


def test_a_cut_torch_file_is_our_error(tmp_path: Path) -> None:
    golden = case("taming_vq_nonsquare")
    whole = (golden.path / "model.ckpt").read_bytes()
    for length in (100, len(whole) // 2, len(whole) - 10):
        (tmp_path / "m.ckpt").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="m.ckpt is cut short or broken"):
            read_header(tmp_path / "m.ckpt")


def test_a_file_without_named_tensors_is_refused(tmp_path: Path) -> None:
    for content in (torch.zeros(3), [torch.zeros(3)], {"epoch": 1}):
        torch.save(content, tmp_path / "m.pt")
        with pytest.raises(CheckpointError, match="no tensors by name"):
            read_header(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("[" * 100_000, "not the JSON"),
        ({"kind": "autoencoder", "version": 1, "config": {"ch": 20}}, "cannot be used: widths .* 32 groups"),
        ({"kind": "autoencoder", "version": 1, "config": {"ch_mult": [0]}}, "cannot be used: ch_mult .* 1 or more"),
        ({"kind": "autoencoder", "version": 1, "config": {"in_channels": -3}}, "cannot be built"),
    ],
    ids=["deep", "odd width", "no width", "less than no input"],
)
def test_a_config_that_no_model_fits_is_our_error(metadata: Any, message: str, tmp_path: Path) -> None:
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    (tmp_path / "m").write_bytes(save({"a": torch.zeros(1)}, {"format": "vitrail", "vitrail": text}))
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "m")


@pytest.mark.parametrize("shape", [(5,), (5, 4)])
def test_shapes_that_make_no_sense_are_our_error(shape: tuple[int, ...], tmp_path: Path) -> None:
    names = ("encoder.conv_in", "decoder.conv_out", "quant_conv", "post_quant_conv")
    tensors = {f"{name}.weight": torch.zeros(4, 3, 3, 3) for name in names}
    (tmp_path / "m").write_bytes(save({**tensors, "quantize.embedding.weight": torch.zeros(shape)}))
    with pytest.raises(CheckpointError, match="no sound compvis-vq checkpoint"):
        load(tmp_path / "m")


@pytest.mark.parametrize("zipped", [True, False])
def test_settings_of_trainers_are_opened_as_nothing(zipped: bool, tmp_path: Path) -> None:
    content = {
        "args": argparse.Namespace(lr=1e-4, inner=argparse.Namespace(layers=[1, 2])),
        "types": {"any": Any, "object_type": dict, "others": [int, float, str, bool, bytes, list, tuple]},
        "cache": collections.defaultdict(dict),
        "state_dict": {"a": torch.ones(3)},
    }
    torch.save(content, tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
    assert list(read_tensors(read_header(tmp_path / "m.ckpt"))) == ["a"]
    torch.save({"args": argparse.ArgumentParser, "state_dict": {"a": torch.ones(3)}}, tmp_path / "m.ckpt")
    with pytest.raises(UnsafeFile, match="argparse.ArgumentParser"):
        read_header(tmp_path / "m.ckpt")


def test_a_placeholder_of_a_call_is_nothing_but_itself(tmp_path: Path) -> None:
    """A pickle may call what it names: `dict` and the like get arguments, and give an empty object."""
    torch.save({"state_dict": {"a": torch.ones(3)}, "x": Bomb(dict, [("k", 1)])}, tmp_path / "m.ckpt")
    assert list(read_tensors(read_header(tmp_path / "m.ckpt"))) == ["a"]
    torch.save({"state_dict": Bomb(dict, [("a", 1)])}, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match="no tensors by name"):
        read_header(tmp_path / "m.ckpt")


def test_names_in_a_file_cannot_write_on_the_terminal(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a\x1b[2J\nb": torch.ones(3), "\ud800": torch.ones(1)}}, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError) as error:
        load(tmp_path / "m.ckpt")
    assert "a\\x1b[2J\\nb, \\ud800" in str(error.value) and str(error.value).isprintable()
    (tmp_path / "m.safetensors").write_bytes(safetensors({"n" * 50_000: 3}))
    with pytest.raises(UnsafeFile) as error:
        load(tmp_path / "m.safetensors")
    assert len(str(error.value)) < 5000


@pytest.mark.parametrize("name", [*BAD, "folder", "pipe", "hostile config"])
def test_commands_say_one_line_and_leave_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.safetensors"
    match name:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "hostile config":
            path.write_bytes(save({f"{n}.weight": torch.zeros(4, 4, 1, 1) for n in PARTS}))
            (tmp_path / "m.yaml").write_text("model: !!python/object/apply:os.system [touch ran]")
        case _:
            path.write_bytes(BAD[name][0])
    for command in (["inspect", str(path)], ["convert", str(path), str(tmp_path / "out.safetensors")]):
        assert main(command) == 2
        said = capsys.readouterr()
        assert not said.out and said.err.count("\n") == 1
        assert name != "hostile config" or "m.yaml" in said.err
    assert not (tmp_path / "out.safetensors").exists() and not list(tmp_path.glob("ran"))


PARTS = ("encoder.conv_in", "decoder.conv_out", "quant_conv", "post_quant_conv", "quantize.embedding")


@pytest.mark.parametrize("key", ["decoder.conv_out.weight", "encoder.conv_in.weight"])
def test_a_file_that_lacks_what_its_family_is_told_by_says_so(key: str, tmp_path: Path) -> None:
    golden = case("ldm_vq_f4")
    state = read_tensors(read_header(golden.path / "model.ckpt"))
    del state[key]
    (tmp_path / "m.safetensors").write_bytes(save(state))
    with pytest.raises(UnknownFamily, match=rf"would be compvis-\w+ if it had {key}: is the file whole"):
        load(tmp_path / "m.safetensors")


def test_all_keys_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    golden = case("ldm_vq_f4")
    state = read_tensors(read_header(golden.path / "model.ckpt"))
    lost = [name for name in state if name.endswith("norm1.bias")]
    wrong = [name for name in state if name.endswith("norm2.bias")]
    state = {name: tensor for name, tensor in state.items() if name not in lost}
    state |= {name: state[name][1:].clone() for name in wrong} | {"surplus.weight": torch.zeros(1)}
    state["quant_conv.weight"] = state["quant_conv.weight"].long()
    (tmp_path / "m.safetensors").write_bytes(save(state))
    with pytest.raises(KeyMismatch, match="Is the file whole") as error:
        load(tmp_path / "m.safetensors")
    assert all(name in str(error.value) for name in [*lost, *wrong, "surplus.weight"])
    assert "quant_conv.weight torch.int64 instead of torch.float32" in str(error.value)
    assert len(str(error.value)) < 4000


OTHERS = {
    b"\x89PNG\r\n\x1a\n": "PNG picture", b"\xff\xd8\xff\xe0": "JPEG", b"GIF89a": "GIF", b"RIFF....WEBP": "WebP",
    b"\0\0\0\x18ftypmp42": "video", b"\x89HDF\r\n\x1a\n": "HDF5", b"\x1f\x8b\x08": "gzip", b"7z\xbc\xaf'\x1c": "7z",
    b"Rar!\x1a\x07": "RAR", b"\xfd7zXZ\0": "xz", b"%PDF-1.4": "PDF", b"\x93NUMPY\x01": "NumPy", b"\0" * 512: "zeros",
    b"/annex/objects/SHA256E-s42--cc.ckpt": "git annex get", b"<Error><Code>": "XML", b"# Model card\n\nA": "is a text",
    b'{"error":"Repository not found"}': "is a text", b'{"error": {"a": 1}}': "is a text",
    b"PK\x05\x06" + b"\0" * 18: "zip",
}  # fmt: skip


@pytest.mark.parametrize("start", OTHERS)
def test_other_files_are_named_for_what_they_are(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.ckpt").write_bytes(start + bytes(range(128, 160)) * ("text" not in OTHERS[start]))
    with pytest.raises(CheckpointError, match=OTHERS[start]):
        read_header(tmp_path / "m.ckpt")


@pytest.mark.parametrize("length", [0x8B1F, 0x685A42, 0x020080, 640])
def test_a_length_that_begins_like_another_file_is_a_length(length: int, tmp_path: Path) -> None:
    header = json.dumps({"a": entry()}).encode()
    (tmp_path / "m").write_bytes(struct.pack("<Q", length) + header.ljust(length) + b"12345678")
    assert read_header(tmp_path / "m").shape("a") == (2,)


def test_sizes_that_take_long_to_multiply_are_not(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(safetensors({"a": entry(shape=[10**17] * 200_000)}, b"12345678"))
    with pytest.raises(UnsafeFile, match="the header lies"):
        read_header(tmp_path / "m")


def test_names_that_are_too_long_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / ("a" * 300), tmp_path / ("a/" * 3000)):
        assert main(["inspect", str(path)]) == 2 and main(["convert", str(path), str(tmp_path / "o.safetensors")]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2 and all(len(line) < 500 and "File name too long" in line for line in lines)


def test_a_link_to_itself_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.ckpt").symlink_to("m.ckpt")
    assert main(["convert", str(tmp_path / "m.ckpt"), str(tmp_path / "o.safetensors")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_numbers_that_float32_does_not_hold_are_none(tmp_path: Path) -> None:
    golden = case("ldm_vq_f4")
    state = read_tensors(read_header(golden.path / "model.ckpt"))
    state["decoder.conv_in.bias"] = torch.full_like(state["decoder.conv_in.bias"], 1.0).double() * 1e300
    (tmp_path / "m.safetensors").write_bytes(save(state))
    with pytest.raises(CheckpointError, match="no numbers"):
        load(tmp_path / "m.safetensors")
