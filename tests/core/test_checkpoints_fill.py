"""Reading in pieces, and the check that every weight is a number."""

import subprocess
import sys
from collections.abc import Collection
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from golden_cases import case
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import KLConfig
from vitrail.core.checkpoints import cast as casting
from vitrail.core.checkpoints import fill as filling
from vitrail.core.checkpoints import load, save_model
from vitrail.core.checkpoints.cast import cast, finite
from vitrail.core.checkpoints.fill import pieces
from vitrail.core.checkpoints.header import Header, TensorInfo
from vitrail.core.checkpoints.read import read_header, read_tensors
from vitrail.core.errors import CheckpointError

SMALL_MODEL = AutoencoderConfig(
    ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, embed_dim=4, double_z=True, bottleneck=KLConfig()
)
HALF, FULL = torch.float16, torch.float32


def header(mapped: bool = True, dtype: torch.dtype = HALF) -> Header:
    infos = {f"{i}": TensorInfo(shape=(1 << 18,), dtype=dtype) for i in range(64)}
    return Header(path=Path("file"), format="torch", tensors=infos, mapped=mapped)


@pytest.mark.parametrize(
    ("given", "dtype", "count"),
    [(header(), FULL, 8), (header(), HALF, 1), (header(mapped=False), FULL, 1), (header(dtype=FULL), HALF, 8)],
    ids=["cast", "kept", "not mapped", "narrowed"],
)
def test_pieces(given: Header, dtype: torch.dtype, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "SMALL", 1)
    found = list(pieces(given, list(given.tensors), dtype))
    assert len(found) == count
    assert [name for piece in found for name in piece] == list(given.tensors)


def test_a_small_file_is_one_piece() -> None:
    assert list(pieces(header(), ["3", "5"], FULL)) == [["3", "5"]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = Autoencoder(SMALL_MODEL)
    save_model(model, tmp_path / "autoencoder.safetensors", dtype=HALF)
    return tmp_path / "autoencoder.safetensors"


def test_a_model_read_in_pieces_is_that_read_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load(path).state_dict()
    monkeypatch.setattr(filling, "SMALL", 1)
    reads: list[int] = []
    read = Header.read

    def counted(self: Header, names: Collection[str]) -> dict[str, Tensor]:
        reads.append(len(names))
        return read(self, names)

    monkeypatch.setattr(Header, "read", counted)
    found = load(path).state_dict()
    assert len(reads) > 4
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) and found[name].dtype == FULL for name in whole)


def test_broken_weights_of_all_pieces_are_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "SMALL", 1)
    tensors = load_file(path)
    first, *_, last = (name for name in tensors if tensors[name].ndim == 4)
    tensors[first].view(-1)[0], tensors[last].view(-1)[-1] = float("nan"), float("inf")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="2 tensors") as caught:
        load(path)
    assert first in str(caught.value)
    assert last in str(caught.value)


@pytest.mark.parametrize("dtype", [HALF, torch.bfloat16, FULL, torch.float8_e4m3fn])
def test_finite(dtype: torch.dtype) -> None:
    sound = torch.full((5000,), torch.finfo(dtype).max).to(dtype)
    assert finite(sound), "a sum that overflows is no broken weight"
    for wrong in (float("nan"), float("inf"), float("-inf")):
        if dtype.itemsize > 1 or wrong != wrong:
            for place in (0, 1234, 4999):
                broken = sound.float().index_fill(0, torch.tensor(place), wrong).to(dtype)
                assert not finite(broken)
    assert not finite(torch.tensor([float("inf"), float("-inf"), 0.0]))


