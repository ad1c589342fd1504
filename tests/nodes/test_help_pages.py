"""The help pages that the host shows for each node, by its id."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitrail.nodes import NODE_CLASS_MAPPINGS

PAGES = Path(__file__).parents[2] / "web" / "docs"


def page_of(node: Any) -> str:
    return (PAGES / node.ID / "en.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS.values(), ids=NODE_CLASS_MAPPINGS)
def test_every_node_has_a_page_under_its_title(node: Any) -> None:
    assert page_of(node).startswith(f"# {node.TITLE}\n")


@pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS.values(), ids=NODE_CLASS_MAPPINGS)
def test_a_page_names_only_inputs_and_outputs_that_exist(node: Any) -> None:
    known = {name for group in node.INPUT_TYPES().values() for name in group} | set(node.RETURN_NAMES)
    assert set(re.findall(r"\*\*(\w+)\*\*", page_of(node))) <= known


@pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS.values(), ids=NODE_CLASS_MAPPINGS)
def test_a_page_lists_the_values_of_a_table_that_begins_with_an_input(node: Any) -> None:
    """A table headed by the name of a combo explains every value of that combo."""
    inputs = {name: spec for group in node.INPUT_TYPES().values() for name, spec in group.items()}
    for head, rows in re.findall(r"^\| (\w+) \|.*\n\|[-|]+\n((?:\|.*\n)+)", page_of(node), flags=re.MULTILINE):
        if isinstance(inputs.get(head, (None,))[0], list):
            listed = {value.strip() for row in rows.splitlines() for value in row.split("|")[1].split(",")}
            assert listed == set(inputs[head][0])


@pytest.mark.parametrize("language", ("en", "zh"))
@pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS)
def test_a_page_shows_a_picture_of_its_node(node: str, language: str) -> None:
    """The host puts the pack's docs folder, not the node's, before a relative link."""
    text = (PAGES / node / f"{language}.md").read_text(encoding="utf-8")
    assert re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text) == [f"{node}/node.png"]


@pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS)
def test_a_picture_is_a_small_png_and_the_nodes_own(node: str) -> None:
    path = PAGES / node / "node.png"
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG" and 300 <= picture.width <= 640 and picture.height <= 640
        assert len(picture.getcolors()) > 16, "an empty page has few colours"
    assert path.stat().st_size <= 40_000
    others = [each for each in PAGES.glob("*/node.png") if each != path]
    assert path.read_bytes() not in [each.read_bytes() for each in others]


def test_all_pictures_together_are_below_a_megabyte() -> None:
    assert sum(each.stat().st_size for each in PAGES.glob("*/node.png")) <= 1_000_000


def test_no_page_is_left_over() -> None:
    assert {folder.name for folder in PAGES.iterdir()} == set(NODE_CLASS_MAPPINGS)
