"""From a file to a model, and from a model to a file."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..config_io import to_dict
from ..errors import CheckpointError, ConfigError, KeyMismatch
from .families import FAMILIES
from .families.vitrail import KINDS, metadata_of, notes
from .family import Family, Sidecar, family_of
from .header import Header
from .keymap import translate
from .read import read_header, read_tensors
from .safetensors_file import write_tensors

PathLike = str | os.PathLike[str]
SHOWN = 8


def load(
    path: PathLike,
    *,
    config: Sidecar | PathLike | None = None,
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> nn.Module:
    """The model in a file, on the CPU, in eval mode: an Autoencoder, a LatentDiffusion or a Refiner.

    config: the publisher's config, as a mapping or a JSON file; by default the JSON file of the same name beside it.
    dtype: of the weights (default float32; a codebook stays float32 anyway).
    overrides: settings of the model's config that replace what the file says, such as prediction="v".
    Raises: CheckpointError and its kinds (UnknownFamily, KeyMismatch, UnsafeFile); ConfigError for a bad setting.
    """
    header = read_header(path)
    family = family_of(header, FAMILIES)
    settings = _overridden(_infer(family, header, config), overrides)
    model = _filled(family, settings, header, dtype or torch.float32)
    if family.finish is not None:
        family.finish(model, header, lambda other: load(other, dtype=dtype))
    return model.eval()


def describe(path: PathLike, *, config: Sidecar | PathLike | None = None) -> dict[str, Any]:
    """What a file holds, as JSON can say it, from its header alone: no model is built, no weight is read.

    Returns file, bytes, format, family, kind, config, tensors and parameters (of the model, without leftovers of its
    training), dtypes, notes (of Vitrail's own files).
    Raises: as `load`, but for what only the weights themselves show.
    """
    header = read_header(path)
    family = family_of(header, FAMILIES)
    dtypes = Counter(str(info.dtype).removeprefix("torch.") for info in header.tensors.values())
    own = notes(header) if family.name.startswith("vitrail-") else {}
    settings = _infer(family, header, config)
    kept = translate(family.keys(settings), header.tensors)
    return {
        "file": header.path.name,
        "bytes": header.path.stat().st_size,
        "format": header.format,
        "family": family.name,
        "kind": family.kind,
        "config": to_dict(settings),
        "tensors": len(kept),
        "parameters": sum(header.tensors[name].numbers for name in kept),
        "dtypes": dict(dtypes.most_common()),
        "notes": {key: value for key, value in own.items() if key not in ("kind", "config")},
    }


def save_model(model: nn.Module, path: PathLike, *, dtype: torch.dtype | None = None, **extra: Any) -> None:
    """Write an Autoencoder, LatentDiffusion or Refiner as a file that `load` opens; whole or not at all.

    dtype: of the weights (default: as they are; a codebook is always written in float32).
    extra: JSON-able notes for the file; `autoencoder` is the file name of a diffusion network's autoencoder, in the
    same folder or shipped (default: the path's own name with "autoencoder" for "diffusion", where it has that word).
    Raises: ConfigError for another kind of model or a note that the format itself sets.
    """
    path, ancestors = Path(path), {cls.__name__ for cls in type(model).__mro__}
    kind = next((kind for kind in KINDS if kind.model in ancestors), None)
    if kind is None:
        raise ConfigError(f"a {type(model).__name__} cannot be saved; expected one of {[k.model for k in KINDS]}")
    if kind.name == "diffusion" and "diffusion" in path.name:
        extra.setdefault("autoencoder", path.name.replace("diffusion", "autoencoder"))
    kept = _kept_float32(model)
    tensors = {
        name: tensor if dtype is None else tensor.to(_dtype(name, tensor, dtype, kept))
        for name, tensor in model.state_dict().items()
        if not name.startswith(kind.skip or ("\0",))
    }
    write_tensors(path, tensors, metadata_of(kind, model, extra))


def _infer(family: Family, header: Header, config: Sidecar | PathLike | None) -> Any:
    if not family.sidecar:
        if config is not None:
            raise ConfigError(f"{header.path.name} carries its own config: leave the config file out")
        return family.infer(header, {})
    sidecar = _sidecar(header.path, config)
    try:
        return family.infer(header, sidecar)
    except ConfigError:
        raise
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        beside = " or its config file" if sidecar else ""
        raise CheckpointError(f"{header.path.name}{beside} is no sound {family.name} checkpoint: {error}") from error


def _sidecar(path: Path, config: Sidecar | PathLike | None) -> Sidecar:
    """The publisher's config; empty where none is given and none lies beside the file."""
    if isinstance(config, Mapping):
        return config
    beside = path.with_suffix(".json")
    if config is None and not beside.is_file():
        return {}
    chosen = beside if config is None else Path(config)
    try:
        found = json.loads(chosen.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"the config {chosen.name} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"the config {chosen.name} is no JSON object")
    return found


def _overridden(settings: Any, overrides: Mapping[str, Any]) -> Any:
    known = [f.name for f in fields(settings)]
    if unknown := sorted(set(overrides) - set(known)):
        raise ConfigError(f"unknown settings {', '.join(unknown)}; this model has {', '.join(known)}")
    return replace(settings, **overrides)


def _filled(family: Family, settings: Any, header: Header, dtype: torch.dtype) -> nn.Module:
    """The model with the file's weights; until they fill it, its memory is reserved but not written."""
    try:
        with _Uninitialised():
            model = family.build(settings)
    except (RuntimeError, MemoryError, ValueError, TypeError, ArithmeticError) as error:  # sizes that torch refuses
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{header.path.name}: the model of its config cannot be built: {reason}") from error
    names = translate(family.keys(settings), header.tensors)
    _check(header, names, model.state_dict())
    tensors, kept = read_tensors(header), _kept_float32(model)
    state = {
        new: tensors[old].to(_dtype(new, tensors[old], dtype, kept), copy=True) for old, new in names.items()
    }
    model.load_state_dict(state, assign=True)
    return model


class _Uninitialised(TorchFunctionMode):
    """While this is on, drawing random values into a parameter does nothing: a file is about to replace them."""

    DRAWS = (Tensor.uniform_, Tensor.normal_)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.DRAWS and isinstance(args[0], nn.Parameter):
            return args[0]
        return func(*args, **(kwargs or {}))


def _kept_float32(model: nn.Module) -> tuple[str, ...]:
    """Beginnings of the keys of modules that compute in float32 whatever the model's dtype."""
    return tuple(f"{name}." for name, module in model.named_modules() if getattr(module, "keep_float32", False))


def _dtype(name: str, tensor: Tensor, dtype: torch.dtype, kept: tuple[str, ...]) -> torch.dtype:
    if not tensor.is_floating_point():
        return tensor.dtype
    return torch.float32 if kept and name.startswith(kept) else dtype


def _check(header: Header, names: Mapping[str, str], expected: Mapping[str, Tensor]) -> None:
    """KeyMismatch with every key that is missing, left over or of another shape."""
    found = {new: header.shape(old) for old, new in names.items()}
    wrong = [
        f"{name} {found[name]} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name] != tuple(tensor.shape)
    ]
    missing = [name for name in expected if name not in found]
    extra = [old for old, new in names.items() if new not in expected]
    report = [_listed("missing", missing), _listed("left over", extra), _listed("of another shape", wrong)]
    if report := "; ".join(filter(None, report)):
        raise KeyMismatch(f"{header.path.name} does not fit the model that its config names: {report}")


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} keys {what}: {', '.join(names[:SHOWN])}{more}" if names else ""



