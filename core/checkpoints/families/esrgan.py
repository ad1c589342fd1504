"""ESRGAN's generators in the three layouts that its code has had.

    newest  conv_first  body.N.rdbM.convK             conv_body       conv_up1, conv_up2   conv_hr   conv_last
    older   conv_first  RRDB_trunk.N.RDBM.convK       trunk_conv      upconv1, upconv2     HRconv    conv_last
    oldest  model.0     model.1.sub.N.RDBM.convK.0    model.1.sub.L   model.3, model.6     model.8   model.10

Source: github.com/xinntao/BasicSR, basicsr/archs/rrdbnet_arch.py; github.com/xinntao/ESRGAN, RRDBNet_arch.py.
"""

from collections.abc import Callable

from ...errors import UnknownFamily
from ...refine.refiner import Refiner, RefinerParts
from ...refine.rrdb import UNSHUFFLE, RefinerConfig
from ..family import Family, has_all
from ..header import Header
from ..keymap import KeyMap
from .compvis import indices

Names = tuple[str, str, str, str]
"""First convolution, last one, a dense layer's first convolution with {} for its block, and the number of a block."""

NEW: Names = ("conv_first", "conv_last", "body.{}.rdb1.conv1", r"body\.(\d+)\.rdb1\..*")
OLD: Names = ("conv_first", "conv_last", "RRDB_trunk.{}.RDB1.conv1", r"RRDB_trunk\.(\d+)\.RDB1\..*")
OLDEST: Names = ("model.0", "model.10", "model.1.sub.{}.RDB1.conv1.0", r"model\.1\.sub\.(\d+)\.RDB1\..*")

SCALES = {fold**2: scale for scale, fold in UNSHUFFLE.items()}
"""By how many times as many channels go in as come out: the picture is folded for the smaller scales."""


def infer(header: Header, names: Names) -> RefinerParts:
    """The sizes of a generator; pictures go in with as many channels as they come out."""
    first, last, dense, block = names
    width, inputs = header.shape(f"{first}.weight")[:2]
    outputs = header.shape(f"{last}.weight")[0]
    if inputs % outputs or inputs // outputs not in SCALES:
        raise UnknownFamily(
            f"{header.path.name} takes {inputs} channels and gives {outputs}; expected 1, 4 or 16 times as many"
        )
    config = RefinerConfig(
        in_channels=outputs,
        out_channels=outputs,
        num_feat=width,
        num_block=1 + max(indices(header, block)),
        num_grow=header.shape(f"{dense.format(0)}.weight")[0],
        scale=SCALES[inputs // outputs],
    )
    return RefinerParts(generator=config)


def build(parts: RefinerParts) -> Refiner:
    return Refiner(parts.generator, parts.discriminator)


def _older(parts: RefinerParts) -> KeyMap:
    dense = {f"RRDB_trunk.{{}}.RDB{i}.{{*}}": f"generator.body.{{}}.rdb{i}.{{*}}" for i in (1, 2, 3)}
    rest = {"trunk_conv": "conv_body", "upconv1": "conv_up1", "upconv2": "conv_up2", "HRconv": "conv_hr"}
    return dense | {f"{old}.{{*}}": f"generator.{new}.{{*}}" for old, new in rest.items()} | {"{*}": "generator.{*}"}


def _oldest(parts: RefinerParts) -> KeyMap:
    dense = {
        f"model.1.sub.{{}}.RDB{i}.conv{{}}.0.{{*}}": f"generator.body.{{}}.rdb{i}.conv{{}}.{{*}}" for i in (1, 2, 3)
    }
    last = f"1.sub.{parts.generator.num_block}"
    rest = {"0": "conv_first", last: "conv_body", "3": "conv_up1", "6": "conv_up2", "8": "conv_hr", "10": "conv_last"}
    return dense | {f"model.{old}.{{*}}": f"generator.{new}.{{*}}" for old, new in rest.items()}


def _family(name: str, names: Names, keys: Callable[[RefinerParts], KeyMap]) -> Family:
    first, last, dense, _ = names
    return Family(
        name=name,
        kind="refiner",
        detect=has_all(*(f"{layer}.weight" for layer in (first, last, dense.format(0)))),
        infer=lambda header, _: infer(header, names),
        keys=keys,
        build=build,
    )


FAMILIES = (
    _family("esrgan", NEW, lambda _: {"{*}": "generator.{*}"}),
    _family("esrgan-old", OLD, _older),
    _family("esrgan-oldest", OLDEST, _oldest),
)
