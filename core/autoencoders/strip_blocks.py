"""Blocks of an autoencoder by horizontal strips: each takes what the one before holds, and holds its own result."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.blocks import (
    AttnBlock,
    BilinearDownsample,
    BilinearUpsample,
    Downsample,
    LinearAttnBlock,
    ResnetBlock,
    Upsample,
    enlarged,
)
from .strip_sources import Held, Made, Plan, Steps, activated, convolved, normalised

SCORES = 1 << 22
"""Attention scores held at once, by kernels that hold them at all (16 MiB of float32)."""


def _resnet(block: ResnetBlock, x: Held, plan: Plan) -> Steps[Held]:
    inner = convolved(block.conv1, (yield from activated(block.norm1, x, plan)))
    outer = convolved(block.conv2, (yield from activated(block.norm2, inner, plan, keep=x.height < plan.finest)))
    short = block.nin_shortcut if hasattr(block, "nin_shortcut") else nn.Identity()
    return (yield from plan.hold(Made(x.height, lambda a, b: outer.rows(a, b).add_(short(x.rows(a, b)))), x))


def _attention(block: AttnBlock, x: Held, plan: Plan) -> Steps[Held]:
    normed = yield from normalised(block.norm, x, plan)

    def tokens(layer: nn.Module, a: int, b: int) -> Tensor:
        return layer(normed.rows(a, b)).flatten(2).transpose(1, 2)[:, None]

    pairs: list[tuple[Tensor, ...]] = []
    for span in plan.spans(x.height):
        pairs.append(tuple(tokens(layer, *span) for layer in (block.k, block.v)))
        yield
    k, v = (torch.cat(parts, dim=2) for parts in zip(*pairs, strict=True))
    pairs.clear()
    queries = max(1, SCORES // k.shape[2])

    def rows(a: int, b: int) -> Tensor:
        parts = tokens(block.q, a, b).split(queries, dim=2)
        out = torch.cat([F.scaled_dot_product_attention(part, k, v) for part in parts], dim=2)
        return block.proj_out(out[:, 0].transpose(1, 2).unflatten(2, (b - a, -1))) + x.rows(a, b)

    return (yield from plan.hold(Made(x.height, rows), x))


def _linear_attention(block: LinearAttnBlock, x: Held, plan: Plan) -> Steps[Held]:
    def tokens(a: int, b: int) -> tuple[Tensor, ...]:
        return block.to_qkv(x.rows(a, b)).flatten(2).chunk(3, dim=1)

    pairs: list[tuple[Tensor, ...]] = []
    for span in plan.spans(x.height):
        pairs.append(tuple(part.clone() for part in tokens(*span)[1:]))
        yield
    context = block.context(*(torch.cat(parts, dim=2) for parts in zip(*pairs, strict=True)))
    pairs.clear()

    def rows(a: int, b: int) -> Tensor:
        return block.answer(tokens(a, b)[0], context).unflatten(2, (b - a, -1))

    return (yield from plan.hold(Made(x.height, rows), x))


def _downsample(layer: Downsample, x: Held, plan: Plan) -> Steps[Held]:
    strided = layer.conv

    def rows(a: int, b: int) -> Tensor:
        if strided is None:
            return F.avg_pool2d(x.rows(2 * a, 2 * b), 2)
        end = min(2 * b + 1, x.height)
        window = F.pad(x.rows(2 * a, end), (0, 1, 0, 2 * b + 1 - end))
        return F.conv2d(window, strided.weight, strided.bias, stride=2)

    return (yield from plan.hold(Made(x.height // 2, rows), x))


def _upsample(layer: Upsample, x: Held, plan: Plan) -> Steps[Held]:
    def rows(a: int, b: int) -> Tensor:
        repeated = F.interpolate(x.rows(a // 2, (b + 1) // 2), scale_factor=2.0, mode="nearest")
        return repeated[:, :, a % 2 : a % 2 + b - a]

    doubled = Made(2 * x.height, rows)
    return (yield from plan.hold(convolved(layer.conv, doubled) if isinstance(layer.conv, nn.Conv2d) else doubled, x))


def _bilinear_downsample(layer: BilinearDownsample, x: Held, plan: Plan) -> Steps[Held]:
    halved = Made(
        x.height // 2,
        lambda a, b: F.interpolate(x.rows(2 * a, 2 * b), scale_factor=0.5, mode="bilinear", align_corners=False),
    )
    return (yield from plan.hold(convolved(layer.conv, halved), x))


def _bilinear_upsample(layer: BilinearUpsample, x: Held, plan: Plan) -> Steps[Held]:
    inner = convolved(layer.conv, x)

    def rows(a: int, b: int) -> Tensor:
        """Each row is made of two of the convolution's; one more on either side, but at the picture's own ends."""
        start, end = max(a // 2 - 1, 0), min((b + 1) // 2 + 1, x.height)
        return enlarged(inner.rows(start, end))[:, :, a - 2 * start : b - 2 * start]

    return (yield from plan.hold(Made(2 * x.height, rows), x))


def _nothing(_: nn.Identity, x: Held, __: Plan) -> Steps[Held]:
    yield from ()
    return x


@dataclass(frozen=True)
class Kind:
    """run: how a block runs in strips. passes: how often it goes over them. scale: its rows out for a row in."""

    run: Callable[[Any, Held, Plan], Steps[Held]]
    passes: int
    scale: float = 1


BLOCKS: dict[type[nn.Module], Kind] = {
    ResnetBlock: Kind(_resnet, passes=3),
    AttnBlock: Kind(_attention, passes=3),
    LinearAttnBlock: Kind(_linear_attention, passes=2),
    Downsample: Kind(_downsample, passes=1, scale=0.5),
    Upsample: Kind(_upsample, passes=1, scale=2),
    BilinearDownsample: Kind(_bilinear_downsample, passes=1, scale=0.5),
    BilinearUpsample: Kind(_bilinear_upsample, passes=1, scale=2),
    nn.Identity: Kind(_nothing, passes=0),
}
