"""The ways in which a stock node is tried with ours: functions that build a graph, run it, and tell what they saw.

A form takes the node's name and the inputs that it should have besides defaults and the ones that every node of its
kind has; each returns the figures and raises AssertionError where the pair does not work.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from host_graph import Link
from host_parts import TINY, Parts
from host_rig import Host, worst

SAME = 1e-4
Inputs = Callable[[Parts], dict[str, Any]]
Form = Callable[[Host, str, Inputs], str]


def nothing(_: Parts) -> dict[str, Any]:
    return {}


def agree(latents: dict[str, Any], changed: bool = True) -> str:
    """`stock` and `ours` are the same; `plain` is another."""
    difference, scale = worst(latents["stock"], latents["ours"]), max(1.0, latents["stock"].abs().max().item())
    assert difference <= SAME * scale, f"they differ by {difference:.1e}"
    change = worst(latents["plain"], latents["ours"])
    assert not changed or change > SAME, "it makes no difference"
    return f"KSampler and our sampler agree ({difference:.0e})" + (f", changed by {change:.2f}" if changed else "")


def sampled_both_ways(host: Host, parts: Parts, changed: bool = True, **changes: Link) -> str:
    sigmas = parts.sigmas(model=changes.get("model", parts.model))
    runs = {"plain": parts.stock(), "stock": parts.stock(**changes), "ours": parts.ours(sigmas, **changes)}
    return agree(host.latents(parts.graph, **runs), changed)


def model_patch(host: Host, kind: str, inputs: Inputs, side: int = 64, name: str = "") -> str:
    """MODEL to MODEL: a model of ours through it, by KSampler and by our sampler; side: of the picture in pixels."""
    parts = Parts.of(host, side=side, name=name)
    given = {"model": parts.model, **inputs(parts)} if "model" in known(host, kind) else inputs(parts)
    return sampled_both_ways(host, parts, model=parts.graph.add(kind, **given)[0])


def model_patch_for_wider_layers(host: Host, kind: str, inputs: Inputs) -> str:
    """The same for a node that works on layers of 2 or 4 times model_channels alone, which `vitrail-1` has not."""
    return model_patch(host, kind, inputs, name=TINY) + " on a network with layers of twice the width, not on this one"


def model_patch_without_effect(host: Host, kind: str, inputs: Inputs) -> str:
    """The same for a node that has nothing to do here: at the values given, or in this layout of network."""
    parts = Parts.of(host)
    patched = parts.graph.add(kind, **{"model": parts.model, **inputs(parts)})[0]
    return sampled_both_ways(host, parts, changed=False, model=patched) + "; no effect on this network, as in ComfyUI's"


def model_patch_warned_of(host: Host, kind: str, inputs: Inputs) -> str:
    """The same for a node that is not for this network: it runs, and one warning says so."""
    before = len(host.server.log)
    parts = Parts.of(host)
    patched = parts.graph.add(kind, **{"model": parts.model, **inputs(parts)})[0]
    host.latents(parts.graph, sampled=parts.stock(model=patched))
    warnings = re.findall(r"(?:a node gives this model|this network).*", host.server.log[before:])
    assert len(warnings) == 1, warnings or "no warning"
    return f"not for this model; one warning: {warnings[0].split(':')[0]}"


def condition(host: Host, kind: str, inputs: Inputs, output: int = 0) -> str:
    """CONDITIONING to CONDITIONING: an own prompt through it, sampled by KSampler and by our sampler."""
    parts = Parts.of(host)
    return sampled_both_ways(host, parts, positive=parts.graph.add(kind, **inputs(parts))[output])


def condition_without_effect(host: Host, kind: str, inputs: Inputs) -> str:
    """The same for a node whose mark this kind of model does not read."""
    parts = Parts.of(host)
    text = sampled_both_ways(host, parts, changed=False, positive=parts.graph.add(kind, **inputs(parts))[0])
    return text + "; no effect on this network, as in ComfyUI's"


def clip(host: Host, kind: str, inputs: Inputs) -> str:
    """CLIP to CLIP: our text encoder through it, read by CLIPTextEncode and by Text & Style Encode."""
    parts = Parts.of(host)
    changed = parts.graph.add(kind, **inputs(parts))[0]
    encoders = {"stock": "CLIPTextEncode", "ours": "VitrailTextEncode"}
    runs = {name: parts.graph.add(encoder, clip=changed, text="cat")[0] for name, encoder in encoders.items()}
    latents = host.latents(parts.graph, **{name: parts.ours(positive=cond) for name, cond in runs.items()})
    assert (found := worst(*latents.values())) <= SAME, f"they differ by {found:.1e}"
    return f"CLIPTextEncode and Text & Style Encode agree through it ({found:.0e})"


def sigmas(host: Host, kind: str, inputs: Inputs, output: int = 0) -> str:
    """SIGMAS: walked down by our sampler and by SamplerCustomAdvanced."""
    parts = Parts.of(host)
    levels = parts.graph.add(kind, **inputs(parts))[output]
    euler = parts.graph.add("KSamplerSelect", sampler_name="euler")[0]
    latents = host.latents(parts.graph, stock=parts.custom(levels, euler), ours=parts.ours(levels))
    assert (found := worst(*latents.values())) <= SAME * max(1.0, latents["stock"].abs().max().item()), f"{found:.1e}"
    return f"our sampler and SamplerCustomAdvanced agree ({found:.0e})"


def solver(host: Host, kind: str, inputs: Inputs) -> str:
    """SAMPLER: in our sampler's input `solver` and in SamplerCustomAdvanced."""
    parts = Parts.of(host)
    made, levels = parts.graph.add(kind, **inputs(parts))[0], parts.sigmas(scheduler="karras")
    latents = host.latents(parts.graph, stock=parts.custom(levels, made), ours=parts.ours(levels, solver=made))
    assert (found := worst(*latents.values())) <= SAME, f"they differ by {found:.1e}"
    return f"our sampler and SamplerCustomAdvanced agree ({found:.0e})"


