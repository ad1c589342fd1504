"""What a node class says of its inputs, and how the UI's list of widget values maps onto their names."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NodeClass = type[Any]
"""A V1 node class: INPUT_TYPES, RETURN_TYPES, FUNCTION and so on."""

WIDGET_TYPES = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"})
CONTROLS = frozenset({"fixed", "increment", "increment-wrap", "decrement", "randomize"})
SEED_NAMES = frozenset({"seed", "noise_seed"})
BLANK = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input of a node class.

    kind: the socket's or widget's type; "COMBO" where a list of choices is given.
    choices: the values of a combo, else empty.
    options: default, min, max, tooltip and so on.
    """

    name: str
    kind: str
    choices: tuple[Any, ...]
    options: dict[str, Any]
    required: bool

    @property
    def is_widget(self) -> bool:
        """Whether the UI shows a widget for it (and so stores a value)."""
        return self.kind in WIDGET_TYPES and not self.options.get("forceInput")

    @property
    def default(self) -> Any:
        """What the widget shows when nothing was stored."""
        first = self.choices[0] if self.choices else None
        return self.options.get("default", first if self.kind == "COMBO" else BLANK.get(self.kind))

    @property
    def has_control(self) -> bool:
        """Whether the UI stores what to do with the value after each run right behind it."""
        marked = self.options.get("control_after_generate", self.kind == "INT" and self.name in SEED_NAMES)
        return self.is_widget and bool(marked)


def inputs_of(node_class: NodeClass) -> dict[str, Input]:
    """The inputs of a node class by name: the required ones, then the optional ones."""
    types = node_class.INPUT_TYPES()
    return {
        name: _input(name, spec, required=group == "required")
        for group in ("required", "optional")
        for name, spec in types.get(group, {}).items()
    }


def hidden_of(node_class: NodeClass) -> dict[str, str]:
    """The hidden inputs of a node class: argument name -> what it is handed."""
    return dict(node_class.INPUT_TYPES().get("hidden", {}))


def widget_values(node_class: NodeClass, stored: list[Any] | dict[str, Any] | None) -> dict[str, Any]:
    """The value of each widget of a node, from what the UI stored (by position, or by name).

    The value behind a seed (what to do with it after a run) and the one of an upload button are skipped;
    a widget that nothing is stored for has its default.
    """
    inputs = inputs_of(node_class)
    names = [name for name, item in inputs.items() if item.is_widget]
    values = {name: inputs[name].default for name in names}
    found = stored if isinstance(stored, dict) else dict(_by_position(inputs, stored or []))
    values.update({name: found[name] for name in names if found.get(name) is not None})
    return values


def widget_position(node_class: NodeClass, name: str, stored: list[Any]) -> int | None:
    """Where in the UI's list the value of widget `name` stands, None if it has no widget."""
    positions = _positions(inputs_of(node_class), stored)
    return dict(positions).get(name)


def _by_position(inputs: dict[str, Input], stored: list[Any]) -> Iterator[tuple[str, Any]]:
    return ((name, stored[at]) for name, at in _positions(inputs, stored) if at < len(stored))


def _positions(inputs: dict[str, Input], stored: list[Any]) -> Iterator[tuple[str, int]]:
    at = 0
    upload_at = _last_required(inputs) if any(item.options.get("image_upload") for item in inputs.values()) else None
    for name, item in inputs.items():
        if item.is_widget:
            yield name, at
            at += 1
            if item.has_control and at < len(stored) and stored[at] in CONTROLS:
                at += 1
        if name == upload_at:
            at += 1


def _last_required(inputs: dict[str, Input]) -> str | None:
    """The upload button's widget stands behind the required ones."""
    return next((name for name, item in reversed(inputs.items()) if item.required), None)


def _input(name: str, spec: Any, *, required: bool) -> Input:
    kind, options = spec[0], dict(spec[1]) if len(spec) > 1 else {}
    choices = tuple(kind if isinstance(kind, list | tuple) else options.get("options", ()))
    return Input(
        name=name, kind=kind if isinstance(kind, str) else "COMBO", choices=choices, options=options, required=required
    )
