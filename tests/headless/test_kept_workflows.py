"""Workflows that people saved with earlier releases: they mean what they meant, and they run.

`recipes/keep_workflows.py` adds the examples of a release.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from vitrail.headless.files import Files
from vitrail.headless.flatten import to_prompt
from vitrail.headless.prompt import from_api, to_api
from vitrail.headless.run import all_classes, run_workflow
from vitrail.headless.validate import check
from vitrail.nodes.host_data import FILES

TESTS = Path(__file__).resolve().parent.parent
EXAMPLES = TESTS.parent / "example_workflows"
PROMPTS = sorted((TESTS / "workflows").glob("*/*.prompt.json"))
CLASSES = all_classes()


@pytest.fixture(params=PROMPTS, ids=lambda path: f"{path.parent.name}-{path.name.partition('.')[0]}")
def kept(request: pytest.FixtureRequest) -> Path:
    return request.param


def graph_of(prompt: Path) -> Path:
    return prompt.with_name(prompt.name.replace(".prompt.json", ".json"))


def test_there_are_some() -> None:
    assert len(PROMPTS) >= 8


def test_a_saved_graph_still_means_the_same(kept: Path) -> None:
    """Every value goes to the input that it went to, and inputs that came later take their defaults."""
    graph = json.loads(graph_of(kept).read_text(encoding="utf-8"))
    now, then = to_api(to_prompt(graph, CLASSES)), json.loads(kept.read_text(encoding="utf-8"))
    assert now.keys() == then.keys()
    for node_id, node in then.items():
        assert now[node_id]["class_type"] == node["class_type"]
        assert node["inputs"].items() <= now[node_id]["inputs"].items(), node["class_type"]


def test_a_saved_prompt_is_still_sound(kept: Path, tmp_path: Path) -> None:
    data: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    assert check(from_api(data), CLASSES, {FILES: Files(output=tmp_path, inputs=[EXAMPLES])})


@pytest.mark.slow
def test_it_still_runs(kept: Path, tmp_path: Path) -> None:
    assert run_workflow(graph_of(kept), output=tmp_path, inputs=[EXAMPLES])
