"""Good files with something wrong in them: our error, or a model that works; never a crash or a hang."""

import json
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import RemapConfig, VQConfig
from vitrail.core.checkpoints import describe, load, save_model, verify
from vitrail.core.checkpoints.fill import EACH, MOST, Counted
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from vitrail.core.diffusion.unet import UNetConfig
from vitrail.core.errors import CheckpointError, ConfigError, UnsafeFile, VitrailError
from vitrail.core.priors.gpt import GPTConfig
from vitrail.core.priors.prior import Prior, PriorConfig
from vitrail.core.refine.rrdb import RefinerConfig, RRDBNet
from vitrail.core.text.conditioners import ClassConfig

resource = pytest.importorskip("resource", reason="limits memory as Unix does")

SECONDS = 5.0
"""More than any of these files may take: a hang, not a slow machine."""

FIRST = AutoencoderConfig(
    ch=8, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), z_channels=3, embed_dim=3,
    bottleneck=RemapConfig(book=VQConfig(codes=16, dim=3), kept=5),
)  # fmt: skip
UNET = UNetConfig(
    in_channels=3, out_channels=3, model_channels=32, num_res_blocks=1, attention_resolutions=(1,), channel_mult=(1,),
    num_heads=1, context_dim=8,
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def little_memory() -> Iterator[None]:
    """A file that wants all memory fails its test and not the machine."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the memory in use is read as Linux says it")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def state_of(prefix: str, module: nn.Module | None) -> dict[str, Tensor]:
    assert module is not None
    return {f"{prefix}.{name}": value for name, value in module.state_dict().items()}


def ldm() -> dict[str, Tensor]:
    config = LatentDiffusionConfig(unet=UNET, conditioner=ClassConfig(classes=4, width=8), autoencoder=FIRST)
    model = LatentDiffusion(config)
    state = state_of("model.diffusion_model", model.network) | state_of("cond_stage_model", model.conditioner)
    return state | state_of("first_stage_model", model.autoencoder)


def prior() -> dict[str, Tensor]:
    model = Prior(PriorConfig(transformer=GPTConfig(vocab=5, block=16, width=16, depth=1, heads=16), autoencoder=FIRST))
    return state_of("transformer", model.transformer) | state_of("first_stage_model", model.autoencoder)


STATES = {"ldm": ldm(), "prior": prior()}


def as_torch(state: dict[str, Tensor], path: Path, *, zipped: bool = True) -> bytes:
    torch.save({"state_dict": state, "global_step": 1}, path, _use_new_zipfile_serialization=zipped)
    return path.read_bytes()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One file of every kind."""
    folder = tmp_path_factory.mktemp("good")
    save_model(Autoencoder(FIRST), folder / "own")
    return {
        "ldm.ckpt": as_torch(STATES["ldm"], folder / "m"),
        "ldm-old.ckpt": as_torch(STATES["ldm"], folder / "m", zipped=False),
        "ldm.safetensors": save(STATES["ldm"]),
        "prior.ckpt": as_torch(STATES["prior"], folder / "m"),
        "prior.safetensors": save(STATES["prior"]),
        "own.safetensors": (folder / "own").read_bytes(),
    }


KINDS = ("ldm.ckpt", "ldm-old.ckpt", "ldm.safetensors", "prior.ckpt", "prior.safetensors", "own.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


def survives(path: Path) -> bool:
    """Whether a file still opens; anything but our error, in one line, goes through to the test."""
    started = time.process_time()
    opened = True
    for step in (describe, verify, load):
        try:
            step(path)
        except VitrailError as error:
            assert "\n" not in str(error)
            opened = False
    assert time.process_time() - started < SECONDS
    return opened


@pytest.mark.parametrize("name", KINDS)
def test_the_files_are_good(name: str, good: dict[str, bytes], folder: Path) -> None:
    (folder / name).write_bytes(good[name])
    assert survives(folder / name)


places = st.floats(0, 1, exclude_max=True)
edit = st.tuples(
    st.sampled_from(["flip", "zero", "insert", "drop", "copy", "cut"]), places, st.binary(min_size=1, max_size=9)
)
edits = st.lists(edit, min_size=1, max_size=4)


def edited(content: bytes, changes: list[tuple[str, float, bytes]], span: int) -> bytes:
    """Bytes changed within the first or last `span` of a file, where its structure is."""
    made = bytearray(content)
    for what, place, value in changes:
        at = int(place * 2 * span) - span
        at = max(0, at + len(made) if at < 0 else min(at, len(made) - 1))
        match what:
            case "flip":
                made[at : at + len(value)] = value
            case "zero":
                made[at : at + 64] = bytes(len(made[at : at + 64]))
            case "insert":
                made[at:at] = value
            case "drop":
                del made[at : at + len(value)]
            case "copy":
                made[at:at] = made[:at][-512:]
            case _:
                del made[at:]
    return bytes(made)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=15, deadline=None)
@given(changes=edits, span=st.sampled_from([16, 2000, 40_000]))
def test_edited_bytes(name: str, changes: Any, span: int, good: dict[str, bytes], folder: Path) -> None:
    (folder / name).write_bytes(edited(good[name], changes, span))
    survives(folder / name)


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: dict[str, Any] | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


numbers = st.one_of(
    st.integers(-3, 20), st.sampled_from([2**31, 2**62, 2**63, 2**64, 10**40, -(2**63)]), st.floats(), st.booleans(),
    st.none(), st.text(max_size=3),
)  # fmt: skip
lies = st.one_of(
    st.tuples(st.just("shape"), st.lists(numbers, max_size=5) | numbers),
    st.tuples(st.just("data_offsets"), st.lists(numbers, max_size=3) | numbers),
    st.tuples(st.just("dtype"), st.sampled_from(["F16", "I64", "BOOL", "C64", "F4", "", None, 3])),
)


@pytest.mark.parametrize("name", [name for name in KINDS if name.endswith("safetensors")])
@settings(max_examples=25, deadline=None)
@given(data=st.data(), field=lies)
def test_lying_headers(name: str, data: st.DataObject, field: Any, good: dict[str, bytes], folder: Path) -> None:
    header, rest = parts(good[name])
    entry = header[data.draw(st.sampled_from(sorted(set(header) - {"__metadata__"})))]
    changed = entry[field[0]] != field[1]
    entry[field[0]] = field[1]
    (folder / name).write_bytes(joined(header, rest))
    assert survives(folder / name) is not changed


@pytest.mark.parametrize("name", ["ldm.safetensors", "prior.safetensors"])
@pytest.mark.parametrize(
    "broken",
    [
        lambda text: text[:-1] + b"," + text[1:],
        lambda text: text.replace(b"first_stage", b"first\xff\xfestage"),
        lambda text: text.replace(b'"F32"', b'"F\\ud800"'),
        lambda text: text[:-1] + b',"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        lambda text: text[:-1] + b',"x":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}',
        lambda text: text[:-1] + b',"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,Infinity]}}',
        lambda text: b"[" + text + b"]",
        lambda text: b"\xef\xbb\xbf" + text,
    ],
    ids=["twice", "no utf-8", "lone surrogate", "deep", "long number", "no number", "list", "mark"],
)
def test_headers_that_are_no_json_of_a_model(
    broken: Callable[[bytes], bytes], name: str, good: dict[str, bytes], folder: Path
) -> None:
    header, rest = parts(good[name])
    (folder / name).write_bytes(joined(broken(json.dumps(header).encode()), rest))
    with pytest.raises(VitrailError) as error:
        load(folder / name)
    assert "\n" not in str(error.value)


