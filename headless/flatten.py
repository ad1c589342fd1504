"""From the canvas to a prompt: subgraphs opened, muted nodes dropped, bypassed ones and Reroutes seen through.

Each function follows a link backwards until a node that runs is met, as the host's page does before it queues a graph.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..core.errors import WorkflowError
from .graph import BYPASSED, Graph, GraphNode, Slot, read_graph
from .inputs import NodeClass, inputs_of, widget_values
from .prompt import Link, Prompt, PromptNode

NOTES = frozenset({"Note", "MarkdownNote"})
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
VIRTUAL = NOTES | {REROUTE, PRIMITIVE}
DEEPEST = 32
"""Levels of subgraphs within subgraphs; more than this is a definition that contains itself."""


class Constant(NamedTuple):
    """A value that reaches an input by a line: from a PrimitiveNode, or a widget on a subgraph's box."""

    value: Any


Source = Link | Constant | None
"""What reaches an input: an output of a node that runs, a value, or nothing."""


@dataclass(kw_only=True)
class Scope:
    """A canvas in use: the workflow's own, or a subgraph's inside one box that stands for it.

    parent, box: where the box stands, and the box; None for the workflow itself.
    path: ids of the boxes from the workflow to here.
    promoted: values that the box has for the subgraph's inputs, by the input's name.
    overrides: values that the box has for widgets of inner nodes, by (node id, widget).
    """

    graph: Graph
    parent: "Scope | None" = None
    box: GraphNode | None = None
    path: tuple[str, ...] = ()
    promoted: dict[str, Any] = field(default_factory=dict)
    overrides: dict[tuple[str, str], Any] = field(default_factory=dict)

    def id(self, node: GraphNode) -> str:
        return ":".join((*self.path, node.id))


