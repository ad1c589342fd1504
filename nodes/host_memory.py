"""Modules on the device that computes; in the host its memory manager decides what else has to leave."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from math import prod
from typing import Any

import torch
from torch import nn

from .host_env import IN_HOST, headless_device

PATCHER = "_vitrail_patcher"
FEATURES = 16
"""Feature maps of full width and size that are held at once, as a guess on the safe side."""


@contextmanager
def loaded(module: nn.Module, shape: Sequence[int] | None = None) -> Iterator[torch.device]:
    """Have a module on the computing device for the block, and hand over that device.

    shape: [B, C, H, W] of the pictures that it will work on, to have memory free for them.
    """
    if not IN_HOST:
        yield _placed(module, headless_device())
        return
    from comfy import model_management

    patcher = patcher_of(module)
    needed = working_memory(module, shape or ())
    model_management.load_models_gpu([patcher], memory_required=needed, force_full_load=True)
    yield _placed(module, patcher.load_device)


def working_memory(module: nn.Module, shape: Sequence[int]) -> int:
    """Bytes that a convolutional module takes beside its weights for pictures [B, C, H, W]; 0 for another shape."""
    config = getattr(module, "config", None)
    width = getattr(config, "ch", None) or getattr(config, "num_feat", 64)
    weight = next(module.parameters())
    return FEATURES * width * shape[0] * prod(shape[2:]) * weight.element_size() if len(shape) == 4 else 0


def patcher_of(module: nn.Module, wrapped: nn.Module | None = None, devices: Sequence[torch.device] = ()) -> Any:
    """The host's ModelPatcher of a module, made once and kept on it, so that all sockets share one account of it.

    wrapped: the module that the patcher holds, where it is another one with the same weights.
    devices: where to compute and where to keep it meanwhile; by default the host's for networks.
    """
    if not hasattr(module, PATCHER):
        from comfy import model_management

        load, offload = devices or (model_management.get_torch_device(), model_management.unet_offload_device())
        object.__setattr__(module, PATCHER, _patcher_class()(wrapped or module, load, offload))
    return getattr(module, PATCHER)


class Whole:
    """Loads all of a model or nothing: the host's split between two devices needs the host's own layers."""

    def load(self, device_to: Any = None, **options: Any) -> None:
        super().load(device_to, **{**options, "full_load": True})  # type: ignore[misc]

    def add_object_patch(self, name: str, obj: Any) -> None:
        """What a stock node puts in the place of a part; the model may fit it first (`fit_part`)."""
        if (fit := getattr(self.model, "fit_part", None)) is not None:  # type: ignore[attr-defined]
            fit(name, obj)
        super().add_object_patch(name, obj)  # type: ignore[misc]


class Borrowed(nn.Module):
    """A module with another's children, so that their weights have the same keys: another face for the same network."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "vitrail", module)
        for name, child in module.named_children():
            self.add_module(name, child)


@cache
def _patcher_class() -> type[Any]:
    from comfy.model_patcher import ModelPatcher

    return type("VitrailPatcher", (Whole, ModelPatcher), {})


def _placed(module: nn.Module, device: torch.device) -> torch.device:
    """Move a module unless it is there: others may have moved it behind the manager's back."""
    if next(module.parameters()).device != device:
        module.to(device)
    return device
