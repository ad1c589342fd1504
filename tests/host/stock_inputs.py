"""What the stock nodes of stock_pairs.py are handed: parts of our graph, and second ones to combine them with."""

from __future__ import annotations

from typing import Any

from host_graph import Link
from host_parts import Parts
from stock_forms import Inputs, decoded, start


def fixed(**widgets: Any) -> Inputs:
    return lambda _: widgets


def second_model(parts: Parts) -> Link:
    """Our model with weights that a stock node has changed, to merge with."""
    return parts.graph.add("UNetSelfAttentionMultiply", model=parts.model, q=0.5, v=1.5)[0]


def second_clip(parts: Parts) -> Link:
    return parts.graph.add("CLIPAttentionMultiply", clip=parts.clip, q=1.2)[0]


def apple(parts: Parts) -> Link:
    return parts.graph.add("CLIPTextEncode", clip=parts.clip, text="red apple")[0]


def two_models(**widgets: Any) -> Inputs:
    return lambda parts: {"model1": parts.model, "model2": second_model(parts), **widgets}


def on_clip(**widgets: Any) -> Inputs:
    return lambda parts: {"clip": parts.clip, **widgets}


def on_condition(kind_input: str = "conditioning", **widgets: Any) -> Inputs:
    return lambda parts: {kind_input: apple(parts), **widgets}


def on_levels(**widgets: Any) -> Inputs:
    return lambda parts: {"sigmas": parts.sigmas(), **widgets}


def on_model(**widgets: Any) -> Inputs:
    return lambda parts: {"model": parts.model, **widgets}


def on_latent(name: str = "samples", **widgets: Any) -> Inputs:
    return lambda parts: {name: start(parts), **widgets}


def on_picture(name: str = "image", **widgets: Any) -> Inputs:
    return lambda parts: {name: decoded(parts), **widgets}


def two_latents(one: str = "samples1", two: str = "samples2", **widgets: Any) -> Inputs:
    return lambda parts: {one: start(parts), two: parts.ours(), **widgets}


def two_pictures(one: str, two: str, **widgets: Any) -> Inputs:
    return lambda parts: {one: decoded(parts), two: parts.picture(), **widgets}


def half(parts: Parts) -> Link:
    """A mask of 64 x 64 whose left half is set."""
    keep, change = (parts.graph.add("SolidMask", value=v, width=w, height=64)[0] for v, w in ((0.0, 64), (1.0, 32)))
    return parts.graph.add("MaskComposite", destination=keep, source=change, x=0, y=0, operation="add")[0]


def on_mask(name: str = "mask", **widgets: Any) -> Inputs:
    return lambda parts: {name: half(parts), **widgets}


def pair(names: str, more: str, **widgets: Any) -> Inputs:
    """Two conditions under names such as "{}_NEW" for positive and negative; `more` likewise, for other prompts."""

    def build(parts: Parts) -> dict[str, Any]:
        found = {names.format("positive"): parts.positive, names.format("negative"): parts.negative} if names else {}
        others = {more.format("positive"): apple(parts), more.format("negative"): parts.negative} if more else {}
        return {**found, **others, **widgets}

    return build


def masked_pair(parts: Parts) -> dict[str, Any]:
    return {**pair("", "{}_NEW")(parts), "mask": half(parts), "strength": 0.5}


def combined(parts: Parts, kind: str, **widgets: Any) -> Link:
    """A prompt bound by a stock node, beside another that is not."""
    bound = parts.graph.add(kind, conditioning=apple(parts), **widgets)[0]
    return parts.graph.add("ConditioningCombine", conditioning_1=parts.positive, conditioning_2=bound)[0]


def half_condition(parts: Parts) -> Link:
    return parts.graph.add("ConditioningSetMask", conditioning=parts.positive, mask=half(parts))[0]