class Flattener:
    """One saved graph on its way to a prompt.

    data: the saved graph's JSON.
    classes: node classes by id, for the names of widgets.
    """

    def __init__(self, data: dict[str, Any], classes: Mapping[str, NodeClass]) -> None:
        self.graph, self.definitions = read_graph(data)
        self.classes = classes
        self.scopes: dict[str, Scope] = {}

    def prompt(self) -> Prompt:
        """The nodes that run, with their inputs. Raises: WorkflowError (unknown nodes, broken links)."""
        found = list(self._walk(Scope(graph=self.graph)))
        self._refuse_unknown(found)
        prompt = {scope.id(node): self._prompt_node(scope, node) for scope, node in found}
        for node in prompt.values():
            lost = [name for name, link in node.links.items() if link.node not in prompt]
            for name in lost:
                del node.inputs[name]
        return prompt

    def _walk(self, scope: Scope) -> Iterator[tuple[Scope, GraphNode]]:
        for node in scope.graph.nodes.values():
            if not node.runs or node.type in VIRTUAL:
                continue
            if node.type in self.definitions:
                yield from self._walk(self._enter(scope, node))
            else:
                yield scope, node

    def _refuse_unknown(self, found: list[tuple[Scope, GraphNode]]) -> None:
        unknown = [f"{node.type} #{scope.id(node)}" for scope, node in found if node.type not in self.classes]
        if unknown:
            raise WorkflowError(unknown_nodes(unknown))

    # Values

    def _prompt_node(self, scope: Scope, node: GraphNode) -> PromptNode:
        node_class = self.classes[node.type]
        values = widget_values(node_class, node.values)
        values.update({name: scope.overrides.get((node.id, name), value) for name, value in values.items()})
        for slot in node.slots:
            source = self._source(scope, slot.link, slot.kind)
            if source is not None:
                values[slot.name] = source.value if isinstance(source, Constant) else source
        return PromptNode(class_type=node.type, inputs=values, title=node.title)

    def _enter(self, scope: Scope, box: GraphNode) -> Scope:
        """The inside of a subgraph's box, with the values that the box has for what is inside."""
        inside = (*scope.path, box.id)
        key = ":".join(inside)
        if len(inside) > DEEPEST:
            raise WorkflowError(f"subgraph #{key} contains itself")
        if key not in self.scopes:
            made = Scope(graph=self.definitions[box.type], parent=scope, box=box, path=inside)
            for (target, name), value in self._box_values(scope, box):
                if target == "-1":
                    made.promoted[name] = value
                else:
                    made.overrides[target, name] = value
            self.scopes[key] = made
        return self.scopes[key]

    def _box_values(self, scope: Scope, box: GraphNode) -> Iterator[tuple[tuple[str, str], Any]]:
        """Each widget of a subgraph's box that has a value: what it stands for, and the value."""
        widgets = self._box_widgets(box)
        for at, (target, name) in enumerate(widgets):
            if isinstance(box.values, dict):
                stored = box.values.get(name)
            else:
                stored = box.values[at] if at < len(box.values) else None
            value = scope.overrides.get((box.id, name), stored)
            if value is not None:
                yield (target, name), value

    def _box_widgets(self, box: GraphNode) -> list[tuple[str, str]]:
        """The widgets of a subgraph's box in order: those its properties list, else its inputs that are widgets."""
        definition = self.definitions[box.type]
        own = [("-1", name) for name, links in definition.inputs if self._is_widget(definition, links)]
        if not box.proxies:
            return own
        unlisted = [entry for entry in own if entry not in box.proxies]
        return [*unlisted, *box.proxies] if len(box.values) > len(box.proxies) else box.proxies

    def _is_widget(self, definition: Graph, links: list[str]) -> bool:
        return any(
            self._slot_is_widget(node, slot)
            for node in definition.nodes.values()
            for slot in node.slots
            if slot.link in links
        )

    def _slot_is_widget(self, node: GraphNode, slot: Slot) -> bool:
        if slot.widget or node.type not in self.classes:
            return slot.widget
        known = inputs_of(self.classes[node.type]).get(slot.name)
        return known is not None and known.is_widget

    # Links

    def _source(self, scope: Scope, link_id: str | None, kind: str, seen: frozenset[str] = frozenset()) -> Source:
        """What a line brings: an output of a node that runs, a value, or nothing.

        kind: the type that the line's end wants, for bypassed nodes.
        seen: lines already followed, so that a ring of Reroutes is an error.
        """
        if link_id is None:
            return None
        step = f"{':'.join(scope.path)}/{link_id}"
        link = scope.graph.links.get(link_id)
        if link is None:
            raise WorkflowError(f"link {link_id} is not in the saved graph")
        if step in seen:
            raise WorkflowError(f"cycle: link {link_id} leads back to itself")
        seen |= {step}
        if scope.parent is not None and link.origin == scope.graph.input_side:
            return self._source_outside(scope, scope.parent, link.origin_slot, kind, seen)
        node = scope.graph.nodes.get(link.origin)
        if node is None:
            raise WorkflowError(f"link {link_id} starts at node {link.origin}, which is not in the saved graph")
        return self._output(scope, node, link.origin_slot, kind, seen)

    def _source_outside(self, scope: Scope, parent: Scope, index: int, kind: str, seen: frozenset[str]) -> Source:
        """Through a subgraph's input, out of its box; a value that the box itself has counts where no line arrives."""
        assert scope.box is not None
        name = scope.graph.inputs[index][0]
        slot = scope.box.slot(name)
        arrived = self._source(parent, slot.link, kind, seen) if slot is not None else None
        return Constant(scope.promoted[name]) if arrived is None and name in scope.promoted else arrived

    def _output(self, scope: Scope, node: GraphNode, index: int, kind: str, seen: frozenset[str]) -> Source:
        """Output `index` of a node, or what stands behind it."""
        if node.type == REROUTE:
            return self._source(scope, node.slots[0].link if node.slots else None, kind, seen)
        if node.mode == BYPASSED:
            slot = _bypass(node, index, kind)
            return self._source(scope, slot.link, slot.kind, seen) if slot else None
        if node.runs and node.type in self.definitions:
            return self._output_inside(scope, node, index, kind, seen)
        if node.type == PRIMITIVE:
            return self._primitive(scope, node)
        return Link(scope.id(node), index)

    def _output_inside(self, scope: Scope, box: GraphNode, index: int, kind: str, seen: frozenset[str]) -> Source:
        """Through a subgraph's output to the node inside that makes it."""
        inside = self._enter(scope, box)
        outputs = inside.graph.outputs
        if index >= len(outputs):
            raise WorkflowError(f"subgraph #{scope.id(box)} has {len(outputs)} outputs; a link asks for number {index}")
        links = [link for link in outputs[index][1] if link in inside.graph.links]
        return self._source(inside, links[0], kind, seen) if links else None

    def _primitive(self, scope: Scope, node: GraphNode) -> Constant | None:
        values = list(node.values.values()) if isinstance(node.values, dict) else node.values
        value = scope.overrides.get((node.id, "value"), values[0] if values else None)
        return None if value is None or not node.runs else Constant(value)


def to_prompt(data: dict[str, Any], classes: Mapping[str, NodeClass]) -> Prompt:
    """A saved graph as a prompt. Raises: WorkflowError in one line."""
    return Flattener(data, classes).prompt()


def unknown_nodes(names: list[str]) -> str:
    """The message for nodes that nobody here knows."""
    many = "s" if len(names) > 1 else ""
    return f"unknown node{many} {', '.join(names)}: without ComfyUI only Vitrail's nodes and a few stock ones run"


def _bypass(node: GraphNode, index: int, kind: str) -> Slot | None:
    """The input that a bypassed node hands on as output `index`: the one beside it or the first, whose type fits."""
    if kind == "*":
        kind = node.output_kinds[index] if index < len(node.output_kinds) else kind
    beside = node.slots[index : index + 1]
    return next((slot for slot in (*beside, *node.slots) if slot.kind == kind), None)
