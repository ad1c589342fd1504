"""`vitrail train` from the command line: what it leaves in its folder, and going on."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import VQConfig
from vitrail.core.checkpoints import save_model
from vitrail.headless.cli import main

CODES = AutoencoderConfig(
    ch=32, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), attn_type="none", resolution=16, z_channels=4,
    embed_dim=4, patch_size=4, bottleneck=VQConfig(codes=16, dim=4),
)  # fmt: skip
RECIPE: dict[str, Any] = {
    "schedule": {"steps": 3, "batch_size": 2, "precision": "fp32"},
    "width": 16, "depth": 1, "heads": 2, "size": 16, "condition": "style",
}  # fmt: skip


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """A prior on three pictures, the last one held out."""
    data = tmp_path / "data"
    data.mkdir()
    lines = []
    for name, split in (("red", "train"), ("green", "train"), ("blue", "test")):
        Image.new("RGB", (16, 16), name).save(data / f"{name}.png")
        lines.append(json.dumps({"file": f"{name}.png", "text": name, "style": "flat", "split": split}))
    (data / "captions.jsonl").write_text("\n".join(lines))
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    torch.manual_seed(0)
    save_model(Autoencoder(CODES), tmp_path / "ae.safetensors")
    files = {
        "--data": data,
        "--config": tmp_path / "recipe.json",
        "--out": tmp_path / "run",
        "--autoencoder": tmp_path / "ae.safetensors",
    }
    return ["prior", *(str(word) for pair in files.items() for word in pair)]


def rows(folder: Path) -> dict[str, set[int]]:
    """The steps at which each loss and figure was written."""
    found: dict[str, set[int]] = {}
    with (folder / "losses.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["loss"], set()).add(int(row["step"]))
    return found


def test_a_prior_is_trained_with_pictures_and_figures(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments]) == 0
    folder = tmp_path / "run"
    assert capsys.readouterr().out.strip() == str(folder / "model.safetensors")
    made = {path.name for path in folder.iterdir()}
    assert made == {"state.pt", "losses.csv", "samples-000003.png", "model.safetensors", "autoencoder.safetensors"}
    assert rows(folder) == {"bits": {1}, "held_out_bits": {3}, "unigram_bits": {3}}
    assert Image.open(folder / "samples-000003.png").size == (12 * 18, 18)


def test_a_finished_prior_goes_on_for_more_steps(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments, "--steps", "2"]) == 0
    assert main(["train", *arguments]) == 2 and "--resume" in capsys.readouterr().err
    assert main(["train", *arguments, "--resume"]) == 0
    assert rows(tmp_path / "run")["held_out_bits"] == {2, 3}


def test_a_word_that_no_recipe_has_is_named(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.json").write_text('{"widht": 16}')
    assert main(["train", *arguments]) == 2
    assert "PriorRecipe has unknown settings widht" in capsys.readouterr().err
