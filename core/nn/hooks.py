"""Places inside a UNet where its caller may look at what passes and change it."""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from .attention import CrossAttention


class Hooks:
    """What happens at the places of a UNet beside its own layers: as it stands, nothing.

    A subclass overrides what it needs; each method returns what goes on from its place. `UNet.forward` calls them in
    the order of its pass, so that a subclass may keep state for one pass. B: batch; N: cells of a picture.
    """

    def start(self, h: Tensor, emb: Tensor) -> Tensor:
        """Before the first block. h: [B, C, h, w], padded and folded; emb: [B, E], of the time alone -> emb."""
        return emb

    def block(self, part: str, index: int) -> None:
        """A block begins. part: "input", "middle" or "output"; index: its number there."""

    def transformer(self, x: Tensor, depth: int) -> None:
        """Block `depth` of a spatial transformer begins. x: [B, C, h, w], what the transformer was handed."""

    def after_input(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """After an input block. h: [B, C, h, w] -> what goes on, and what the way up will be shown."""
        return h, h

    def after_middle(self, h: Tensor) -> Tensor:
        """After the middle block. h: [B, C, h, w]."""
        return h

    def before_output(self, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Before an output block. h: what comes from below; skip: what was kept on the way down."""
        return h, skip

    def attend(self, name: str, layer: "CrossAttention", x: Tensor, context: Tensor | None) -> Tensor:
        """In place of an attention layer of a transformer block.

        name: "attn1" (to itself; context is None) or "attn2" (to the context [B, L, D]). x: [B, N, C], normed.
        layer: made of parts, `to_out(mix(to_q(x), to_k(keys), to_v(values)))`.
        """
        return layer(x, context)

    def between(self, x: Tensor) -> Tensor:
        """Between the two attentions of a transformer block. x: [B, N, C]."""
        return x


NO_HOOKS = Hooks()
