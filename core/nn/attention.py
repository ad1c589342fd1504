"""Attention of the diffusion networks, with CompVis's parameter names.

A picture [B, C, H, W] is attended as H W tokens of C channels; every block returns the shape it was given.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .hooks import NO_HOOKS, Hooks
from .init import zero_

HALF = (torch.bfloat16, torch.float16)
FEW = 256


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v.

    The fused kernel of the CPU takes 4 to 10 times as long as two products to go backward in 16 bits over the few
    hundred cells of a small latent (torch 2.13, Zen 4), so that training there takes the two products.

    q: [B, heads, N, d]; k, v: [B, heads, L, d].
    mask: bool, of two or more dimensions that broadcast to [B, heads, N, L], true where a key may be looked at.
    Returns [B, heads, N, d].
    Source: Vaswani et al. 2017, eq. 1.
    """
    if q.device.type == "cpu" and q.dtype in HALF and q.requires_grad and k.shape[2] <= FEW:
        scores = q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return torch.softmax(scores, dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, mask)


class AttentionBlock(nn.Module):
    """Self-attention over the cells of a picture, one 1-D convolution for queries, keys and values.

    channels: C, divisible by `groups` (of the norm, as is `eps`) and by `heads`.
    new_order: how the 3 C outputs of `qkv` are cut: (3, heads, d) if true, else (heads, 3, d) as in public models.
    Source: Dhariwal & Nichol 2021 (ADM).
    """

    def __init__(
        self, channels: int, heads: int, new_order: bool = False, groups: int = 32, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.heads = heads
        self.new_order = new_order
        self.norm = nn.GroupNorm(groups, channels, eps=eps)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W] -> the same shape."""
        qkv = self.qkv(self.norm(x.flatten(2)))
        if self.new_order:
            q, k, v = qkv.unflatten(1, (3, self.heads, -1)).transpose(3, 4).unbind(1)
        else:
            q, k, v = qkv.unflatten(1, (self.heads, 3, -1)).transpose(3, 4).unbind(2)
        attended = attend(q, k, v).transpose(2, 3).flatten(1, 2)
        return x + self.proj_out(attended).view_as(x)


class CrossAttention(nn.Module):
    """Queries from x, keys and values from the context, or from x itself without one.

    width: channels of x; context_width: channels of the context (None: of x); inner width is heads x head_width.
    """

    def __init__(self, width: int, context_width: int | None, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(context_width or width, inner, bias=False)
        self.to_v = nn.Linear(context_width or width, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, width), nn.Dropout(dropout))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x: [B, N, width]; context: [B, L, context_width] -> [B, N, width]."""
        source = x if context is None else context
        return self.to_out(self.mix(self.to_q(x), self.to_k(source), self.to_v(source)))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend, head by head. q: [B, N, inner]; k, v: [B, L, inner] -> [B, N, inner]."""
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        return attend(q, k, v).transpose(1, 2).flatten(2)


class GEGLU(nn.Module):
    """a gelu(b), where (a, b) = proj(x). Source: Shazeer 2020."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., width] -> [..., inner]."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """A gated layer four times as wide, and back."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Dropout(dropout), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., width] -> the same shape."""
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context, feed-forward; each normed before and added after.

    only_context: the first attention looks at the context too.
    """

    def __init__(
        self,
        width: int,
        context_width: int | None,
        heads: int,
        head_width: int,
        dropout: float,
        only_context: bool = False,
    ) -> None:
        super().__init__()
        self.only_context = only_context
        self.attn1 = CrossAttention(width, context_width if only_context else None, heads, head_width, dropout)
        self.ff = FeedForward(width, dropout)
        self.attn2 = CrossAttention(width, context_width, heads, head_width, dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor | None, hooks: Hooks = NO_HOOKS) -> Tensor:
        """x: [B, N, width]; context: [B, L, context_width] -> the shape of x."""
        first = context if self.only_context else None
        x = hooks.between(x + hooks.attend("attn1", self.attn1, self.norm1(x), first))
        x = x + hooks.attend("attn2", self.attn2, self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the cells of a picture, which also attend to a context.

    channels: C of the picture; the blocks are heads x head_width wide.
    linear: project with linear layers (SD 2) instead of 1x1 convolutions. groups: of the norm.
    only_context: both attentions of a block look at the context (SD's x4 upscaler).
    Source: Rombach et al. 2022, section 3.3 and appendix E.2.1.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        head_width: int,
        depth: int = 1,
        context_width: int | None = None,
        linear: bool = False,
        dropout: float = 0.0,
        groups: int = 32,
        only_context: bool = False,
    ) -> None:
        super().__init__()
        inner = heads * head_width
        self.linear = linear
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, inner) if linear else nn.Conv2d(channels, inner, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(inner, context_width, heads, head_width, dropout, only_context) for _ in range(depth)
        )
        self.proj_out = zero_(nn.Linear(inner, channels) if linear else nn.Conv2d(inner, channels, 1))

    def forward(self, x: Tensor, context: Tensor | None = None, hooks: Hooks = NO_HOOKS) -> Tensor:
        """x: [B, C, H, W]; context: [B, L, context_width] -> the shape of x."""
        tokens = self._tokens(x)
        for depth, block in enumerate(self.transformer_blocks):
            hooks.transformer(x, depth)
            tokens = block(tokens, context, hooks)
        return x + self._picture(tokens, x.shape[-2:])

    def _tokens(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, H W, inner], contiguous."""
        x = self.norm(x)
        if self.linear:
            return self.proj_in(x.flatten(2).transpose(1, 2))
        return self.proj_in(x).flatten(2).transpose(1, 2).contiguous()

    def _picture(self, tokens: Tensor, size: tuple[int, ...]) -> Tensor:
        """[B, H W, inner] -> [B, C, H, W]."""
        if self.linear:
            return self.proj_out(tokens).transpose(1, 2).unflatten(2, size)
        return self.proj_out(tokens.transpose(1, 2).unflatten(2, size).contiguous())
