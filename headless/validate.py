"""Everything that can be known to be wrong with a prompt before the first node runs."""

import difflib
import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import WorkflowError
from .flatten import unknown_nodes
from .inputs import Input, NodeClass, hidden_of, inputs_of
from .prompt import Link, Prompt, PromptNode, label

log = logging.getLogger(__name__)

LISTED = 12
"""Choices named in a message before it only counts them."""

NUMBERS: dict[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": float}
WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def check(prompt: Prompt, classes: Mapping[str, NodeClass], hidden: Mapping[str, Any] | None = None) -> list[str]:
    """Check a prompt, convert its values to the types that its nodes ask for, and put it in order.

    hidden: what hidden inputs are handed, by their type (for nodes that validate values themselves).
    Returns the ids of the nodes to run: every output node and all it depends on, each behind its inputs.
    Raises: WorkflowError, one line, for an unknown node, no output, a cycle, a missing input, a type that does not
        fit, a value out of its range or not among its choices.
    """
    if unknown := [label(node_id, node) for node_id, node in prompt.items() if node.class_type not in classes]:
        raise WorkflowError(unknown_nodes(unknown))
    outputs = [node_id for node_id, node in prompt.items() if getattr(classes[node.class_type], "OUTPUT_NODE", False)]
    if not outputs:
        raise WorkflowError("the workflow has no output node, such as SaveImage: nothing would come of it")
    order = _order(prompt, classes, outputs)
    for node_id in order:
        _check_node(prompt, classes, node_id, hidden or {})
    return order


def _order(prompt: Prompt, classes: Mapping[str, NodeClass], outputs: list[str]) -> list[str]:
    """Output nodes and their ancestors, each behind what it needs; an explicit stack, for chains of any length."""
    done: dict[str, None] = {}
    for output in outputs:
        trail: dict[str, Iterator[str]] = {output: _needs(prompt, classes, output)} if output not in done else {}
        while trail:
            node_id = next(reversed(trail))
            needed = next((other for other in trail[node_id] if other not in done), None)
            if needed is None:
                done[node_id] = None
                del trail[node_id]
            elif needed in trail:
                ring = [*list(trail)[list(trail).index(needed) :], needed]
                raise WorkflowError("cycle: " + " -> ".join(label(other, prompt[other]) for other in reversed(ring)))
            else:
                trail[needed] = _needs(prompt, classes, needed)
    return list(done)


def _needs(prompt: Prompt, classes: Mapping[str, NodeClass], node_id: str) -> Iterator[str]:
    node = prompt[node_id]
    known = inputs_of(classes[node.class_type])
    for name, link in node.links.items():
        if name in known:
            if link.node not in prompt:
                raise WorkflowError(f"{label(node_id, node)}: input {name} is linked to node {link.node}: no such node")
            yield link.node


def _check_node(prompt: Prompt, classes: Mapping[str, NodeClass], node_id: str, hidden: Mapping[str, Any]) -> None:
    node, node_class = prompt[node_id], classes[prompt[node_id].class_type]
    inputs, where = inputs_of(node_class), label(node_id, node)
    judged = _judged_by_node(node_class)
    for name in node.inputs.keys() - inputs.keys():
        log.warning("%s has no input %s: ignored", where, name)
        del node.inputs[name]
    for name, item in inputs.items():
        if name not in node.inputs:
            if item.required:
                raise WorkflowError(f"{where}: input {name} ({item.kind}) is missing")
        elif isinstance(node.inputs[name], Link):
            _check_link(prompt, classes, where, item, node.inputs[name])
        else:
            node.inputs[name] = _value(where, item, node.inputs[name], checked=judged is None or name not in judged)
    if judged is not None:
        _ask_node(where, node, node_class, judged, hidden)


def _check_link(prompt: Prompt, classes: Mapping[str, NodeClass], where: str, item: Input, link: Link) -> None:
    origin = prompt[link.node]
    kinds, source = classes[origin.class_type].RETURN_TYPES, label(link.node, origin)
    if not 0 <= link.slot < len(kinds):
        raise WorkflowError(f"{where}: input {item.name} is output {link.slot} of {source}, which has {len(kinds)}")
    given = kinds[link.slot] if isinstance(kinds[link.slot], str) else "COMBO"
    if not fits(given, item.kind):
        raise WorkflowError(f"{where}: input {item.name} takes {item.kind}, but {source} gives {given}")


def fits(given: str, wanted: str) -> bool:
    """Whether an output's type may go into an input; "*" is any, "A,B" is either."""
    if "*" in (given, wanted):
        return True
    return not {part.strip() for part in given.split(",")}.isdisjoint(part.strip() for part in wanted.split(","))


def _value(where: str, item: Input, value: Any, *, checked: bool) -> Any:
    value = _converted(where, item, value)
    if checked and item.kind in NUMBERS:
        low, high = item.options.get("min", -math.inf), item.options.get("max", math.inf)
        if not low <= value <= high:
            raise WorkflowError(f"{where}: {item.name} is {value}, outside {low} to {high}")
    if checked and item.kind == "COMBO" and value not in item.choices and not _is_path(value):
        raise WorkflowError(f"{where}: {item.name} is {value!r}, {_choices(item, value)}")
    return value


def _is_path(value: Any) -> bool:
    """Where there is no host with its folders, a file may be chosen by its path."""
    return isinstance(value, str) and "." in value and Path(value).is_file()


def _converted(where: str, item: Input, value: Any) -> Any:
    try:
        if item.kind in NUMBERS:
            return NUMBERS[item.kind](value)
        if item.kind == "BOOLEAN":
            return WORDS.get(value.strip().lower(), bool(value)) if isinstance(value, str) else bool(value)
        return str(value) if item.kind == "STRING" else value
    except (TypeError, ValueError, OverflowError) as error:
        raise WorkflowError(f"{where}: {item.name} is {value!r}, expected {item.kind}") from error


def _choices(item: Input, value: Any) -> str:
    names = [str(choice) for choice in item.choices]
    if not names:
        return "but there is nothing to choose from here"
    if len(names) <= LISTED:
        return f"not one of {', '.join(names)}"
    near = difflib.get_close_matches(str(value), names, n=3, cutoff=0.4)
    return f"not one of its {len(names)} choices" + (f"; near: {', '.join(near)}" if near else "")


# Nodes that judge values themselves


def _judged_by_node(node_class: NodeClass) -> frozenset[str] | None:
    """Names of the inputs that VALIDATE_INPUTS asks for (all, where it takes **kwargs), None if there is none."""
    function = getattr(node_class, "VALIDATE_INPUTS", None)
    if function is None:
        return None
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return frozenset({*inputs_of(node_class), *hidden_of(node_class)})
    return frozenset(parameter.name for parameter in parameters)


def _ask_node(
    where: str, node: PromptNode, node_class: NodeClass, judged: frozenset[str], hidden: Mapping[str, Any]
) -> None:
    known = {name: hidden.get(kind) for name, kind in hidden_of(node_class).items()}
    known |= {name: None if isinstance(value, Link) else value for name, value in node.inputs.items()}
    verdict = node_class.VALIDATE_INPUTS(**{name: value for name, value in known.items() if name in judged})
    if verdict is not True:
        raise WorkflowError(f"{where}: {verdict or 'refused its inputs'}")
