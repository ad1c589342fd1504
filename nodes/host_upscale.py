"""UPSCALE_MODEL: a refiner as the stock Upscale Image (using Model) calls its models."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .host_env import IN_HOST
from .host_memory import loaded

if TYPE_CHECKING:
    from ..core.refine.refiner import Refiner


def wrap_upscaler(refiner: "Refiner") -> Any:
    """The UPSCALE_MODEL of a refiner: itself headless, callable with .model, .scale and .to() in the host."""
    return HostUpscaler(refiner) if IN_HOST else refiner


def unwrap_upscaler(upscaler: Any) -> "Refiner | None":
    """The refiner in an UPSCALE_MODEL, or None in a stock one."""
    if isinstance(upscaler, HostUpscaler):
        return upscaler.model
    return upscaler if hasattr(upscaler, "refine") else None


class HostUpscaler:
    """x [B, 3, H, W] in 0..1 -> [B, 3, scale H, scale W]."""

    def __init__(self, refiner: "Refiner") -> None:
        self.model = refiner

    @property
    def scale(self) -> int:
        return self.model.scale

    def to(self, device: Any) -> "HostUpscaler":
        """Come to the computing device; leaving it again is left to the host's memory manager."""
        if torch.device(device).type != "cpu":
            with loaded(self.model):
                pass
        return self

    def eval(self) -> "HostUpscaler":
        return self

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        weight = next(self.model.parameters())
        network = getattr(self.model, "picture", self.model)
        return network(x.to(weight)).to(x)
