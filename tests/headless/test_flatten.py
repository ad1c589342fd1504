"""The UI's saved graph to a prompt."""

from typing import Any

import pytest
from fakes import Canvas, fake_classes

from vitrail.core.errors import WorkflowError
from vitrail.headless.flatten import to_prompt
from vitrail.headless.prompt import Link, from_api, to_api

CLASSES = fake_classes()


def flat(canvas: Canvas) -> dict[str, dict[str, Any]]:
    return {node_id: node.inputs for node_id, node in to_prompt(canvas.data(), CLASSES).items()}


def test_links_and_widgets_become_named_inputs() -> None:
    canvas = Canvas().node(1, "Number", [7], outputs="INT").node(2, "Add", [5], inputs="a:INT b:INT", outputs="INT")
    canvas.link(1, 0, 2, "a").link(1, 0, 2, "b")
    assert flat(canvas) == {"1": {"value": 7}, "2": {"a": Link("1", 0), "b": Link("1", 0), "bias": 5}}


def test_links_may_be_objects() -> None:
    canvas = Canvas(objects=True).node(1, "Number", [7], outputs="INT").node(2, "Add", [5], inputs="a:INT b:INT")
    assert flat(canvas.link(1, 0, 2, "b"))["2"] == {"b": Link("1", 0), "bias": 5}


def test_the_value_behind_a_seed_is_skipped() -> None:
    canvas = Canvas().node(1, "Sampler", [3.5, 42, "randomize", "euler", False, "mine"], inputs="model:MODEL mask:MASK")
    assert flat(canvas)["1"] == {"cfg": 3.5, "seed": 42, "solver": "euler", "add_noise": False, "note": "mine"}


def test_a_seed_without_its_second_value_is_read_too() -> None:
    canvas = Canvas().node(1, "Sampler", [3.5, 42, "heun"], inputs="model:MODEL")
    assert flat(canvas)["1"] == {"cfg": 3.5, "seed": 42, "solver": "heun", "add_noise": True, "note": "none"}


def test_values_by_name() -> None:
    canvas = Canvas().node(1, "Sampler", {"seed": 9, "solver": "euler"}, inputs="model:MODEL")
    assert flat(canvas)["1"] == {"cfg": 2.0, "seed": 9, "solver": "euler", "add_noise": True, "note": "none"}


def test_a_widget_turned_into_an_input_keeps_its_place_in_the_values() -> None:
    canvas = Canvas().node(1, "Number", [9], outputs="INT")
    canvas.node(2, "Sampler", [1.5, 42, "fixed", "euler"], inputs="model:MODEL seed!:INT").link(1, 0, 2, "seed")
    assert flat(canvas)["2"] == {"cfg": 1.5, "seed": Link("1", 0), "solver": "euler", "add_noise": True, "note": "none"}


def test_the_value_of_an_upload_button_is_skipped() -> None:
    class Upload:
        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            image = (["a.png"], {"image_upload": True})
            return {"required": {"image": image, "channel": (["red", "green"],)}, "optional": {"after": ("INT", {})}}

    canvas = Canvas().node(1, "Upload", ["b.png", "green", "image", 4])
    prompt = to_prompt(canvas.data(), {"Upload": Upload})
    assert prompt["1"].inputs == {"image": "b.png", "channel": "green", "after": 4}


@pytest.mark.parametrize("kind", ["Note", "MarkdownNote"])
def test_notes_vanish(kind: str) -> None:
    assert list(flat(Canvas().node(1, kind, ["read me"]).node(2, "Number", [7]))) == ["2"]


def test_reroutes_vanish() -> None:
    canvas = Canvas().node(1, "Number", [7], outputs="INT").node(4, "Sink", inputs="source:*")
    canvas.node(2, "Reroute", inputs="_:*", outputs="_:*").node(3, "Reroute", inputs="_:*", outputs="_:*")
    canvas.link(1, 0, 2, "_").link(2, 0, 3, "_").link(3, 0, 4, "source")
    assert flat(canvas) == {"1": {"value": 7}, "4": {"source": Link("1", 0)}}


def test_a_ring_of_reroutes_is_an_error() -> None:
    canvas = Canvas().node(1, "Sink", inputs="source:*")
    canvas.node(2, "Reroute", inputs="_:*", outputs="_:*").node(3, "Reroute", inputs="_:*", outputs="_:*")
    canvas.link(2, 0, 3, "_").link(3, 0, 2, "_").link(3, 0, 1, "source")
    with pytest.raises(WorkflowError, match="cycle"):
        flat(canvas)


def test_a_primitive_feeds_the_widget_it_is_wired_to() -> None:
    canvas = Canvas().node(1, "PrimitiveNode", [33, "fixed"], outputs="INT")
    canvas.node(2, "Number", [7], inputs="value!:INT", outputs="INT").link(1, 0, 2, "value")
    assert flat(canvas) == {"2": {"value": 33}}


