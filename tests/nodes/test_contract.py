"""What saved workflows depend on: ids, inputs in order, types, defaults, ranges and outputs never change.

contract.json is the record. Additions are allowed only where they break no workflow: new nodes, new values at the end
of a list, new optional inputs behind the others, new outputs at the end. After such a one: `python test_contract.py`
writes the record anew.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from vitrail.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

CONTRACT = Path(__file__).with_name("contract.json")
FILES = {"name", "config"}
"""Combos that list files: their values are the machine's."""

NODES = list(NODE_CLASS_MAPPINGS.items())
PUBLIC = "id,node"


def described(node: Any) -> dict[str, Any]:
    types = node.INPUT_TYPES()
    return {
        "title": node.TITLE,
        "output_node": node.OUTPUT_NODE,
        "inputs": [
            described_input(name, group, *spec)
            for group in ("required", "optional")
            for name, spec in types.get(group, {}).items()
        ],
        "outputs": [list(pair) for pair in zip(node.RETURN_NAMES, node.RETURN_TYPES, strict=True)],
    }


def described_input(name: str, group: str, kind: Any, options: dict[str, Any]) -> dict[str, Any]:
    kept = {key: options[key] for key in ("default", "min", "max", "control_after_generate") if key in options}
    if name in FILES:
        return {"name": name, "group": group, "type": "COMBO", "values": "files"} | kept
    values = {"values": kind} if isinstance(kind, list) else {}
    return {"name": name, "group": group, "type": "COMBO" if values else kind} | values | kept


def is_widget(item: dict[str, Any]) -> bool:
    return item["type"] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


RECORD: dict[str, Any] = json.loads(CONTRACT.read_text(encoding="utf-8")) if CONTRACT.exists() else {}


@pytest.mark.parametrize("name", RECORD)
def test_the_contract_is_kept(name: str) -> None:
    kept, found = RECORD[name], described(NODE_CLASS_MAPPINGS[name])
    assert (found["title"], found["output_node"]) == (kept["title"], kept["output_node"])
    assert found["outputs"][: len(kept["outputs"])] == kept["outputs"]
    now = {item["name"]: item for item in found["inputs"]}
    for item in kept["inputs"]:
        values = item.get("values")
        same = {**now[item["name"]]}
        if isinstance(values, list):
            same["values"] = same["values"][: len(values)]
        assert same == item
    widgets = [item["name"] for item in found["inputs"] if is_widget(item)]
    recorded = [item["name"] for item in kept["inputs"] if is_widget(item)]
    assert widgets[: len(recorded)] == recorded
    new = [item for item in found["inputs"] if item["name"] not in {item["name"] for item in kept["inputs"]}]
    assert all(item["group"] == "optional" for item in new), "a new input must be optional: saved prompts have none"


def test_every_node_is_recorded() -> None:
    assert {name: described(node) for name, node in NODES} == RECORD, f"run {Path(__file__).name} to record what is new"


def test_the_nodes_are_the_public_ones() -> None:
    loaders = ("Autoencoder", "Diffusion", "Refiner", "Prior")
    samplers = ("EmptyLatent", "NoiseScheduler", "Sampler", "Solver")
    codes = ("VQEncode", "VQDecode", "CodebookInspect", "CodesToLatent", "LatentToCodes", "EditCodes", "SaveCodes")
    conditions = ("TextEncode", "ClassCondition", "ConcatCondition", "PriorCondition")
    others = ("LoadCodes", "GANRefine", "SampleCodes")
    names = {*(f"Load{name}" for name in loaders), *codes, *conditions, *samplers, *others}
    assert {f"Vitrail{name}" for name in names} <= set(NODE_CLASS_MAPPINGS)
    assert all(name.startswith("Vitrail") for name in NODE_CLASS_MAPPINGS)
    assert set(NODE_DISPLAY_NAME_MAPPINGS) == set(NODE_CLASS_MAPPINGS)


@pytest.mark.parametrize(PUBLIC, NODES)
def test_every_part_of_a_node_is_explained(id: str, node: Any) -> None:
    assert id == node.ID and node.FUNCTION == "execute" and node.CATEGORY.startswith("Vitrail/")
    assert node.DESCRIPTION and node.SEARCH_ALIASES and node.__doc__
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(node.OUTPUT_TOOLTIPS)
    for name, (_, options) in inputs(node).items():
        assert len(options["tooltip"]) > 10, name


@pytest.mark.parametrize(PUBLIC, NODES)
def test_outputs_have_names_of_their_own(id: str, node: Any) -> None:
    assert all(name == name.lower() for name in node.RETURN_NAMES)
    assert not set(node.RETURN_NAMES) & set(inputs(node))


@pytest.mark.parametrize(PUBLIC, NODES)
def test_sockets_come_before_widgets(id: str, node: Any) -> None:
    """In each group, so that the page shows them in the order of the class."""
    for group in groups(node):
        flags = [is_widget(described_input(name, "", *spec)) for name, spec in group.items()]
        assert flags == sorted(flags)


@pytest.mark.parametrize(PUBLIC, NODES)
def test_execute_takes_what_is_declared(id: str, node: Any) -> None:
    parameters = inspect.signature(node.execute).parameters
    types = node.INPUT_TYPES()
    hidden = types.get("hidden", {}).keys()
    assert set(parameters) - {"self"} == set(inputs(node)) | hidden
    optional = {name for name, parameter in parameters.items() if parameter.default is not parameter.empty}
    assert optional == types.get("optional", {}).keys() | hidden


@pytest.mark.parametrize(PUBLIC, NODES)
def test_defaults_are_allowed(id: str, node: Any) -> None:
    for name, (kind, options) in inputs(node).items():
        if isinstance(kind, list) and "default" in options:
            assert options["default"] in kind, name
        if kind in ("INT", "FLOAT"):
            assert options["min"] <= options["default"] <= options["max"], name


def inputs(node: Any) -> dict[str, Any]:
    return {name: spec for group in groups(node) for name, spec in group.items()}


def groups(node: Any) -> list[dict[str, Any]]:
    types = node.INPUT_TYPES()
    return [types[name] for name in ("required", "optional") if name in types]


if __name__ == "__main__":
    record = {name: described(node) for name, node in NODES}
    CONTRACT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
