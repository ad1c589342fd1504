"""Checks of what is told by maps of labels: autoencoders over them, a prior, semantic synthesis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import torch
from host_endurance import said
from host_graph import Graph, Link
from host_parts import STEPS, table
from host_rig import LABELS, Host, worst
from PIL import Image

from vitrail.core.checkpoints import load
from vitrail.nodes.codes import VQDecode
from vitrail.nodes.prior import PriorCondition, SampleCodes

PRIOR, SEMANTIC = "checkpoints/tiny-prior.safetensors", "checkpoints/tiny-semantic.safetensors"
FIRST = "vae/tiny-segments.safetensors"
GREEDY = {"width": 256, "height": 256, "temperature": 0.0, "top_k": 1, "top_p": 1.0, "seed": 0}


def label_map(graph: Graph, place: int = 0) -> Link:
    return graph.add("LoadImage", image=LABELS[place])[0]


def stock_vae_nodes_take_maps(host: Host) -> str:
    """And give them in the colours of the file."""
    graph = host.graph()
    add, load, image = graph.add, graph.add("VitrailLoadAutoencoder", name=FIRST), label_map(graph)
    codes = add("VitrailVQEncode", image=image, vq_model=load[0])
    stock = add("VAEEncode", pixels=image, vae=load[1])[0]
    tiled = add("VAEEncodeTiled", pixels=image, vae=load[1], tile_size=64)[0]
    latents = host.latents(graph, ours=codes[1], stock=stock, tiled=tiled)
    same = table({name: worst(latents["ours"], latents[name]) for name in ("stock", "tiled")})
    graph = host.graph()
    load, image = graph.add("VitrailLoadAutoencoder", name=FIRST), label_map(graph)
    codes = graph.add("VitrailVQEncode", image=image, vq_model=load[0])
    links = {
        "ours": graph.add("VitrailVQDecode", vq_model=load[0], codes=codes[0])[0],
        "stock": graph.add("VAEDecode", samples=codes[1], vae=load[1])[0],
        "tiled": graph.add("VAEDecodeTiled", samples=codes[1], vae=load[1], tile_size=64, overlap=16)[0],
    }
    again = graph.add("VitrailVQEncode", image=links["ours"], vq_model=load[0])
    links["again"] = graph.add("VitrailVQDecode", vq_model=load[0], codes=again[0])[0]
    found = {name: pictures[0] for name, pictures in host.pictures(graph, **links).items()}
    apart = {name: worst(found["ours"], found[name]) for name in ("stock", "tiled")}
    known = {tuple(map(int, colour)) for colour in load_model(host, FIRST).palette.levels().tolist()}
    assert {tuple(colour) for colour in found["again"].flatten(0, 1).tolist()} <= known
    assert max(apart.values()) == 0, apart
    return f"encoded against VQ Encode: {same}; decoded against VQ Decode: 0/255, taken again in its colours"


def prior_over_segments(host: Host) -> str:
    """The greedy picture of a map larger than the prior's window, in the host and in this process."""
    graph = host.graph()
    load = graph.add("VitrailLoadPrior", name=PRIOR)
    told = graph.add("VitrailPriorCondition", prior=load[0], image=label_map(graph))
    codes = graph.add("VitrailSampleCodes", prior=load[0], conditioning=told[0], **GREEDY)
    decoded = graph.add("VitrailVQDecode", vq_model=load[1], codes=codes[0])
    found = host.pictures(graph, seen=told[1], written=decoded[0])
    prior = load_model(host, PRIOR)
    with Image.open(host.client.base / "input" / LABELS[0]) as picture:
        image = torch.from_numpy(numpy.asarray(picture.convert("RGB"), dtype=numpy.float32) / 255)[None]
    conditioning, seen = PriorCondition().execute(prior, image)
    (written,) = SampleCodes().execute(prior, **GREEDY, conditioning=conditioning)
    (shown,) = VQDecode().execute(prior.autoencoder, True, 0, codes=written)
    apart = {n: worst(found[n][0], (each[0] * 255).int()) for n, each in (("seen", seen), ("written", shown))}
    assert max(apart.values()) <= 1, apart
    return f"{tuple(written.indices.shape[1:])} codes; host against headless: {apart}, of 255"


def semantic_synthesis(host: Host) -> str:
    """By KSampler and by our sampler; another map paints another picture; no map is refused in words."""
    graph = host.graph()
    load = graph.add("VitrailLoadDiffusion", name=SEMANTIC)
    maps = [graph.add("VitrailConcatCondition", vae=load[2], image=label_map(graph, i))[0] for i in (0, 1)]
    latent = graph.add("VitrailEmptyLatent", model=load[0], width=72, height=48, batch_size=1)[0]
    sigmas = graph.add("VitrailNoiseScheduler", model=load[0], scheduler="normal", steps=STEPS)[0]
    shared = {"model": load[0], "seed": 7, "cfg": 3.0}
    runs = {
        name: graph.add(
            "VitrailSampler", sigmas=sigmas, latent=latent, positive=a, negative=b, sampler="euler", **shared
        )
        for name, a, b in (("ours", *maps), ("other", *reversed(maps)))
    }
    runs["stock"] = graph.add("KSampler", latent_image=latent, positive=maps[0], negative=maps[1], steps=STEPS,
                              sampler_name="euler", scheduler="normal", denoise=1.0, **shared)  # fmt: skip
    latents = host.latents(graph, **{name: node[0] for name, node in runs.items()})
    assert (apart := worst(latents["ours"], latents["other"])) > 0.1, apart
    same = table({"KSampler": worst(latents["ours"], latents["stock"])})
    graph.prompt[maps[0][0]]["inputs"]["image"] = graph.add("LoadImage", image="vitrail-check.png")[0]
    reason = said(host, graph, "in colours", "0 to 8")
    return f"our sampler against {same}; another map changes {apart:.1f}; of a picture: {reason}"


def load_model(host: Host, name: str) -> Any:
    return load(host.client.base / "models" / name)


LABEL_CHECKS: dict[str, Callable[[Host], str]] = {
    "autoencoders over labels take and give their maps": stock_vae_nodes_take_maps,
    "a prior is told a map of segments": prior_over_segments,
    "semantic synthesis is told a map of segments": semantic_synthesis,
}
