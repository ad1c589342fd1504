"""Checks of the node Guidance in the host, in stock samplers and in ours, and together with CFG++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from host_graph import Link
from host_parts import SAME, STEPS, Parts
from host_rig import Host, worst

INTERVAL = {"start": 0.3, "end": 0.8}
FIRST, PAST = 3, 6
"""Of the 8 steps of the schedule normal, at the shares i / 7 of the run, those from 3/7 to 5/7 lie in the interval."""


def guided(parts: Parts, **widgets: Any) -> Link:
    return parts.graph.add("VitrailGuidance", model=parts.model, **widgets)[0]


def agree(host: Host, parts: Parts, plain: Link, **links: Link) -> str:
    """The links' largest difference from the first of them; AssertionError where it is large, or plain is the same."""
    latents = host.latents(parts.graph, plain=plain, **links)
    before, (first, *others) = latents.pop("plain"), latents.values()
    difference, change = max(worst(first, other) for other in others), worst(first, before)
    assert difference <= SAME and change > 100 * SAME, f"they differ by {difference:.1e}; changed by {change:.1e}"
    return f"{difference:.1e}, changed by {change:.2f}"


def rescale_equals_the_stock_node(host: Host) -> str:
    parts = Parts.of(host)
    stock = parts.graph.add("RescaleCFG", model=parts.model, multiplier=0.7)[0]
    ours = guided(parts, rescale=0.7)
    runs = {"stock": parts.stock(model=stock), "theirs": parts.stock(model=ours), "ours": parts.ours(model=ours)}
    return f"KSampler and our sampler against RescaleCFG: {agree(host, parts, parts.stock(), **runs)}"


def the_interval_equals_a_run_in_three(host: Host) -> str:
    """KSamplerAdvanced without guidance, with it, and without it again, each from where the last one stopped."""
    parts = Parts.of(host)
    model, latent = guided(parts, **INTERVAL), parts.latent
    for start, end, cfg in ((0, FIRST, 1.0), (FIRST, PAST, 3.0), (PAST, STEPS, 1.0)):
        latent = parts.graph.add(
            "KSamplerAdvanced", model=parts.model, positive=parts.positive, negative=parts.negative, steps=STEPS,
            latent_image=latent, noise_seed=7, cfg=cfg, sampler_name="euler", scheduler="normal", start_at_step=start,
            end_at_step=end, add_noise="enable" if start == 0 else "disable",
            return_with_leftover_noise="enable" if end < STEPS else "disable",
        )[0]  # fmt: skip
    runs = {"parted": latent, "theirs": parts.stock(model=model), "ours": parts.ours(model=model)}
    return f"KSampler and our sampler against three KSamplerAdvanced: {agree(host, parts, parts.stock(), **runs)}"


def nothing_tempered_is_nothing_changed(host: Host) -> str:
    parts = Parts.of(host)
    last = guided(parts, rescale=0.7)
    again = parts.graph.add("VitrailGuidance", model=last)[0]
    latents = host.latents(parts.graph, plain=parts.stock(), again=parts.stock(model=again))
    assert (difference := worst(*latents.values())) == 0, difference
    return "defaults, after a node with rescale 0.7: 0.0e+00"


def cfg_pp_heeds_it(host: Host) -> str:
    figures = []
    for name in ("euler_cfg_pp", "dpmpp_2m_cfg_pp"):
        parts = Parts.of(host)
        model = guided(parts, rescale=0.5, **INTERVAL)
        runs = {"stock": parts.stock(model=model, sampler_name=name), "ours": parts.ours(model=model, sampler=name)}
        figures.append(f"{name} {agree(host, parts, parts.stock(sampler_name=name), **runs)}")
    return f"our sampler against KSampler: {'; '.join(figures)}"


GUIDANCE_CHECKS: dict[str, Callable[[Host], str]] = {
    "Guidance: rescale equals stock RescaleCFG": rescale_equals_the_stock_node,
    "Guidance: start and end part the run": the_interval_equals_a_run_in_three,
    "Guidance: defaults change nothing": nothing_tempered_is_nothing_changed,
    "Guidance reaches CFG++ solvers": cfg_pp_heeds_it,
}
