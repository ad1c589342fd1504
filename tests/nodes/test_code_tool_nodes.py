"""Nodes that change codes and keep them in files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.code_edits import OPERATIONS as CORE
from vitrail.core.errors import CheckpointError, ConfigError, ShapeError, WorkflowError
from vitrail.core.types import Codes
from vitrail.headless.files import Files
from vitrail.headless.run import run_workflow
from vitrail.nodes import NODE_CLASS_MAPPINGS, host
from vitrail.nodes.code_tools import OPERATIONS, EditCodes, LoadCodes, SaveCodes
from vitrail.nodes.codes import VQDecode, VQEncode

Pictures = Callable[..., Tensor]


def encoded(image: Tensor, model: Autoencoder) -> Codes:
    return VQEncode().execute(image=image, vq_model=model, tile_size=0)[0]


def decoded(codes: Codes, model: Autoencoder) -> Tensor:
    return VQDecode().execute(vq_model=model, quantize=True, tile_size=0, codes=codes)[0]


def edited(codes: Codes | None, operation: str, **inputs: Any) -> Codes:
    defaults = {"code": 0, "to_code": 0, "amount": 0.5, "seed": 0, "strokes": ""}
    return EditCodes().execute(**{"codes": codes, "operation": operation, **defaults, **inputs})[0]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(output=tmp_path / "out", inputs=[tmp_path / "in"])


# Edit Codes


def test_the_node_offers_the_cores_operations() -> None:
    assert tuple(CORE) == OPERATIONS


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("size", "channels"), [((32, 64), 3), ((30, 61), 4)])
def test_edited_codes_decode_to_pictures_that_differ_in_the_mask(
    local_model: Autoencoder, pictures: Pictures, operation: str, size: tuple[int, int], channels: int
) -> None:
    """A batch of 3, even and odd sizes, with and without alpha; far from the mask no pixel changes."""
    image = pictures(3, *size, channels)
    codes, other = encoded(image, local_model), encoded(image.flip(2), local_model)
    mask = torch.zeros(1, *size)
    mask[:, :, :8] = 1
    inputs = {"code": int(codes.indices[0, 0, 0]), "to_code": 9, "other": other, "mask": mask}
    found = edited(codes, operation, **inputs)
    assert found.image_size == size and not torch.equal(found.indices, codes.indices)
    assert torch.equal(found.indices[:, :, 2:], codes.indices[:, :, 2:])
    before, after = decoded(codes, local_model), decoded(found, local_model)
    assert after.shape == (3, *size, 3) and not torch.allclose(before[:, :, :8], after[:, :, :8], atol=1e-3)
    torch.testing.assert_close(before[:, :, 52:], after[:, :, 52:])


def test_an_edit_without_codes_says_where_to_look() -> None:
    with pytest.raises(ConfigError, match='"codes" is empty.*VQ Encode'):
        edited(None, "fill")


def test_codes_of_another_autoencoder_are_refused(
    vq_model: Autoencoder, other_model: Autoencoder, pictures: Pictures
) -> None:
    codes, other = encoded(pictures(), vq_model), encoded(pictures(), other_model)
    with pytest.raises(ShapeError, match="64 codes.*32 codes"):
        edited(codes, "blend", other=other)


# Save Codes, Load Codes


def saved(codes: Codes | None, files: Files, prefix: str = "codes/vitrail") -> Path:
    SaveCodes().execute(codes=codes, filename_prefix=prefix, files=files)
    return files.written[-1]


@pytest.mark.parametrize(("batch", "size", "channels"), [(1, (32, 32), 3), (3, (32, 48), 3), (2, (29, 35), 4)])
def test_saved_codes_load_as_they_were(
    vq_model: Autoencoder, pictures: Pictures, files: Files, batch: int, size: tuple[int, int], channels: int
) -> None:
    codes = encoded(pictures(batch, *size, channels), vq_model)
    path = saved(codes, files)
    assert path.relative_to(files.output).as_posix() == "codes/vitrail_00001_.safetensors"
    (found,) = LoadCodes().execute(name="codes/vitrail_00001_.safetensors [output]", files=files)
    assert torch.equal(found.indices, codes.indices) and found.image_size == size
    torch.testing.assert_close(decoded(found, vq_model), decoded(codes, vq_model))


def test_files_are_numbered_and_nothing_leads_out(vq_model: Autoencoder, pictures: Pictures, files: Files) -> None:
    codes = encoded(pictures(), vq_model)
    assert [saved(codes, files, "a").name for _ in range(2)] == ["a_00001_.safetensors", "a_00002_.safetensors"]
    assert saved(codes, files, "%width%x%height%").name == "32x32_00001_.safetensors"
    with pytest.raises(WorkflowError, match="leads out"):
        saved(codes, files, "../a")


def test_a_file_that_is_not_there_is_found_out_beforehand(files: Files, tmp_path: Path) -> None:
    verdict = LoadCodes.VALIDATE_INPUTS(name="none.safetensors", files=files)
    assert "none.safetensors" in str(verdict) and str(tmp_path / "in") in str(verdict)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "none.safetensors").touch()
    assert LoadCodes.VALIDATE_INPUTS(name="none.safetensors", files=files) is True
    assert LoadCodes.VALIDATE_INPUTS(name=None) is True


def test_other_files_are_refused_in_words(files: Files, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file({"weight": torch.zeros(3)}, tmp_path / "in" / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds no codes"):
        LoadCodes().execute(name="model.safetensors", files=files)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    assert LoadCodes.IS_CHANGED(name=str(path)) == LoadCodes.IS_CHANGED(name=None) == ""
    path.write_bytes(b"1")
    first = LoadCodes.IS_CHANGED(name=str(path), files=None)
    path.write_bytes(b"22")
    assert first and first != LoadCodes.IS_CHANGED(name=str(path))


def test_without_a_folder_or_codes_it_says_so(files: Files, vq_model: Autoencoder, pictures: Pictures) -> None:
    with pytest.raises(ConfigError, match="no folder to write to"):
        SaveCodes().execute(codes=encoded(pictures(), vq_model), filename_prefix="a")
    with pytest.raises(ConfigError, match='"codes" is empty'):
        saved(None, files)
    with pytest.raises(ConfigError, match='no file "none"'):
        host.find_data("none", None)


def test_a_workflow_saves_and_loads(tmp_path: Path) -> None:
    """Headless: the file is printed as pictures are, and the next run takes it from the output folder."""
    picture = tmp_path / "x.png"
    from PIL import Image

    Image.new("RGB", (20, 12), "teal").save(picture)
    loader = {
        "class_type": "VitrailLoadAutoencoder",
        "inputs": {"name": "vitrail-1", "dtype": "auto", "config": "auto"},
    }
    save = {
        "1": loader,
        "2": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
        "3": {"class_type": "VitrailVQEncode", "inputs": {"image": ["2", 0], "vq_model": ["1", 0], "tile_size": 0}},
        "4": {"class_type": "VitrailSaveCodes", "inputs": {"codes": ["3", 0], "filename_prefix": "teal"}},
    }
    decode = {"vq_model": ["1", 0], "codes": ["2", 0], "quantize": True, "tile_size": 0}
    load = {
        "1": loader,
        "2": {"class_type": "VitrailLoadCodes", "inputs": {"name": "teal_00001_.safetensors [output]"}},
        "3": {"class_type": "VitrailVQDecode", "inputs": decode},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "picture"}},
    }
    seen: list[Path] = []
    for name, prompt in (("save", save), ("load", load)):
        (tmp_path / f"{name}.json").write_text(json.dumps(prompt))
        run_workflow(tmp_path / f"{name}.json", output=tmp_path / "out", inputs=[tmp_path], on_write=seen.append)
    assert [path.name for path in seen] == ["teal_00001_.safetensors", "picture_00001_.png"]
    with Image.open(seen[1]) as made:
        assert made.size == (20, 12)
    (tmp_path / "load.json").write_text(json.dumps(load).replace("teal_00001_.s", "none.s"))
    with pytest.raises(WorkflowError, match=r"VitrailLoadCodes #2: no file 'none.safetensors'"):
        run_workflow(tmp_path / "load.json", output=tmp_path / "out", inputs=[tmp_path])


def test_the_list_of_files_is_the_hosts_alone() -> None:
    (names, _) = NODE_CLASS_MAPPINGS["VitrailLoadCodes"].INPUT_TYPES()["required"]["name"]
    assert names == []
