"""What is checked in a running host: a table of functions, each returns the figures that it measured.

A check raises AssertionError (or anything else) when it fails, and NotHere when it cannot be made on this machine.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import torch
from host_client import Rejected, Run
from host_endurance import ENDURANCE_CHECKS
from host_graph import choices
from host_guidance_checks import GUIDANCE_CHECKS
from host_label_checks import LABEL_CHECKS
from host_parts import CHANGED_MODELS, ONE_LEVEL_LESS, OTHER_NOISE, SAME, STEPS, STOCK_CHANGES, Parts, relative, table
from host_public_checks import PUBLIC_CHECKS
from host_rig import Host, worst
from host_server import LINK_NAME, PACK
from host_source_checks import SOURCE_CHECKS
from host_workflows import WORKFLOW_CHECKS
from PIL import Image

IMPORT_TIMER = """
import comfy.cli_args
comfy.cli_args.args.cpu = True
import importlib.util, sys, tempfile, time
import torch, nodes, folder_paths
root, sys.dont_write_bytecode, sys.pycache_prefix = sys.argv[1], False, tempfile.mkdtemp()
for name in ("first_start", "later_start"):
    spec = importlib.util.spec_from_file_location(name, root + "/__init__.py", submodule_search_locations=[root])
    start = time.process_time()
    pack = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    print("took", time.process_time() - start)
"""
"""Imports the pack as the host does, torch and the host's own modules being there: compiling it, then compiled."""


def shared(names: list[str], others: list[str]) -> list[str]:
    """What both lists hold."""
    return [name for name in names if name in others]


def imports_quickly(host: Host) -> str:
    """The best of three processes: what else the machine does adds to the CPU time of each."""
    first, later = (min(times) for times in zip(*(import_seconds(host) for _ in range(3)), strict=True))
    figures = f"{1000 * first:.0f} ms of CPU time at the first start (compiling), {1000 * later:.0f} ms later"
    assert max(first, later) < 0.05, figures
    return f"{figures}, the best of 3; the host's log line: {host.server.import_seconds:.1f} s"


def import_seconds(host: Host) -> list[float]:
    """CPU time of a first and of a later start, in a new process."""
    command = [str(host.server.places.python), "-c", IMPORT_TIMER, str(PACK)]
    options = {"cwd": host.server.places.comfyui, "env": host.server.environment(), "timeout": 300}
    timed = subprocess.run(command, capture_output=True, text=True, check=True, **options)
    return [float(line.split()[1]) for line in timed.stdout.splitlines() if line.startswith("took")]


def our_nodes(host: Host) -> dict[str, Any]:
    """What the host says of the nodes that it found in this pack."""
    module = f"custom_nodes.{LINK_NAME}"
    return {name: entry for name, entry in host.info.items() if entry.get("python_module") == module}


def registers_every_node(host: Host) -> str:
    ours = our_nodes(host)
    assert ours and all(name.startswith("Vitrail") for name in ours), sorted(ours)
    bare = [n for n, entry in ours.items() if not entry["description"] or not entry["category"].startswith("Vitrail")]
    assert not bare, f"no description or category: {bare}"
    return f"{len(ours)} nodes"


def serves_help(host: Host) -> str:
    names, pages = our_nodes(host), sorted((PACK / "web" / "docs").glob("*/*.md"))
    lacking = sorted(names.keys() - {page.parent.name for page in pages if page.name == "en.md"})
    assert names and not lacking, f"no help for {lacking}"
    for page in pages:  # the page asks for them by the name of the pack's folder
        served = host.client.text(f"/extensions/{LINK_NAME}/docs/{page.parent.name}/{page.name}")
        assert served == page.read_text(encoding="utf-8"), page
    return f"{len(pages)} pages in {', '.join(sorted({page.stem for page in pages}))}"


