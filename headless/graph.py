"""The UI's saved graph, read into plain records: nodes with their slots, links, and the definitions of subgraphs."""

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..core.errors import WorkflowError

MUTED, BYPASSED = 2, 4
"""Values of a node's `mode` that take it out of the run; bypassing hands its inputs on to its outputs."""

INPUT_SIDE, OUTPUT_SIDE = -10, -20
"""Ids that stand, inside a subgraph, for its own inputs as a link's origin and its own outputs as a link's target."""


class GraphLink(NamedTuple):
    """A line on the canvas."""

    origin: str
    origin_slot: int
    target: str
    target_slot: int


@dataclass(kw_only=True)
class Slot:
    """A socket on the left of a node; `widget` where it stands for a widget."""

    name: str
    kind: str
    link: str | None
    widget: bool


@dataclass(kw_only=True)
class GraphNode:
    """A box on the canvas. `values` is what its widgets store, by position or by name."""

    id: str
    type: str
    mode: int
    title: str
    slots: list[Slot]
    output_kinds: list[str]
    values: list[Any] | dict[str, Any]
    proxies: list[tuple[str, str]]

    @property
    def runs(self) -> bool:
        return self.mode not in (MUTED, BYPASSED)

    def slot(self, name: str) -> Slot | None:
        return next((slot for slot in self.slots if slot.name == name), None)


@dataclass(kw_only=True)
class Graph:
    """A canvas: the workflow itself, or the inside of a subgraph with its own inputs and outputs.

    inputs: names, each with the ids of the links that leave it.
    outputs: names, each with the ids of the links that reach it.
    """

    nodes: dict[str, GraphNode]
    links: dict[str, GraphLink]
    inputs: list[tuple[str, list[str]]] = field(default_factory=list)
    outputs: list[tuple[str, list[str]]] = field(default_factory=list)
    input_side: str = str(INPUT_SIDE)


def read_graph(data: dict[str, Any]) -> tuple[Graph, dict[str, Graph]]:
    """The workflow's own canvas, and the definitions of its subgraphs by id.

    Raises: WorkflowError where a part is missing or of another form.
    """
    try:
        return _graph(data), {str(item["id"]): _graph(item) for item in _definitions(data)}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise WorkflowError(f"the saved graph is damaged: {type(error).__name__}: {error}") from error


def _definitions(data: dict[str, Any]) -> list[dict[str, Any]]:
    found = (data.get("definitions") or {}).get("subgraphs") or []
    return [inner for item in found for inner in (item, *_definitions(item))]


def _graph(data: dict[str, Any]) -> Graph:
    nodes = [_node(item) for item in data["nodes"]]
    links = dict(_link(item) for item in data.get("links") or [])
    input_side = str((data.get("inputNode") or {}).get("id", INPUT_SIDE))
    output_side = str((data.get("outputNode") or {}).get("id", OUTPUT_SIDE))
    entering = {key: link.origin_slot for key, link in links.items() if link.origin == input_side}
    leaving = {key: link.target_slot for key, link in links.items() if link.target == output_side}
    return Graph(
        nodes={node.id: node for node in nodes},
        links=links,
        inputs=_ports(data.get("inputs"), entering),
        outputs=_ports(data.get("outputs"), leaving),
        input_side=input_side,
    )


def _ports(items: list[dict[str, Any]] | None, slots: dict[str, int]) -> list[tuple[str, list[str]]]:
    """Inputs or outputs of a subgraph by name, with the links at each: those listed, then any other at its place."""
    ports = []
    for at, item in enumerate(items or []):
        listed = [str(link) for link in item.get("linkIds") or [] if str(link) in slots]
        placed = [key for key, slot in slots.items() if slot == at]
        ports.append((item["name"], list(dict.fromkeys([*listed, *placed]))))
    return ports


def _link(item: list[Any] | dict[str, Any]) -> tuple[str, GraphLink]:
    """Links are arrays [id, from node, from slot, to node, to slot, type], or objects inside subgraphs."""
    if isinstance(item, dict):
        item = [item[name] for name in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
    link_id, origin, origin_slot, target, target_slot = item[:5]
    return str(link_id), GraphLink(str(origin), int(origin_slot), str(target), int(target_slot))


def _node(item: dict[str, Any]) -> GraphNode:
    return GraphNode(
        id=str(item["id"]),
        type=item["type"],
        mode=item.get("mode") or 0,
        title=item.get("title") or "",
        slots=[_slot(slot) for slot in item.get("inputs") or []],
        output_kinds=[str(slot.get("type", "*")) for slot in item.get("outputs") or []],
        values=item.get("widgets_values") or [],
        proxies=_proxies((item.get("properties") or {}).get("proxyWidgets")),
    )


def _slot(item: dict[str, Any]) -> Slot:
    link = item.get("link")
    kind = item.get("type", "*")
    return Slot(
        name=item["name"],
        kind=kind if isinstance(kind, str) else "COMBO",
        link=None if link is None else str(link),
        widget=bool(item.get("widget")),
    )


def _proxies(stored: Any) -> list[tuple[str, str]]:
    """Widgets of inner nodes shown on a subgraph's box: (inner node's id, widget); id -1 names an input of its own."""
    if isinstance(stored, str):
        stored = json.loads(stored)
    return [(str(entry[0]), entry[1]) for entry in stored or []]
