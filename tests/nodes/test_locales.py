"""The nodes' words in other languages (`locales/<language>/nodeDefs.json`), and pages of help that are whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from vitrail.nodes import NODE_CLASS_MAPPINGS

ROOT = Path(__file__).parents[2]
LANGUAGES = sorted(folder.name for folder in (ROOT / "locales").iterdir())
SCRIPT = {"zh": re.compile(r"[\u4e00-\u9fff]")}
"""What a text of a language must hold."""

SECTIONS = {"en": ("typical graph", "common mistake"), "zh": ("典型连接", "常见错误")}
"""What every page of help tells beside the inputs."""

FILES = {language: ROOT / "locales" / language / "nodeDefs.json" for language in LANGUAGES}
WORDS: dict[str, dict[str, Any]] = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in FILES.items()}


def test_there_is_chinese() -> None:
    assert "zh" in LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS.values(), ids=NODE_CLASS_MAPPINGS)
def test_every_word_of_a_node_is_translated(node: Any, language: str) -> None:
    words, script = WORDS[language][node.ID], SCRIPT[language]
    types = node.INPUT_TYPES()
    inputs = [name for group in ("required", "optional") for name in types.get(group, {})]
    assert set(words["inputs"]) == set(inputs)
    assert set(words["outputs"]) == {str(place) for place in range(len(node.RETURN_NAMES))}
    assert words["display_name"] and script.search(words["description"])
    for part in (*words["inputs"].values(), *words["outputs"].values()):
        assert part["name"] and script.search(part["tooltip"])


@pytest.mark.parametrize("language", SECTIONS)
@pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS.values(), ids=NODE_CLASS_MAPPINGS)
def test_every_page_of_help_is_whole(node: Any, language: str) -> None:
    """What the node does, each of its inputs, a typical graph, common mistakes; and no name that it has not."""
    page = (ROOT / "web" / "docs" / node.ID / f"{language}.md").read_text(encoding="utf-8")
    title = node.TITLE if language == "en" else WORDS[language][node.ID]["display_name"]
    assert page.startswith(f"# {title}\n") and all(section in page.lower() for section in SECTIONS[language])
    types, explained = node.INPUT_TYPES(), set(re.findall(r"\*\*([A-Za-z0-9_]+)\*\*", page))
    inputs = {name for group in ("required", "optional") for name in types.get(group, {})}
    assert inputs <= explained <= inputs | set(node.RETURN_NAMES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_left_over(language: str) -> None:
    assert set(WORDS[language]) == set(NODE_CLASS_MAPPINGS)
