"""torch.save files, opened without running anything that they name."""

import pickle
import re
import tarfile
import zipfile
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, UnsafeFile
from .ema import PREFIX
from .header import parallel_prefix

ZIP, PICKLE = b"PK\x03\x04", b"\x80\x02"

LIGHTNING = (
    "callbacks.model_checkpoint.ModelCheckpoint",
    "callbacks.early_stopping.EarlyStopping",
    "callbacks.lr_monitor.LearningRateMonitor",
    "callbacks.timer.Timer",
    "callbacks.stochastic_weight_avg.StochasticWeightAveraging",
    "utilities.parsing.AttributeDict",
)
SETTINGS = ("dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata")
NODES = ("Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "Path", "String")

TRAINING_CLASSES = (
    *(f"{package}.{name}" for package in ("pytorch_lightning", "lightning.pytorch") for name in LIGHTNING),
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    *(f"omegaconf.{name}" for name in SETTINGS),
    *(f"omegaconf.nodes.{kind}Node" for kind in NODES),
)
"""What public checkpoints pickle beside weights; each becomes an inert placeholder, none is imported or called."""

ARGUMENTS = "argparse.Namespace"

PLAIN_CLASSES = (
    "collections.defaultdict",
    "typing.Any",
    *(f"builtins.{kind}" for kind in ("bool", "bytes", "dict", "float", "int", "list", "str", "tuple")),
)
"""Python's own that trainers' settings are, or name as their types: placeholders too, though harmless."""

AVERAGED = ("params_ema", "params-ema", "ema")
WRAPPERS = ("state_dict", "params_ema", "params", "model", "params-ema", "model_state_dict", "net", "ema")
"""Keys under which training code keeps the weights, the first one found is taken; those of them that are averages.

What stands under "ema" beside plain weights goes by the names of `ema.py`.
"""


class Placeholder:
    """Stands for an object of a class that is not there: takes any arguments and state, keeps and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "Placeholder":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class Arguments(Placeholder):
    """Stands for the arguments of a trainer's command line: keeps those that are text, numbers, yes or no."""

    values: Mapping[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.values = plain_values(state)


def plain_values(settings: Any) -> dict[str, Any]:
    """What is text, a number, yes or no in a mapping by names; nothing of anything else."""
    items = settings.items() if isinstance(settings, Mapping) else ()
    return {name: value for name, value in items if isinstance(name, str) and isinstance(value, str | int | float)}


def placeholder(name: str, kind: type[Placeholder] = Placeholder) -> type[Placeholder]:
    """An empty class that goes by a dotted name, as torch's loader looks classes up."""
    module, _, short = name.rpartition(".")
    return type(short, (kind,), {"__module__": module, "__qualname__": short})


PLACEHOLDERS: list[Any] = [
    placeholder(ARGUMENTS, Arguments),
    *(placeholder(name) for name in TRAINING_CLASSES + PLAIN_CLASSES),
]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """tensors: by name. wrapper: the key under which they stood. settings: plain values of the trainer's arguments."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    wrapper: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def looks_like_torch(start: bytes) -> bool:
    """Whether the first bytes are those of a zip archive or of a pickle."""
    return start.startswith((ZIP, PICKLE))


def is_zipped(path: Path) -> bool:
    """Whether a torch file is an archive, from which torch maps tensors, and not a stream of pickles (before 1.6)."""
    with path.open("rb") as file:
        return file.read(4) == ZIP


def read_tensors(path: Path, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Tensors of a torch.save file by name, all where no names are given. Raises: as `read`."""
    tensors = read(path).tensors
    return {name: tensors[name] for name in (tensors if names is None else names) if name in tensors}


def read(path: Path, *, device: str = "cpu") -> Contents:
    """What a torch.save file holds; with device "meta" only shapes and dtypes of its tensors.

    Raises: UnsafeFile for a file that names a class or function other than the known training classes, that is a
    program (TorchScript), that is compressed, or whose tensors claim more than it holds; CheckpointError for a broken
    one.
    """
    if zipped := is_zipped(path):
        _check_archive(path)
    elif tarfile.is_tarfile(path):
        raise UnsafeFile(f"{path.name} is a tar archive, as torch wrote them before 0.4; expected a newer file")
    loaded = _load(path, device, zipped)
    found = _contents(loaded)
    if not found.tensors:
        raise CheckpointError(
            f"{path.name} holds no tensors by name; expected a state dict, bare or under one of {', '.join(WRAPPERS)}"
        )
    size = path.stat().st_size
    for name, tensor in found.tensors.items():
        _check_extent(path, name, tensor, size)
    return found


def _load(path: Path, device: str, zipped: bool) -> Any:
    try:
        mapped = zipped and device != "meta" and path.suffix != ".safetensors"  # torch goes by that ending
        with _known_classes(), path.open("rb") as file:
            return torch.load(path if mapped else file, map_location=device, weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from None
    except Exception as error:  # a damaged pickle makes torch's loader raise anything at all
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path.name} is no whole torch file: {reason}") from None


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
            f"{path.name} names {found[1]}, which is not among the known training classes, so it was not opened: "
            "loading it could run code. Convert it to safetensors where you trust it"
        )
    if "TorchScript" in message:
        return UnsafeFile(f"{path.name} is a TorchScript program, not weights; expected a state dict")
    line = next((line for line in message.splitlines() if "WeightsUnpickler error" in line), message.split("\n")[0])
    return UnsafeFile(f"{path.name} holds more than weights: {line.strip().removeprefix('WeightsUnpickler error: ')}")


def _check_archive(path: Path) -> None:
    """An archive of torch's stores its records as they are, and none of them claims more than the file holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise CheckpointError(f"{path.name} is cut short or broken ({error}): fetch the file again") from None
    names = {record.filename.rpartition("/")[2] for record in records}
    if "constants.pkl" in names:
        raise UnsafeFile(f"{path.name} is a TorchScript program, not weights; expected a state dict")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise UnsafeFile(f"{path.name} is a compressed archive, which torch.save does not write: unpack it first")
    if sum(record.file_size for record in records) > path.stat().st_size:
        raise UnsafeFile(f"{path.name} claims records larger than itself: its directory lies")
    if "data.pkl" not in names:
        raise CheckpointError(f"{path.name} is a zip archive but none of torch's: it has no data.pkl")


def _contents(loaded: Any) -> Contents:
    """The tensors of a state dict, whether bare or wrapped as training code does."""
    if not isinstance(loaded, Mapping):
        return Contents()
    for wrapper in WRAPPERS:
        if isinstance(inner := loaded.get(wrapper), Mapping) and (tensors := _contents(inner).tensors):
            averages = {} if wrapper in AVERAGED else _averages(loaded.get("ema"), tensors)
            return Contents(tensors={**tensors, **averages}, wrapper=wrapper, settings=_settings(loaded.get("args")))
    tensors = {k: v.detach() for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)}
    prefix = parallel_prefix(tensors)
    return Contents(tensors={name[len(prefix) :]: tensor for name, tensor in tensors.items()})


def _averages(loaded: Any, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Averages of weights, by the names that CompVis gives them."""
    found = _contents(loaded).tensors
    return {PREFIX + name.replace(".", ""): tensor for name, tensor in found.items() if name in plain}


def _settings(arguments: Any) -> Mapping[str, Any]:
    return arguments.values if isinstance(arguments, Arguments) else plain_values(arguments)


def _check_extent(path: Path, name: str, tensor: Tensor, size: int) -> None:
    """A tensor of strides 0 or of a lying shape can claim any size: only what the file holds counts."""
    claimed = tensor.numel() * tensor.element_size()
    if tensor.layout != torch.strided or claimed > min(size, tensor.untyped_storage().nbytes()):
        raise UnsafeFile(f"{path.name}: {name} claims shape {tuple(tensor.shape)}, more than the file holds")
