"""The examples in CONTRIBUTING.md run and do what the page says."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import VQConfig
from vitrail.core.checkpoints.families import FAMILIES
from vitrail.core.checkpoints.family import family_of
from vitrail.core.checkpoints.keymap import translate
from vitrail.core.checkpoints.read import read_header, read_tensors
from vitrail.core.checkpoints.sidecar import Sidecar
from vitrail.core.samplers import SAMPLERS, Sampler
from vitrail.core.types import Codes
from vitrail.nodes import NODE_CLASS_MAPPINGS

PAGE = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- runs in ([\w.]+) -->\n```python\n(.*?)```", PAGE, re.DOTALL)


def run(package: str) -> dict[str, Any]:
    """The names that the page's code for a package defines, run as a module of that package."""
    (code,) = (code for where, code in BLOCKS if where == package)
    names: dict[str, Any] = {"__package__": package, "__name__": f"{package}.example"}
    exec(compile(code, package, "exec"), names)
    return names


def test_the_solver_has_its_order() -> None:
    """On dx/dsigma = x sigma / (sigma^2 + 1), the flow of a unit Gaussian: x goes as sqrt(sigma^2 + 1)."""
    solver = Sampler(run("vitrail.core.samplers")["ralston"], order=2)

    def error(steps: int) -> float:
        x = torch.full((1, 1, 1, 1), 10**0.5, dtype=torch.float64)
        sigmas = torch.linspace(3, 0.5, steps + 1, dtype=torch.float64)
        *_, last = solver(lambda x, sigma: x / (sigma**2 + 1), x, sigmas)
        return abs(last.x.item() - 1.25**0.5)

    assert error(64) < 1e-3
    assert torch.tensor(error(32) / error(64)).log2().item() == pytest.approx(2, abs=0.15)
    assert "ralston" not in SAMPLERS, "the page's example has become real: choose another"


def test_the_family_opens_its_files(tmp_path: Path) -> None:
    (family,) = run("vitrail.core.checkpoints.families")["FAMILIES"]
    config = AutoencoderConfig(
        ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), z_channels=4, embed_dim=3,
        bottleneck=VQConfig(codes=16, dim=3),
    )  # fmt: skip
    state = Autoencoder(config).state_dict()
    foreign = {f"net.{name}": tensor for name, tensor in state.items()}
    save_file({**foreign, "optimiser.step": torch.ones(1)}, tmp_path / "a.safetensors")
    header = read_header(tmp_path / "a.safetensors")
    assert family_of(header, {**FAMILIES, family.name: family}) is family
    settings = family.infer(header, Sidecar())
    assert (settings.ch, settings.ch_mult, settings.bottleneck.codes) == (32, (1, 2), 16)
    tensors = read_tensors(header)
    model = family.build(settings)
    model.load_state_dict({new: tensors[old] for old, new in translate(family.keys(settings), tensors).items()})


def test_the_node_works() -> None:
    node = run("vitrail.nodes")["MirrorCodes"]
    assert set(node.INPUT_TYPES()["required"]) == {"codes", "upside_down"}
    codes = Codes(indices=torch.arange(6).reshape(1, 2, 3), codebook_size=6, factor=4, image_size=(8, 12))
    assert node().execute(codes, False)[0].indices.tolist() == [[[2, 1, 0], [5, 4, 3]]]
    assert node().execute(codes, True)[0].indices.tolist() == [[[3, 4, 5], [0, 1, 2]]]
    assert node.ID not in NODE_CLASS_MAPPINGS, "the page's example has become real: choose another"


def test_every_block_is_run() -> None:
    assert len(BLOCKS) == PAGE.count("```python")
