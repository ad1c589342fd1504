"""What shapes an autoencoder, in CompVis's words."""

from dataclasses import dataclass, field, replace

from ..bottlenecks import BottleneckConfig, VQConfig
from ..errors import ConfigError

ATTENTIONS = ("vanilla", "linear", "none")


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Sizes of an `Autoencoder`; the defaults are taming's f16 VQGAN.

    in_channels, out_channels: channels of the pictures.
    ch, ch_mult: width of the first convolution, and of each level as a multiple of it (a fraction where the product is
    whole); each level but the last halves the size.
    num_res_blocks: residual blocks a level in the encoder (the decoder has one more).
    attn_resolutions: levels, named by their size for a picture of `resolution`, that have attention.
    z_channels, embed_dim: channels before and after `quant_conv`; double_z doubles the former (mean and log variance).
    attn_type: "vanilla", "linear" (see LinearAttnBlock), or "none": no attention anywhere, the middle included;
    decoder_attn_type: the decoder's, None for the same. mid_attention: whether the middle has it (unless "none").
    norm_groups: groups of the norms.
    quant_conv: whether 1x1 convolutions stand around the bottleneck; without them embed_dim is z_channels.
    patch_size: pixels folded into channels along each side before the first convolution (1 in all public models).
    decoder_blocks: residual blocks a level in the decoder; None for one more than in the encoder.
    decoder_ch_mult: the decoder's multiples; None for the encoder's.
    last_activation: whether a SiLU stands before the last convolution of both networks.
    resamp_with_conv: resample by convolutions, or else by means and repetition. tanh_out: pictures end in a tanh.
    resampling: "conv" (strided, and repeated pixels, at the width of the level before), or "bilinear": bilinear, its
    convolution with the change of width, so that the first level is as wide as the first convolution (VQFR's first).
    middle: whether there are the blocks of the smallest size and the decoder's first convolution; without them
    z_channels is the width of the last level.
    latent_shift, latent_scale: scaled = (z - shift) * scale, one number for all channels or one a channel.
    palette: whether the pictures are maps of labels, a channel a label, and colours come with the model to show them.
    Raises: ConfigError where these do not go together.
    """

    in_channels: int = 3
    out_channels: int = 3
    ch: int = 128
    ch_mult: tuple[int | float, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (16,)
    resolution: int = 256
    z_channels: int = 256
    embed_dim: int = 256
    double_z: bool = False
    attn_type: str = "vanilla"
    patch_size: int = 1
    bottleneck: BottleneckConfig = field(default_factory=lambda: VQConfig(codes=1024, dim=256))
    latent_shift: tuple[float, ...] = (0.0,)
    latent_scale: tuple[float, ...] = (1.0,)
    decoder_blocks: int | None = None
    last_activation: bool = True
    norm_groups: int = 32
    mid_attention: bool = True
    quant_conv: bool = True
    resamp_with_conv: bool = True
    tanh_out: bool = False
    palette: bool = False
    decoder_ch_mult: tuple[int | float, ...] | None = None
    decoder_attn_type: str | None = None
    resampling: str = "conv"
    middle: bool = True

    def __post_init__(self) -> None:
        sizes = {
            name: getattr(self, name)
            for name in ("ch", "num_res_blocks", "z_channels", "embed_dim", "patch_size", "norm_groups", "resolution")
        }
        if wrong := {name: value for name, value in sizes.items() if value < 1}:
            raise ConfigError(f"sizes of an autoencoder must be at least 1, found {wrong}")
        if self.decoder_blocks is not None and self.decoder_blocks < 1:
            raise ConfigError(f"decoder_blocks is {self.decoder_blocks}; expected at least 1, or none")
        if not self.ch_mult:
            raise ConfigError("ch_mult is empty; expected one multiple of ch a level, such as (1, 2, 4)")
        if len(self.decoder_widths) != len(self.ch_mult):
            raise ConfigError(
                f"the encoder has {len(self.ch_mult)} levels, the decoder {len(self.decoder_widths)}; expected as many"
            )
        if min(*self.widths, *self.decoder_widths) < 1:
            raise ConfigError(f"ch_mult {self.ch_mult} makes {self.widths} channels a level; expected 1 or more")
        if any(width % min(self.norm_groups, width) for width in (self.ch, *self.widths, *self.decoder_widths)):
            raise ConfigError(f"widths {(self.ch, *self.widths)} do not fall into {self.norm_groups} groups")
        if not self.quant_conv and self.embed_dim != self.z_channels:
            raise ConfigError(
                f"without quant_conv embed_dim is z_channels; found {self.embed_dim} and {self.z_channels}"
            )
        for name in ("attn_type", *([] if self.decoder_attn_type is None else ["decoder_attn_type"])):
            if getattr(self, name) not in ATTENTIONS:
                raise ConfigError(f'{name} is "{getattr(self, name)}"; expected one of {", ".join(ATTENTIONS)}')
        self._check_resampling()
        if (dim := getattr(self.bottleneck, "dim", self.embed_dim)) != self.embed_dim:
            raise ConfigError(f"embed_dim is {self.embed_dim}, but the codebook's vectors have {dim} numbers")
        for name in ("latent_shift", "latent_scale"):
            if len(getattr(self, name)) not in (1, self.embed_dim):
                raise ConfigError(
                    f"{name} has {len(getattr(self, name))} numbers; expected 1, or {self.embed_dim} (embed_dim)"
                )

    def _check_resampling(self) -> None:
        if self.resampling not in ("conv", "bilinear"):
            raise ConfigError(f'resampling is "{self.resampling}"; expected "conv" or "bilinear"')
        if self.resampling == "bilinear" and (self.widths[0] != self.ch or not self.resamp_with_conv):
            raise ConfigError(
                f"bilinear resampling has convolutions, and a first level {self.ch} wide (ch); found {self.widths[0]}, "
                f"resamp_with_conv {self.resamp_with_conv}"
            )
        if not self.middle and not self.z_channels == self.widths[-1] == self.decoder_widths[-1]:
            raise ConfigError(
                f"without a middle z_channels is the last level's width {self.widths[-1]}, found {self.z_channels}"
            )

    @property
    def for_decoder(self) -> "AutoencoderConfig":
        """The settings with the decoder's attention for both."""
        own = self.decoder_attn_type
        return self if own is None else replace(self, attn_type=own, decoder_attn_type=None)

    @property
    def factor(self) -> int:
        """Pixels that one cell of the latent covers along a side."""
        return self.patch_size * 2 ** (len(self.ch_mult) - 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the finest first."""
        return tuple(round(self.ch * mult) for mult in self.ch_mult)

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Channels of each level of the decoder, the finest first."""
        return tuple(round(self.ch * mult) for mult in self.decoder_ch_mult or self.ch_mult)

    @property
    def middle_attends(self) -> bool:
        """Whether there is attention in the middle, at the smallest size."""
        return self.attn_type != "none" and self.mid_attention

    @property
    def level_resolutions(self) -> tuple[int, ...]:
        """The size of each level for a square picture of `resolution`, the finest first."""
        return tuple(self.resolution // self.patch_size // 2**level for level in range(len(self.ch_mult)))

    def attends(self, level: int) -> bool:
        """Whether the blocks of that level are followed by attention."""
        return self.attn_type != "none" and self.level_resolutions[level] in self.attn_resolutions
