"""What a node is, and short names for the tuples that ComfyUI's V1 nodes describe their inputs with."""

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from ..core.errors import ConfigError

InputTypes = dict[str, dict[str, tuple[Any, ...]]]
Latent = dict[str, Any]
"""{"samples": [B, C, h, w], "noise_mask"?: mask, "batch_index"?: list of int}"""

T = TypeVar("T")

SEEDS = 2**64


class Node:
    """A V1 node without state: `execute` takes the inputs by name and returns a tuple of outputs.

    ID, TITLE: its permanent id, and what the page shows. Inputs are sockets first, then widgets: their order, ids and
    defaults are kept for good, since saved workflows store widget values by position.
    """

    ID: ClassVar[str]
    TITLE: ClassVar[str]
    CATEGORY: ClassVar[str]
    DESCRIPTION: ClassVar[str]
    RETURN_TYPES: ClassVar[tuple[str, ...]]
    RETURN_NAMES: ClassVar[tuple[str, ...]]
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]]
    SEARCH_ALIASES: ClassVar[list[str]] = []
    FUNCTION: ClassVar[str] = "execute"
    OUTPUT_NODE: ClassVar[bool] = False

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        raise NotImplementedError


def socket(kind: str, tooltip: str) -> tuple[Any, ...]:
    """An input that is wired; "A,B" takes either."""
    return kind, {"tooltip": tooltip}


def integer(default: int, low: int, high: int, tooltip: str, *, step: int = 1) -> tuple[Any, ...]:
    return "INT", {"default": default, "min": low, "max": high, "step": step, "tooltip": tooltip}


def number(
    default: float, low: float, high: float, tooltip: str, *, step: float = 0.01, digits: int = 3
) -> tuple[Any, ...]:
    """digits: after the point, to which the widget rounds."""
    options = {"default": default, "min": low, "max": high, "step": step, "round": 10.0**-digits, "tooltip": tooltip}
    return "FLOAT", options


def choice(values: Sequence[str], tooltip: str, *, default: str | None = None) -> tuple[Any, ...]:
    """One of a list; by default the first."""
    return list(values), {"tooltip": tooltip} | ({} if default is None else {"default": default})


def text(default: str, tooltip: str, *, multiline: bool = False, placeholder: str = "") -> tuple[Any, ...]:
    options = {"default": default, "multiline": multiline, "tooltip": tooltip}
    return "STRING", options | ({"placeholder": placeholder} if placeholder else {})


def toggle(default: bool, tooltip: str) -> tuple[Any, ...]:
    return "BOOLEAN", {"default": default, "tooltip": tooltip}


def seed(tooltip: str) -> tuple[Any, ...]:
    """A seed, 0 .. 2^64 - 1, with the page's control over what it becomes after each run."""
    return "INT", {"default": 0, "min": 0, "max": SEEDS - 1, "control_after_generate": True, "tooltip": tooltip}


def given(value: T | None, name: str, advice: str) -> T:
    """The value of an input that must be there. Raises: ConfigError, which says what to look at, where it is None."""
    if value is None:
        raise ConfigError(f'the input "{name}" is empty: {advice}')
    return value
