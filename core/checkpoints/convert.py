"""A model's file in another layout: Vitrail's, CompVis's or a folder of diffusers, without what only training needs."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.latent_diffusion import LatentDiffusion
from ..errors import ConfigError
from ..priors import Prior
from ..text.bert import BertEncoder
from ..text.vocabulary import find_tokenizer
from .load import load, save_model
from .safetensors_file import write_tensors
from .sidecar import PathLike
from .write_compvis import compvis_layout
from .write_diffusers import diffusers_layout
from .write_text import vocabulary

LAYOUTS = ("vitrail", "compvis", "diffusers")


def convert(
    path: PathLike,
    out: PathLike,
    *,
    to: str = "vitrail",
    dtype: torch.dtype | None = None,
    config: Mapping[str, Any] | PathLike | None = None,
    ema: bool | None = False,
) -> list[Path]:
    """Write what a file holds in another layout; the result gives the same outputs where the dtype holds its numbers.

    out: a .safetensors file (compvis: its config beside it as .yaml), or for diffusers a folder that is not there yet.
    dtype: of the weights; None is the narrowest that holds every number as it is.
    config, ema: as in `load`.
    Returns the files written, or the folder.
    Raises: as `load`; ConfigError for a model that has no place in that layout, or an `out` that cannot be written.
    """
    if to not in LAYOUTS:
        raise ConfigError(f'there is no layout "{to}"; there are {", ".join(LAYOUTS)}')
    out = Path(out)
    _check_out(Path(path), out, to)
    model = load(path, config=config, ema=ema)
    kept = dtype or narrowest(model)
    if to == "vitrail":
        named = {"autoencoder": model.autoencoder_file} if isinstance(model, LatentDiffusion | Prior) else {}
        save_model(model, out, dtype=kept, **named)
        return [out, *_with_vocabulary(model, out)]
    if to == "diffusers":
        _write_folder(out, diffusers_layout(model), kept)
        return [out]
    tensors, settings = compvis_layout(model)
    with _beside(out.with_suffix(".yaml")) as aside:
        aside.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        write_tensors(out, _cast(tensors, kept), {"format": "pt"})
    return [out, out.with_suffix(".yaml"), *_with_vocabulary(model, out)]


def _with_vocabulary(model: nn.Module, out: Path) -> list[Path]:
    """The vocabulary of a text encoder, in a folder `tokenizer` beside the file unless one is found there already."""
    conditioner = getattr(model, "conditioner", None)
    files = vocabulary(getattr(conditioner, "tokenizer", None))
    if not files or find_tokenizer([out.parent], "bert" if isinstance(conditioner, BertEncoder) else "clip"):
        return []
    for name, content in files.items():
        _write(out.parent / "tokenizer" / name, content)
    return [out.parent / "tokenizer" / name for name in files]


def narrowest(model: nn.Module) -> torch.dtype:
    """float16, bfloat16 or float32: the first that holds every weight exactly."""
    parts = model.stored.values() if isinstance(model, LatentDiffusion | Prior) else [model]
    weights = [tensor for part in parts for tensor in part.state_dict().values() if tensor.is_floating_point()]
    halves = (torch.float16, torch.bfloat16)
    fits = (half for half in halves if all(bool((w.to(half).to(w.dtype) == w).all()) for w in weights))
    return next(fits, torch.float32)


def _check_out(path: Path, out: Path, to: str) -> None:
    if to == "diffusers":
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"{out} is there already; expected a new folder")
    elif out.suffix.lower() not in (".safetensors", ".sft") or out.is_dir():
        raise ConfigError(f"{out.name} is no name for the result; expected one that ends in .safetensors")
    if os.path.realpath(out) == os.path.realpath(path):
        raise ConfigError(f"{out} is the file to convert itself; give another name")


def _cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


Layout = Mapping[str, Mapping[str, Any]]
"""Files by their path: .safetensors of tensors, .json of settings, .txt of lines."""


def _write_folder(out: Path, files: Layout, dtype: torch.dtype) -> None:
    with _beside(out) as aside:
        for name, content in files.items():
            _write(aside / name, _cast(content, dtype) if name.endswith(".safetensors") else content)


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        write_tensors(file, content, {"format": "pt"})
    elif file.suffix == ".txt":
        file.write_text("\n".join(content["lines"]) + "\n", encoding="utf-8")
    else:
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A name beside `out` that takes its place when the block ends well, and is gone when it does not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        yield aside
        if out.is_dir():
            out.rmdir()
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if aside.is_file():
            aside.unlink()
