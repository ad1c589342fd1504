"""The help pages that the host shows for each node, by its id."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

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


def test_no_page_is_left_over() -> None:
    assert {folder.name for folder in PAGES.iterdir()} == set(NODE_CLASS_MAPPINGS)
