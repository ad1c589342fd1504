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
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .convnet import Decoder, Encoder, Middle
from .strip_blocks import BLOCKS
from .strip_sources import Held, Made, Plan, Source, Steps, convolved, normalised

T = TypeVar("T")

SMALLEST = 8
"""The lowest strip in rows: in still lower ones most rows would be computed by two neighbours."""


@dataclass(frozen=True)
class StripStep:
    """One strip more. done, total: strips of all passes over all activations, so far and in all."""

    done: int
    total: int


StripSteps = Generator[StripStep, None, Tensor]
"""Yields after each strip, and returns the result."""


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

    h = yield from plan.hold(convolved(network.conv_in, Made(source.height, channels_last)), Held([], plan.size))
    for block in blocks:
        h = yield from BLOCKS[type(block)].run(block, h, plan)
    normed = yield from normalised(network.norm_out, h, plan)
    last = Made(h.height, lambda a, b: network.last(normed.rows(a, b)))
    out = yield from plan.hold(convolved(network.conv_out, last), h)
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
