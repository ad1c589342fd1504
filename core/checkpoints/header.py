"""What a file of weights says about itself, before any weight is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Shape and dtype of one tensor of a file."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numbers(self) -> int:
        return torch.Size(self.shape).numel()


@dataclass(frozen=True, kw_only=True)
class Header:
    """The tensors of a file by name, and its metadata.

    format: "safetensors" or "torch".
    metadata: the strings of a safetensors header; empty for torch files.
    """

    path: Path
    format: str
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def __contains__(self, name: object) -> bool:
        return name in self.tensors
