"""The example workflows: tidy on the canvas, in step with the nodes, and they run."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitrail.headless.flatten import NOTES, to_prompt
from vitrail.headless.graph import read_graph
from vitrail.headless.inputs import CONTROLS, inputs_of
from vitrail.headless.run import all_classes, run_workflow

FOLDER = Path(__file__).resolve().parent.parent / "example_workflows"
EXAMPLES = sorted(FOLDER.glob("*.json"))
WRITTEN = {
    "prompt-to-picture": 8,
    "picture-to-codes": 5,
    "enlarge": 2,
    "inpaint": 4,
    "edit-codes": 7,
    "interpolation": 10,
    "style-grid": 24,
    "compare-solvers": 10,
}
"""Files that each one writes."""

TITLE = 30
"""Height of a node's title, which stands above its position."""

CLASSES = all_classes()


@pytest.fixture(params=EXAMPLES, ids=lambda path: path.stem)
def example(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def data(example: Path) -> dict[str, Any]:
    return json.loads(example.read_text(encoding="utf-8"))


def test_every_example_is_counted() -> None:
    assert {path.stem for path in EXAMPLES} == set(WRITTEN)


def test_no_node_lies_on_another(data: dict[str, Any]) -> None:
    boxes = [(*node["pos"], *node["size"], node["type"]) for node in data["nodes"]]
    for (x, y, wide, high, one), (left, top, width, height, other) in combinations(boxes, 2):
        apart = x + wide <= left or left + width <= x or y + high <= top - TITLE or top + height <= y - TITLE
        assert apart, f"{one} lies on {other}"


def test_every_line_has_both_ends(data: dict[str, Any]) -> None:
    nodes = {node["id"]: node for node in data["nodes"]}
    for link, origin, origin_slot, target, target_slot, kind in data["links"]:
        start, end = nodes[origin]["outputs"][origin_slot], nodes[target]["inputs"][target_slot]
        assert link in start["links"] and end["link"] == link
        assert start["type"] == kind and kind in end["type"].split(",")
    ends = [slot["link"] for node in data["nodes"] for slot in node["inputs"] if slot["link"] is not None]
    assert sorted(ends) == sorted(line[0] for line in data["links"])


def test_slots_and_values_are_those_of_the_nodes(data: dict[str, Any]) -> None:
    """So that the page shows them as saved, without guessing."""
    for node in data["nodes"]:
        if node["type"] in NOTES:
            continue
        node_class = CLASSES[node["type"]]
        inputs = inputs_of(node_class).values()
        sockets = [item for item in inputs if not item.is_widget]
        wired = [item for item in inputs if item.is_widget and item.name in {slot["name"] for slot in node["inputs"]}]
        assert [(slot["name"], slot["type"]) for slot in node["inputs"]] == [
            (item.name, item.kind) for item in (*sockets, *wired)
        ]
        assert [slot.get("widget") for slot in node["inputs"]] == [None] * len(sockets) + [
            {"name": item.name} for item in wired
        ]
        assert [slot["type"] for slot in node["outputs"]] == list(node_class.RETURN_TYPES)
        values = iter(node["widgets_values"])
        for item in inputs:
            if item.is_widget:
                value = next(values)
                assert item.kind != "COMBO" or not item.choices or value in item.choices or "vitrail-" in value
                assert not item.has_control or next(values) in CONTROLS
        assert list(values) == (["image"] if node["type"] in ("LoadImage", "LoadImageMask") else [])


def test_it_becomes_a_prompt_with_every_line(data: dict[str, Any]) -> None:
    prompt = to_prompt(data, CLASSES)
    assert sum(len(node.links) for node in prompt.values()) == len(data["links"])
    assert len(read_graph(data)[0].nodes) == len(data["nodes"])


def test_every_picture_it_loads_is_here(data: dict[str, Any]) -> None:
    loaders = [node for node in data["nodes"] if node["type"] in ("LoadImage", "LoadImageMask")]
    assert all((FOLDER / node["widgets_values"][0]).is_file() for node in loaders)


def test_it_has_a_picture_for_the_template_browser(example: Path) -> None:
    with Image.open(example.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG" and min(picture.size) >= 256


@pytest.mark.slow
def test_it_runs(example: Path, tmp_path: Path) -> None:
    written = run_workflow(example, output=tmp_path, inputs=[FOLDER])
    assert len(written) == WRITTEN[example.stem]
    for path in (path for path in written if path.suffix == ".png"):
        with Image.open(path) as picture:
            low, high = zip(*picture.convert("RGB").getextrema(), strict=True)
            assert max(high) - min(low) > 64, f"{path.name} is all of one colour"
