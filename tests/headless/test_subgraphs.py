"""Subgraphs of the saved graph: opened, with the values that their boxes have for what is inside."""

from typing import Any

import pytest
from fakes import Canvas, fake_classes

from vitrail.core.errors import WorkflowError
from vitrail.headless.flatten import to_prompt
from vitrail.headless.prompt import Link

CLASSES = fake_classes()


def flat(canvas: Canvas) -> dict[str, dict[str, Any]]:
    return {node_id: node.inputs for node_id, node in to_prompt(canvas.data(), CLASSES).items()}


def doubling() -> Canvas:
    """Inputs x and bias; the output is x + x + bias."""
    inside = Canvas(objects=True).node(7, "Add", [5], inputs="a:INT b:INT bias!:INT", outputs="INT")
    return inside.enter(0, 7, "a").enter(0, 7, "b").enter(1, 7, "bias").leave(7, 0, 0)


def with_doubling(**box: Any) -> Canvas:
    """1 -> a box (2) of the subgraph -> 3."""
    canvas = Canvas().subgraph("double", doubling(), inputs="x:INT bias:INT", outputs="sum:INT")
    canvas.node(1, "Number", [7], outputs="INT").node(3, "Sink", inputs="source:*")
    canvas.node(2, "double", **{"inputs": "x:INT bias!:INT", "outputs": "sum:INT", **box})
    return canvas.link(1, 0, 2, "x").link(2, 0, 3, "source")


def test_lines_go_in_and_out() -> None:
    assert flat(with_doubling()) == {
        "1": {"value": 7},
        "2:7": {"a": Link("1", 0), "b": Link("1", 0), "bias": 5},
        "3": {"source": Link("2:7", 0)},
    }


def test_a_value_of_the_box_replaces_the_one_inside() -> None:
    assert flat(with_doubling(values=[40]))["2:7"]["bias"] == 40


def test_a_box_that_stores_no_slot_for_its_widget_still_has_its_value() -> None:
    assert flat(with_doubling(values=[40], inputs="x:INT"))["2:7"]["bias"] == 40


def test_a_line_into_the_box_replaces_its_value() -> None:
    canvas = with_doubling(values=[40])
    assert flat(canvas.link(1, 0, 2, "bias"))["2:7"]["bias"] == Link("1", 0)


def test_a_primitive_reaches_a_widget_inside() -> None:
    canvas = with_doubling(values=[40]).node(9, "PrimitiveNode", [11, "fixed"], outputs="INT")
    assert flat(canvas.link(9, 0, 2, "bias"))["2:7"]["bias"] == 11


@pytest.mark.parametrize("stored", [[["-1", "bias"]], '[["-1", "bias"]]'], ids=["list", "text"])
def test_listed_widgets_may_name_an_input(stored: Any) -> None:
    canvas = with_doubling(values=[40], properties={"proxyWidgets": stored})
    assert flat(canvas)["2:7"]["bias"] == 40


def test_listed_widgets_of_inner_nodes() -> None:
    inside = Canvas(objects=True).node(7, "Sampler", [1.0, 5, "fixed", "euler"], inputs="model:MODEL", outputs="STRING")
    canvas = Canvas().subgraph(
        "hidden", inside.enter(0, 7, "model").leave(7, 0, 0), inputs="model:MODEL", outputs="s:STRING"
    )
    listed = {"proxyWidgets": [["7", "seed"], ["7", "cfg"]]}
    canvas.node(2, "hidden", [99, None], inputs="model:MODEL", outputs="s:STRING", properties=listed)
    found = flat(canvas)["2:7"]
    assert (found["seed"], found["cfg"]) == (99, 1.0), "an empty place means the value inside"


def test_two_boxes_of_one_subgraph_do_not_mix() -> None:
    canvas = with_doubling(values=[40]).node(4, "double", [50], inputs="x:INT bias!:INT", outputs="sum:INT")
    found = flat(canvas.link(2, 0, 4, "x"))
    assert (found["2:7"]["bias"], found["4:7"]["bias"]) == (40, 50)
    assert found["4:7"]["a"] == Link("2:7", 0)


def test_subgraphs_within_subgraphs() -> None:
    outer = Canvas(objects=True).node(5, "double", [60], inputs="x:INT bias!:INT", outputs="sum:INT")
    outer.enter(0, 5, "x").enter(1, 5, "bias").leave(5, 0, 0)
    canvas = Canvas().subgraph("double", doubling(), inputs="x:INT bias:INT", outputs="sum:INT")
    canvas.subgraph("outer", outer, inputs="x:INT bias:INT", outputs="sum:INT")
    canvas.node(1, "Number", [7], outputs="INT").node(3, "Sink", inputs="source:*")
    canvas.node(2, "outer", [70], inputs="x:INT", outputs="sum:INT").link(1, 0, 2, "x").link(2, 0, 3, "source")
    found = flat(canvas)
    assert found["2:5:7"] == {"a": Link("1", 0), "b": Link("1", 0), "bias": 70}
    assert found["3"] == {"source": Link("2:5:7", 0)}
    canvas.nodes[2]["widgets_values"] = []
    assert flat(canvas)["2:5:7"]["bias"] == 60, "without a value of its own the outer box shows the inner one's"


def test_a_listed_widget_of_an_inner_box() -> None:
    outer = Canvas(objects=True).node(5, "double", [60], inputs="x:INT bias!:INT", outputs="sum:INT")
    outer.enter(0, 5, "x").leave(5, 0, 0)
    canvas = Canvas().subgraph("double", doubling(), inputs="x:INT bias:INT", outputs="sum:INT")
    canvas.subgraph("outer", outer, inputs="x:INT", outputs="sum:INT")
    canvas.node(2, "outer", [80], inputs="x:INT", outputs="sum:INT", properties={"proxyWidgets": [["5", "bias"]]})
    assert flat(canvas)["2:5:7"]["bias"] == 80


def test_a_bypassed_box_hands_its_input_on() -> None:
    assert flat(with_doubling(mode=4)) == {"1": {"value": 7}, "3": {"source": Link("1", 0)}}


def test_a_muted_box_takes_its_inside_with_it() -> None:
    assert flat(with_doubling(mode=2)) == {"1": {"value": 7}, "3": {}}


def test_a_bypassed_node_inside_hands_on_what_comes_from_outside() -> None:
    canvas = with_doubling()
    canvas.subgraphs[0]["nodes"][0]["mode"] = 4
    assert flat(canvas) == {"1": {"value": 7}, "3": {"source": Link("1", 0)}}


def test_a_line_straight_through_a_subgraph() -> None:
    inside = Canvas(objects=True)
    inside.links.append(
        {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "INT"}
    )
    canvas = Canvas().subgraph("through", inside, inputs="x:INT", outputs="y:INT")
    canvas.node(1, "Number", [7], outputs="INT").node(3, "Sink", inputs="source:*")
    canvas.node(2, "through", inputs="x:INT", outputs="y:INT").link(1, 0, 2, "x").link(2, 0, 3, "source")
    assert flat(canvas) == {"1": {"value": 7}, "3": {"source": Link("1", 0)}}


def test_a_subgraph_that_contains_itself_is_an_error() -> None:
    inside = Canvas(objects=True).node(1, "endless")
    with pytest.raises(WorkflowError, match="contains itself"):
        flat(Canvas().subgraph("endless", inside).node(1, "endless"))


def test_an_unknown_node_inside_is_named_by_its_path() -> None:
    with pytest.raises(WorkflowError, match="Magic #2:7"):
        flat(Canvas().subgraph("s", Canvas(objects=True).node(7, "Magic")).node(2, "s"))
