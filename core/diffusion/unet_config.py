"""Everything that shapes the UNet of latent diffusion, and how CompVis's configs say it.

Source: github.com/CompVis/latent-diffusion, ldm/modules/diffusionmodules/openaimodel.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import ConfigError

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
