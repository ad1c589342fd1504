"""CONDITIONING, the host's list [[context, {"pooled_output": vector, ...}]], to the core's Condition and back."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..core.errors import ConfigError
from ..core.types import Condition

if TYPE_CHECKING:
    from ..core.diffusion.tables import Table

Conditioning = list[list[Any]]
ELSEWHERE = frozenset(("control", "gligen", "hooks"))
"""Keys of what only the host can sample."""


def conditioning(cond: Condition) -> Conditioning:
    """A condition as the host's nodes pass it on: on the CPU, floats in float32."""
    cond = cond.map(_resting)
    extra = {} if cond.vector is None else {"pooled_output": cond.vector}
    if cond.concat is not None:
        extra["noise_concat"] = cond.concat
    return [[cond.context, extra]]


def to_condition(entry: list[Any]) -> Condition:
    """The condition in one entry of a CONDITIONING, for runs without the host.

    Raises: ConfigError for what only the host can sample: ControlNets, GLIGEN, hooks.
    """
    context, extra = entry
    if bound := sorted(ELSEWHERE & extra.keys()):
        raise ConfigError(f"this conditioning holds {', '.join(bound)}, which works in ComfyUI only")
    return Condition(context=context, vector=extra.get("pooled_output"), concat=extra.get("noise_concat"))


def placed(extra: dict[str, Any], like: Tensor, table: "Table") -> dict[str, Any]:
    """Where, when and how strongly an entry of a CONDITIONING counts, as the fields of a core Region.

    extra: the entry's dict, with ComfyUI's keys: area in cells or ("percentage", ...), mask, mask_strength,
    set_area_to_bounds, strength, start_percent, end_percent. like: [B, c, h, w], the latent.
    """
    from ..core.samplers.run import latent_mask

    fields: dict[str, Any] = {"strength": extra.get("strength", 1.0)}
    if "start_percent" in extra:
        fields["high"] = table.at(extra["start_percent"])
    if "end_percent" in extra:
        fields["low"] = table.at(extra["end_percent"])
    if "area" in extra:
        fields["area"] = _cells(extra["area"], like.shape[-2:])
    if "mask" in extra:
        mask = latent_mask(extra["mask"], like)[:, 0]
        fields["mask"] = mask * extra.get("mask_strength", 1.0)
        if extra.get("set_area_to_bounds"):
            fields["area"] = _bounds(mask)
    return fields


def _cells(area: Sequence[Any], sides: Sequence[int]) -> tuple[int, ...]:
    """An area in cells: (height, width, top, left)."""
    if area[0] != "percentage":
        return tuple(area)
    high, wide, top, left = (round(share * side) for share, side in zip(area[1:], [*sides, *sides], strict=True))
    return max(high, 1), max(wide, 1), top, left


def _bounds(mask: Tensor) -> tuple[int, ...]:
    """The rectangle around what a mask [B, h, w] holds, at least 8 x 8 cells."""
    rows, columns = (mask.abs().amax((0, axis)).nonzero().flatten().tolist() for axis in (2, 1))
    if not rows:
        return 8, 8, 0, 0
    return max(8, rows[-1] - rows[0] + 1), max(8, columns[-1] - columns[0] + 1), rows[0], columns[0]


def _resting(part: Tensor) -> Tensor:
    part = part.detach().cpu()
    return part.float() if part.is_floating_point() else part
