"""A workflow as the runner sees it: nodes by id, each input a value or a link to another node's output.

The API format is this, spelled in JSON: a link is `["node id", slot]`, and a value that is itself a list is wrapped
as `{"__value__": [...]}` so that it is not taken for a link.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..core.errors import WorkflowError


class Link(NamedTuple):
    """Output `slot` of the node with id `node`."""

    node: str
    slot: int


@dataclass(kw_only=True)
class PromptNode:
    """One node to run: its class, and each input as a plain value or a `Link`."""

    class_type: str
    inputs: dict[str, Any] = field(default_factory=dict)
    title: str = ""

    @property
    def links(self) -> dict[str, Link]:
        return {name: value for name, value in self.inputs.items() if isinstance(value, Link)}


Prompt = dict[str, PromptNode]


def label(node_id: str, node: PromptNode) -> str:
    """How messages name a node: `VAEDecode #8`."""
    return f"{node.class_type} #{node_id}"


def from_api(data: dict[str, Any]) -> Prompt:
    """Read the API format. Raises: WorkflowError for anything of another form."""
    return {str(node_id): _node_from_api(str(node_id), node) for node_id, node in data.items()}


def to_api(prompt: Prompt) -> dict[str, Any]:
    """Write the API format."""
    return {
        node_id: {
            "inputs": {name: _to_json(value) for name, value in node.inputs.items()},
            "class_type": node.class_type,
            "_meta": {"title": node.title or node.class_type},
        }
        for node_id, node in prompt.items()
    }


def _node_from_api(node_id: str, node: Any) -> PromptNode:
    if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
        raise WorkflowError(f"node {node_id} has no class_type: this is not a prompt in the API format")
    inputs = node.get("inputs", {})
    if not isinstance(inputs, dict):
        raise WorkflowError(f"node {node_id}: inputs must be an object of names and values")
    title = (node.get("_meta") or {}).get("title", "")
    values = {name: _from_json(f"{node['class_type']} #{node_id}", name, value) for name, value in inputs.items()}
    return PromptNode(class_type=node["class_type"], inputs=values, title=title)


def _from_json(where: str, name: str, value: Any) -> Any:
    if isinstance(value, dict) and "__value__" in value:
        return value["__value__"]
    if not isinstance(value, list):
        return value
    if len(value) != 2 or isinstance(value[1], bool) or not isinstance(value[1], int):
        raise WorkflowError(f"{where}: input {name} is {value}; a link is [node id, output number]")
    return Link(str(value[0]), value[1])


def _to_json(value: Any) -> Any:
    if isinstance(value, Link):
        return [value.node, value.slot]
    return {"__value__": value} if isinstance(value, list) else value
