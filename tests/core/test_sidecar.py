"""Config files beside weights, and averaged weights in the same file."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import case

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.checkpoints import describe, load
from vitrail.core.checkpoints.ema import with_weights
from vitrail.core.checkpoints.read import read_header, read_tensors
from vitrail.core.checkpoints.safetensors_file import write_tensors
from vitrail.core.checkpoints.sidecar import Sidecar, beside, read_sidecar
from vitrail.core.errors import CheckpointError, ConfigError, VitrailError


def test_the_config_of_the_same_name_comes_first(tmp_path: Path) -> None:
    weights, general = tmp_path / "m.ckpt", tmp_path / "model.ckpt"
    weights.touch()
    assert beside(weights) is None
    for name in ("config.json", "config.yaml", "m.json", "m.yaml"):
        (tmp_path / name).touch()
        assert beside(weights) == tmp_path / name
    (tmp_path / "m.json").unlink()
    (tmp_path / "m.yaml").unlink()
    (tmp_path / "other.safetensors").touch()
    assert beside(weights) is None, "one config cannot be meant for two files of weights"
    assert beside(general) == tmp_path / "config.yaml"


def test_the_config_of_a_run_is_found_where_its_trainer_left_it(tmp_path: Path) -> None:
    for folder in ("checkpoints", "configs"):
        (tmp_path / folder).mkdir()
    configs, weights = tmp_path / "configs", tmp_path / "checkpoints" / "epoch=000012.ckpt"
    for name in ("epoch=000012.ckpt", "last.ckpt"):
        (tmp_path / "checkpoints" / name).touch()
    assert beside(weights) is None
    for name in ("model.yaml", "2020-11-03T10-00-00-lightning.yaml", "2020-11-03T10-00-00-project.yaml"):
        (configs / name).touch()
    assert beside(weights) == configs / "2020-11-03T10-00-00-project.yaml"
    (configs / "2020-11-09T13-31-51-project.yaml").touch()
    assert beside(weights) == configs / "2020-11-09T13-31-51-project.yaml"
    for project in configs.glob("*-project.yaml"):
        project.unlink()
    assert beside(weights) == configs / "model.yaml"
    (tmp_path / "checkpoints" / "epoch=000012.json").touch()
    assert beside(weights) == weights.with_suffix(".json")


def test_a_dated_config_goes_with_the_weights_of_its_date(tmp_path: Path) -> None:
    first, second, last = (tmp_path / name for name in ("2021-04-03T19-39-50_cin.ckpt", "other.ckpt", "last.ckpt"))
    config = tmp_path / "2021-04-03T19-39-50-project.yaml"
    for file in (first, config):
        file.touch()
    assert beside(first) == config
    second.touch()
    assert beside(first) == config and beside(second) is None and beside(last) == config


def test_answers_are_noted_with_their_source() -> None:
    sidecar = Sidecar({"a": {"b": 2, "c": 0}}, "m.yaml")
    assert (sidecar.at("a.b", 5), sidecar.at("a.c", 5), sidecar.at("a.x", 5, "the paper"), sidecar.at("b.x")) == (
        2,
        0,
        5,
        None,
    )
    assert sidecar.part("a").at("b") == 2 and len(sidecar.part("c")) == 0
    assert sidecar.found == {"a.b": "m.yaml", "a.c": "m.yaml", "a.x": "the paper"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: !!python/object/apply:os.system ['touch ran']", "a tag"),
        ("a: &x [1]\nb: *x", "an anchor"),
        ("- 1", "no settings"),
        ("just text", "no settings"),
        ("a: '\udcff'", "YAML"),
        ("a: " + "x" * 300_000, "at most"),
    ],
)
def test_a_config_that_is_none_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=message) as error:
        read_sidecar(tmp_path / "m.ckpt", None)
    assert "m.yaml" in str(error.value) and "\n" not in str(error.value) and not (tmp_path / "ran").exists()


def test_a_pipe_is_no_config(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.yaml")
    for chosen in ("c.yaml", "absent.yaml"):
        with pytest.raises(ConfigError, match=chosen):
            read_sidecar(tmp_path / "m.ckpt", tmp_path / chosen)


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_a_config_beside_the_file_is_read(ending: str, tmp_path: Path) -> None:
    golden = case("ldm_vq_f8_vqmodel")
    text = (golden.path / "config.yaml").read_text() if ending == "yaml" else json.dumps(golden.config)
    (tmp_path / "m.ckpt").write_bytes((golden.path / "model.ckpt").read_bytes())
    (tmp_path / f"m.{ending}").write_text(text)
    found = describe(tmp_path / "m.ckpt")
    assert found["config"]["resolution"] == 32
    assert found["inferred"]["model.params.ddconfig.resolution"] == f"m.{ending}"


@pytest.mark.parametrize("params", [3, {"ddconfig": []}, {"ddconfig": {"resolution": "wide"}}])
def test_a_config_of_another_schema_is_our_error_or_unread(params: Any) -> None:
    golden = case("ldm_vq_f8_vqmodel")
    try:
        load(golden.path / "model.ckpt", config={"model": {"params": params}})
    except CheckpointError as error:
        assert "no sound" in str(error) and params == {"ddconfig": {"resolution": "wide"}}


AVERAGED = {
    "model.net.a.weight": torch.zeros(2),
    "model.net.b": torch.zeros(3),
    "rest": torch.zeros(1),
    "model_ema.neta" + "weight": torch.ones(2),
    "model_ema.netb": torch.ones(3),
    "model_ema.decay": torch.tensor(0.9),
    "model_ema.num_updates": torch.tensor(4),
}


@pytest.mark.parametrize(("ema", "value", "which"), [(None, 1, "averaged"), (True, 1, "averaged"), (False, 0, "plain")])
def test_averaged_weights_stand_in_for_the_plain_ones(ema: bool | None, value: int, which: str, tmp_path: Path) -> None:
    write_tensors(tmp_path / "m", AVERAGED, {})
    header, words = with_weights(read_header(tmp_path / "m"), ema)
    tensors = read_tensors(header)
    assert sorted(tensors) == ["model.net.a.weight", "model.net.b", "rest"] and which in words
    assert torch.equal(tensors["model.net.b"], torch.full((3,), float(value))) and tensors["rest"] == 0
    assert torch.equal(header.under("model.net.").value("a.weight"), torch.full((2,), float(value)))


def test_a_list_of_codes_needs_no_average(tmp_path: Path) -> None:
    write_tensors(tmp_path / "m", AVERAGED | {"model.net.used": torch.tensor([3, 1])}, {})
    header, words = with_weights(read_header(tmp_path / "m"), True)
    tensors = read_tensors(header)
    assert "averaged" in words and tensors["model.net.used"].tolist() == [3, 1] and tensors["model.net.b"].eq(1).all()


@pytest.mark.parametrize("change", [{"model_ema.netb": None}, {"model_ema.netb": torch.ones(4)}])
def test_incomplete_averages_are_left_alone(change: dict[str, Any], tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in (AVERAGED | change).items() if tensor is not None}
    write_tensors(tmp_path / "m", tensors, {})
    header, words = with_weights(read_header(tmp_path / "m"), None)
    assert read_tensors(header)["model.net.a.weight"].sum() == 0 and words == "plain"
    with pytest.raises(CheckpointError, match="incomplete"):
        with_weights(read_header(tmp_path / "m"), True)


def averages_beside(path: Path) -> Path:
    """A trainer's file with plain weights of 0 and averages of 1."""
    plain, averages = ({"a.b": torch.full((2,), value), "c": torch.full((3,), value)} for value in (0.0, 1.0))
    torch.save({"model": {f"module.{k}": v for k, v in plain.items()}, "ema": averages, "steps": 5}, path)
    return path


