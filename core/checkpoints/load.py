"""From a file to a model, and from a model to a file."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config_io import from_dict, to_dict
from ..errors import CheckpointError, ConfigError
from .ema import with_weights
from .families import FAMILIES
from .families.vitrail import kind_of, metadata_of, notes
from .family import Family, family_of
from .fill import build, check_finite, check_keys, converted, expected_keys, fill
from .header import Header
from .keymap import translate
from .read import read_header
from .safetensors_file import write_tensors
from .sidecar import PathLike, Sidecar, read_sidecar


def load(
    path: PathLike,
    *,
    config: Mapping[str, Any] | PathLike | None = None,
    dtype: torch.dtype | None = None,
    ema: bool | None = False,
    **overrides: Any,
) -> nn.Module:
    """The model in a file, on the CPU, in eval mode: an Autoencoder, LatentDiffusion, Refiner, Prior and so on.

    config: the publisher's config, as a mapping or a .yaml or .json file; by default the one that lies beside it.
    dtype: of the weights (default float32; a codebook stays float32 anyway).
    ema: of a file that holds both, the plain weights (False, as its own trainer, diffusers and ComfyUI load it), the
        averaged ones (True), or the averaged where complete (None: best for pictures, and what the nodes take). Of
        BasicSR's files always `params_ema`, where there are some, as its own code does.
    overrides: settings of the model's config that replace what the file says, such as prediction="v".
    Raises: CheckpointError and its kinds (UnknownFamily, KeyMismatch, UnsafeFile); ConfigError for a bad setting.
    """
    header, family, _ = _opened(path, ema)
    settings = _overridden(_infer(family, header, _asked(family, header, config)), overrides)
    model = build(family, settings, header)
    fill(model, family, settings, header, dtype or torch.float32)
    if family.finish is not None:
        family.finish(model, header, lambda other: load(other, dtype=dtype))
    for part in (model, *family.parts(model).values()):
        part.eval()
    return model


def describe(
    path: PathLike, *, config: Mapping[str, Any] | PathLike | None = None, ema: bool | None = False
) -> dict[str, Any]:
    """What a file holds, as JSON can say it, from its header alone: no model is built, no weights are read.

    Returns file, bytes, format, family, kind, config, inferred (where what came from), weights (plain or averaged),
    tensors and parameters (of the model, without leftovers of its training), dtypes, notes (of Vitrail's own files).
    Raises: as `load`, but for what only the weights themselves show.
    """
    header, family, weights = _opened(path, ema)
    dtypes = Counter(str(info.dtype).removeprefix("torch.") for info in header.tensors.values())
    own = notes(header) if family.name.startswith("vitrail-") else {}
    sidecar = _asked(family, header, config)
    settings = _infer(family, header, sidecar)
    kept = translate(family.keys(settings), header.tensors)
    return {
        "file": header.path.name,
        "bytes": header.bytes,
        "format": header.format,
        "family": family.name,
        "kind": family.kind,
        "config": to_dict(settings),
        "inferred": _sources(family, sidecar),
        "weights": weights,
        "tensors": len(kept),
        "parameters": sum(header.tensors[name].numbers for name in kept),
        "dtypes": dict(dtypes.most_common()),
        "notes": {key: value for key, value in own.items() if key not in ("kind", "config")},
    }


def verify(path: PathLike, *, config: Mapping[str, Any] | PathLike | None = None, ema: bool | None = False) -> None:
    """Check what `describe` leaves out: that every key fits its model and every weight is a number.

    One tensor at a time, so that a file of any size can be checked. Raises: as `load`.
    """
    header, family, _ = _opened(path, ema)
    settings = _infer(family, header, _asked(family, header, config))
    model = build(family, settings, header)
    table = family.keys(settings)
    names = translate(table, header.tensors)
    check_keys(header, names, expected_keys(family, model), table)
    check_finite(header, header.read(list(names)))


def save_model(model: nn.Module, path: PathLike, *, dtype: torch.dtype | None = None, **extra: Any) -> None:
    """Write an Autoencoder, LatentDiffusion, Refiner or Prior as a file that `load` opens; whole or not at all.

    dtype: of the weights (default: as they are; a codebook is always written in float32).
    extra: JSON-able notes for the file; `autoencoder` is the file name of a diffusion network's or prior's
    autoencoder, in the same folder or shipped (default, for diffusion: the path's own name with "autoencoder" for
    "diffusion", where it has that word).
    Raises: ConfigError for another kind of model or a note that the format itself sets.
    """
    path, kind = Path(path), kind_of(model)
    if kind.name == "diffusion" and "diffusion" in path.name and len(kind.parts(model)) == 1:
        extra.setdefault("autoencoder", path.name.replace("diffusion", "autoencoder"))
    tensors = {
        prefix + name: tensor
        for prefix, part in kind.parts(model).items()
        for name, tensor in converted(part, dtype).items()
        if not any(fnmatchcase(name, pattern) for pattern in kind.skip)
    }
    write_tensors(path, tensors, metadata_of(kind, model, extra))


def _opened(path: PathLike, ema: bool | None) -> tuple[Header, Family, str]:
    """A file's header with the weights that are wanted, its family, and which weights those are."""
    header, weights = with_weights(read_header(path), ema)
    family = family_of(header, FAMILIES)
    return family.prepare(header), family, weights


def _asked(family: Family, header: Header, config: Mapping[str, Any] | PathLike | None) -> Sidecar:
    if family.sidecar:
        return read_sidecar(header.path, config) or Sidecar(header.settings, "the trainer's arguments in it")
    if config is not None:
        raise ConfigError(f"{header.path.name} carries its own config: leave the config file out")
    return Sidecar()


def _infer(family: Family, header: Header, sidecar: Sidecar) -> Any:
    """The config of a file, each setting of its own type. Raises: CheckpointError, ConfigError, which name the file."""
    name = header.path.name
    blamed = f"{name} or its config {sidecar.name}" if sidecar else name
    try:
        settings = family.infer(header, sidecar)
        from_dict(type(settings), to_dict(settings))
    except ConfigError as error:
        known = name in str(error) or sidecar.name in str(error)
        raise error if known else ConfigError(f"{blamed}: {error}") from error
    except CheckpointError:
        raise
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, MemoryError) as error:
        reason = _reason(error, sidecar)
        raise CheckpointError(f"{blamed} is no sound {family.name} checkpoint: {reason}") from error
    return settings


def _reason(error: Exception, sidecar: Sidecar) -> str:
    """What went wrong in words, with the setting that was read last where it may be that one."""
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    if isinstance(error, IndexError) or "unpack" in str(error):
        return "a tensor has more or fewer sides than it should"
    last = f" (read last: {next(reversed(sidecar.found))})" if sidecar and sidecar.found else ""
    return f"{error}{last}"


def _sources(family: Family, sidecar: Sidecar) -> dict[str, str]:
    """Where each setting came from."""
    if not family.sidecar:
        return {"everything": "the file's own metadata"}
    return {**sidecar.found, "everything else": "names and shapes of the tensors"}


def _overridden(settings: Any, overrides: Mapping[str, Any]) -> Any:
    known = [f.name for f in fields(settings)]
    if unknown := sorted(set(overrides) - set(known)):
        raise ConfigError(f"unknown settings {', '.join(unknown)}; this model has {', '.join(known)}")
    return replace(settings, **overrides)
