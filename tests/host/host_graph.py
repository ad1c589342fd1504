"""Builds graphs in API form, filling in every widget's default from the host's own description of the node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Link = list[Any]


@dataclass(frozen=True)
class NodeRef:
    """One node of a graph; `node[i]` is a link from its output i."""

    key: str

    def __getitem__(self, output: int) -> Link:
        return [self.key, output]


@dataclass
class Graph:
    """A graph that grows a node at a time.

    info: what GET /object_info answers.
    """

    info: dict[str, Any]
    prompt: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, kind: str, **inputs: Any) -> NodeRef:
        """Add a node; inputs that are not given take their default.

        Raises: AssertionError when the host does not know the node or one of the names.
        """
        assert kind in self.info, f"the host has no node {kind}"
        known = {**self.info[kind]["input"].get("required", {}), **self.info[kind]["input"].get("optional", {})}
        assert inputs.keys() <= known.keys(), f"{kind} has no input {sorted(inputs.keys() - known.keys())}"
        required = self.info[kind]["input"].get("required", {})
        defaults = {name: value for name, spec in required.items() if (value := default(spec)) is not None}
        key = str(len(self.prompt) + 1)
        self.prompt[key] = {"class_type": kind, "inputs": {**defaults, **inputs}}
        return NodeRef(key)


def default(spec: list[Any]) -> Any:
    """The value a new node's widget has; None for a socket."""
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    if "default" in options:
        return options["default"]
    if isinstance(kind, list) or "options" in options:
        values = kind if isinstance(kind, list) else options["options"]
        return values[0] if values else None
    return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(kind)


def choices(info: dict[str, Any], kind: str, name: str) -> list[str]:
    """The values of one combo widget, [] where the host has no such node."""
    inputs = info.get(kind, {}).get("input", {})
    kind_or_list, options = (*inputs.get("required", {}).get(name, ([], {})), {})[:2]
    return list(kind_or_list if isinstance(kind_or_list, list) else options.get("options", []))
