"""Nodes and canvases for tests of the runner: no torch, no weights, everything that happened is written down."""

from typing import Any


class Number:
    RETURN_TYPES, FUNCTION = ("INT",), "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("INT", {"default": 1, "min": -100, "max": 100})}}

    def execute(self, value: int) -> tuple[int]:
        return (value,)


class Add:
    """Sockets for two numbers, and a widget: a + b + bias."""

    RETURN_TYPES, FUNCTION = ("INT",), "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        socket = ("INT", {"forceInput": True})
        return {"required": {"a": socket, "b": socket, "bias": ("INT", {"default": 0})}}

    def execute(self, a: int, b: int, bias: int) -> tuple[int]:
        return (a + b + bias,)


class Blur:
    """A picture-like value in and out, with a second one of another type, for bypassing."""

    RETURN_TYPES, FUNCTION = ("MASK", "IMAGE"), "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "mask": ("MASK",), "radius": ("FLOAT", {"default": 1.0, "min": 0.0})}}

    def execute(self, image: str, mask: str, radius: float) -> tuple[str, str]:
        return f"blurred {mask}", f"blurred {image}"


class Picture:
    RETURN_TYPES, FUNCTION = ("IMAGE", "MASK"), "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"name": ("STRING", {"default": "picture"})}}

    def execute(self, name: str) -> tuple[str, str]:
        return name, f"mask of {name}"


class Sampler:
    """Widgets of each kind, a seed (with its hidden second value) in their middle, an optional socket and widget."""

    RETURN_TYPES, FUNCTION = ("STRING",), "execute"
    ran: list[dict[str, Any]]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"forceInput": True}),
                "cfg": ("FLOAT", {"default": 2.0, "min": 0.0, "max": 30.0}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}),
                "solver": (["euler", "heun", "fixed"], {"default": "heun"}),
            },
            "optional": {
                "mask": ("MASK",),
                "add_noise": ("BOOLEAN", {"default": True}),
                "note": ("STRING", {"default": "none"}),
            },
        }

    def execute(self, **inputs: Any) -> tuple[str]:
        self.ran.append(inputs)
        return (f"{inputs['solver']} {inputs['seed']}",)


class Loader:
    RETURN_TYPES, FUNCTION = ("MODEL",), "execute"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"name": (["vitrail-1", "other"],)}}

    def execute(self, name: str) -> tuple[str]:
        return (f"model {name}",)


class Sink:
    """Takes anything and keeps it."""

    RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "execute", True
    kept: list[Any]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"source": ("*", {})}, "hidden": {"me": "UNIQUE_ID", "extra": "EXTRA_PNGINFO"}}

    def execute(self, source: Any, me: str, extra: Any) -> dict[str, Any]:
        self.kept.append(source)
        return {"ui": {"text": [f"{me}: {source}"]}}


def fake_classes() -> dict[str, type[Any]]:
    """The nodes above, with empty records."""
    return {
        **{cls.__name__: cls for cls in (Number, Add, Blur, Picture, Loader)},
        "Sampler": type("Sampler", (Sampler,), {"ran": []}),
        "Sink": type("Sink", (Sink,), {"kept": []}),
    }


class Canvas:
    """Builds what the UI saves: `node` adds a box, `link` draws a line from an output to a named input."""

    def __init__(self, *, objects: bool = False) -> None:
        self.nodes: dict[Any, dict[str, Any]] = {}
        self.links: list[Any] = []
        self.objects = objects
        self.subgraphs: list[dict[str, Any]] = []

    def node(
        self,
        node_id: Any,
        kind: str,
        values: Any = (),
        *,
        inputs: str = "",
        outputs: str = "",
        mode: int = 0,
        **more: Any,
    ) -> "Canvas":
        """inputs, outputs: "name:TYPE name:TYPE ..."; a name that ends in "!" is a widget's input."""
        self.nodes[node_id] = {
            "id": node_id,
            "type": kind,
            "pos": [0, 0],
            "mode": mode,
            "inputs": [_slot(part) for part in inputs.split()],
            "outputs": [
                {"name": part.split(":")[0], "type": part.split(":")[-1], "links": []} for part in outputs.split()
            ],
            "widgets_values": values if isinstance(values, dict) else list(values),
            "properties": {},
            **more,
        }
        return self

    def link(self, origin: Any, slot: int, target: Any, name: str) -> "Canvas":
        link_id = len(self.links) + 1
        place = next(i for i, item in enumerate(self.nodes[target]["inputs"]) if item["name"] == name)
        self.nodes[target]["inputs"][place]["link"] = link_id
        self.nodes[origin]["outputs"][slot]["links"].append(link_id)
        return self._line(link_id, origin, slot, target, place)

    def enter(self, slot: int, target: Any, name: str) -> "Canvas":
        """A line from input `slot` of the subgraph that this canvas is the inside of."""
        link_id = len(self.links) + 1
        place = next(i for i, item in enumerate(self.nodes[target]["inputs"]) if item["name"] == name)
        self.nodes[target]["inputs"][place]["link"] = link_id
        return self._line(link_id, -10, slot, target, place)

    def leave(self, origin: Any, origin_slot: int, slot: int) -> "Canvas":
        """A line to output `slot` of the subgraph that this canvas is the inside of."""
        return self._line(len(self.links) + 1, origin, origin_slot, -20, slot)

    def subgraph(self, name: str, inside: "Canvas", *, inputs: str = "", outputs: str = "") -> "Canvas":
        """Define a subgraph: a box whose type is its name stands for it."""
        self.subgraphs.append(
            {
                "id": name,
                "name": name,
                "nodes": list(inside.nodes.values()),
                "links": inside.links,
                "inputs": inside._ports(inputs, "origin_id", "origin_slot", -10),
                "outputs": inside._ports(outputs, "target_id", "target_slot", -20),
                "inputNode": {"id": -10},
                "outputNode": {"id": -20},
            }
        )
        return self

    def data(self) -> dict[str, Any]:
        definitions = {"definitions": {"subgraphs": self.subgraphs}} if self.subgraphs else {}
        return {"nodes": list(self.nodes.values()), "links": self.links, "version": 0.4, **definitions}

    def _line(self, link_id: int, origin: Any, slot: int, target: Any, place: int) -> "Canvas":
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        line = [link_id, origin, slot, target, place, "*"]
        self.links.append(dict(zip(names, line, strict=True)) if self.objects else line)
        return self

    def _ports(self, ports: str, end: str, slot: str, side: int) -> list[dict[str, Any]]:
        return [
            {
                "name": part.split(":")[0],
                "type": part.split(":")[1],
                "linkIds": [line["id"] for line in self.links if line[end] == side and line[slot] == at],
            }
            for at, part in enumerate(ports.split())
        ]


def _slot(part: str) -> dict[str, Any]:
    name, kind = part.split(":")
    widget = name.endswith("!")
    name = name.rstrip("!")
    return {"name": name, "type": kind, "link": None, **({"widget": {"name": name}} if widget else {})}