def solver_without_seed(host: Host, kind: str, inputs: Inputs) -> str:
    """The same for a SAMPLER that draws from the host's one generator: two runs never agree."""
    parts = Parts.of(host)
    made, levels = parts.graph.add(kind, **inputs(parts))[0], parts.sigmas(scheduler="karras")
    latents = host.latents(parts.graph, stock=parts.custom(levels, made), ours=parts.ours(levels, solver=made))
    assert all(bool(found.isfinite().all()) for found in latents.values())
    assert latents["stock"].shape == latents["ours"].shape
    return "runs in our sampler and in SamplerCustomAdvanced; its noise has no seed, so no two runs agree"


def guider(host: Host, kind: str, inputs: Inputs, cfg: float | None = None) -> str:
    """GUIDER around our model, with our SIGMAS and SAMPLER; cfg: what our sampler needs to be the same."""
    parts = Parts.of(host)
    made = parts.graph.add(kind, **{"model": parts.model, **inputs(parts)})[0]
    noise = parts.graph.add("RandomNoise", noise_seed=7)[0]
    levels, euler = parts.sigmas(), parts.graph.add("VitrailSolver", sampler="euler")[0]
    settings = {"noise": noise, "guider": made, "sampler": euler, "sigmas": levels, "latent_image": parts.latent}
    stock = parts.graph.add("SamplerCustomAdvanced", **settings)[0]
    latents = host.latents(parts.graph, stock=stock, ours=parts.ours(levels, cfg=3.0 if cfg is None else cfg))
    found = worst(latents["stock"], latents["ours"])
    if cfg is None:
        assert found > SAME, "it is the same as plain guidance"
        return f"runs with our SIGMAS and SAMPLER; {found:.2f} from plain guidance"
    assert found <= SAME, f"they differ by {found:.1e}"
    return f"equals our sampler at cfg {cfg:g} ({found:.0e})"


