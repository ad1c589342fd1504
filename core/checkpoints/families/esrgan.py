"""ESRGAN's generators in the three layouts that its code has had.

    newest  conv_first  body.N.rdbM.convK             conv_body       conv_up1, conv_up2   conv_hr   conv_last
    older   conv_first  RRDB_trunk.N.RDBM.convK       trunk_conv      upconv1, upconv2     HRconv    conv_last
    oldest  model.0     model.1.sub.N.RDBM.convK.0    model.1.sub.L   model.3, model.6     model.8   model.10

The oldest goes on, or ends sooner, for other scales: model.3 .. model.3d double the size, then come model.(3d + 2) and
model.(3d + 4). ESRGAN+ adds convK = conv1x1 there, without the last `.0`.
Source: github.com/xinntao/BasicSR, basicsr/archs/rrdbnet_arch.py; github.com/xinntao/ESRGAN, RRDBNet_arch.py;
github.com/cszn/KAIR, models/network_rrdbnet.py (the older layout for a scale of 2); github.com/ncarraz/ESRGANplus.
"""

from collections.abc import Callable

from ...errors import UnknownFamily
from ...refine.refiner import Refiner, RefinerParts
from ...refine.rrdb import FOLDS, MOST_DOUBLINGS, RefinerConfig
from ..family import Family, Sidecar, has_all
from ..header import Header, indices
from ..keymap import KeyMap

Names = tuple[str, str, str]
"""A dense layer's first convolution with {} for its block; the numbers of blocks; those of doublings."""

NEW: Names = ("body.{}.rdb1.conv1", r"body\.(\d+)\.rdb1\..*", r"conv_up(\d+)\..*")
OLD: Names = ("RRDB_trunk.{}.RDB1.conv1", r"RRDB_trunk\.(\d+)\.RDB1\..*", r"upconv(\d+)\..*")
OLDEST: Names = ("model.1.sub.{}.RDB1.conv1.0", r"model\.1\.sub\.(\d+)\.RDB1\..*", r"model\.(\d+)\.weight")

INPUTS = ("network_g.num_in_ch", "num_in_ch", "network_g.in_nc", "in_nc")
"""Where a config says how many channels pictures have; folded pictures have 4 or 16 times as many."""

CHANNELS = (3, 4, 1)
"""Of pictures that go in, where they are not as many as come out and the newest layout takes more than these."""


def infer(header: Header, names: Names, sidecar: Sidecar) -> RefinerParts:
    """The sizes of a generator; 4 or 16 times as many channels in as pictures have are a folded picture's."""
    dense, block, _ = names
    doublings = _doublings(header, names)
    first, last = ("model.0", f"model.{3 * doublings + 4}") if names is OLDEST else ("conv_first", "conv_last")
    width, inputs = header.shape(f"{first}.weight")[:2]
    outputs = header.shape(f"{last}.weight")[0]
    said = sidecar.first(INPUTS)
    likely = (outputs, *(CHANNELS if names is NEW and inputs > max(CHANNELS) else ())) if said is None else (int(said),)
    folds = (fold for channels in likely for fold in FOLDS if inputs == channels * fold**2 and 2**doublings >= fold)
    fold = next(folds, 1)
    config = RefinerConfig(
        in_channels=inputs // fold**2,
        out_channels=outputs,
        num_feat=width,
        num_block=1 + max(indices(header, block)),
        num_grow=header.shape(f"{dense.format(0)}.weight")[0],
        scale=2**doublings // fold,
        doublings=doublings,
        plus=any(".conv1x1." in name for name in header.tensors),
    )
    return RefinerParts(generator=config)


def _doublings(header: Header, names: Names) -> int:
    """How often the size doubles. Raises: UnknownFamily for a number that no such network has."""
    highest = max(indices(header, names[2]), default=0)
    found, rest = (highest, 0) if names is not OLDEST else divmod(highest - 4, 3)
    if not 0 <= found <= MOST_DOUBLINGS or rest:
        raise UnknownFamily(
            f"{header.path.name}: the numbers of its layers end in {highest}; expected convolutions that double the "
            f"size up to {MOST_DOUBLINGS} times"
        )
    return found


def build(parts: RefinerParts) -> Refiner:
    return Refiner(parts.generator, parts.discriminator)


def _older(_: RefinerParts) -> KeyMap:
    dense = {f"RRDB_trunk.{{}}.RDB{i}.{{*}}": f"generator.body.{{}}.rdb{i}.{{*}}" for i in (1, 2, 3)}
    rest = {"trunk_conv": "conv_body", "upconv{}": "conv_up{}", "HRconv": "conv_hr"}
    return dense | {f"{old}.{{*}}": f"generator.{new}.{{*}}" for old, new in rest.items()} | {"{*}": "generator.{*}"}


def _oldest(parts: RefinerParts) -> KeyMap:
    table: dict[str, str | None] = {}
    for i in (1, 2, 3):
        here, there = f"model.1.sub.{{}}.RDB{i}.conv", f"generator.body.{{}}.rdb{i}.conv"
        table |= {f"{here}1x1.{{*}}": f"{there}1x1.{{*}}", f"{here}{{}}.0.{{*}}": f"{there}{{}}.{{*}}"}
    doublings = parts.generator.doublings
    rest = {"0": "conv_first", f"1.sub.{parts.generator.num_block}": "conv_body"}
    rest |= {str(3 * i): f"conv_up{i}" for i in range(1, doublings + 1)}
    rest |= {str(3 * doublings + 2): "conv_hr", str(3 * doublings + 4): "conv_last"}
    return table | {f"model.{old}.{{*}}": f"generator.{new}.{{*}}" for old, new in rest.items()}


def _family(name: str, names: Names, keys: Callable[[RefinerParts], KeyMap]) -> Family:
    ends = ("model.0",) if names is OLDEST else ("conv_first", "conv_last")
    return Family(
        name=name,
        kind="refiner",
        detect=has_all(*(f"{layer}.weight" for layer in (*ends, names[0].format(0)))),
        infer=lambda header, sidecar: infer(header, names, sidecar),
        keys=keys,
        build=build,
    )


FAMILIES = (
    _family("esrgan", NEW, lambda _: {"{*}": "generator.{*}"}),
    _family("esrgan-old", OLD, _older),
    _family("esrgan-oldest", OLDEST, _oldest),
)