def test_tensors_that_lie_over_each_other_are_refused(good: dict[str, bytes], folder: Path) -> None:
    header, rest = parts(good["ldm.safetensors"])
    name, other = "model.diffusion_model.out.0.weight", "model.diffusion_model.out.0.bias"
    header[name]["data_offsets"] = header[other]["data_offsets"]
    (folder / "m.safetensors").write_bytes(joined(header, rest))
    with pytest.raises(UnsafeFile, match="overlap"):
        load(folder / "m.safetensors")


odd_values = st.sampled_from(
    [
        None, 3, "x", [torch.zeros(2)], {"a": torch.zeros(2)}, torch.zeros(()), torch.zeros(0),
        torch.zeros(1, 1, 1, 1, 1), torch.zeros(2, dtype=torch.complex64), torch.full((8,), torch.nan),
        torch.zeros(1).expand(10**9), torch.zeros(3, dtype=torch.bool), torch.eye(3).to_sparse(), torch.zeros(2**20, 0),
    ]
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", STATES)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), value=odd_values, what=st.sampled_from(["replace", "drop", "rename", "add", "no text"]))
def test_odd_state_dicts(kind: str, data: st.DataObject, value: Any, what: str, folder: Path) -> None:
    state: dict[Any, Any] = dict(STATES[kind])
    name = data.draw(st.sampled_from(sorted(state)))
    match what:
        case "replace":
            state[name] = value
        case "drop":
            del state[name]
        case "rename":
            state[data.draw(st.sampled_from(["", ".", name + ".weight", name.replace(".0.", ".999999."), "x\n\0"]))] = (
                state.pop(name)
            )
        case "add":
            state["first_stage_model.surplus"] = value
        case _:
            state[3] = state.pop(name)
    torch.save({"state_dict": state}, folder / f"{kind}.ckpt")
    survives(folder / f"{kind}.ckpt")


settings_of_a_file = st.recursive(
    numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), value=settings_of_a_file)
