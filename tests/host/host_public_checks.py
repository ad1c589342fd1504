"""Checks with files of other projects: that the loaders list and open them, and what stock nodes make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import public_files
from host_graph import Link, choices
from host_parts import SAME, Parts, table
from host_rig import Host, worst

HERE = "public"


@contextmanager
def models(host: Host) -> Iterator[Path]:
    """The host's `models` folder; what a check puts into folders of their own there is gone afterwards."""
    base = host.server.base / "models"
    before = {place for folder in base.iterdir() if folder.is_dir() for place in folder.iterdir()}
    try:
        yield base
    finally:
        for folder in base.iterdir():
            for place in set(folder.iterdir()) - before if folder.is_dir() else ():
                rmtree(place)


def listed(host: Host, kind: str, names: list[str]) -> int:
    offered = choices(host.client.get("/object_info"), kind, "name")
    assert not (absent := [name for name in names if name not in offered]), f"{kind} does not list {absent}"
    return len(names)


def opens_autoencoders(host: Host) -> str:
    """Each through VQ Encode and VQ Decode, and behind the stock VAE nodes, to a picture of the size that went in."""
    with models(host) as folder:
        names = public_files.put(folder, public_files.AUTOENCODERS)
        count = listed(host, "VitrailLoadAutoencoder", names)
        for name in names:
            graph = host.graph()
            vq_model, vae = (graph.add("VitrailLoadAutoencoder", name=name)[i] for i in range(2))
            picture = graph.add("LoadImage", image="vitrail-check.png")[0]
            latent = graph.add("VAEEncode", pixels=picture, vae=vae)[0]
            links = {"stock": graph.add("VAEDecode", samples=latent, vae=vae)[0]}
            if "kl" not in name:
                codes = graph.add("VitrailVQEncode", image=picture, vq_model=vq_model)[0]
                links["ours"] = graph.add("VitrailVQDecode", vq_model=vq_model, codes=codes)[0]
            shown = host.pictures(graph, **links)
            assert all(made[0].shape == (64, 64, 3) for made in shown.values()), name
            assert "ours" not in shown or worst(shown["ours"][0], shown["stock"][0]) <= 1, name
    return f"{count} files and folders; VQ Encode and Decode against VAEEncode and VAEDecode at most 1/255"


def opens_diffusion(host: Host) -> str:
    with models(host) as folder:
        names = public_files.put(folder, public_files.DIFFUSION)
        count = listed(host, "VitrailLoadDiffusion", names)
        figures = {}
        for name in names:
            graph = host.graph()
            model = graph.add("VitrailLoadDiffusion", name=name)[0]
            latent = graph.add("VitrailEmptyLatent", model=model, width=64, height=64)[0]
            sigmas = graph.add("VitrailNoiseScheduler", model=model, steps=4)[0]
            ours = graph.add("VitrailSampler", model=model, sigmas=sigmas, latent=latent, sampler="euler", seed=7)[0]
            noise, solver = graph.add("RandomNoise", noise_seed=7)[0], graph.add("KSamplerSelect", sampler_name="euler")
            empty = graph.add("ConditioningZeroOut", conditioning=_nothing(host, graph))[0]
            guider = graph.add("BasicGuider", model=model, conditioning=empty)[0]
            stock = graph.add("SamplerCustomAdvanced", noise=noise, guider=guider, sampler=solver[0], sigmas=sigmas,
                              latent_image=latent)[0]  # fmt: skip
            made = host.latents(graph, ours=ours, stock=stock)
            figures[name] = worst(made["ours"], made["stock"]) / float(made["stock"].abs().max())
    return f"{count}, our sampler against SamplerCustomAdvanced: {table(figures)}"


def _nothing(host: Host, graph: object) -> Link:
    """A conditioning, which a model without any passes over."""
    clip = graph.add("VitrailLoadDiffusion", name=host.diffusion)[1]  # type: ignore[attr-defined]
    return graph.add("CLIPTextEncode", clip=clip, text="")[0]  # type: ignore[attr-defined]


def opens_refiners(host: Host) -> str:
    with models(host) as folder:
        names = public_files.put(folder, public_files.REFINERS)
        count = listed(host, "VitrailLoadRefiner", names)
        for name in names:
            graph = host.graph()
            load = graph.add("VitrailLoadRefiner", name=name)
            picture = graph.add("LoadImage", image="vitrail-check.png")[0]
            ours = graph.add("VitrailGANRefine", refiner=load[0], image=picture)[0]
            stock = graph.add("ImageUpscaleWithModel", upscale_model=load[1], image=picture)[0]
            shown = host.pictures(graph, ours=ours, stock=stock)
            assert worst(shown["ours"][0], shown["stock"][0]) <= 1, name
    return f"{count} files in three layouts of names; GAN Refine against ImageUpscaleWithModel at most 1/255"


def samplers_agree(host: Host, name: str) -> float:
    """The difference of KSampler and ours with two texts, as a share of the range; two texts must differ."""
    parts = Parts.of(host, name=name)
    told = replace(parts, positive=parts.graph.add("CLIPTextEncode", clip=parts.clip, text="a red cat")[0])
    other = parts.graph.add("CLIPTextEncode", clip=parts.clip, text="(apple:1.4)")[0]
    made = host.latents(parts.graph, stock=told.stock(), ours=told.ours(), other=told.ours(positive=other))
    spread = float(made["stock"].max() - made["stock"].min())
    assert worst(made["ours"], made["other"]) > 0.01 * spread, "the text changes nothing"
    return worst(made["stock"], made["ours"]) / spread


def text_models_drive_both_samplers(host: Host) -> str:
    with models(host) as folder:
        public_files.stable_diffusion(folder / "checkpoints" / HERE / "sd.safetensors")
        public_files.text_to_image(folder / "checkpoints" / "text2img")
        names = [f"checkpoints/{HERE}/sd.safetensors", "checkpoints/text2img/model.ckpt"]
        listed(host, "VitrailLoadDiffusion", names)
        return "KSampler against our sampler: " + table({name: samplers_agree(host, name) for name in names})


def stock_loader_agrees(host: Host) -> str:
    """CheckpointLoaderSimple on the same file: its MODEL, told by our CLIP, makes the latent that ours does."""
    with models(host) as folder:
        path = public_files.stable_diffusion_as_the_host_knows_it(folder / "checkpoints" / HERE / "sd15.safetensors")
        parts = Parts.of(host, name=f"checkpoints/{HERE}/{path.name}")
        theirs = parts.graph.add("CheckpointLoaderSimple", ckpt_name=f"{HERE}/{path.name}")[0]
        links = {"ours": parts.ours(), "stock": parts.stock(), "loader": replace(parts, model=theirs).stock()}
        links["mixed"] = replace(parts, model=theirs).ours()
        made = host.latents(parts.graph, **links)
    spread = float(made["loader"].max() - made["loader"].min())
    figures = {name: worst(made[name], made["loader"]) / spread for name in ("ours", "stock", "mixed")}
    assert max(figures.values()) <= SAME, figures
    return "against the model of CheckpointLoaderSimple in KSampler: " + table(figures)


PUBLIC_CHECKS: dict[str, Callable[[Host], str]] = {
    "autoencoders of other projects are listed and open": opens_autoencoders,
    "diffusion models of other projects are listed and open": opens_diffusion,
    "refiners of other projects are listed and open": opens_refiners,
    "Stable Diffusion and text-to-image files drive both samplers to one latent": text_models_drive_both_samplers,
    "the stock checkpoint loader makes the same of a Stable Diffusion file": stock_loader_agrees,
}
