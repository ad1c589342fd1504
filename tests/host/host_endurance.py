"""Checks of memory, of the flags that the host was started with, and of errors in a node's own words."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from host_client import Client
from host_graph import Graph
from host_parts import TINY, Parts
from host_rig import Host, add_inputs, read_picture, worst
from host_server import free_port
from tiny import write_tiny_models

RUNS, RELOAD = 300, 15
GROWTH = 12e6
FLAGS = ("--force-fp16", "--bf16-vae", "--fp16-text-enc")  # --cpu excludes --lowvram


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * 4096


def small_run(host: Host, number: int) -> Graph:
    """A tiny model, one step, a picture shown; another seed each time, another load of the file now and then."""
    graph = host.graph()
    dtype = ("auto", "fp32")[number // RELOAD % 2]
    model, clip, _, vq_model = (graph.add("VitrailLoadDiffusion", name=TINY, dtype=dtype)[i] for i in range(4))
    positive = graph.add("VitrailTextEncode", clip=clip, text="cat")[0]
    latent = graph.add("VitrailEmptyLatent", model=model, width=32, height=32)[0]
    sigmas = graph.add("VitrailNoiseScheduler", model=model, steps=1)[0]
    made = graph.add("VitrailSampler", model=model, sigmas=sigmas, latent=latent, positive=positive, seed=number)[0]
    graph.add("PreviewImage", images=graph.add("VitrailVQDecode", vq_model=vq_model, latent=made)[0])
    return graph


def memory_stays_flat(host: Host) -> str:
    assert host.server.process is not None
    held = []
    for number in range(RUNS):
        host.run(small_run(host, number)).succeeded()
        if (number + 1) % 50 == 0:
            held.append(resident(host.server.process.pid))
    words = ", ".join(f"{size / 1e6:.0f}" for size in held)
    settled = held[len(held) // 2 - 1 :]
    assert settled[-1] - settled[0] < GROWTH, f"MB resident after every 50 runs: {words}"
    return f"{RUNS} runs, {RUNS // RELOAD} loads of the file; MB resident after every 50 runs: {words}"


def models_unload_and_come_back(host: Host) -> str:
    parts = Parts.of(host)
    before = host.latents(parts.graph, ours=parts.ours())["ours"]
    host.client.post("/free", {"unload_models": True, "free_memory": False})
    parts = Parts.of(host)
    again = host.latents(parts.graph, other=parts.ours(seed=8), ours=parts.ours(seed=7))["ours"]
    assert (found := worst(before, again)) == 0, f"they differ by {found:.1e}"
    return "the same latent after the host was told to unload all models"


def cancelled_runs_leave_nothing(host: Host) -> str:
    """Twenty runs stopped in their midst: memory stays where it was after the first five."""
    assert host.server.process is not None
    held = []
    for number in range(20):
        parts = Parts.of(host)
        sampled = parts.ours(parts.sigmas(steps=500), seed=number)
        parts.graph.add("SaveLatent", samples=sampled)
        asked: list[int] = []

        def cancel(run: object, node: str = sampled[0], asked: list[int] = asked) -> None:
            if not asked and len(run.progress.get(node, ())) >= 2:  # type: ignore[attr-defined]
                asked.append(1)
                host.client.interrupt()

        run = host.run(parts.graph, watch=cancel)
        assert run.end == "interrupted", (run.end, run.error)
        held.append(resident(host.server.process.pid))
    grown = held[-1] - held[4]
    assert grown < GROWTH, f"grew by {grown / 1e6:.0f} MB in 15 cancelled runs"
    return f"20 cancelled runs, {grown / 1e6:+.1f} MB over the last 15"


def flags_are_honoured(host: Host) -> str:
    parts = Parts.of(host)
    exact = host.pictures(parts.graph, plain=parts.graph.add("VAEDecode", samples=parts.stock(), vae=parts.vae)[0])
    with TemporaryDirectory(prefix="vitrail-flags-") as base:
        server = replace(host.server, base=Path(base), port=free_port(), process=None, extra=("--cpu", *FLAGS))
        server.prepare()
        write_tiny_models(Path(base) / "models")
        add_inputs(Path(base) / "input")
        with server:
            client = Client(port=server.port, base=Path(base))
            other = replace(host, server=server, client=client, info=client.get("/object_info"))
            parts = Parts.of(other)
            picture = parts.graph.add("VAEDecode", samples=parts.stock(), vae=parts.vae)[0]
            rough = other.pictures(parts.graph, rough=picture)
            told = re.findall(r"the (\w+) computes in torch\.(\w+)", server.log)
    assert dict(told) == {"network": "float16", "conditioner": "float16", "autoencoder": "bfloat16"}, told
    difference = (rough["rough"][0] - exact["plain"][0]).float().abs().mean().item()
    assert 0 < difference < 6, f"mean difference {difference:.1f}/255"
    return f"{' '.join(FLAGS)}: {', '.join(' in '.join(pair) for pair in told)}; picture off by {difference:.2f}/255"


def said(host: Host, graph: Graph, *words: str) -> str:
    """The error of a graph, in which every word must occur."""
    run = host.run(graph)
    assert run.end == "error" and all(word in run.error for word in words), run
    return run.error.partition("Error: ")[2] or run.error


def refuses_foreign_codes(host: Host) -> str:
    parts = Parts.of(host)
    other = parts.graph.add("VitrailLoadAutoencoder", name="vae/tiny-autoencoder.safetensors")[0]
    codes = parts.graph.add("VitrailVQEncode", image=parts.picture(), vq_model=parts.vq_model)[0]
    parts.graph.add("PreviewImage", images=parts.graph.add("VitrailVQDecode", vq_model=other, codes=codes)[0])
    return said(host, parts.graph, "codebook of", "64 codes", "the autoencoder that made them")


def names_a_missing_part(host: Host) -> str:
    """A diffusion file whose autoencoder is not beside it: our node and a stock node say the same."""
    found = []
    for kind, socket, name in (("VAEDecode", 2, "vae"), ("VitrailVQDecode", 3, "vq_model")):
        graph = host.graph()
        load = graph.add("VitrailLoadDiffusion", name="checkpoints/tiny-network.safetensors")
        latent = {"samples" if name == "vae" else "latent": graph.add("VitrailEmptyLatent", model=load[0])[0]}
        graph.add("PreviewImage", images=graph.add(kind, **{name: load[socket]}, **latent)[0])
        found.append(said(host, graph, "tiny-network.safetensors has no autoencoder"))
    return found[0]


def takes_masks_of_another_size(host: Host) -> str:
    """A mask of 100 x 30 for a picture of 64 x 64: stretched over it, by KSampler, our sampler and our other nodes."""
    parts = Parts.of(host)
    graph = parts.graph
    mask = graph.add("SolidMask", value=1.0, width=100, height=30)[0]
    start = graph.add("VitrailVQEncode", image=parts.picture(), vq_model=parts.vq_model)
    masked = graph.add("SetLatentNoiseMask", samples=start[1], mask=mask)[0]
    latents = host.latents(graph, stock=parts.stock(latent_image=masked), ours=parts.ours(latent=masked))
    assert (found := worst(*latents.values())) < 1e-4, found
    edited = graph.add("VitrailEditCodes", codes=start[0], mask=mask)[0]
    refiner = graph.add("VitrailLoadRefiner", name=host.refiner)[0]
    shown = graph.add("VitrailVQDecode", vq_model=parts.vq_model, codes=edited)[0]
    refined = graph.add("VitrailGANRefine", image=shown, refiner=refiner, mask=mask)[0]
    host.pictures(graph, refined=refined)
    return f"stretched over the picture; our sampler against KSampler {found:.0e}; Edit Codes, GAN Refine take it"


def reloads_a_changed_file(host: Host) -> str:
    """A model file with other weights under the same name: the next run of the same graph uses them."""
    place = host.client.base / "models" / "vae" / "changing.safetensors"
    tiny = place.with_name("tiny-autoencoder.safetensors")
    shown = []
    for number in range(3):
        if number != 1:
            write_changed(tiny, place, number)
        graph = host.graph()
        load = graph.add("VitrailLoadAutoencoder", name="vae/changing.safetensors")[0]
        picture = graph.add("LoadImage", image="vitrail-check.png")[0]
        codes = graph.add("VitrailVQEncode", image=picture, vq_model=load)[0]
        decoded = graph.add("VitrailVQDecode", vq_model=load, codes=codes)[0]
        save = graph.add("SaveImage", images=decoded, filename_prefix=f"changing-{number}")
        run = host.run(graph).succeeded()
        shown.append(read_picture(host.client.file(run.outputs[save.key]["images"][0])))
    differences = [worst(a, b) for a, b in pairwise(shown)]
    assert differences[0] == 0 and differences[1] > 0, differences
    return f"unchanged file: {differences[0]:.0f}/255; changed file: {differences[1]:.0f}/255"


def write_changed(source: Path, place: Path, number: int) -> None:
    from vitrail.core.checkpoints import load, save_model

    model = load(source)
    model.decoder.conv_out.bias.data += 0.2 * number
    save_model(model, place)


ENDURANCE_CHECKS: dict[str, Callable[[Host], str]] = {
    "codes of another codebook are refused in words": refuses_foreign_codes,
    "a part that a file lacks is named, by stock nodes too": names_a_missing_part,
    "a mask of another size is stretched over the picture": takes_masks_of_another_size,
    "a changed file is read again": reloads_a_changed_file,
    "models unload and come back": models_unload_and_come_back,
    "cancelled runs leave nothing": cancelled_runs_leave_nothing,
    f"{RUNS} runs in one process with flat memory": memory_stays_flat,
    "flags of precision are honoured": flags_are_honoured,
}
