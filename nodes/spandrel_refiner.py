"""Refiners of other makers (SwinIR, GFPGAN, Real-ESRGAN Compact ...), through spandrel where it is installed.

spandrel is handed the tensors that our own reader found, never the file: nothing that a file pickles is run.
"""

from __future__ import annotations

import re
from collections import Counter
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.checkpoints.fill import Counted, check_finite
from ..core.checkpoints.read import read_header, read_tensors
from ..core.errors import CheckpointError, ConfigError, ShapeError, UnknownFamily, VitrailError
from ..core.memory import out_of_memory
from ..core.refine.resize import resize
from ..core.refine.tiles import upscale

if TYPE_CHECKING:
    from ..core.checkpoints.header import Header

FACE = 512
"""Side in pixels of the aligned faces that restorers of faces learnt on."""

CHANNELS = ((3, 3), (1, 1), (4, 4))
"""Channels in and out of the networks that pictures can be handed to."""

LONGEST = 10_000
"""No network has as many layers in a row: spandrel takes their number from the highest in the names of a file."""

SPARE = 2**26
"""Numbers that a network may hold beside those of its file: masks, tables of places."""

SEED = 0
"""Some networks draw noise for every picture (GFPGAN): each picture begins anew with this."""


def open_instead(ours: CheckpointError, path: Path, dtype: torch.dtype | None = None) -> OtherRefiner:
    """`open_other` for a file that none of our families fits, as `ours` says.

    Raises: as `open_other`, but for UnknownFamily, where it is ours with what spandrel lacks beside it.
    """
    try:
        return open_other(path, dtype)
    except UnknownFamily as theirs:
        raise type(ours)(f"{ours}; {theirs}") from None


def describe(ours: CheckpointError, path: Path) -> dict[str, Any]:
    """What such a file holds, with the names of `checkpoints.describe`. Raises: as `open_instead`."""
    made, header = open_instead(ours, path).descriptor, read_header(path)
    return {
        "file": path.name,
        "bytes": header.bytes,
        "format": header.format,
        "family": f"{made.architecture.name} (through spandrel)",
        "kind": "refiner",
        "config": {"scale": made.scale, "purpose": made.purpose, "tags": made.tags},
        "tensors": len(header.tensors),
        "parameters": sum(info.numbers for info in header.tensors.values()),
        "dtypes": dict(Counter(str(info.dtype).removeprefix("torch.") for info in header.tensors.values())),
    }


def open_other(path: Path, dtype: torch.dtype | None = None) -> OtherRefiner:
    """The refiner in a file that spandrel knows, on the CPU, in eval mode.

    dtype: of the weights (default float32).
    Raises: UnknownFamily where spandrel is not installed or knows no such network, or one that needs more than a
    picture; ConfigError for a precision that the network does not compute in; CheckpointError and its kinds, as `load`.
    """
    spandrel = _spandrel()
    header = read_header(path)
    tensors = read_tensors(header)
    descriptor = _built(spandrel, header, tensors)
    check_finite(header, tensors)
    channels = descriptor.input_channels, descriptor.output_channels
    if not isinstance(descriptor, spandrel.ImageModelDescriptor) or channels not in CHANNELS:
        raise UnknownFamily(
            f"{path.name} is a {descriptor.architecture.name} for {descriptor.purpose} that makes {channels[1]} "
            f"channels of {channels[0]}; expected one that makes a picture of a picture alone"
        )
    try:
        return OtherRefiner(descriptor.to(dtype or torch.float32).eval()).eval().requires_grad_(False)
    except spandrel.UnsupportedDtypeError:
        raise ConfigError(f"{descriptor.architecture.name} does not compute in {dtype}: choose another dtype") from None


def _spandrel() -> Any:
    """The package. Raises: UnknownFamily, which says what is missing."""
    try:
        import spandrel
    except ImportError as error:
        missing = str(error.name or "spandrel").partition(".")[0]
        needed = "" if missing == "spandrel" else ", which spandrel needs,"
        raise UnknownFamily(
            f"refiners of other makers (SwinIR, GFPGAN ...) open through spandrel, but the package {missing}{needed} "
            f"is not installed: pip install {missing}"
        ) from None
    except Exception as error:  # a torchvision made for another torch fails in its own way
        raise UnknownFamily(f"spandrel, for refiners of other makers, cannot be imported: {_line(error)}") from None
    return spandrel