def noise(host: Host, kind: str, inputs: Inputs) -> str:
    """NOISE: in our sampler's input and in SamplerCustomAdvanced."""
    parts = Parts.of(host)
    made = parts.graph.add(kind, **inputs(parts))[0]
    guide = parts.graph.add("CFGGuider", model=parts.model, positive=parts.positive, negative=parts.negative, cfg=3.0)
    levels, euler = parts.sigmas(), parts.graph.add("KSamplerSelect", sampler_name="euler")[0]
    settings = {"noise": made, "guider": guide[0], "sampler": euler, "sigmas": levels, "latent_image": start(parts)}
    stock = parts.graph.add("SamplerCustomAdvanced", **settings)[0]
    latents = host.latents(parts.graph, stock=stock, ours=parts.ours(levels, noise=made, latent=start(parts)))
    assert (found := worst(*latents.values())) <= SAME, f"they differ by {found:.1e}"
    return f"our sampler and SamplerCustomAdvanced agree ({found:.0e})"


def sampler(host: Host, kind: str, inputs: Inputs) -> str:
    """A stock sampler on our model against ours."""
    parts = Parts.of(host)
    made = parts.graph.add(kind, **{"positive": parts.positive, "negative": parts.negative, **inputs(parts)})[0]
    latents = host.latents(parts.graph, stock=made, ours=parts.ours())
    assert (found := worst(*latents.values())) <= SAME, f"they differ by {found:.1e}"
    return f"equals our sampler ({found:.0e})"


def start(parts: Parts) -> Link:
    """The latent of a picture."""
    return parts.graph.add("VitrailVQEncode", image=parts.picture(), vq_model=parts.vq_model)[1]


def latent_operation(host: Host, kind: str, inputs: Inputs) -> str:
    """LatentApplyOperation and its kin with an operation of the host's."""

    def build(parts: Parts) -> dict[str, Any]:
        made = parts.graph.add("LatentOperationTonemapReinhard", multiplier=0.5)[0]
        return {**inputs(parts), "operation": made}

    return (model_patch if "model" in known(host, kind) else latent)(host, kind, build)


def latent(host: Host, kind: str, inputs: Inputs, output: int = 0) -> str:
    """LATENT to LATENT: the latent of our VQ Encode through it, decoded by VAEDecode and by our VQ Decode."""
    parts = Parts.of(host)
    given = inputs(parts) or {name: start(parts) for name in known(host, kind) if name.startswith("samples")}
    changed = parts.graph.add(kind, **given)[output]
    stock = parts.graph.add("VAEDecode", samples=changed, vae=parts.vae)[0]
    ours = parts.graph.add("VitrailVQDecode", vq_model=parts.vq_model, latent=changed)[0]
    return same_pictures(host, parts, stock, ours)


def same_pictures(host: Host, parts: Parts, stock: Link, ours: Link) -> str:
    pictures = host.pictures(parts.graph, stock=stock, ours=ours)
    assert len(pictures["stock"]) == len(pictures["ours"])
    difference = max(worst(a, b) for a, b in zip(pictures["stock"], pictures["ours"], strict=True))
    assert difference <= 1, f"they differ by {difference:.0f}/255"
    height, width, _ = pictures["ours"][0].shape
    count = f"{len(pictures['ours'])} pictures of " if len(pictures["ours"]) > 1 else ""
    return f"VAEDecode and VQ Decode agree to {difference:.0f}/255, {count}{width} x {height}"


