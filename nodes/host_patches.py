"""What stock nodes hang into a network (`transformer_options`, ControlNets), at the places of our UNet."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..core.nn.hooks import Hooks

if TYPE_CHECKING:
    from ..core.diffusion.unet import UNetConfig
    from ..core.nn.attention import CrossAttention

BLOCKS = frozenset(("emb_patch", "input_block_patch", "input_block_patch_after_skip", "output_block_patch"))
TRANSFORMERS = frozenset(
    ("attn1_patch", "attn1_output_patch", "attn2_patch", "attn2_output_patch", "middle_patch", "attn1", "attn2")
)
"""Patches, and replacements of attention layers, that have a place in each UNet and in those with transformers."""

Control = dict[str, list[Tensor | None]]
"""What a ControlNet adds: "input", "middle" and "output", the last of each list first."""


def without_place(config: "UNetConfig", options: dict[str, Any]) -> set[str]:
    """Names of what stock nodes have hung in and this network cannot honour."""
    hung = {str(name) for kind in ("patches", "patches_replace") for name in options.get(kind) or ()}
    hung |= {"optimized_attention_override"} & options.keys()
    return hung - BLOCKS - (TRANSFORMERS if config.context_dim is not None else frozenset())


class HostHooks(Hooks):
    """One pass of a UNet with the host's patches and a ControlNet's additions.

    options: the host's transformer_options; written to as its own networks do, since patches look there for where
    they are. tell: called with the name of what does not fit.
    """

    def __init__(
        self, width: int, options: dict[str, Any], control: Control | None, tell: Callable[[str], None]
    ) -> None:
        self.width, self.options, self.control, self.tell = width, options, control or {}, tell
        self.transformers = 0
        self.patches: dict[str, list[Any]] = options.get("patches") or {}
        self.replacements: dict[str, dict[Any, Any]] = options.get("patches_replace") or {}

    def start(self, h: Tensor, emb: Tensor) -> Tensor:
        self.options |= {"original_shape": list(h.shape), "transformer_index": 0}
        for patch in self.patches.get("emb_patch", ()):
            emb = patch(emb, self.width, self.options)
        return emb

    def block(self, part: str, index: int) -> None:
        self.options["block"] = (part, index)

    def transformer(self, x: Tensor, depth: int) -> None:
        self.transformers += depth == 0
        self.options |= {"activations_shape": list(x.shape), "block_index": depth}
        self.options["transformer_index"] = self.transformers - 1

    def after_input(self, h: Tensor) -> tuple[Tensor, Tensor]:
        h = skip = self._patched("input_block_patch", self._controlled("input", h))
        return self._patched("input_block_patch_after_skip", h), skip

    def after_middle(self, h: Tensor) -> Tensor:
        return self._controlled("middle", h)

    def before_output(self, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        skip = self._controlled("output", skip)
        for patch in self.patches.get("output_block_patch", ()):
            h, skip = patch(h, skip, self.options)
        return h, skip

    def attend(self, name: str, layer: "CrossAttention", x: Tensor, context: Tensor | None) -> Tensor:
        options = {key: value for key, value in self.options.items() if key not in ("patches", "patches_replace")}
        options |= {"n_heads": layer.heads, "attn_precision": None}
        options["dim_head"] = layer.to_q.out_features // layer.heads
        keys = values = x if context is None else context
        for patch in self.patches.get(f"{name}_patch", ()):
            x, keys, values = patch(x, keys, values, options)
        q, k, v = layer.to_q(x), layer.to_k(keys), layer.to_v(values)
        replace = self._replacement(name)
        attended = layer.mix(q, _as_many(k, q), _as_many(v, q)) if replace is None else replace(q, k, v, options)
        x = layer.to_out(attended)
        for patch in self.patches.get(f"{name}_output_patch", ()):
            x = patch(x, options)
        return x

    def between(self, x: Tensor) -> Tensor:
        return self._patched("middle_patch", x)

    def _patched(self, name: str, h: Tensor) -> Tensor:
        for patch in self.patches.get(name, ()):
            h = patch(h, self.options)
        return h

    def _replacement(self, name: str) -> Any:
        """What stands in for an attention: for this very transformer block, else for its whole block."""
        places, block = self.replacements.get(name, {}), self.options["block"]
        return places.get((*block, self.options["block_index"]), places.get(block))

    def _controlled(self, part: str, h: Tensor) -> Tensor:
        added = self.control[part].pop() if self.control.get(part) else None
        if added is None:
            return h
        if added.shape[1:] != h.shape[1:] or len(h) % len(added):
            self.tell(f"a ControlNet of another shape ({tuple(added.shape)} at {part}, here {tuple(h.shape)})")
            return h
        return h + added.to(h).repeat(len(h) // len(added), 1, 1, 1)


def _as_many(part: Tensor, q: Tensor) -> Tensor:
    """Keys or values cut like queries that a patch has cut into more, smaller pictures (HyperTile)."""
    return part if len(part) == len(q) else part.reshape(len(q), -1, part.shape[-1])
