"""Nodes that hold one value, and the one that shows any value as text."""

import json
import sys
from typing import Any, ClassVar


class Primitive:
    """Hands its widget's value on."""

    KIND: ClassVar[str]
    OPTIONS: ClassVar[dict[str, Any]] = {}
    RETURN_TYPES: ClassVar[tuple[str, ...]]
    FUNCTION = "execute"
    CATEGORY = "utils/primitive"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": (cls.KIND, dict(cls.OPTIONS))}}

    def execute(self, value: Any) -> tuple[Any]:
        return (value,)


class PrimitiveInt(Primitive):
    KIND, RETURN_TYPES = "INT", ("INT",)
    OPTIONS: ClassVar = {"min": -sys.maxsize, "max": sys.maxsize, "control_after_generate": True}


class PrimitiveFloat(Primitive):
    KIND, RETURN_TYPES = "FLOAT", ("FLOAT",)
    OPTIONS: ClassVar = {"min": -sys.maxsize, "max": sys.maxsize}


class PrimitiveString(Primitive):
    KIND, RETURN_TYPES = "STRING", ("STRING",)


class PrimitiveStringMultiline(Primitive):
    KIND, RETURN_TYPES = "STRING", ("STRING",)
    OPTIONS: ClassVar = {"multiline": True}


class PrimitiveBoolean(Primitive):
    KIND, RETURN_TYPES = "BOOLEAN", ("BOOLEAN",)


class PreviewAny:
    """Shows a value as text: among the lines about the run, where there is no page."""

    RETURN_TYPES = ()
    FUNCTION, OUTPUT_NODE, CATEGORY = "execute", True, "utils"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"source": ("*", {})}}

    def execute(self, source: Any) -> dict[str, Any]:
        return {"ui": {"text": (_text(source),)}}


def _text(value: Any) -> str:
    """A string as it is, numbers and what JSON can hold in its spelling, anything else in Python's."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value) if isinstance(value, dict | list | tuple) else str(value)
    except (TypeError, ValueError):
        return str(value)
