"""The UNet of latent diffusion, with CompVis's layout and parameter names.

    input_blocks     a convolution, then for each level residual blocks (and attention), then half the size
    middle_block     residual block, attention, residual block
    output_blocks    the levels back up; each residual block also sees the matching result of the way down
    out              norm, silu, convolution

Source: Ronneberger et al. 2015; Dhariwal & Nichol 2021, section 3; Rombach et al. 2022, appendix E.2.1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ShapeError
from ..nn.attention import AttentionBlock, SpatialTransformer
from ..nn.hooks import NO_HOOKS, Hooks
from ..nn.init import zero_
from ..nn.pad import crop, pad_to
from ..nn.sketch import Sketch
from ..nn.timestep import timestep_embedding
from ..nn.unet_blocks import Downsample, ResBlock, Stage, Upsample
from .unet_config import UNetConfig


class UNet(nn.Module):
    """The network: `forward(x, timesteps, context, y)` -> what it predicts, unscaled."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.model_channels
        self.emb_width = 4 * width
        self.time_embed = _mlp(width, self.emb_width)
        if config.num_classes is not None:
            self.label_emb: nn.Module = nn.Embedding(config.num_classes, self.emb_width)
        elif config.vector_dim is not None:
            self.label_emb = nn.Sequential(_mlp(config.vector_dim, self.emb_width))
        seen, made = config.folded_channels
        if config.sketch_size is not None:
            assert config.vector_dim is not None
            self.sketch = Sketch(config.vector_dim, made, config.sketch_size, config.sketch_width)
            seen += made
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(seen, width, 3, padding=1))])
        skips = self._build_down()
        bottom, last = config.widths[-1], len(config.widths) - 1
        attention = self._attention(last, config.depths[-1] or 1, False) if config.middle_attention else nn.Identity()
        self.middle_block = Stage(self._residual(bottom, bottom), attention, self._residual(bottom, bottom))
        self.output_blocks = nn.ModuleList()
        top = self._build_up(bottom, skips)
        self.out = nn.Sequential(
            nn.GroupNorm(config.norm_groups, top, eps=config.norm_eps),
            nn.SiLU(),
            zero_(nn.Conv2d(top, made, 3, padding=1)),
        )
        if config.n_embed is not None:
            norm = nn.GroupNorm(config.norm_groups, top, eps=config.norm_eps)
            self.id_predictor = nn.Sequential(norm, nn.Conv2d(top, config.n_embed, 1))

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        hooks: Hooks = NO_HOOKS,
        concat: Tensor | None = None,
    ) -> Tensor:
        """Predict from a noisy latent.

        x: [B, in_channels, h, w], any size: reflected up to a multiple of the factor, and cropped back.
        timesteps: [B] or [], fractions allowed.
        context: [B, L, context_dim], for a network with a context.
        y: [B, vector_dim] float, or [B] int64 class labels, for a network with either.
        hooks: what else happens on the way.
        concat: [B, c, h, w], stacked behind x where x alone has fewer than in_channels.
        Returns [B, out_channels (n_embed, if that is set), h, w] in the dtype of the weights, or of autocast.
        Raises: ShapeError when x, context or y is missing or of another kind.
        """
        x = x if concat is None else torch.cat([x, concat.to(x)], dim=1)
        self._check(x, context, y)
        config, dtype = self.config, self.dtype
        context = None if context is None else context.to(dtype)
        h, size = pad_to(x.to(dtype), config.factor)
        h = F.pixel_unshuffle(h, config.patch_size)
        emb = self._embed(hooks.start(h, self._time(timesteps.expand(x.shape[0]), dtype)), y)
        if config.sketch_size is not None and y is not None:
            h = torch.cat([h, self.sketch.sized(y.to(dtype), h.shape[2:])], dim=1)
        skips: list[Tensor] = []
        for i, block in enumerate(self.input_blocks):
            hooks.block("input", i)
            h, skip = hooks.after_input(block(h, emb, context, hooks))
            skips.append(skip)
        hooks.block("middle", 0)
        h = hooks.after_middle(self.middle_block(h, emb, context, hooks))
        for i, block in enumerate(self.output_blocks):
            hooks.block("output", i)
            h = block(torch.cat(hooks.before_output(h, skips.pop()), dim=1), emb, context, hooks)
        if config.n_embed is not None:
            return crop(self.id_predictor(h), size)
        return crop(F.pixel_shuffle(self.out(h), config.patch_size), size)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; inputs are cast to it."""
        return next(self.parameters()).dtype

    def _time(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        """[B] -> [B, emb_width]."""
        config = self.config
        waves = timestep_embedding(
            timesteps, config.model_channels, shift=config.time_shift, sine_first=config.sine_first
        )
        return self.time_embed(waves.to(dtype))

    def _embed(self, emb: Tensor, y: Tensor | None) -> Tensor:
        """The time's embedding and y as one vector, [B, emb_width]."""
        if y is None:
            return emb
        return emb + self.label_emb(y if self.config.num_classes is not None else y.to(emb.dtype))

    def _check(self, x: Tensor, context: Tensor | None, y: Tensor | None) -> None:
        config = self.config
        if x.ndim != 4 or x.shape[1] != config.in_channels:
            raise ShapeError(f"x is {tuple(x.shape)}; expected [batch, {config.in_channels}, height, width]")
        if config.context_dim is None and context is not None:
            raise ShapeError("this network takes no context; leave it out")
        if context is not None and (context.ndim != 3 or context.shape[-1] != config.context_dim):
            raise ShapeError(f"context is {tuple(context.shape)}; expected [batch, tokens, {config.context_dim}]")
        if config.context_dim is not None and context is None:
            raise ShapeError(f"this network needs a context [batch, tokens, {config.context_dim}]")
        takes_y = config.num_classes is not None or config.vector_dim is not None
        if takes_y != (y is not None):
            raise ShapeError(f"this network {'needs' if takes_y else 'takes no'} y (class labels or vectors)")
        if y is not None and config.vector_dim is not None and (y.ndim != 2 or y.shape[1] != config.vector_dim):
            raise ShapeError(f"y is {tuple(y.shape)}; expected [batch, {config.vector_dim}]")

    def _build_down(self) -> list[int]:
        """Fill input_blocks; the channels of each block's result."""
        config = self.config
        channels = config.model_channels
        skips = [channels]
        for level, (wide, blocks) in enumerate(zip(config.widths, config.res_blocks, strict=True)):
            for _ in range(blocks):
                self.input_blocks.append(self._stage(channels, wide, level))
                channels = wide
                skips.append(channels)
            if level < len(config.channel_mult) - 1:
                down = (
                    self._residual(channels, channels, Downsample(channels, use_conv=False))
                    if config.resblock_updown
                    else Downsample(channels, config.conv_resample, config.one_sided_downsample)
                )
                self.input_blocks.append(Stage(down))
                skips.append(channels)
        return skips

    def _build_up(self, channels: int, skips: list[int]) -> int:
        """Fill output_blocks; the channels of the last."""
        config = self.config
        for level in reversed(range(len(config.channel_mult))):
            wide = config.widths[level]
            for i in range(config.res_blocks[level] + 1):
                stage = self._stage(channels + skips.pop(), wide, level, up=True)
                channels = wide
                if level and i == config.res_blocks[level]:
                    stage.append(
                        self._residual(channels, channels, Upsample(channels, use_conv=False))
                        if config.resblock_updown
                        else Upsample(channels, config.conv_resample)
                    )
                self.output_blocks.append(stage)
        return channels

    def _stage(self, channels: int, out_channels: int, level: int, up: bool = False) -> Stage:
        """A residual block and, where the level has it, attention."""
        stage = Stage(self._residual(channels, out_channels))
        if self.config.attends(level):
            only_context = bool(self.config.disable_self_attentions and self.config.disable_self_attentions[level])
            stage.append(self._attention(level, self.config.depths[level], only_context, up))
        return stage

    def _residual(self, channels: int, out_channels: int, resample: nn.Module | None = None) -> ResBlock:
        config = self.config
        return ResBlock(
            channels,
            out_channels,
            self.emb_width,
            film=config.use_scale_shift_norm,
            dropout=config.dropout,
            resample=resample,
            groups=config.norm_groups,
            eps=config.norm_eps,
        )

    def _attention(self, level: int, depth: int, only_context: bool, up: bool = False) -> nn.Module:
        config = self.config
        channels, (heads, width) = config.widths[level], config.heads(level, up)
        if config.context_dim is None:
            return AttentionBlock(channels, heads, config.new_attention_order, config.norm_groups, config.norm_eps)
        return SpatialTransformer(
            channels,
            heads,
            width,
            depth,
            config.context_dim,
            config.use_linear_in_transformer,
            config.dropout,
            config.norm_groups,
            only_context=only_context,
        )


def _mlp(width: int, inner: int) -> nn.Sequential:
    """Linear, SiLU, Linear: [B, width] -> [B, inner]."""
    return nn.Sequential(nn.Linear(width, inner), nn.SiLU(), nn.Linear(inner, inner))
