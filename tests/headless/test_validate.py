"""What is wrong with a prompt is said in one line before anything runs."""

from pathlib import Path
from typing import Any

import pytest
from fakes import fake_classes

from vitrail.core.errors import WorkflowError
from vitrail.headless.prompt import from_api
from vitrail.headless.validate import check, fits

CLASSES = fake_classes()


def prompt(**changes: Any) -> dict[str, Any]:
    """Loader -> Sampler -> Sink in the API format; `changes` are inputs of the sampler, None leaves one out."""
    inputs = {"model": ["1", 0], "cfg": 2.0, "seed": 3, "solver": "euler", **changes}
    return {
        "1": {"class_type": "Loader", "inputs": {"name": "vitrail-1"}},
        "2": {"class_type": "Sampler", "inputs": {name: value for name, value in inputs.items() if value is not None}},
        "3": {"class_type": "Sink", "inputs": {"source": ["2", 0]}},
    }


def refusal(data: dict[str, Any], classes: dict[str, Any] = CLASSES) -> str:
    with pytest.raises(WorkflowError) as caught:
        check(from_api(data), classes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_sound_prompt_gives_an_order_with_inputs_first() -> None:
    assert check(from_api(prompt()), CLASSES) == ["1", "2", "3"]


def test_what_no_output_needs_is_not_run() -> None:
    data = {**prompt(), "9": {"class_type": "Number", "inputs": {"value": "no number"}}}
    assert "9" not in check(from_api(data), CLASSES)


def test_long_chains_need_no_deep_stack() -> None:
    count = 5000
    data: dict[str, Any] = {"0": {"class_type": "Number", "inputs": {"value": 0}}}
    for i in range(1, count):
        data[str(i)] = {"class_type": "Add", "inputs": {"a": [str(i - 1), 0], "b": ["0", 0], "bias": 0}}
    data["end"] = {"class_type": "Sink", "inputs": {"source": [str(count - 1), 0]}}
    assert check(from_api(data), CLASSES)[0] == "0"


def test_unknown_nodes() -> None:
    assert "KSampler #4" in refusal({**prompt(), "4": {"class_type": "KSampler", "inputs": {}}})


def test_no_output_node() -> None:
    assert "no output node" in refusal({"1": {"class_type": "Number", "inputs": {"value": 1}}})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": None}, "Sampler #2: input model (MODEL) is missing"),
        ({"solver": None}, "Sampler #2: input solver (COMBO) is missing"),
        ({"model": ["9", 0]}, "linked to node 9: no such node"),
        ({"model": ["1", 1]}, "output 1 of Loader #1, which has 1"),
        ({"model": ["2", 0]}, "cycle: Sampler #2 -> Sampler #2"),
        ({"solver": ["1", 0]}, "takes COMBO, but Loader #1 gives MODEL"),
        ({"seed": "often"}, "seed is 'often', expected INT"),
        ({"seed": -1}, "seed is -1, outside 0 to"),
        ({"cfg": 31}, "cfg is 31.0, outside 0.0 to 30.0"),
        ({"cfg": "nan"}, "cfg is nan, outside"),
        ({"cfg": {"a": 1}}, "cfg is {'a': 1}, expected FLOAT"),
        ({"solver": "eular"}, "solver is 'eular', not one of euler, heun, fixed"),
    ],
)
def test_refusals(changes: dict[str, Any], words: str) -> None:
    assert words in refusal(prompt(**changes))


def test_a_longer_cycle_is_drawn_along_the_links() -> None:
    data = prompt()
    for node_id, source in (("4", "5"), ("5", "6"), ("6", "4")):
        data[node_id] = {"class_type": "Add", "inputs": {"a": [source, 0], "b": [source, 0], "bias": 0}}
    data["3"]["inputs"]["source"] = ["4", 0]
    assert "cycle: Add #4 -> Add #6 -> Add #5 -> Add #4" in refusal(data)


def test_a_long_list_of_choices_names_the_nearest() -> None:
    class Many:
        RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "execute", True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"name": ([f"model-{i}" for i in range(50)],)}}

    text = refusal({"1": {"class_type": "Many", "inputs": {"name": "model 7"}}}, {"Many": Many})
    assert "its 50 choices" in text and "model-7" in text


def test_a_choice_of_files_may_be_a_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    data = prompt()
    data["1"]["inputs"]["name"] = str(file)
    assert "mine.safetensors" in refusal(data)
    file.touch()
    assert check(from_api(data), CLASSES)[0] == "1"


@pytest.mark.parametrize(
    ("changes", "name", "want"),
    [
        ({"seed": "12"}, "seed", 12),
        ({"seed": 2**64 - 1}, "seed", 2**64 - 1),
        ({"cfg": "3.5"}, "cfg", 3.5),
        ({"cfg": 4}, "cfg", 4.0),
        ({"add_noise": "false"}, "add_noise", False),
        ({"add_noise": 1}, "add_noise", True),
        ({"note": 5}, "note", "5"),
    ],
)
def test_values_become_what_the_node_asks_for(changes: dict[str, Any], name: str, want: Any) -> None:
    checked = from_api(prompt(**changes))
    check(checked, CLASSES)
    got = checked["2"].inputs[name]
    assert got == want and type(got) is type(want)


def test_an_input_that_the_node_does_not_have_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    checked = from_api(prompt(sed=5))
    check(checked, CLASSES)
    assert "sed" not in checked["2"].inputs and "Sampler #2 has no input sed" in caplog.text


def test_a_node_may_judge_its_own_values() -> None:
    class Judge:
        RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "execute", True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"name": (["a"],), "size": ("INT", {"min": 0})}, "hidden": {"limit": "LIMIT"}}

        @classmethod
        def VALIDATE_INPUTS(cls, name: str, limit: int) -> bool | str:
            return len(name) <= limit or f"{name} is too long"

    data = {"1": {"class_type": "Judge", "inputs": {"name": "anything", "size": 1}}}
    assert check(from_api(data), {"Judge": Judge}, {"LIMIT": 8}) == ["1"]
    with pytest.raises(WorkflowError, match="Judge #1: anything is too long"):
        check(from_api(data), {"Judge": Judge}, {"LIMIT": 7})
    data["1"]["inputs"]["size"] = -1
    with pytest.raises(WorkflowError, match="size is -1"):
        check(from_api(data), {"Judge": Judge}, {"LIMIT": 8})


@pytest.mark.parametrize(
    ("given", "wanted", "fit"),
    [
        ("IMAGE", "IMAGE", True),
        ("IMAGE", "*", True),
        ("*", "IMAGE", True),
        ("IMAGE", "MASK", False),
        ("INT", "FLOAT", False),
        ("UPSCALE_MODEL", "GAN_REFINER,UPSCALE_MODEL", True),
        ("MASK,IMAGE", "LATENT, IMAGE", True),
    ],
)
def test_types_that_fit(given: str, wanted: str, fit: bool) -> None:
    assert fits(given, wanted) is fit


@pytest.mark.parametrize("data", [{"1": {"inputs": {}}}, {"1": []}, {"1": {"class_type": "Sink", "inputs": []}},
                                  {"1": {"class_type": "Sink", "inputs": {"source": [1, 2, 3]}}},
                                  {"1": {"class_type": "Sink", "inputs": {"source": ["1", "0"]}}}])  # fmt: skip
def test_what_is_no_prompt(data: Any) -> None:
    with pytest.raises(WorkflowError):
        check(from_api(data), CLASSES)
