"""Pictures for networks that want something other than red, green and blue: a grey level, or a channel a label.

| channels | what a picture means | what a decoder's answer looks like |
|---|---|---|
| 1 | its luminance | grey |
| 3 | itself | itself |
| 4 | itself, opaque | itself, without its alpha |
| n | a map of labels: numbers as grey levels, 0 to 255, or colours of a palette | the highest channel's label, so |

Source: Esser et al. 2021, section 4.1 (segments as one-hot maps, depth as one channel); Rec. ITU-R BT.601 (luminance).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ShapeError

GREY, RGB, RGBA = 1, 3, 4
LUMINANCE = (0.299, 0.587, 0.114)
TOP = 255
"""The highest grey level."""

LOOSE = 0.25
"""Grey levels may be so far from whole ones: what 16-bit floats do to them."""

MARGIN = 0.1
"""Levels are written so much higher, as ComfyUI saves pictures by cutting off what is behind the point."""

NEAR = 2
"""A colour of the palette may be off by so many of 255 levels a channel."""

NAMED = 6


class Palette(nn.Module):
    """Colours to show labels in; always float32, as the colours have to be told apart.

    colours: [3, labels, 1, 1] of any range, as CompVis's files have them under the name `colorize`.
    """

    keep_float32 = True
    colours: Tensor

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.register_buffer("colours", torch.zeros(RGB, labels, 1, 1))

    def levels(self) -> Tensor | None:
        """The colours over the full range, [labels, 3] of whole numbers 0..255; None where they are all one."""
        colours = self.colours.float().flatten(1).T
        low, high = colours.aminmax()
        return ((colours - low) / (high - low) * TOP).round() if high > low else None


def holds_labels(channels: int, palette: Palette | None) -> bool:
    """Whether so many channels stand for so many labels."""
    return palette is not None or channels not in (GREY, RGB, RGBA)


def from_rgb(x: Tensor, channels: int, palette: Palette | None = None) -> Tensor:
    """What a network of so many channels takes for a picture.

    x: [B, 3, H, W] in -1..1, float32 for a map of labels. channels: see the table above.
    palette: of a map of labels, which may come in its colours.
    Returns [B, channels, H, W]: in -1..1, or zeros and ones, a channel a label.
    Raises: ShapeError for grey levels or colours that stand for no label.
    """
    if holds_labels(channels, palette):
        labels = labels_of(x, channels, palette)
        return x.new_zeros(len(x), channels, *x.shape[2:]).scatter_(1, labels[:, None], 1)
    if channels == GREY:
        return torch.einsum("bchw,c->bhw", x, x.new_tensor(LUMINANCE))[:, None]
    return F.pad(x, (0, 0, 0, 0, 0, channels - RGB), value=1.0)


def to_rgb(y: Tensor, palette: Palette | None = None) -> Tensor:
    """The picture of a decoder's answer, the inverse of `from_rgb`: [B, C, H, W] -> [B, 3, H, W].

    A map of labels comes in float32, -1..1, as narrower floats would blur its levels.
    """
    if not holds_labels(y.shape[1], palette):
        return y[:, :RGB].expand(-1, RGB, -1, -1)
    labels, colours = y.argmax(dim=1), None if palette is None else palette.levels()
    levels = labels[..., None].expand(*labels.shape, RGB) if colours is None else colours.to(y.device)[labels]
    return (levels.movedim(-1, 1).float() + MARGIN).clamp(max=TOP) / TOP * 2 - 1


def labels_of(x: Tensor, labels: int, palette: Palette | None = None) -> Tensor:
    """The map of labels in a picture: [B, 3, H, W] in -1..1, grey or in the palette's colours -> int64 [B, H, W]."""
    levels, colours = (x.detach().float() + 1) / 2 * TOP, None if palette is None else palette.levels()
    grey = ((levels - levels[:, :1]).abs() < LOOSE).flatten(1).all(1)
    found = torch.empty(len(x), *x.shape[2:], dtype=torch.int64, device=x.device)
    if grey.any():
        found[grey] = _numbers(levels[grey, 0], labels)
    if not grey.all():
        found[~grey] = _nearest(levels[~grey], labels, colours)
    return found


def full_range(x: Tensor) -> Tensor:
    """Each picture stretched so that it runs from -1 to 1, as maps of depth do: [B, C, H, W] -> the same shape."""
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return (x - low) / (high - low).clamp_min(1e-8) * 2 - 1


def _numbers(levels: Tensor, labels: int) -> Tensor:
    """Grey levels [B, H, W] as labels."""
    whole = levels.round()
    if ((levels - whole).abs() > LOOSE).any():
        raise ShapeError(
            "the grey levels of this map of labels lie between whole ones, which number the labels: it was resized or "
            "blurred; resize maps of labels by nearest-exact"
        )
    if wrong := [int(level) for level in whole.unique() if not 0 <= level < labels]:
        raise ShapeError(
            f"the map of labels holds {_listed(wrong)}; this model knows {labels} labels, 0 to {labels - 1}: a label "
            "is the grey level of a pixel, 0 to 255 (255 is often meant as no label, and so is what was transparent)"
        )
    return whole.long()


def _nearest(levels: Tensor, labels: int, colours: Tensor | None) -> Tensor:
    """Colours [B, 3, H, W] in 0..255 as the labels of the nearest colours of a palette."""
    if colours is None:
        raise ShapeError(
            f"the map of labels is in colours, and this model has no palette: it takes a grey picture whose level, 0 "
            f"to {labels - 1}, is the number of a label"
        )
    found, places = levels.round().movedim(1, -1).flatten(0, -2).unique(dim=0, return_inverse=True)
    distances = (found[:, None] - colours.to(found)).abs().amax(-1)
    nearest, best = distances.min(1)
    if wrong := ["#" + "".join(f"{int(v):02x}" for v in colour) for colour in found[nearest > NEAR]]:
        raise ShapeError(
            f"the map of labels holds the colours {_listed(wrong)}, which are not in this model's palette: give the "
            f"labels as grey levels, 0 to {labels - 1}, or colours as this model's decoder paints them"
        )
    return best[places].view(len(levels), *levels.shape[2:])


def _listed(values: list[int] | list[str]) -> str:
    more = f" and {len(values) - NAMED} more" if len(values) > NAMED else ""
    return ", ".join(map(str, values[:NAMED])) + more
