"""Cases made with the reference implementations: tensors in, tensors out, tolerances."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).parent
PLACES = (HERE / "golden", HERE.parent.parent / "shared" / "golden")


@dataclass(frozen=True)
class Case:
    path: Path
    info: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def config(self) -> Any:
        return self.info["config"]

    def atol(self, name: str) -> float:
        return self.info["tensors"][name].get("atol", 0.0)

    def check(self, name: str, got: Tensor) -> None:
        """Compare one tensor with the reference at the tolerance that the case states."""
        want = self.tensors[name]
        assert got.shape == want.shape, f"{name}: {tuple(got.shape)} instead of {tuple(want.shape)}"
        if not want.is_floating_point():
            assert torch.equal(got, want), f"{name}: {int((got != want).sum())} of {want.numel()} differ"
            return
        worst = (got.double() - want.double()).abs().max().item()
        assert worst <= self.atol(name), f"{name}: off by {worst:.3g}, allowed {self.atol(name):.3g}"


def case(name: str) -> Case:
    for place in PLACES:
        folder = place / name
        if (folder / "case.json").is_file():
            tensors = load_file(folder / "golden.safetensors")
            return Case(folder, json.loads((folder / "case.json").read_text()), tensors)
    pytest.skip(f"golden case {name} is not here")
