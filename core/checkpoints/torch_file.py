"""torch.save files, opened without running anything that they name."""

import io
import pickle
import re
import tarfile
import warnings
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, UnsafeFile
from .ema import PREFIX
from .header import parallel_prefix
from .pickle_scan import AGAIN, TRUST, Scan, scan
from .placeholders import PLACEHOLDERS, Arguments, is_known, plain_values
from .zip_file import check_archive

ZIP, PICKLES = b"PK\x03\x04", tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
MAGIC, PICKLES_AFTER = 0x1950A86A20F9469CFC6C, 4
"""The number that a file of several pickles begins with, and how many come after it: the last but one has the weights.
Source: github.com/pytorch/pytorch, torch/serialization.py, _legacy_save."""

AVERAGED = ("params_ema", "params-ema", "ema")
WRAPPERS = ("state_dict", "params_ema", "params", "model", "params-ema", "model_state_dict", "net", "params_d", "ema")
"""Keys under which training code keeps the weights, the first one found is taken; those of them that are averages.

What stands under "ema" beside plain weights goes by the names of `ema.py`.
"""

UNREAD = {"torch._utils._rebuild_qtensor": "quantised", "torch._utils._rebuild_nested_tensor": "nested"}
"""What makes tensors of no use here."""

PLAIN_TENSORS = (Tensor, nn.Parameter)
NEWEST, DEEPEST, SHARED = 3, 40, 8
"""Pickle protocols that torch's loader reads, wrappers that are looked into, times that a number may be used."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """tensors: by name. wrapper: the key under which they stood. settings: plain values of the trainer's arguments."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    wrapper: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def looks_like_torch(start: bytes) -> bool:
    """Whether the first bytes are those of a zip archive or of a pickle."""
    return start.startswith((ZIP, *PICKLES))


def is_zipped(path: Path) -> bool:
    """Whether a torch file is an archive, from which torch maps tensors, and not a stream of pickles (before 1.6)."""
    with path.open("rb") as file:
        return file.read(4) == ZIP


