"""Running a checked prompt: each node once, in order, its results kept no longer than somebody needs them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .inputs import NodeClass, hidden_of, inputs_of
from .progress import Progress
from .prompt import Link, Prompt, PromptNode, label


class NodeFailure(Exception):
    """A node raised; its text names the node, its cause is what was raised."""


def execute(
    prompt: Prompt,
    order: Sequence[str],
    classes: Mapping[str, NodeClass],
    *,
    hidden: Mapping[str, Any] | None = None,
    titles: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Run the nodes in `order`, as `validate.check` returned it.

    hidden: what hidden inputs are handed, by their type ("PROMPT", "EXTRA_PNGINFO", ...).
    titles: display names of node classes.
    Raises: NodeFailure from whatever a node raises.
    """
    hidden, titles, progress = hidden or {}, titles or {}, progress or Progress(quiet=True)
    wanted = _consumers(prompt, order)
    results: dict[str, tuple[Any, ...]] = {}
    for index, node_id in enumerate(order, 1):
        node = prompt[node_id]
        shown = node.title or titles.get(node.class_type, node.class_type)
        with progress.node(f"{shown} #{node_id}", index, len(order)), torch.inference_mode():
            results[node_id], ui = _run_node(node_id, node, classes[node.class_type], results, hidden)
        for text in ui.get("text", ()):
            progress.note(f"{shown} #{node_id}: {text}")
        _release(node_id, node, wanted, results)


def _run_node(
    node_id: str,
    node: PromptNode,
    node_class: NodeClass,
    results: Mapping[str, tuple[Any, ...]],
    hidden: Mapping[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    arguments = {
        name: results[value.node][value.slot] if isinstance(value, Link) else value
        for name, value in node.inputs.items()
        if name in inputs_of(node_class)
    }
    given = {**hidden, "UNIQUE_ID": node_id}
    arguments |= {name: given.get(kind) for name, kind in hidden_of(node_class).items()}
    try:
        result = getattr(node_class(), node_class.FUNCTION)(**arguments)
    except Exception as error:
        raise NodeFailure(label(node_id, node)) from error
    return _parts(result)


def _parts(result: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The outputs and what goes to the page, from what a node returned: a tuple, a dict of both, or nothing."""
    if isinstance(result, dict):
        return tuple(result.get("result", ())), result.get("ui", {})
    return () if result is None else tuple(result), {}


def _consumers(prompt: Prompt, order: Sequence[str]) -> Counter[str]:
    """How many nodes still to run want each node's results."""
    return Counter(origin for node_id in order for origin in {link.node for link in prompt[node_id].links.values()})


def _release(node_id: str, node: PromptNode, wanted: Counter[str], results: dict[str, tuple[Any, ...]]) -> None:
    for origin in {link.node for link in node.links.values()}:
        wanted[origin] -= 1
        if not wanted[origin]:
            del results[origin]
    if not wanted[node_id]:
        del results[node_id]
