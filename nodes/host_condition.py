"""CONDITIONING, the host's list [[context, {"pooled_output": vector, ...}]], to the core's Condition and back."""

from typing import Any

from torch import Tensor

from ..core.errors import ConfigError
from ..core.types import Condition

Conditioning = list[list[Any]]
ELSEWHERE = frozenset(
    ("area", "mask", "strength", "control", "gligen", "hooks", "start_percent", "end_percent", "timestep_start")
)
"""Keys of the host's that bind a condition to a part of the picture or of the run."""


def conditioning(cond: Condition) -> Conditioning:
    """A condition as the host's nodes pass it on: on the CPU, floats in float32."""
    cond = cond.map(_resting)
    extra = {} if cond.vector is None else {"pooled_output": cond.vector}
    if cond.concat is not None:
        extra["noise_concat"] = cond.concat
    return [[cond.context, extra]]


def to_condition(conditioning: Conditioning) -> Condition:
    """The condition in a CONDITIONING, for runs without the host.

    Raises: ConfigError for what only the host can sample: several conditions, areas, masks, spans of time.
    """
    if len(conditioning) != 1:
        raise ConfigError(
            f"this conditioning holds {len(conditioning)} conditions; without ComfyUI there is one text (or one "
            "picture) for the whole picture: take out Conditioning (Combine) and its like"
        )
    context, extra = conditioning[0]
    if bound := sorted(ELSEWHERE & extra.keys()):
        raise ConfigError(
            f"this conditioning is bound to a part of the picture or of the run ({', '.join(bound)}); that works in "
            "ComfyUI only"
        )
    return Condition(context=context, vector=extra.get("pooled_output"), concat=extra.get("noise_concat"))


def _resting(part: Tensor) -> Tensor:
    part = part.detach().cpu()
    return part.float() if part.is_floating_point() else part