def autoencoder(host: Host, kind: str, inputs: Inputs) -> str:
    """VAE to encode or decode with, against our nodes on the whole of a picture of 192 x 192; tiles leave no trace."""
    parts = Parts.of(host)
    wide = parts.graph.add("ImageScale", image=parts.picture(), width=192, height=192)[0]
    whole = parts.graph.add("VitrailVQEncode", image=wide, vq_model=parts.vq_model)[1]
    source = {"samples": whole} if "samples" in known(host, kind) else {"pixels": wide}
    made = parts.graph.add(kind, **{"vae": parts.vae, **source, **inputs(parts)})[0]
    links = {"stock": made, "ours": parts.graph.add("VitrailVQDecode", vq_model=parts.vq_model, latent=whole)[0]}
    if "pixels" in source:
        links["stock"] = parts.graph.add("VitrailVQDecode", vq_model=parts.vq_model, latent=made)[0]
    difference = worst(*(pictures[0] for pictures in host.pictures(parts.graph, **links).values()))
    assert difference <= 1, f"they differ by {difference:.0f}/255"
    return f"agrees with our node on the whole 192 x 192 to {difference:.0f}/255"


def picture(host: Host, kind: str, inputs: Inputs, output: int = 0) -> str:
    """IMAGE to IMAGE: through it, then our VQ Encode and Decode and our GAN Refine."""
    parts = Parts.of(host)
    shown = decoded(parts)
    given = inputs(parts) or {name: shown for name in known(host, kind) if name.startswith("image")}
    changed = parts.graph.add(kind, **given)[output]
    codes = parts.graph.add("VitrailVQEncode", image=changed, vq_model=parts.vq_model)[0]
    again = parts.graph.add("VitrailVQDecode", vq_model=parts.vq_model, codes=codes)[0]
    refiner = parts.graph.add("VitrailLoadRefiner", name=host.refiner)[0]
    refined = parts.graph.add("VitrailGANRefine", image=changed, refiner=refiner)[0]
    pictures = host.pictures(parts.graph, changed=changed, again=again, refined=refined)
    sizes = {name: tuple(found[0].shape[1::-1]) for name, found in pictures.items()}
    assert sizes["changed"] == sizes["again"] and sizes["refined"][0] > sizes["changed"][0], sizes
    size = "{} x {}".format(*sizes["changed"])
    return f"of VQ Decode to VQ Encode and GAN Refine: {len(pictures['again'])} picture(s) of {size}"


def decoded(parts: Parts) -> Link:
    return parts.graph.add("VitrailVQDecode", vq_model=parts.vq_model, latent=start(parts))[0]


def mask(host: Host, kind: str, inputs: Inputs, output: int = 0) -> str:
    """MASK: for inpainting, by KSampler and by our sampler, and for our Edit Codes."""
    parts = Parts.of(host)
    made = parts.graph.add(kind, **inputs(parts))[output]
    masked = parts.graph.add("SetLatentNoiseMask", samples=start(parts), mask=made)[0]
    runs = {"stock": parts.stock(latent_image=masked), "ours": parts.ours(latent=masked), "plain": start(parts)}
    agreed = agree(host.latents(parts.graph, **runs))
    return agreed + codes_masked(host, kind, inputs, output)


def codes_masked(host: Host, kind: str, inputs: Inputs, output: int) -> str:
    if "VitrailEditCodes" not in host.info:
        return ""
    parts = Parts.of(host)
    codes = parts.graph.add("VitrailVQEncode", image=parts.picture(), vq_model=parts.vq_model)[0]
    edited = parts.graph.add("VitrailEditCodes", codes=codes, mask=parts.graph.add(kind, **inputs(parts))[output])[0]
    host.pictures(parts.graph, edited=parts.graph.add("VitrailVQDecode", vq_model=parts.vq_model, codes=edited)[0])
    return "; Edit Codes takes it"


def saver(host: Host, kind: str, inputs: Inputs) -> str:
    """An output node at the end of ours."""
    parts = Parts.of(host)
    node = parts.graph.add(kind, **inputs(parts))
    run = host.run(parts.graph).succeeded()
    shown = run.outputs.get(node.key) or {}
    return f"runs; shows {', '.join(f'{len(v)} {k}' for k, v in shown.items())}" if shown else "runs"


def known(host: Host, kind: str) -> dict[str, Any]:
    """The inputs of a node."""
    inputs = host.info[kind]["input"]
    return {**inputs.get("required", {}), **inputs.get("optional", {})}
