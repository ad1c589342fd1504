"""Captioned folders: what is read, in which order, and how it is described."""

import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitrail.core.errors import ConfigError
from vitrail.core.training.captions import caption, colour_of, vocabulary
from vitrail.core.training.data import Example, Pictures, order, read_examples


def paint(path: Path, colour: str, size: tuple[int, int] = (20, 16), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def test_a_jsonl_gives_texts_styles_and_splits(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", "red")
    line = {"file": "a.png", "text": "red square", "keywords": ["shape"], "style": "flat", "split": "held-out"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(line))
    (example,) = read_examples(tmp_path)
    assert (example.text, example.keywords, example.style, example.split) == (
        "red square",
        ("shape",),
        "flat",
        "held-out",
    )


def test_text_files_beside_pictures_are_their_captions(tmp_path: Path) -> None:
    paint(tmp_path / "b" / "x.png", "red")
    paint(tmp_path / "a.jpg", "blue")
    (tmp_path / "b" / "x.txt").write_text("a red square\n")
    assert [(e.path.name, e.text) for e in read_examples(tmp_path)] == [("a.jpg", ""), ("x.png", "a red square")]


@pytest.mark.parametrize(
    "line", ['{"text": "no file"}', "not json", '["list"]', '{"file": "missing.png"}'], ids=lambda line: line[:10]
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    paint(tmp_path / "a.png", "red")
    (tmp_path / "captions.jsonl").write_text('{"file": "a.png"}\n' + line)
    with pytest.raises(ConfigError, match="line 2"):
        read_examples(tmp_path)


def test_an_empty_folder_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="captions.jsonl"):
        read_examples(tmp_path)


def test_pictures_are_square_on_white_and_in_range(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", "#ff000000", (30, 20), "RGBA")
    pictures = Pictures([Example(path=tmp_path / "a.png")], 8)
    assert pictures.batch([0, 0]).shape == (2, 3, 8, 8)
    assert torch.equal(pictures.batch([0]), torch.ones(1, 3, 8, 8))


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ConfigError, match="a.png"):
        Pictures([Example(path=tmp_path / "a.png")], 8)[0]


@given(st.integers(1, 30), st.integers(0, 5), st.integers(0, 100), st.integers(1, 40))
def test_order_is_counted_and_every_epoch_shows_each_picture_once(count: int, seed: int, start: int, size: int) -> None:
    whole = order(count, seed, 0, start + size)
    assert order(count, seed, start, size) == whole[start:]
    full = whole[: len(whole) // count * count]
    assert all(sorted(full[i : i + count]) == list(range(count)) for i in range(0, len(full), count))


def test_captions_hold_only_words_of_the_example() -> None:
    example = Example(path=Path("a"), text="red apple", keywords=("fruit", "food", "healthy"))
    chance = random.Random(0)
    made = [caption(example, chance) for _ in range(200)]
    allowed = {"red", "apple", *example.keywords}
    assert all(text and set(text.split()) <= allowed for text in made)
    assert 20 < sum("apple" not in text for text in made) < 100  # three in ten by keywords alone
    assert caption(example, chance, "blue").startswith("blue ")


def test_the_vocabulary_leaves_out_keywords_of_a_single_subject() -> None:
    examples = [
        Example(path=Path("a"), text="red apple", keywords=("fruit", "core")),
        Example(path=Path("b"), text="pear", keywords=("fruit",)),
    ]
    words = vocabulary(examples)
    assert words == tuple(sorted(words)) and {"red", "apple", "pear", "fruit", "blue"} <= set(words)
    assert "core" not in words


@pytest.mark.parametrize(("rgb", "name"), [((255, 0, 0), "red"), ((30, 60, 250), "blue"), ((10, 180, 10), "green")])
def test_one_coloured_pictures_are_named(rgb: tuple[int, int, int], name: str) -> None:
    x = torch.ones(3, 10, 10)
    x[:, 2:8, 2:8] = torch.tensor(rgb).view(3, 1, 1) / 127.5 - 1
    assert colour_of(x) == name
    assert colour_of(torch.ones(3, 10, 10)) is None
