"""`--set NODE.INPUT=VALUE`: a value changed from the command line, in the prompt and in the graph saved with it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.errors import WorkflowError
from .inputs import NodeClass, inputs_of, widget_position
from .prompt import Prompt
from .validate import WORDS


def parse(argument: str) -> tuple[str, str, str]:
    """NODE.INPUT=VALUE in its three parts; NODE may itself hold dots. Raises: WorkflowError."""
    target, equals, value = argument.partition("=")
    node, dot, name = target.rpartition(".")
    if not (equals and dot and node and name):
        raise WorkflowError(f"--set {argument}: expected NODE.INPUT=VALUE, such as 5.seed=7 or VitrailSampler.seed=7")
    return node, name, value


def apply(
    arguments: Sequence[str], prompt: Prompt, graph: dict[str, Any] | None, classes: Mapping[str, NodeClass]
) -> dict[str, Any] | None:
    """Change `prompt` in place as the arguments say.

    NODE is an id, or the title or class of the one node that has it; a linked input is cut off its line.
    Returns the saved graph with the same changes, or None where it cannot show them (inside a subgraph).
    Raises: WorkflowError for a node or an input that is not there.
    """
    for argument in arguments:
        wanted, name, value = parse(argument)
        node_id = _find(prompt, wanted, argument)
        node_class = classes.get(prompt[node_id].class_type)
        if node_class is None:
            continue
        known = [other for other, item in inputs_of(node_class).items() if item.is_widget]
        if name not in known:
            raise WorkflowError(f"--set {argument}: the values of {prompt[node_id].class_type} are {', '.join(known)}")
        prompt[node_id].inputs[name] = value
        if graph is not None:
            graph = _changed(graph, node_id, name, _typed(node_class, name, value), node_class)
    return graph


def _find(prompt: Prompt, wanted: str, argument: str) -> str:
    if wanted in prompt:
        return wanted
    found = [node_id for node_id, node in prompt.items() if wanted in (node.title, node.class_type)]
    if len(found) != 1:
        what = f"{len(found)} nodes are called {wanted} (#{', #'.join(found)})" if found else f"no node {wanted}"
        raise WorkflowError(f"--set {argument}: {what}")
    return found[0]


def _typed(node_class: NodeClass, name: str, value: str) -> Any:
    """The value as the canvas stores it; what is not a number stays text, and the check names it."""
    kind = inputs_of(node_class)[name].kind
    try:
        return {"INT": int, "FLOAT": float, "BOOLEAN": _truth}.get(kind, str)(value)
    except ValueError:
        return value


def _truth(text: str) -> bool:
    return WORDS.get(text.strip().lower(), bool(text))


def _changed(
    graph: dict[str, Any], node_id: str, name: str, value: Any, node_class: NodeClass
) -> dict[str, Any] | None:
    """A copy of the saved graph with one widget changed and the line into it cut; None for what it does not show."""
    node = next((node for node in graph["nodes"] if str(node["id"]) == node_id), None)
    if node is None:
        return None
    stored = node.get("widgets_values") or []
    if isinstance(stored, dict):
        changed = {**node, "widgets_values": {**stored, name: value}}
    else:
        at = widget_position(node_class, name, stored)
        if at is None or at >= len(stored):
            return None
        changed = {**node, "widgets_values": [*stored[:at], value, *stored[at + 1 :]]}
    nodes = [changed if other is node else other for other in graph["nodes"]]
    return _uncoupled({**graph, "nodes": nodes}, node_id, name)


def _uncoupled(graph: dict[str, Any], node_id: str, name: str) -> dict[str, Any]:
    """The graph without the line into input `name` of a node."""
    node = next(node for node in graph["nodes"] if str(node["id"]) == node_id)
    link = next((slot["link"] for slot in node.get("inputs") or [] if slot["name"] == name), None)
    if link is None:
        return graph
    return {
        **graph,
        "nodes": [_without_link(other, link) for other in graph["nodes"]],
        "links": [line for line in graph["links"] if (line["id"] if isinstance(line, dict) else line[0]) != link],
    }


def _without_link(node: dict[str, Any], link: Any) -> dict[str, Any]:
    inputs = [{**slot, "link": None} if slot.get("link") == link else slot for slot in node.get("inputs") or []]
    outputs = [
        {**slot, "links": [other for other in slot["links"] if other != link]} if slot.get("links") else slot
        for slot in node.get("outputs") or []
    ]
    return {**node, "inputs": inputs, "outputs": outputs}
