"""Checks of what sampling starts from: low denoise, masks, shapes, alpha, places in a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from host_graph import Link
from host_parts import SAME, Parts, table
from host_rig import CLEAR, Host, worst
from torch import Tensor


def encoded(parts: Parts, picture: Link) -> Link:
    return parts.graph.add("VAEEncode", pixels=picture, vae=parts.vae)[0]


def half_masked(parts: Parts, latent: Link) -> Link:
    """The latent of a picture of 64 x 64, to be painted on its left half."""
    keep, change = (parts.graph.add("SolidMask", value=v, width=w, height=64)[0] for v, w in ((0.0, 64), (1.0, 32)))
    mask = parts.graph.add("MaskComposite", destination=keep, source=change, x=0, y=0, operation="add")[0]
    return parts.graph.add("SetLatentNoiseMask", samples=latent, mask=mask)[0]


def halves(latent: Tensor) -> tuple[Tensor, Tensor]:
    """Its left and its right half."""
    half = latent.shape[-1] // 2
    return latent[..., :half], latent[..., half:]


def image_to_image(host: Host) -> str:
    parts = Parts.of(host)
    start = encoded(parts, parts.picture())
    ours = parts.ours(parts.sigmas(denoise=0.4), latent=start)
    runs = {"ours": ours, "stock": parts.stock(latent_image=start, denoise=0.4), "full": parts.ours(latent=start)}
    latents = host.latents(parts.graph, start=start, **runs)
    near, far = ((latents[name] - latents["start"]).square().mean().sqrt().item() for name in ("ours", "full"))
    assert near < far, f"denoise 0.4 goes {near:.2f} from the source, denoise 1 only {far:.2f}"
    same = table({"against KSampler": worst(latents["stock"], latents["ours"])})
    return f"denoise 0.4 {same}; goes {near:.2f} from the source, denoise 1 {far:.2f}"


def inpainting(host: Host) -> str:
    parts = Parts.of(host)
    start = encoded(parts, parts.picture())
    masked = half_masked(parts, start)
    latents = host.latents(
        parts.graph, start=start, ours=parts.ours(latent=masked), stock=parts.stock(latent_image=masked)
    )
    (left, right), (was_left, was_right) = halves(latents["ours"]), halves(latents["start"])
    same = table({"against KSampler": worst(latents["stock"], latents["ours"]), "kept half": worst(right, was_right)})
    assert (changed := worst(left, was_left)) > 0.1, f"the masked half changed by {changed:.1e} only"
    return f"{same}; masked half changes by {changed:.1f}"


def masked_batch(host: Host) -> str:
    parts = Parts.of(host)
    start = encoded(parts, parts.picture())
    masked = half_masked(parts, start)
    three = parts.graph.add("RepeatLatentBatch", samples=masked, amount=3)[0]
    runs = {f"seed{seed}": parts.ours(seed=seed, latent=masked) for seed in (7, 8, 9)}
    latents = host.latents(parts.graph, start=start, batch=parts.ours(seed=7, latent=three), **runs)
    start_right, batch = halves(latents.pop("start"))[1], latents.pop("batch")
    left, right = halves(batch)
    figures = {"own runs, seeds 7 to 9": worst(batch, torch.cat(list(latents.values())))}
    same = table({**figures, "kept halves": worst(right, start_right.expand_as(right))})
    apart = min(worst(left[i], left[i - 1]) for i in range(3))
    assert apart > 0.1, f"two masked halves differ by {apart:.1e} only"
    return f"batch of 3 against {same}; masked halves differ by {apart:.1f} or more"


def not_square(host: Host) -> str:
    """A picture of 96 x 64, wide and on end, and one of 90 x 50, whose sides the latent's pixels do not divide."""
    figures, shapes = {}, []
    for width, height in ((96, 64), (64, 96)):
        parts = Parts.of(host)
        size = {"width": width, "height": height}
        start = encoded(parts, parts.picture(**size))
        ours = parts.ours(parts.sigmas(denoise=0.4), latent=start)
        runs = {"ours": ours, "stock": parts.stock(latent_image=start, denoise=0.4)}
        figures[f"{width} x {height}"] = worst(*host.latents(parts.graph, **runs).values())
        empty = parts.ours(latent=parts.graph.add("VitrailEmptyLatent", model=parts.model, **size)[0])
        decoded = {k: parts.graph.add("VAEDecode", samples=v, vae=parts.vae)[0] for k, v in (("a", ours), ("b", empty))}
        shapes += [(shown[0].shape, (height, width, 3)) for shown in host.pictures(parts.graph, **decoded).values()]
    parts = Parts.of(host)
    codes = parts.graph.add("VitrailVQEncode", image=parts.picture(width=90, height=50), vq_model=parts.vq_model)[0]
    odd = parts.graph.add("VitrailVQDecode", vq_model=parts.vq_model, codes=codes)[0]
    shapes.append((host.pictures(parts.graph, odd=odd)["odd"][0].shape, (50, 90, 3)))
    assert all(found == expected for found, expected in shapes), shapes
    return f"denoise 0.4 against KSampler: {table(figures)}; pictures keep their shape, 90 x 50 by its codes too"


