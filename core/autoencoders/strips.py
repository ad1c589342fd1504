"""Encoders and decoders by horizontal strips: the numbers of the whole picture in a fraction of its memory.

Nothing here is approximate. A strip is computed with the rows around it that its convolutions reach; what looks at the
whole picture gets the whole: a normalisation takes its mean and variance from a pass over all strips beforehand,
attention has the keys and values of all positions and takes the queries strip by strip.

An activation is a `Source`, which makes rows a to b when asked. Layers wrap one source in another, so that norm, SiLU,
convolution and sum of a residual block run through a strip while it is small. Between two blocks the activation is kept
once, as a list of strips (`Held`), whose memory goes over to the next block's strips while they are made: on the finest
level, nearly all of it, one activation and a few strips are alive where the plain forward has four or five.

Everything that takes long is a generator that yields after each strip and returns its result.

A residual block needs the statistics of its first convolution's result before the second can start. That result is kept
on the coarser levels. On the finest it is not: the first convolution runs twice, once to measure and once to use, so
that three convolutions stand for two, and rows at the seams are computed by both neighbours. Against that, strips stay
in the processor's caches and in the layout (channels last) that convolutions are fastest in.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
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
from .convnet import Decoder, Encoder, Middle

T = TypeVar("T")

SMALLEST = 8
"""The lowest strip in rows: in still lower ones most rows would be computed by two neighbours."""

HALO = 2
"""So many rows around a strip does a block reach at most: two convolutions of 3x3."""

SCORES = 1 << 22
"""Attention scores held at once, by kernels that hold them at all (16 MiB of float32)."""


@dataclass(frozen=True)
class StripStep:
    """One strip more. done, total: strips of all passes over all activations, so far and in all."""

    done: int
    total: int


StripSteps = Generator[StripStep, None, Tensor]
"""Yields after each strip, and returns the result."""

Steps = Generator[None, None, T]


def drained(steps: Generator[Any, None, T]) -> T:
    """What a generator returns at its end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@torch.no_grad()