def serves_translations(host: Host) -> str:
    served = host.client.get("/i18n")
    languages = sorted(folder.name for folder in (PACK / "locales").iterdir())
    for language in languages:
        words = json.loads((PACK / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
        assert served[language]["nodeDefs"].items() >= words.items(), language
        assert words.keys() == our_nodes(host).keys(), f"not translated: {our_nodes(host).keys() ^ words.keys()}"
    return f"all nodes in {', '.join(languages)}"


def stock_nodes_run_our_parts(host: Host) -> str:
    parts = Parts.of(host)
    sampled = parts.stock()
    decoded = parts.graph.add("VAEDecode", samples=sampled, vae=parts.vae)[0]
    ours = parts.graph.add("VitrailVQDecode", vq_model=parts.vq_model, latent=sampled)[0]
    pictures = host.pictures(parts.graph, stock=decoded, ours=ours)
    assert pictures["stock"][0].shape == (64, 64, 3) and pictures["stock"][0].float().std() > 1, "a flat picture"
    difference = worst(pictures["stock"][0], pictures["ours"][0])
    assert difference <= 1, f"VAEDecode against VQ Decode: {difference:.0f}/255"
    return f"64 x 64 picture; VAEDecode against VQ Decode: {difference:.0f}/255"


def stock_vae_encodes_like_ours(host: Host) -> str:
    parts = Parts.of(host)
    picture = parts.picture()
    stock = parts.graph.add("VAEEncode", pixels=picture, vae=parts.vae)[0]
    ours = parts.graph.add("VitrailVQEncode", image=picture, vq_model=parts.vq_model)[1]
    return table({"against VQ Encode": worst(*host.latents(parts.graph, stock=stock, ours=ours).values())})


def our_sampler_takes_stock_sigmas(host: Host) -> str:
    parts = Parts.of(host)
    karras = parts.graph.add("KarrasScheduler", steps=STEPS)[0]
    runs = {"own": parts.ours(), "basic": parts.ours(parts.sigmas("BasicScheduler")), "karras": parts.ours(karras)}
    latents = host.latents(parts.graph, **runs)
    assert worst(latents["own"], latents["karras"]) > SAME, "KarrasScheduler made no difference"
    return table({"KarrasScheduler runs; BasicScheduler against our own": worst(latents["own"], latents["basic"])})


def schedules_equal_the_hosts(host: Host) -> str:
    figures = {}
    ours = choices(host.info, "VitrailNoiseScheduler", "scheduler")
    for name in shared(ours, choices(host.info, "BasicScheduler", "scheduler")):
        parts = Parts.of(host)
        stock, own = (parts.sigmas(kind, scheduler=name) for kind in ("BasicScheduler", "VitrailNoiseScheduler"))
        figures[name] = worst(*host.latents(parts.graph, stock=parts.ours(stock), ours=parts.ours(own)).values())
    return f"latents made with both: {table(figures)}"


def stock_custom_sampler_takes_ours(host: Host) -> str:
    figures = {}
    for name in choices(host.info, "VitrailSolver", "sampler"):
        parts = Parts.of(host)
        sigmas = parts.sigmas(scheduler="karras")
        solver = parts.graph.add("VitrailSolver", sampler=name)[0]
        runs = {"stock": parts.custom(sigmas, solver), "ours": parts.ours(sigmas, sampler=name)}
        figures[name] = worst(*host.latents(parts.graph, **runs).values())
    return f"against our sampler: {table(figures)}"


def our_sampler_equals_ksampler(host: Host) -> str:
    figures = {}
    names = shared(choices(host.info, "VitrailSampler", "sampler"), choices(host.info, "KSampler", "sampler_name"))
    for name in (name for name in names if name not in OTHER_NOISE):
        parts = Parts.of(host)
        if name in ONE_LEVEL_LESS:  # not by SamplerCustomAdvanced: the host's uni_pc writes into the node's levels
            stock = parts.ours(solver=parts.graph.add("KSamplerSelect", sampler_name=name)[0])
        else:
            stock = parts.stock(sampler_name=name)
        figures[name] = relative(*host.latents(parts.graph, stock=stock, ours=parts.ours(sampler=name)).values())
    return f"largest difference: {table(figures)}; {', '.join(ONE_LEVEL_LESS)}: stock solver on the same levels"


def solvers_of_other_noise_agree_without_it(host: Host) -> str:
    figures = {}
    for name, (kind, widgets) in {
        "dpmpp_sde": ("SamplerDPMPP_SDE", {}),
        "dpmpp_2m_sde": ("SamplerDPMPP_2M_SDE", {"solver_type": "midpoint"}),
        "dpmpp_2m_sde_heun": ("SamplerDPMPP_2M_SDE", {"solver_type": "heun"}),
        "dpmpp_3m_sde": ("SamplerDPMPP_3M_SDE", {}),
    }.items():
        parts = Parts.of(host)
        sigmas, stock = parts.sigmas(scheduler="karras"), parts.graph.add(kind, eta=0.0, **widgets)[0]
        runs = {"stock": parts.custom(sigmas, stock), "ours": parts.ours(sigmas, sampler=name, eta=0.0)}
        figures[name] = worst(*host.latents(parts.graph, **runs).values())
    return f"at eta 0: {table(figures)}"


def each_of_a_batch_equals_its_own_run(host: Host) -> str:
    parts = Parts.of(host, batch=3)
    one = parts.graph.add("VitrailEmptyLatent", model=parts.model, width=64, height=64, batch_size=1)[0]
    runs = {f"seed{seed}": parts.ours(seed=seed, latent=one) for seed in (7, 8, 9)}
    latents = host.latents(parts.graph, batch=parts.ours(seed=7), **runs)
    batch = latents.pop("batch")
    return table({"batch of 3, seeds 7 to 9": worst(batch, torch.cat(list(latents.values())))})


def stock_changes_reach_both_samplers(host: Host) -> str:
    figures = {}
    for name, change in STOCK_CHANGES.items():
        parts = Parts.of(host, name=CHANGED_MODELS.get(name, ""))
        changed = change(parts)
        sigmas = parts.sigmas(model=changed.get("model", parts.model))
        runs = {"plain": parts.stock(), "stock": parts.stock(**changed), "ours": parts.ours(sigmas, **changed)}
        latents = host.latents(parts.graph, **runs)
        assert worst(latents["plain"], latents["stock"]) > SAME, f"{name} made no difference"
        figures[name] = worst(latents["stock"], latents["ours"])
    return f"our sampler against KSampler: {table(figures)}"


def warns_of_levels_of_another_kind(host: Host) -> str:
    parts, before = Parts.of(host), len(host.server.log)
    patched = parts.graph.add("ModelSamplingSD3", model=parts.model)[0]
    host.latents(parts.graph, plain=parts.stock(), patched=parts.stock(model=patched))
    warnings = re.findall(r"a node gives this model.*", host.server.log[before:])
    assert len(warnings) == 1, warnings or "no warning"
    return warnings[0]


def cancel_then_run_again(host: Host) -> str:
    parts = Parts.of(host)
    sampled = parts.ours(parts.sigmas(steps=1000))
    parts.graph.add("SaveLatent", samples=sampled)
    asked: list[float] = []

    def cancel(run: Run) -> None:
        if not asked and len(run.progress.get(sampled[0], ())) >= 3:
            asked.append(time.perf_counter())
            host.client.interrupt()

    run = host.run(parts.graph, watch=cancel)
    waited = time.perf_counter() - asked[0]
    value, of = run.progress[sampled[0]][-1]
    assert run.end == "interrupted" and value < of, (run.end, value, of)
    again = Parts.of(host)
    host.latents(again.graph, again=again.ours(seed=time.time_ns() % 2**32))
    return f"stopped at step {value} of {of}, {1000 * waited:.0f} ms after the request; the next run succeeded"


def previews_arrive(host: Host) -> str:
    counts = []
    for kind in ("ours", "stock"):
        parts = Parts.of(host)
        node = getattr(parts, kind)(seed=time.time_ns() % 2**32)  # a new seed: never a cached run
        parts.graph.add("SaveLatent", samples=node)
        run = host.run(parts.graph).succeeded()
        assert run.previews[node[0]] == STEPS, f"{kind}: {run.previews} in {STEPS} steps"
        assert run.progress[node[0]][-1] == (STEPS, STEPS), run.progress
        with Image.open(BytesIO(run.preview)) as picture:
            counts.append(f"{kind} sampler {run.previews[node[0]]}, {picture.width} x {picture.height}")
    return f"in {STEPS} steps: " + "; ".join(counts)


def stock_upscaler_runs_our_refiner(host: Host) -> str:
    graph = host.graph()
    load = graph.add("VitrailLoadRefiner", name=host.refiner)
    picture = graph.add("LoadImage", image="vitrail-check.png")[0]
    stock = graph.add("ImageUpscaleWithModel", upscale_model=load[1], image=picture)[0]
    ours, through = (graph.add("VitrailGANRefine", refiner=load[i], image=picture)[0] for i in range(2))
    pictures = {name: shown[0] for name, shown in host.pictures(graph, stock=stock, ours=ours, through=through).items()}
    height, width, _ = pictures["ours"].shape
    difference = max(worst(pictures["stock"], pictures["ours"]), worst(pictures["stock"], pictures["through"]))
    assert difference <= 1 and width > 64, f"{width} x {height}, {difference:.0f}/255"
    return f"64 x 64 to {width} x {height}; ImageUpscaleWithModel against GAN Refine: {difference:.0f}/255"


def opens_refiners_of_other_makers(host: Host) -> str:
    graph = host.graph()
    name = "tiny-compact.pth"
    assert f"upscale_models/{name}" in choices(host.info, "VitrailLoadRefiner", "name"), "not listed"
    picture = graph.add("LoadImage", image="vitrail-check.png")[0]
    load = graph.add("VitrailLoadRefiner", name=f"upscale_models/{name}")
    stock_load = graph.add("UpscaleModelLoader", model_name=name)[0]
    links = {
        f"GAN Refine, {loader}": graph.add("VitrailGANRefine", refiner=link, image=picture)[0]
        for loader, link in (("ours", load[0]), ("stock", stock_load))
    }
    for loader, link in (("ours", load[1]), ("stock", stock_load)):
        links[f"stock, {loader}"] = graph.add("ImageUpscaleWithModel", upscale_model=link, image=picture)[0]
    first, *others = (shown[0] for shown in host.pictures(graph, **links).values())
    difference = max(worst(first, other) for other in others)
    assert difference <= 1 and first.shape[1] == 128 and first.double().std() > 1, (first.shape, difference)
    return f"a Compact .pth, both loaders, GAN Refine and ImageUpscaleWithModel: {difference:.0f}/255"


def refuses_a_missing_file(host: Host) -> str:
    parts = Parts.of(host)
    load = parts.graph.add("VitrailLoadAutoencoder", name="no such file")
    parts.graph.add("SaveImage", images=parts.graph.add("VAEDecode", samples=parts.latent, vae=load[1])[0])
    try:
        host.run(parts.graph)
    except Rejected as refusal:
        assert "no such file" in str(refusal), str(refusal)[:300]
        return "refused before it runs, by name"
    raise AssertionError("a model that is not there was accepted")


def refuses_a_foreign_latent(host: Host) -> str:
    parts = Parts.of(host)
    foreign = parts.graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)[0]  # 16 channels
    picture = parts.graph.add("VitrailVQDecode", vq_model=parts.vq_model, latent=foreign)[0]
    parts.graph.add("SaveImage", images=picture)
    run = host.run(parts.graph)
    assert run.end == "error" and "another autoencoder" in run.error, run
    return run.error.partition("ShapeError: ")[2]


Check = Callable[[Host], str]

CHECKS: dict[str, Check] = {
    "import adds less than 50 ms": imports_quickly,
    "every node is registered, with a description": registers_every_node,
    "the host serves help for each node": serves_help,
    "the host serves the words of each node in other languages": serves_translations,
    "stock KSampler, CLIPTextEncode, VAEDecode run our MODEL, CLIP, VAE": stock_nodes_run_our_parts,
    "stock VAEEncode runs our VAE": stock_vae_encodes_like_ours,
    "our sampler runs SIGMAS of stock schedulers": our_sampler_takes_stock_sigmas,
    "our schedules equal the host's": schedules_equal_the_hosts,
    "stock SamplerCustomAdvanced runs our SIGMAS and SAMPLER": stock_custom_sampler_takes_ours,
    "our sampler equals stock KSampler on our model": our_sampler_equals_ksampler,
    "solvers with noise of other numbers agree with the host's without it": solvers_of_other_noise_agree_without_it,
    **SOURCE_CHECKS,
    **LABEL_CHECKS,
    "image i of a batch equals its own run": each_of_a_batch_equals_its_own_run,
    "stock patches and conditionings reach both samplers": stock_changes_reach_both_samplers,
    "a stock node with noise levels of another kind is warned of, once": warns_of_levels_of_another_kind,
    "cancel in mid-sampling, then run again": cancel_then_run_again,
    "previews arrive every step": previews_arrive,
    "stock ImageUpscaleWithModel runs our UPSCALE_MODEL": stock_upscaler_runs_our_refiner,
    "a refiner of another maker opens, as the stock loader opens it": opens_refiners_of_other_makers,
    **PUBLIC_CHECKS,
    "a model file that is not there is refused": refuses_a_missing_file,
    "a latent of another autoencoder is refused in words": refuses_a_foreign_latent,
    **GUIDANCE_CHECKS,
    **ENDURANCE_CHECKS,
    **WORKFLOW_CHECKS,
}
