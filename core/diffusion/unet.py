"""The UNet of latent diffusion, with CompVis's layout and parameter names.

    input_blocks     a convolution, then for each level residual blocks (and attention), then half the size
    middle_block     residual block, attention, residual block
    output_blocks    the levels back up; each residual block also sees the matching result of the way down
    out              norm, silu, convolution

Source: Ronneberger et al. 2015; Dhariwal & Nichol 2021, section 3; Rombach et al. 2022, appendix E.2.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError
from ..nn.attention import AttentionBlock, SpatialTransformer
from ..nn.hooks import NO_HOOKS, Hooks
from ..nn.init import zero_
from ..nn.pad import crop, pad_to
from ..nn.sketch import Sketch
from ..nn.timestep import timestep_embedding
from ..nn.unet_blocks import Downsample, ResBlock, Stage, Upsample

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Everything that shapes a UNet.

    in_channels: of x, stacked conditions included; out_channels: of the result.
    model_channels, channel_mult: level i is model_channels * channel_mult[i] wide, a multiple of norm_groups (the
    multiple of a level may be a fraction where the width is whole).
    num_res_blocks: residual blocks a level on the way down (one more on the way up); one number, or one for each level.
    attention_resolutions: factors of downsampling (1, 2, 4, ...), after the patches, at which there is attention.
    num_heads, num_head_channels: heads of each attention (one number, or one for each level), or channels a head; the
    second wins, -1 leaves it out. num_heads_upsample: heads of plain attention on the way up, where num_heads counts
    and `legacy` is true; -1 for as many.
    transformer_depth: blocks of each spatial transformer; one number, or one for each level (last: also the middle).
    context_dim: width of the context; None means plain self-attention.
    num_classes: number of class labels for `y`; vector_dim: length of vectors for `y`; at most one of them.
    use_scale_shift_norm: FiLM. resblock_updown: resample in residual blocks. conv_resample: resample by convolution.
    use_linear_in_transformer: linear layers, not 1x1 convolutions, around the transformer blocks (SD 2).
    new_attention_order: how plain attention cuts its qkv. legacy: where num_head_channels does not divide the
    channels of a transformer, widen the heads (true) or leave channels out (false).
    patch_size: p folds p x p cells into channels before the first layer and back after the last.
    dropout: 0 to 1, in residual blocks and transformers.
    disable_self_attentions: for each level whether both attentions of its transformers look at the context; those of
    the middle never do.
    middle_attention: whether the middle has attention. one_sided_downsample: pad on the right and below only.
    norm_groups, norm_eps: of the norms (those of spatial transformers always have 1e-6).
    time_shift, sine_first: see timestep_embedding.
    sketch_size: cells, after the patches, along a side of a guess made from `y` alone, which the first layer sees
    beside x (see Sketch; needs vector_dim); None for no guess. sketch_width: of its hidden layers.
    n_embed: codes of a codebook, one of which the network predicts for each cell of x instead of a latent, by its
    scores (latent-diffusion's predict_codebook_ids); None for a latent.
    Raises: ConfigError when values are out of range or do not go together.
    """

    in_channels: int
    out_channels: int
    model_channels: int
    num_res_blocks: int | tuple[int, ...] = 2
    attention_resolutions: tuple[int, ...] = ()
    channel_mult: tuple[int | float, ...] = (1, 2, 4, 8)
    num_heads: int | tuple[int, ...] = -1
    num_head_channels: int = -1
    transformer_depth: int | tuple[int, ...] = 1
    context_dim: int | None = None
    num_classes: int | None = None
    vector_dim: int | None = None
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    conv_resample: bool = True
    use_linear_in_transformer: bool = False
    legacy: bool = True
    new_attention_order: bool = False
    patch_size: int = 1
    dropout: float = 0.0
    disable_self_attentions: tuple[bool, ...] | None = None
    middle_attention: bool = True
    one_sided_downsample: bool = False
    norm_groups: int = 32
    norm_eps: float = 1e-5
    time_shift: float = 0.0
    sine_first: bool = False
    sketch_size: int | None = None
    sketch_width: int = 1024
    num_heads_upsample: int = -1
    n_embed: int | None = None

    def __post_init__(self) -> None:
        sizes = (self.in_channels, self.out_channels, self.model_channels, self.patch_size, self.norm_groups)
        if self.n_embed is not None and (self.n_embed < 1 or self.patch_size > 1):
            raise ConfigError(f"n_embed is {self.n_embed}, patch_size {self.patch_size}; expected 1 code or more, 1")
        if not self.channel_mult or min(*sizes, *self.widths) < 1:
            raise ConfigError(
                f"a UNet's channels, patch_size and norm_groups must be 1 or more; found {sizes}, levels {self.widths}"
            )
        for name in ("num_res_blocks", "transformer_depth", "num_heads", "disable_self_attentions"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != len(self.channel_mult):
                raise ConfigError(f"{name} {value} must have one value for each of the {len(self.channel_mult)} levels")
        if any(width % self.norm_groups for width in (self.model_channels, *self.widths)):
            raise ConfigError(
                f"the levels are {sorted({self.model_channels, *self.widths})} channels wide; each must be a multiple "
                f"of {self.norm_groups}"
            )
        attending = [level for level in range(len(self.widths)) if self.attends(level)]
        if self.middle_attention and len(self.widths) - 1 not in attending:
            attending.append(len(self.widths) - 1)
        if attending and min(self._each(self.num_heads)) < 1 and self.num_head_channels < 1:
            raise ConfigError("a UNet with attention needs num_heads or num_head_channels")
        if self.num_classes is not None and self.vector_dim is not None:
            raise ConfigError("num_classes and vector_dim both say what y is; give one of them")
        if self.sketch_size is not None and (self.vector_dim is None or min(self.sketch_size, self.sketch_width) < 1):
            raise ConfigError("a sketch needs vector_dim, and a size and a width of 1 or more")
        if self.time_shift >= self.model_channels // 2:
            raise ConfigError(
                f"time_shift is {self.time_shift}; expected less than half of model_channels {self.model_channels}"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; expected 0 <= dropout < 1")
        for level in attending:
            self.heads(level)
            self.heads(level, up=True)

    @property
    def factor(self) -> int:
        """Cells of x that one cell of the smallest level covers along a side."""
        return self.patch_size * 2 ** (len(self.channel_mult) - 1)

    @property
    def folded_channels(self) -> tuple[int, int]:
        """Channels of x and of the result once patches are folded into channels."""
        return self.in_channels * self.patch_size**2, self.out_channels * self.patch_size**2

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the finest first."""
        return tuple(round(self.model_channels * mult) for mult in self.channel_mult)

    @property
    def res_blocks(self) -> tuple[int, ...]:
        """Residual blocks of each level on the way down."""
        return self._each(self.num_res_blocks)

    @property
    def depths(self) -> tuple[int, ...]:
        """Transformer blocks of each level."""
        return self._each(self.transformer_depth)

    def attends(self, level: int) -> bool:
        """Whether the residual blocks of that level are followed by attention."""
        return 2**level in self.attention_resolutions and self.depths[level] > 0

    def heads(self, level: int, up: bool = False) -> tuple[int, int]:
        """(number of heads, channels a head) of the attention at that level, `up` on the way back up."""
        channels = self.widths[level]
        if self.num_head_channels > 0:
            heads = channels // self.num_head_channels
            width = self.num_head_channels if heads and not self.legacy else channels // max(heads, 1)
        else:
            other = up and self.num_heads_upsample > 0 and self.legacy and self.context_dim is None
            heads = self.num_heads_upsample if other else self._each(self.num_heads)[level]
            width = channels // max(heads, 1)
        exact = heads * width == channels
        if heads < 1 or width < 1 or (not exact and self.context_dim is None):
            raise ConfigError(f"{channels} channels do not fall into heads of {width} ({heads} heads)")
        return heads, width

    def _each(self, value: T | tuple[T, ...]) -> tuple[T, ...]:
        return value if isinstance(value, tuple) else (value,) * len(self.channel_mult)


IGNORED = {"image_size", "use_checkpoint", "use_fp16", "use_bf16", "dims"}
RENAMED = {"use_new_attention_order": "new_attention_order", "adm_in_channels": "vector_dim"}


def from_compvis(params: Mapping[str, Any]) -> UNetConfig:
    """The `unet_config.params` of a CompVis or Stability yaml file as a config.

    Raises: ConfigError for a setting that this network does not have.
    """
    known = {RENAMED.get(name, name): value for name, value in params.items() if name not in IGNORED}
    plain = not known.pop("use_spatial_transformer", False)
    if known.get("num_classes") == "sequential":
        del known["num_classes"]
    if strange := sorted(set(known) - set(UNetConfig.__dataclass_fields__)):
        raise ConfigError(f"unet_config has settings that this UNet does not know: {', '.join(strange)}")
    context = known.pop("context_dim", None)
    width = None if plain else context[0] if isinstance(context, list | tuple) else context
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list | tuple) else v for name, v in known.items()}
    return UNetConfig(context_dim=width, **values)


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