def test_building_a_text_encoder_leaves_torchs_compiler_alone() -> None:
    code = """
import sys
from types import SimpleNamespace
from vitrail.core.checkpoints.fill import build
from vitrail.core.text.clip import ClipTextConfig, ClipTextEncoder
model = build(SimpleNamespace(build=ClipTextEncoder), ClipTextConfig(depth=1), SimpleNamespace(tensors={}))
assert all(value.is_meta for value in model.state_dict().values())
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("start", [HALF, torch.bfloat16, FULL, torch.float64])
@pytest.mark.parametrize("wanted", [HALF, torch.bfloat16, FULL])
def test_a_cast_is_that_of_torch(start: torch.dtype, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(casting, "BLOCK", 7)
    monkeypatch.setattr(casting, "LARGE", 64)
    for shape in ((5, 9), (3,), (), (0, 2), (4, 3, 3, 3)):
        tensor = torch.randn(shape).to(start)
        made, sound = cast(tensor, wanted)
        assert sound and made.dtype == wanted and torch.equal(made, tensor.to(wanted))
    transposed = torch.randn(9, 5).to(start).t()
    assert torch.equal(cast(transposed, wanted)[0], transposed.to(wanted))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("start", "wanted"), [(HALF, FULL), (FULL, HALF), (FULL, FULL), (torch.bfloat16, FULL)])
def test_a_cast_sees_what_is_no_number(
    value: float, start: torch.dtype, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(casting, "BLOCK", 7)
    for place in range(0, 30, 6):
        tensor = torch.zeros(30, dtype=start)
        tensor[place] = value
        assert not cast(tensor, wanted)[1]


def test_integers_are_left_as_they_are() -> None:
    made, sound = cast(torch.arange(4), HALF)
    assert sound and made.dtype == torch.int64


def test_weights_on_pages_of_their_own_are_like_any_other(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load(path).state_dict()
    monkeypatch.setattr(casting, "LARGE", 1)
    model = load(path)
    save_model(model, tmp_path / "again.safetensors")
    torch.save(model.state_dict(), tmp_path / "again.pt")
    saved = torch.load(tmp_path / "again.pt", weights_only=True)
    again = load(tmp_path / "again.safetensors").state_dict()
    copied = deepcopy(model).state_dict()
    for name, tensor in whole.items():
        for other in (again, saved, copied):
            assert torch.equal(other[name], tensor)
    assert Path(tmp_path / "again.pt").stat().st_size < 2 * path.stat().st_size + 200_000
    sum(weight.square().sum() for weight in model.parameters()).backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()  # x - 0.5 * 2 x
    assert all(weight.abs().max() == 0 for weight in model.parameters())


@pytest.mark.parametrize("name", ["rrdb_old_x4", "ldm_uncond_vq4", "taming_gumbel_f4", "ldm_vq_f4", "sd2_inpaint"])
def test_a_missing_key_goes_by_the_name_that_the_file_would_give_it(name: str, tmp_path: Path) -> None:
    golden = case(name)
    (file,) = golden.path.glob("model.*")
    state = read_tensors(read_header(file))
    keys = [key for key in sorted(state) if not key.startswith(("loss.", "model_ema."))]
    keys = keys[:: max(1, len(keys) // 12)]
    told: list[bool] = []
    for key in keys:
        (tmp_path / "m.safetensors").write_bytes(save({k: v.clone() for k, v in state.items() if k != key}))
        try:
            load(tmp_path / "m.safetensors", config=golden.config or None)
        except CheckpointError as error:
            told.append(key in str(error))
    assert sum(told) >= 0.75 * len(told) >= 6, "the others' lack makes another model of the rest"


@pytest.mark.parametrize("numbers", [1 << 18, 3 * (1 << 17) + 1, (1 << 19) + 1001])
def test_a_large_cast_over_several_blocks(numbers: int) -> None:
    tensor = torch.randn(numbers).half()
    made, sound = cast(tensor, FULL)
    assert sound and torch.equal(made, tensor.float())
    tensor[-1] = float("nan")
    assert not cast(tensor, FULL)[1]


def test_a_kernel_that_makes_no_pages_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(casting, "POPULATE_WRITE", -1)
    tensor = torch.randn(1 << 19).half()
    assert torch.equal(cast(tensor, FULL)[0], tensor.float())


def test_a_hundred_keys_are_listed_whole_and_ten_thousand_are_not() -> None:
    names = [f"first_stage_model.encoder.down.{i}.block.1.norm1.weight" for i in range(10_000)]
    text = filling.listed("keys missing", names[:100])
    assert all(name in text for name in names[:100]) and "more" not in text
    text = filling.listed("keys missing", names)
    assert text.startswith("10000 keys missing: ") and text.endswith("more") and len(text) < 9000