def read_tensors(path: Path, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Tensors of a torch.save file by name, all where no names are given. Raises: as `read`."""
    tensors = read(path).tensors
    return {name: tensors[name] for name in (tensors if names is None else names) if name in tensors}


def read(path: Path, *, device: str = "cpu") -> Contents:
    """What a torch.save file holds; with device "meta" only shapes and dtypes of its tensors: that comes first.

    Raises: UnsafeFile for a file that names a class or function other than the known training classes, that is a
    program (TorchScript), that is compressed, or whose tensors claim more than it holds; CheckpointError for a broken
    one.
    """
    zipped = is_zipped(path)
    if device == "meta":
        _check_zipped(path) if zipped else _check_pickles(path)
    found = _contents(_load(path, device, zipped), set())
    if not found.tensors:
        raise CheckpointError(
            f"{path.name} holds no tensors by name; expected a state dict, bare or under one of {', '.join(WRAPPERS)}"
        )
    _check_extents(path, found.tensors, device)
    return replace(found, tensors={name: Tensor.detach(tensor) for name, tensor in found.tensors.items()})


def _check_zipped(path: Path) -> None:
    """An archive's storages claim no more than its records hold."""
    text, sizes = check_archive(path)
    found = _scan(path, io.BytesIO(text))
    _check_contents(path, found)
    for key, claimed in found.storages.items():
        if key not in sizes:
            raise CheckpointError(f"{path.name} is cut short or broken, it lacks the weights data/{key}: {AGAIN}")
        if claimed > sizes[key]:
            raise UnsafeFile(f"{path.name} claims {claimed} bytes of weights in data/{key}, where {sizes[key]} are")


def _check_pickles(path: Path) -> None:
    """A file of pickles, as torch wrote them before 1.6: its storages claim no more than it holds, and all are filled.

    magic number, version, system; the weights' places; the keys of the storages that follow.
    """
    if tarfile.is_tarfile(path):
        raise UnsafeFile(f"{path.name} is a tar archive, as torch wrote them before 0.4; expected a newer file")
    with path.open("rb") as file:
        first = _scan(path, file)
        if first.value != MAGIC:
            raise CheckpointError(
                f"{path.name} is a plain pickle, not a file of torch.save's; expected safetensors or a torch file. "
                f"{TRUST}"
            )
        *_, found, keys = [_scan(path, file) for _ in range(PICKLES_AFTER)]
    _check_contents(path, found)
    if "torch.storage.UntypedStorage" in found.names:
        raise CheckpointError(
            f"{path.name} holds numbers of 8 bits in torch's old format, which torch cannot read: save it anew"
        )
    if (claimed := sum(found.storages.values())) > path.stat().st_size:
        raise UnsafeFile(f"{path.name} claims {claimed} bytes of weights, more than the file holds")
    if unfilled := set(found.storages) - keys.texts:
        raise UnsafeFile(f"{path.name} has no numbers for {len(unfilled)} of its weights: its list of them lies")


def _scan(path: Path, stream: IO[bytes]) -> Scan:
    try:
        return scan(stream, is_known)
    except CheckpointError as error:
        raise type(error)(f"{path.name} {error}") from None


def _check_contents(path: Path, found: Scan) -> None:
    """Refuse what torch's loader does not read, in words."""
    for name, kind in UNREAD.items():
        if name in found.names:
            raise CheckpointError(f"{path.name} holds {kind} tensors; expected plain dense ones: save it again so")
    if found.protocol > NEWEST:
        raise CheckpointError(
            f"{path.name} is pickled with protocol {found.protocol}, of which torch reads no weights safely; expected "
            "2, as torch.save writes by itself: save it again so, or as safetensors"
        )


def _load(path: Path, device: str, zipped: bool) -> Any:
    try:
        mapped = zipped and device != "meta" and _can_be_mapped(path)
        with warnings.catch_warnings(), _known_classes(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            return torch.load(path if mapped else file, map_location=device, weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from None
    except Exception as error:  # a damaged pickle makes torch's loader raise anything at all
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path.name} is no whole torch file: {reason}") from None


def _can_be_mapped(path: Path) -> bool:
    """Whether torch's loader takes the path itself: it goes by the ending .safetensors, and reads names as UTF-8."""
    return path.suffix != ".safetensors" and str(path).isprintable()


def _known_classes() -> AbstractContextManager[Any]:
    """Lets torch's loader find the placeholders while a file is read; torch 2.4 has no way to take them back."""
    scope = getattr(torch.serialization, "safe_globals", None)
    if scope is not None:
        return scope(PLACEHOLDERS)
    torch.serialization.add_safe_globals(PLACEHOLDERS)
    return nullcontext()


def _refused(path: Path, message: str) -> CheckpointError:
    """The loader's message in one line that names the global it refused."""
    if found := re.search(r"GLOBAL (\S+)", message):
        return UnsafeFile(
            f"{path.name} names {found[1]}, which torch does not take for weights, so it was not opened: loading it "
            f"could run code. {TRUST}"
        )
    reason = " ".join(message.partition("WeightsUnpickler error:")[2].partition("Check the doc")[0].split())
    reason = reason or message.partition("\n")[0]
    return UnsafeFile(f"{path.name} holds more than weights: {reason[:200]}. {TRUST}")


def _contents(loaded: Any, seen: set[int]) -> Contents:
    """The tensors of a state dict, whether bare or wrapped as training code does, some wrappers deep.

    A pickle can put what it likes in the place of a dictionary's methods, so those are the class's own; and a
    dictionary into itself, so none is looked into twice. seen: the ids of those that were.
    """
    if not isinstance(loaded, dict) or id(loaded) in seen or len(seen) > DEEPEST:
        return Contents()
    seen.add(id(loaded))
    for wrapper in WRAPPERS:
        if tensors := _contents(dict.get(loaded, wrapper), seen).tensors:
            averages = {} if wrapper in AVERAGED else _averages(dict.get(loaded, "ema"), tensors, seen)
            settings = _settings(dict.get(loaded, "args"))
            return Contents(tensors={**tensors, **averages}, wrapper=wrapper, settings=settings)
    tensors = {k: v for k, v in dict.items(loaded) if isinstance(k, str) and isinstance(v, Tensor)}
    prefix = parallel_prefix(tensors)
    return Contents(tensors={name[len(prefix) :]: tensor for name, tensor in tensors.items()})


def _averages(loaded: Any, plain: Mapping[str, Tensor], seen: set[int]) -> dict[str, Tensor]:
    """Averages of weights, by the names that CompVis gives them."""
    found = _contents(loaded, seen).tensors
    return {PREFIX + name.replace(".", ""): tensor for name, tensor in found.items() if name in plain}


def _settings(arguments: Any) -> Mapping[str, Any]:
    return arguments.values if isinstance(arguments, Arguments) else plain_values(arguments)


def _check_extents(path: Path, tensors: Mapping[str, Tensor], device: str) -> None:
    """Tensors of strides 0, of a lying shape or over one another claim any size: only what the file holds counts."""
    size, total = path.stat().st_size, 0
    for name, tensor in tensors.items():
        if odd := _oddity(tensor, device):
            raise CheckpointError(f"{path.name}: {name} is {odd}; expected a plain dense tensor: save it again as one")
        claimed = tensor.numel() * tensor.element_size()
        total += claimed
        if claimed > min(size, tensor.untyped_storage().nbytes()):
            raise UnsafeFile(f"{path.name}: {name} claims shape {tuple(tensor.shape)}, more than the file holds")
    if total > SHARED * size:
        raise UnsafeFile(f"{path.name} claims {total} bytes of weights that lie over each other in {size}")


def _oddity(tensor: Tensor, device: str) -> str | None:
    """What keeps a tensor from being plain numbers in memory."""
    if type(tensor) not in PLAIN_TENSORS:
        return f"of the class {type(tensor).__name__}"
    if tensor.layout != torch.strided:
        return f"sparse ({tensor.layout})"
    if tensor.is_nested or tensor.is_quantized:
        return "nested" if tensor.is_nested else f"quantised ({tensor.dtype})"
    return None if tensor.device.type == device else f"on the device {tensor.device}, without its numbers"
