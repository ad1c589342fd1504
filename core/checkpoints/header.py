"""What a file of weights says about itself, before its weights are read."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Shape and dtype of one tensor of a file."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numbers(self) -> int:
        return torch.Size(self.shape).numel()


Reader = Callable[[Collection[str]], dict[str, Tensor]]
"""Names of tensors in a file -> those tensors, on the CPU."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """The tensors of a file by name, and its metadata.

    format: "safetensors", "torch", or "diffusers" for a folder of several files.
    metadata: the strings of a safetensors header; empty for torch files.
    origin: the name in the file of each tensor that goes by another one here.
    reader: reads tensors by their names in the file.
    files: where the tensors lie, for a folder of files; empty for one file.
    averaged: the key under which a torch file keeps these weights, where they are averages; else empty.
    settings: arguments of the trainer that wrote the file, by name, where it kept them.
    mapped: whether a part of the tensors can be read without the rest.
    """

    path: Path
    format: str
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
    reader: Reader | None = None
    files: tuple[Path, ...] = ()
    averaged: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    mapped: bool = True

    @property
    def bytes(self) -> int:
        """Of the file, or of all files of a folder that hold tensors."""
        return sum(file.stat().st_size for file in self.files or (self.path,))

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def read(self, names: Collection[str]) -> dict[str, Tensor]:
        """Some of the tensors, on the CPU. Raises: CheckpointError where the file has changed or cannot be read."""
        inside = {name: self.origin.get(name, name) for name in names}
        found = self.reader(list(inside.values())) if self.reader else {}
        return {name: found[old] for name, old in inside.items()}

    def value(self, name: str) -> Tensor:
        """One small tensor that says something about the model, such as its latent scale."""
        return self.read([name])[name]

    def under(self, prefix: str) -> "Header":
        """The tensors whose names start so, without that beginning."""
        return self.renamed({name: name[len(prefix) :] for name in self.tensors if name.startswith(prefix)})

    def renamed(self, names: Mapping[str, str]) -> "Header":
        """Only these tensors, by their new names."""
        origin = {new: self.origin.get(old, old) for old, new in names.items()}
        return replace(self, tensors={new: self.tensors[old] for old, new in names.items()}, origin=origin)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors


def indices(header: Header, pattern: str) -> set[int]:
    """The numbers that stand in a pattern's group in the names that it fits whole."""
    return {int(found[1]) for name in header.tensors if (found := re.fullmatch(pattern, name))}


_PARALLEL = re.compile(r"(?:(?:module|_orig_mod)\.)+")


def parallel_prefix(names: Collection[str]) -> str:
    """What torch's DataParallel and compile put before every name of a model: "module.", "_orig_mod.", or nothing."""
    found = _PARALLEL.match(next(iter(names), ""))
    return found[0] if found and all(name.startswith(found[0]) for name in names) else ""