def encode_strips(encoder: Encoder, x: Tensor, strip: int) -> StripSteps:
    """encoder(x) within rounding, picture by picture, in strips.

    x: [B, in_channels, H, W] in -1..1, both sides multiples of the encoder's factor.
    strip: pixels in height; every level takes that many rows of its own, SMALLEST at least.
    Yields after each strip; returns what encoder(x) does, in its dtype, without gradients.
    Raises: ConfigError for a strip below 1.
    """
    fold = encoder.patch_size
    plan = _plan(strip, fold, x.shape[2] // fold)
    blocks = [*_blocks(encoder.down, "downsample"), *_middle(encoder.mid)]

    def run(picture: Tensor) -> Steps[Tensor]:
        def rows(a: int, b: int) -> Tensor:
            return F.pixel_unshuffle(picture[:, :, a * fold : b * fold], fold)

        return _run(encoder, blocks, Made(picture.shape[2] // fold, rows), plan)

    return (yield from _counted(run, x, _passes(blocks, x.shape[2] // fold, plan)))


@torch.no_grad()
def decode_strips(decoder: Decoder, z: Tensor, strip: int) -> StripSteps:
    """decoder(z) within rounding, picture by picture, in strips.

    z: [B, z_channels, h, w]. strip, Raises: as in `encode_strips`.
    Yields after each strip; returns what decoder(z) does, in its dtype, without gradients.
    """
    plan = _plan(strip, decoder.patch_size, z.shape[2] * 2 ** (len(decoder.up) - 1))
    blocks = [*_middle(decoder.mid), *_blocks(decoder.up[::-1], "upsample")]

    def run(one: Tensor) -> Steps[Tensor]:
        return _run(decoder, blocks, Held([one], one.shape[2]), plan)

    made = yield from _counted(run, z, _passes(blocks, z.shape[2], plan))
    return F.pixel_shuffle(decoder.bound(made), decoder.patch_size)


class Source(Protocol):
    """An activation [1, C, height, W] of which only the rows asked for need exist; rows(a, b): [1, C, b - a, W]."""

    height: int

    def rows(self, a: int, b: int, /) -> Tensor: ...


@dataclass
class Made:
    """A source whose rows a function makes."""

    height: int
    rows: Callable[[int, int], Tensor]


@dataclass
class Held:
    """A source kept as strips of `size` rows from the top; while it is used up, from row `top` and HALO rows above."""

    strips: list[Tensor]
    size: int
    top: int = 0
    above: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.height = sum(strip.shape[2] for strip in self.strips)

    def rows(self, a: int, b: int, /) -> Tensor:
        starts = range(self.top, b, self.size)
        parts = [
            part[:, :, max(a - top, 0) : b - top]
            for top, part in zip(starts, self.strips, strict=False)
            if a < top + self.size
        ]
        if a < self.top:
            parts.insert(0, self.above[0][:, :, a - self.top :])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def replace(self, strip: Tensor, row: int) -> Tensor:
        """The strip, in the memory of one that ends at or above a row, where one has its shape; those are let go."""
        ended = [self.strips.pop(0) for _ in range((row - self.top) // self.size)]
        if ended:
            self.top += len(ended) * self.size
            self.above = [ended[-1][:, :, -HALO:].clone()]
        fitting = [old for old in ended if old.shape == strip.shape]
        return fitting[0].copy_(strip) if fitting else strip


@dataclass(frozen=True)
class Plan:
    """size: rows of a strip. finest: height of the level on which a block's inner activation is made twice."""

    size: int
    finest: int

    def spans(self, height: int) -> Iterator[tuple[int, int]]:
        """Where each strip starts and ends, from the top."""
        return ((a, min(a + self.size, height)) for a in range(0, height, self.size))

    def count(self, height: int) -> int:
        """How many strips that is."""
        return -(-height // self.size)

    def hold(self, source: Source, used: Held) -> Steps[Held]:
        """All of a source, strip by strip, in place of the one that is used up in it."""
        strips: list[Tensor] = []
        for a, b in self.spans(source.height):
            strips.append(used.replace(source.rows(a, b), b * used.height // source.height))
            yield
        return Held(strips, self.size)


def _plan(strip: int, fold: int, finest: int) -> Plan:
    if strip < 1:
        raise ConfigError(
            f"strips are {strip} pixels high; expected at least 1 (encode and decode take 0 for whole pictures)"
        )
    return Plan(max(SMALLEST, strip // fold), finest)


def _counted(run: Callable[[Tensor], Steps[Tensor]], batch: Tensor, strips: int) -> StripSteps:
    """The batch, picture by picture. strips: how many one picture takes."""
    made: list[Tensor] = []

    def pictures() -> Steps[None]:
        for picture in batch.split(1):
            made.append((yield from run(picture)))

    for done, _ in enumerate(pictures(), 1):
        yield StripStep(done, strips * len(batch))
    return torch.cat(made)


def _passes(blocks: Iterable[nn.Module], height: int, plan: Plan) -> int:
    """How many strips all passes of `_run` are made of, from a height of its source."""
    total = plan.count(height)
    for kind in (BLOCKS[type(block)] for block in blocks):
        height = int(height * kind.scale)
        total += kind.passes * plan.count(height)
    return total + 2 * plan.count(height)


def _run(network: Encoder | Decoder, blocks: list[nn.Module], source: Source, plan: Plan) -> Steps[Tensor]:
    def channels_last(a: int, b: int) -> Tensor:
        return source.rows(a, b).contiguous(memory_format=torch.channels_last)

    h = yield from plan.hold(_conv(network.conv_in, Made(source.height, channels_last)), Held([], plan.size))
    for block in blocks:
        h = yield from BLOCKS[type(block)].run(block, h, plan)
    normed = yield from _normed(network.norm_out, h, plan)
    last = Made(h.height, lambda a, b: network.last(normed.rows(a, b)))
    out = yield from plan.hold(_conv(network.conv_out, last), h)
    return out.rows(0, out.height).contiguous()


def _blocks(levels: Any, resampling: str) -> Iterator[nn.Module]:
    """What the levels apply, in order."""
    for level in levels:
        for i, block in enumerate(level.block):
            yield block
            yield from level.attn[i : i + 1]
        if hasattr(level, resampling):
            yield getattr(level, resampling)


def _middle(middle: Middle | nn.Identity) -> tuple[nn.Module, ...]:
    return (middle.block_1, middle.attn_1, middle.block_2) if isinstance(middle, Middle) else ()


# Blocks: each takes what the one before holds, and holds its own result.


def _resnet(block: ResnetBlock, x: Held, plan: Plan) -> Steps[Held]:
    inner = _conv(block.conv1, (yield from _activated(block.norm1, x, plan)))
    outer = _conv(block.conv2, (yield from _activated(block.norm2, inner, plan, keep=x.height < plan.finest)))
    short = block.nin_shortcut if hasattr(block, "nin_shortcut") else nn.Identity()
    return (yield from plan.hold(Made(x.height, lambda a, b: outer.rows(a, b).add_(short(x.rows(a, b)))), x))


def _attention(block: AttnBlock, x: Held, plan: Plan) -> Steps[Held]:
    normed = yield from _normed(block.norm, x, plan)

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
    conv = layer.conv

    def rows(a: int, b: int) -> Tensor:
        if conv is None:
            return F.avg_pool2d(x.rows(2 * a, 2 * b), 2)
        end = min(2 * b + 1, x.height)
        window = F.pad(x.rows(2 * a, end), (0, 1, 0, 2 * b + 1 - end))
        return F.conv2d(window, conv.weight, conv.bias, stride=2)

    return (yield from plan.hold(Made(x.height // 2, rows), x))


def _upsample(layer: Upsample, x: Held, plan: Plan) -> Steps[Held]:
    def rows(a: int, b: int) -> Tensor:
        repeated = F.interpolate(x.rows(a // 2, (b + 1) // 2), scale_factor=2.0, mode="nearest")
        return repeated[:, :, a % 2 : a % 2 + b - a]

    doubled = Made(2 * x.height, rows)
    return (yield from plan.hold(_conv(layer.conv, doubled) if isinstance(layer.conv, nn.Conv2d) else doubled, x))


def _bilinear_downsample(layer: BilinearDownsample, x: Held, plan: Plan) -> Steps[Held]:
    halved = Made(
        x.height // 2,
        lambda a, b: F.interpolate(x.rows(2 * a, 2 * b), scale_factor=0.5, mode="bilinear", align_corners=False),
    )
    return (yield from plan.hold(_conv(layer.conv, halved), x))


def _bilinear_upsample(layer: BilinearUpsample, x: Held, plan: Plan) -> Steps[Held]:
    inner = _conv(layer.conv, x)

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


# Layers: each makes a source of a source.


def _conv(layer: nn.Conv2d | nn.Identity, source: Source) -> Source:
    """A 3x3 convolution with a border of zeros, which reaches one row further on either side; or a copy."""
    if isinstance(layer, nn.Identity):
        return Made(source.height, lambda a, b: source.rows(a, b).clone())

    def rows(a: int, b: int) -> Tensor:
        start, end = max(a - 1, 0), min(b + 1, source.height)
        window = source.rows(start, end)
        if end - start < b - a + 2:
            window = F.pad(window, (0, 0, start - a + 1, b + 1 - end))
        return F.conv2d(window, layer.weight, layer.bias, padding=(0, 1))

    return Made(source.height, rows)


def _activated(norm: nn.GroupNorm, source: Source, plan: Plan, *, keep: bool = False) -> Steps[Source]:
    """silu(norm(x))."""
    normed = yield from _normed(norm, source, plan, keep=keep)
    return Made(source.height, lambda a, b: F.silu(normed.rows(a, b), inplace=True))


def _normed(norm: nn.GroupNorm, source: Source, plan: Plan, *, keep: bool = False) -> Steps[Source]:
    """norm(x), as x * scale + shift with the numbers of the whole picture, which is read once for them.

    keep: hold what was read, where it was made only now.
    """
    found: list[Tensor] = []
    kept: list[Tensor] = []
    for span in plan.spans(source.height):
        kept.append(source.rows(*span))
        found.append(_moments(norm, kept[-1].float()))
        if not keep:
            kept.clear()
        yield
    scale, shift = _affine(norm, torch.stack(found, dim=1), plan, source.height)
    inner = Held(kept, plan.size) if keep else source

    def rows(a: int, b: int) -> Tensor:
        x = inner.rows(a, b)
        return (x * scale).add_(shift).to(x.dtype)

    return Made(source.height, rows)


def _affine(norm: nn.GroupNorm, moments: Tensor, plan: Plan, height: int) -> tuple[Tensor, Tensor]:
    """What a group norm multiplies each channel by and what it adds, both [1, C, 1, 1] float32.

    mean M = sum s m,  variance = sum s (v + (m - M)^2)  over the strips, of share s, mean m and variance v, in float64:
    no small number is left over from two large ones. moments: [2, strips, groups], as `_moments` makes them.
    """
    found = moments.cpu().double()
    share = torch.tensor([(b - a) / height for a, b in plan.spans(height)], dtype=torch.float64)[:, None]
    mean = (share * found[0]).sum(0)
    variance = (share * (found[1] ** -2 - norm.eps + (found[0] - mean).square())).sum(0)
    weight, bias = (part.cpu().double().unflatten(0, (norm.num_groups, -1)) for part in (norm.weight, norm.bias))
    scale = weight * (variance + norm.eps).rsqrt()[:, None]
    shift = bias - mean[:, None] * scale
    device = norm.weight.device
    return scale.float().view(1, -1, 1, 1).to(device), shift.float().view(1, -1, 1, 1).to(device)


def _moments(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Mean and 1 / sqrt(variance + eps) of each group, [2, groups], by the kernel that norm(x) itself runs.

    Contiguous: for channels last torch 2.13 has another kernel on CPUs, which loses digits where the mean is large.
    """
    size = (1, x.shape[1], x.shape[2] * x.shape[3])
    _, mean, scale = torch.native_group_norm(x.contiguous(), None, None, *size, norm.num_groups, norm.eps)
    return torch.stack([mean[0], scale[0]])