def test_a_primitive_may_go_through_a_reroute() -> None:
    canvas = Canvas().node(1, "PrimitiveNode", [33, "fixed"], outputs="INT")
    canvas.node(2, "Reroute", inputs="_:*", outputs="_:*").node(3, "Number", [7], inputs="value!:INT")
    assert flat(canvas.link(1, 0, 2, "_").link(2, 0, 3, "value")) == {"3": {"value": 33}}


def test_what_a_muted_node_fed_is_missing() -> None:
    canvas = Canvas().node(1, "Number", [7], outputs="INT", mode=2)
    canvas.node(2, "Add", [5], inputs="a:INT b:INT").link(1, 0, 2, "a")
    assert flat(canvas) == {"2": {"bias": 5}}


def test_a_bypassed_node_hands_on_the_input_of_the_same_type() -> None:
    canvas = Canvas().node(1, "Picture", ["cat"], outputs="IMAGE MASK")
    canvas.node(2, "Blur", [3.0], inputs="image:IMAGE mask:MASK", outputs="MASK IMAGE", mode=4)
    canvas.node(3, "Blur", [1.0], inputs="image:IMAGE mask:MASK", outputs="MASK IMAGE")
    canvas.link(1, 0, 2, "image").link(1, 1, 2, "mask").link(2, 1, 3, "image").link(2, 0, 3, "mask")
    assert flat(canvas)["3"] == {"image": Link("1", 0), "mask": Link("1", 1), "radius": 1.0}


def test_bypassing_prefers_the_input_beside_the_output() -> None:
    canvas = Canvas().node(1, "Number", [1], outputs="INT").node(2, "Number", [2], outputs="INT")
    canvas.node(3, "Any", inputs="a:INT b:INT", outputs="x:INT y:INT", mode=4)
    canvas.node(4, "Add", [0], inputs="a:INT b:INT").link(1, 0, 3, "a").link(2, 0, 3, "b")
    canvas.link(3, 0, 4, "a").link(3, 1, 4, "b")
    assert flat(canvas)["4"] == {"a": Link("1", 0), "b": Link("2", 0), "bias": 0}


def test_bypassing_into_an_input_of_any_type_goes_by_the_output() -> None:
    canvas = Canvas().node(1, "Picture", ["cat"], outputs="IMAGE MASK").node(3, "Sink", inputs="source:*")
    canvas.node(2, "Blur", [3.0], inputs="image:IMAGE mask:MASK", outputs="MASK IMAGE", mode=4)
    canvas.link(1, 0, 2, "image").link(1, 1, 2, "mask").link(2, 0, 3, "source")
    assert flat(canvas)["3"] == {"source": Link("1", 1)}


def test_a_bypassed_node_without_a_fitting_input_leaves_the_input_out() -> None:
    canvas = Canvas().node(1, "Loader", ["vitrail-1"], outputs="MODEL", mode=4)
    canvas.node(2, "Sampler", [1.0, 0], inputs="model:MODEL").link(1, 0, 2, "model")
    assert "model" not in flat(canvas)["2"]


def test_unknown_nodes_are_all_named_unless_they_do_not_run() -> None:
    canvas = Canvas().node(1, "KSampler").node(2, "Magic").node(3, "Quiet", mode=2).node(4, "Away", mode=4)
    with pytest.raises(WorkflowError, match="KSampler #1, Magic #2") as caught:
        flat(canvas)
    assert "Quiet" not in str(caught.value) and "Away" not in str(caught.value)


@pytest.mark.parametrize("links", [[[5, 1, 0, 2, 0, "INT"]], []], ids=["from nowhere", "no such link"])
def test_broken_links_are_named(links: list[Any]) -> None:
    data = Canvas().node(2, "Add", [5], inputs="a:INT b:INT").data()
    data["nodes"][0]["inputs"][0]["link"] = 5
    with pytest.raises(WorkflowError, match="link 5"):
        to_prompt({**data, "links": links}, CLASSES)


@pytest.mark.parametrize("nodes", [[{"id": 1}], [7], [{"id": 1, "type": "Number", "inputs": [{}]}], {"1": 2}])
def test_a_damaged_graph_is_one_error(nodes: Any) -> None:
    with pytest.raises(WorkflowError, match="damaged"):
        to_prompt({"nodes": nodes, "links": []}, CLASSES)


def test_the_api_format_survives_a_round_trip() -> None:
    canvas = Canvas().node(1, "Number", [7], outputs="INT").node(2, "Sink", inputs="source:*", title="The end")
    prompt = to_prompt(canvas.link(1, 0, 2, "source").data(), CLASSES)
    prompt["1"].inputs["value"] = [1, 2]
    assert from_api(to_api(prompt)) == {"1": _titled(prompt["1"], "Number"), "2": prompt["2"]}


def _titled(node: Any, title: str) -> Any:
    node.title = title
    return node