@pytest.mark.parametrize(("ema", "value"), [(None, 1), (True, 1), (False, 0)])
def test_averages_under_a_key_of_their_own_are_found(ema: bool | None, value: int, tmp_path: Path) -> None:
    header, words = with_weights(read_header(averages_beside(tmp_path / "m.pt")), ema)
    tensors = read_tensors(header)
    assert sorted(tensors) == ["a.b", "c"] and ("averaged" in words) == bool(value)
    assert torch.equal(tensors["a.b"], torch.full((2,), float(value)))


@pytest.mark.parametrize("key", ["ema", "params_ema"])
@pytest.mark.parametrize("ema", [None, True, False])
def test_weights_that_are_averages_by_themselves_are_taken(key: str, ema: bool | None, tmp_path: Path) -> None:
    torch.save({key: {"a": torch.ones(2)}, "iter": 5}, tmp_path / "m.pt")
    header, words = with_weights(read_header(tmp_path / "m.pt"), ema)
    assert words == f"averaged ({key})" and list(read_tensors(header)) == ["a"]


def test_weights_stay_mapped_where_they_keep_their_dtype(tmp_path: Path) -> None:
    golden = case("ldm_vq_f4")
    model = load(golden.path / "model.ckpt", dtype=torch.float16)
    state = {name: tensor.float() for name, tensor in model.state_dict().items()}
    write_tensors(tmp_path / "m.safetensors", state, {})
    loaded = load(tmp_path / "m.safetensors")
    assert isinstance(loaded, Autoencoder) and not any(p.is_meta for p in loaded.parameters())
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1)
    again = load(tmp_path / "m.safetensors")
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items()), "writes stay private"


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    golden = case("ldm_vq_f4")
    state = load(golden.path / "model.ckpt").state_dict()
    for value in (float("nan"), float("inf")):
        state["decoder.conv_in.bias"] = torch.full_like(state["decoder.conv_in.bias"], value)
        write_tensors(tmp_path / "m.safetensors", state, {})
        with pytest.raises(CheckpointError, match="no numbers .* decoder.conv_in.bias"):
            load(tmp_path / "m.safetensors")
    state["decoder.conv_in.bias"].fill_(1e38)
    write_tensors(tmp_path / "m.safetensors", state, {})
    load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"ddconfig": {"resolution": "wide"}}, "resolution"),
        ({"ddconfig": {"resolution": 32.5}}, "resolution is 32.5; expected int"),
        ({"lossconfig": {"params": {"kl_weight": "heavy"}}}, r"read last: model\.params\.lossconfig.*kl_weight"),
    ],
)
def test_a_setting_of_another_type_is_named(params: Any, message: str, tmp_path: Path) -> None:
    golden = case("ldm_kl_f4")
    (tmp_path / "m.ckpt").write_bytes((golden.path / "model.ckpt").read_bytes())
    (tmp_path / "m.json").write_text(json.dumps({"model": {"params": params}}))
    for step in (describe, load):
        with pytest.raises(VitrailError, match=message) as error:
            step(tmp_path / "m.ckpt")
        assert "m.ckpt" in str(error.value) and "m.json" in str(error.value)


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_the_mark_that_windows_begins_texts_with_is_no_text(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"m.{ending}").write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}')
    assert dict(read_sidecar(tmp_path / "m.ckpt", None)) == {"a": 1}


def test_weights_are_not_their_own_config(tmp_path: Path) -> None:
    golden = case("ldm_kl_f4")
    for ending in ("yaml", "json"):
        (tmp_path / f"m.{ending}").write_bytes((golden.path / "model.ckpt").read_bytes())
        assert describe(tmp_path / f"m.{ending}", config=golden.config)["family"] == "compvis-kl"
        assert beside(tmp_path / f"m.{ending}") is None
        (tmp_path / f"m.{ending}").unlink()