def _built(spandrel: Any, header: Header, tensors: dict[str, Tensor]) -> Any:
    """What spandrel makes of the tensors. Raises: UnknownFamily where it knows no such network or cannot build it."""
    highest = max((int(number) for name in tensors for number in re.findall(r"\d{1,18}", name)), default=0)
    if highest > LONGEST:
        raise UnknownFamily(f"{header.path.name} names a layer {highest}; expected {LONGEST} at most")
    try:
        with _Bounded(sum(tensor.numel() for tensor in tensors.values())):
            return spandrel.ModelLoader().load_from_state_dict(dict(tensors))
    except spandrel.UnsupportedModelError:
        raise UnknownFamily(f"spandrel {spandrel.__version__} knows no such refiner either") from None
    except Exception as error:  # what its architectures raise for keys and shapes that do not go together is anything
        raise UnknownFamily(f"spandrel cannot build it: {_line(error)}") from None


class _Bounded(Counted):
    """Stops a build that takes far more memory than the file has weights, as sizes that do not go together make it."""

    FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.left = 4 * numbers + SPARE

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.FACTORIES:
            size = args[0] if args and isinstance(args[0], tuple | list) else args
            self.left -= prod(side for side in size if isinstance(side, int))
            if self.left < 0:
                raise ValueError("it is far larger than its file")
        return super().__torch_function__(func, types, args, kwargs)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


class OtherRefiner(nn.Module):
    """A network of spandrel's, with what the nodes ask of a refiner.

    forward: [B, 3, H, W] 0..1, any H and W -> [B, 3, scale H, scale W] 0..1 of the same dtype, picture by picture.
    Sizes that the network does not take are padded by reflection, and cropped again. Restorers of faces take 512 x 512:
    other sizes are resized to that and back. A network of one channel is handed each channel by itself.
    descriptor: spandrel's, of a picture to a picture.
    """

    discriminator = None

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.descriptor, self.generator = descriptor, descriptor.model

    @property
    def scale(self) -> int:
        """How many times as large a refined picture is, along one side."""
        return self.descriptor.scale

    @property
    def whole(self) -> bool:
        """Whether it must see a picture whole, never in tiles: a face."""
        return self.descriptor.purpose == "FaceSR"

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Raises: ShapeError for anything but [B, 3, H, W]; VitrailError where memory runs out for a whole face."""
        if x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape:
            raise ShapeError(f"the refiner is handed {tuple(x.shape)}; expected [batch, 3, height, width], none 0")
        run = self._face if self.whole else self._run
        return torch.cat([run(picture) for picture in x.to(self._weight).split(1)]).to(x.dtype)

    def refine(self, image: Tensor, tile: int = 0, overlap: int = 16) -> Tensor:
        """The picture made larger by `scale`.

        image: [B, 3, H, W] in 0..1. tile, overlap: as in `upscale_steps`; a face is never cut into tiles.
        Returns [B, 3, scale H, scale W] float32 in 0..1, on the image's device.
        Raises: as `forward` and `upscale_steps`.
        """
        tile = 0 if self.whole else tile
        return upscale(self, image, scale=self.scale, tile=tile, overlap=overlap, device=self._weight.device)

    def realism(self, image: Tensor) -> Tensor:
        """Raises: ConfigError: these files have no critic."""
        raise ConfigError("this refiner was saved without its critic; load one that has a discriminator")

    @property
    def _weight(self) -> Tensor:
        return next(self.generator.parameters())

    def _face(self, picture: Tensor) -> Tensor:
        try:
            made = self._run(resize(picture, (FACE, FACE)).to(picture))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise VitrailError(f"memory ran out for a face of {FACE} x {FACE} pixels: free some") from error
        return resize(made, (picture.shape[2], picture.shape[3]))

    def _run(self, picture: Tensor) -> Tensor:
        """One picture [1, 3, H, W] of the weights' dtype."""
        if self.descriptor.input_channels == 1:
            return torch.cat([self._seeded(channel) for channel in picture.split(1, dim=1)], dim=1)
        if self.descriptor.input_channels == 4:
            picture = torch.cat([picture, torch.ones_like(picture[:, :1])], dim=1)
        return self._seeded(picture)[:, :3]

    def _seeded(self, picture: Tensor) -> Tensor:
        devices = [picture.device] if picture.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(SEED)
            return self.descriptor(picture)
