"""Starting values of parameters."""

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def zero_(module: M) -> M:
    """Set every parameter of a module to 0, so that a residual branch starts as nothing, and return it."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