def with_alpha(host: Host) -> str:
    """Load Image's mask of a picture whose left half is transparent, and the same as a picture of 4 channels."""
    parts = Parts.of(host)
    add, load = parts.graph.add, parts.graph.add("LoadImage", image=CLEAR)
    start = encoded(parts, load[0])
    masked = add("SetLatentNoiseMask", samples=start, mask=load[1])[0]
    white = add("EmptyImage", width=64, height=64, color=0xFFFFFF)[0]
    opaque = add("InvertMask", mask=load[1])[0]
    laid = add("ImageCompositeMasked", destination=white, source=load[0], mask=opaque, x=0, y=0, resize_source=False)[0]
    rgba = add("JoinImageWithAlpha", image=load[0], alpha=load[1])[0]
    vq = {n: add("VitrailVQEncode", image=x, vq_model=parts.vq_model)[1] for n, x in (("rgba", rgba), ("laid", laid))}
    runs = {"ours": parts.ours(latent=masked), "stock": parts.stock(latent_image=masked)}
    latents = host.latents(parts.graph, start=start, **vq, **runs)
    (left, right), (was_left, was_right) = halves(latents["ours"]), halves(latents["start"])
    pairs = {"KSampler": ("stock", "ours"), "VQ Encode on white": ("rgba", "laid")}
    figures = {name: worst(latents[a], latents[b]) for name, (a, b) in pairs.items()}
    same = table({**figures, "kept half": worst(right, was_right)})
    assert (changed := worst(left, was_left)) > 0.1, f"the transparent half changed by {changed:.1e} only"
    assert worst(latents["rgba"], latents["start"]) > 0.1, "VQ Encode takes no heed of alpha"
    return f"against {same}; transparent half changes by {changed:.1f}"


def places_in_a_batch(host: Host) -> str:
    """LatentFromBatch takes two of four, LatentBatch puts them before the four: each has the noise of its place."""
    figures = {}
    for name in ("euler", "euler_ancestral", "dpmpp_2m_sde"):
        parts = Parts.of(host, batch=4)
        two = parts.graph.add("LatentFromBatch", samples=parts.latent, batch_index=2, length=2)[0]
        six = parts.graph.add("LatentBatch", samples1=two, samples2=parts.latent)[0]
        links = {"four": parts.latent, "two": two, "six": six}
        made = host.latents(parts.graph, **{k: parts.ours(latent=v, sampler=name) for k, v in links.items()})
        four, two_made = made["four"], made["two"]
        assert worst(two_made, four[:2]) > 1000 * SAME, f"{name}: places 2 and 3 are as 0 and 1"
        figures[name] = max(worst(two_made, four[2:]), worst(made["six"], torch.cat([four[2:], four])))
    return f"2 of 4, and these before the 4, against the batch of 4: {table(figures)}"


SOURCE_CHECKS: dict[str, Callable[[Host], str]] = {
    "image to image by denoise": image_to_image,
    "inpainting by mask": inpainting,
    "inpainting a batch of 3": masked_batch,
    "a picture that is not square keeps its shape": not_square,
    "a picture with alpha is painted where it is transparent": with_alpha,
    "a stock latent with batch_index gets the noise of its places": places_in_a_batch,
}
