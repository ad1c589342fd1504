"""Where this runs: in ComfyUI, or by itself on a device of its own choice."""

import sys
from typing import Any

import torch

from ..core.errors import ConfigError

IN_HOST: bool = all(name in sys.modules for name in ("comfy.model_management", "folder_paths"))
"""True where ComfyUI itself has imported its parts; having it on the path is not enough."""

_chosen: torch.device | None = None


def set_headless_device(name: str | None) -> None:
    """Where headless runs compute: "cpu", "cuda", "cuda:1", ...; None: the first GPU if there is one.

    Raises: ConfigError for a GPU where there is none.
    """
    global _chosen
    device = None if name is None else torch.device(name)
    if device is not None and device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f'there is no GPU for the device "{name}" on this machine: leave it out, or take cpu')
    _chosen = device


def headless_device() -> torch.device:
    """The device of headless runs."""
    return _chosen or torch.device("cuda" if torch.cuda.is_available() else "cpu")


def absent(reason: str) -> Any:
    """What stands in an output for a part that a file lacks: None, or in the host what stops with that reason every
    node that is handed it, a stock node too."""
    if not IN_HOST:
        return None
    from comfy_execution.graph_utils import ExecutionBlocker

    return ExecutionBlocker(reason)
