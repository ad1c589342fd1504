"""One running host with models in it, and the few things that every check does with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copy
from typing import Any

import numpy
import torch
from host_browser import PageResult
from host_client import Client, Run
from host_graph import Graph, Link, choices
from host_server import PACK, Places, Server
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import write_tiny_models
from torch import Tensor

from vitrail.core.checkpoints import load, shipped_models

WORKFLOWS = PACK / "example_workflows"
LORA = "vitrail-check.safetensors"
CLEAR = "vitrail-clear.png"
LABELS = ("vitrail-labels.png", "vitrail-other-labels.png")


class NotHere(Exception):
    """This machine or this version lacks what the check needs; the check is left out, and says why."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """A started server, its client, what GET /object_info answered, and the models that the checks use.

    pages: what the browser saw of each workflow that it has run so far.
    """

    server: Server
    client: Client
    info: dict[str, Any]
    version: str
    diffusion: str
    autoencoder: str
    refiner: str
    pages: dict[Path, PageResult] = field(default_factory=dict)

    def graph(self) -> Graph:
        return Graph(self.info)

    def require_browser(self) -> None:
        if not self.server.places.browser:
            raise NotHere("no chromium or no playwright-core (VITRAIL_NODE_MODULES)")

    def latents(self, graph: Graph, **links: Link) -> dict[str, Tensor]:
        """Run the graph and return those LATENT links, saved by the stock SaveLatent, as [B, C, h, w] tensors."""
        savers = {n: graph.add("SaveLatent", samples=link, filename_prefix=f"latents/{n}") for n, link in links.items()}
        run = self.client.run(graph.prompt).succeeded()
        files = {name: self.client.file(run.outputs[node.key]["latents"][0]) for name, node in savers.items()}
        return {name: load_file(path)["latent_tensor"] for name, path in files.items()}

    def pictures(self, graph: Graph, **links: Link) -> dict[str, list[Tensor]]:
        """Run the graph and return those IMAGE links, saved by the stock SaveImage, as lists of [H, W, 3] in 0..255."""
        savers = {name: graph.add("SaveImage", images=link, filename_prefix=name) for name, link in links.items()}
        run = self.client.run(graph.prompt).succeeded()
        return {
            name: [read_picture(self.client.file(entry)) for entry in run.outputs[node.key]["images"]]
            for name, node in savers.items()
        }

    def run(self, graph: Graph, **options: Any) -> Run:
        return self.client.run(graph.prompt, **options)


def read_picture(path: Path) -> Tensor:
    """[H, W, 3] int32, 0..255."""
    with Image.open(path) as picture:
        return torch.from_numpy(numpy.asarray(picture.convert("RGB"), dtype=numpy.int32).copy())


def worst(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference; AssertionError where the shapes differ."""
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    assert bool(torch.isfinite(a.double()).all()), "not finite"
    return (a.double() - b.double()).abs().max().item()


def pick(names: list[str], *wanted: str) -> str:
    """The first name that holds one of the wanted words; shipped ones first."""
    return next((name for word in wanted for name in names if word in name), "")


@contextmanager
def running_host(places: Places, base: Path) -> Iterator[Host]:
    """Start a host whose model folders hold tiny random models beside what the pack ships."""
    server = Server(places=places, base=base)
    server.prepare()
    write_tiny_models(base / "models")
    add_inputs(base / "input")
    with server:
        client = Client(port=server.port, base=base)
        info = client.get("/object_info")
        diffusion = pick(choices(info, "VitrailLoadDiffusion", "name"), "vitrail-", "tiny-diffusion")
        write_lora(base / "models", diffusion)
        yield Host(
            server=server, client=client, info=info,
            version=client.get("/system_stats")["system"].get("comfyui_version", "unknown"),
            diffusion=diffusion,
            autoencoder=pick(choices(info, "VitrailLoadAutoencoder", "name"), "vitrail-", "tiny-autoencoder"),
            refiner=pick(choices(info, "VitrailLoadRefiner", "name"), "vitrail-", "tiny-refiner"),
        )  # fmt: skip


def write_lora(models: Path, name: str) -> None:
    """A made-up LoRA of rank 2 for the queries of every self-attention of a model, in the host's plainest layout."""
    network = load(shipped_models("diffusion").get(name) or models / name).network
    generator, lora = torch.Generator().manual_seed(5), {}
    for layer, module in network.named_modules():
        if layer.endswith("attn1.to_q"):
            for part, shape in (("down", (2, module.in_features)), ("up", (module.out_features, 2))):
                values = torch.randn(shape, generator=generator) * module.in_features**-0.5
                lora[f"diffusion_model.{layer}.lora_{part}.weight"] = values
    save_file(lora, models / "loras" / LORA)


def add_inputs(folder: Path) -> None:
    """The pictures that the example workflows load, and one of 64 x 64 with flat areas, edges and gradients.

    CLEAR is the same with its left half transparent. LABELS are maps of 72 x 48 with the labels 0 to 8, in grey.
    """
    for picture in WORKFLOWS.glob("*.png"):
        copy(picture, folder)
    ramp = numpy.linspace(0, 255, 64, dtype=numpy.uint8)
    picture = numpy.stack([numpy.tile(ramp, (64, 1)), numpy.tile(ramp[:, None], (1, 64)), numpy.full((64, 64), 90)], 2)
    picture[16:40, 20:50] = (230, 60, 40)
    Image.fromarray(picture.astype(numpy.uint8)).save(folder / "vitrail-check.png")
    numbers = numpy.arange(6 * 4).reshape(4, 6) * 5 % 9
    for name, labels in zip(LABELS, (numbers, numbers[::-1]), strict=True):
        large = numpy.kron(labels, numpy.ones((12, 12))).astype(numpy.uint8)
        Image.fromarray(large).save(folder / name)
    alpha = numpy.where(numpy.arange(64) < 32, 0, 255)
    Image.fromarray(numpy.dstack([picture, numpy.tile(alpha, (64, 1))]).astype(numpy.uint8)).save(folder / CLEAR)