def test_odd_configs_of_our_own_files(data: st.DataObject, value: Any, good: dict[str, bytes], folder: Path) -> None:
    header, rest = parts(good["own.safetensors"])
    notes = json.loads(header["__metadata__"]["vitrail"])
    place = notes["config"]
    while isinstance(place[name := data.draw(st.sampled_from(sorted(place)))], dict):
        place = place[name]
    place[name] = value
    header["__metadata__"]["vitrail"] = json.dumps(notes)
    (folder / "own.safetensors").write_bytes(joined(header, rest))
    survives(folder / "own.safetensors")


@settings(max_examples=40, deadline=None)
@given(data=st.data(), value=settings_of_a_file)
def test_odd_configs_beside_public_files(data: st.DataObject, value: Any, good: dict[str, bytes], folder: Path) -> None:
    params: dict[str, Any] = {
        "linear_start": 0.001, "linear_end": 0.01, "timesteps": 10, "beta_schedule": "linear", "scale_factor": 1.0,
        "parameterization": "eps", "unet_config": {"params": {"num_heads": 1, "image_size": 8}},
        "first_stage_config": {"params": {"unknown_index": 2, "ddconfig": {"resolution": 64}}},
        "cond_stage_config": {"target": "x", "params": {}}, "transformer_config": {"params": {"n_head": 1}},
        "sos_token": 0, "unconditional": True,
    }  # fmt: skip
    said: dict[str, Any] = {"model": {"params": params}}
    place: Any = said
    while isinstance(place, dict) and place and (place is said or data.draw(st.integers(0, 9))):
        holder, name = place, data.draw(st.sampled_from(sorted(place)))
        place = holder[name]
    holder[name] = value
    for kind in ("ldm.safetensors", "prior.safetensors"):
        (folder / kind).write_bytes(good[kind])
        started = time.process_time()
        with suppress(VitrailError):
            load(folder / kind, config=said)
        assert time.process_time() - started < SECONDS


def test_huge_numbers_ask_for_no_memory(good: dict[str, bytes], folder: Path) -> None:
    header, rest = parts(good["own.safetensors"])
    notes = json.loads(header["__metadata__"]["vitrail"])
    notes["config"]["num_res_blocks"] = 2**31
    header["__metadata__"]["vitrail"] = json.dumps(notes)
    (folder / "m.safetensors").write_bytes(joined(header, rest))
    with pytest.raises(CheckpointError, match="far more layers than its file fills"):
        load(folder / "m.safetensors")
    assert torch.is_grad_enabled()
    name = "model.diffusion_model.input_blocks.0.0.bias"
    state = {old.replace(name, name.replace("0.0", f"{2**31}.0")): value for old, value in STATES["ldm"].items()}
    (folder / "m.safetensors").write_bytes(save(state))
    with pytest.raises(VitrailError) as error:
        load(folder / "m.safetensors")
    assert "Memory" not in str(error.value)
    (folder / "m.safetensors").write_bytes(good["ldm.safetensors"])
    with pytest.raises(ConfigError, match="timesteps is"):
        load(folder / "m.safetensors", config={"model": {"params": {"timesteps": 2**40, "linear_start": 0.001}}})


@pytest.mark.parametrize("place", ["body.{}.rdb1.conv1.weight", "conv_up{}.weight"])
def test_layers_that_a_file_does_not_fill_are_not_built(place: str, folder: Path) -> None:
    """Counted in operations, not in seconds, which depend on the machine."""
    network = RRDBNet(RefinerConfig(num_feat=4, num_block=1, num_grow=2))
    layer = place.format(99999999)
    (folder / "m.safetensors").write_bytes(save({**network.state_dict(), layer: torch.zeros(2, 4, 3, 3)}))
    with pytest.raises(CheckpointError, match="far more layers than its file fills|up to 5 times"):
        load(folder / "m.safetensors")
    with Counted(MOST + EACH) as counted, pytest.raises(ValueError, match="far more layers"):
        RRDBNet(RefinerConfig(num_feat=4, num_block=99999999, num_grow=2))
    assert counted.calls < MOST + EACH + 50
