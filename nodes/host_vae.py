"""VAE: an autoencoder behind the host's VAE, which brings its batches, tiles and way out of a full memory."""

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .host_env import IN_HOST
from .host_memory import Borrowed, patcher_of, working_memory
from .host_progress import one_by_one

if TYPE_CHECKING:
    from ..core.autoencoders.autoencoder import Autoencoder
    from ..core.autoencoders.strips import StripSteps


def wrap_vae(autoencoder: "Autoencoder") -> Any:
    """The VAE of an autoencoder: itself headless, a subclass of the host's VAE in the host."""
    return _class()(autoencoder) if IN_HOST else autoencoder


class FirstStage(Borrowed):
    """An autoencoder as the host calls it: latents are encoded before they are rounded, and rounded when decoded."""

    vitrail: "Autoencoder"

    def encode(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] in -1..1 -> [B, c, h, w]."""
        return self.vitrail.encode(x.to(self._dtype)).to(x.dtype)

    def decode(self, latent: Tensor, **_: Any) -> Tensor:
        """[B, c, h, w] -> [B, 3, H, W], about -1..1. Raises: ShapeError for a latent of another autoencoder."""
        return self.vitrail.decode(self._rounded(latent))

    def encode_steps(self, x: Tensor, strip: int) -> "StripSteps":
        """`encode` as `Autoencoder.encode_steps`."""
        return self.vitrail.encode_steps(x.to(self._dtype), strip=strip)

    def decode_steps(self, latent: Tensor, strip: int) -> "StripSteps":
        """`decode` as `Autoencoder.decode_steps`."""
        return self.vitrail.decode_steps(self._rounded(latent), strip=strip)

    def _rounded(self, latent: Tensor) -> Tensor:
        ours = self.vitrail
        if ours.codebook_size is not None and latent.shape[1] == ours.config.embed_dim:
            latent = ours.quantize(latent.float()).latent
        return latent.to(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return self.vitrail.decoder.conv_out.weight.dtype


class HostVAE:
    """The fields of the host's VAE, filled from an autoencoder instead of from a file.

    Pictures and latents come and go in float32 whatever the weights are, so that codes are chosen exactly.
    """

    def __init__(self, autoencoder: "Autoencoder") -> None:
        from comfy import model_management

        factor = autoencoder.factor
        self.first_stage_model = FirstStage(autoencoder).eval()
        self.downscale_ratio = self.upscale_ratio = factor
        self.downscale_index_formula = self.upscale_index_formula = None
        self.latent_channels, self.latent_dim = autoencoder.config.embed_dim, 2
        self.output_channels = 3
        self.process_input, self.process_output = partial(_to_x, autoencoder), partial(_to_image, autoencoder)
        self.working_dtypes, self.vae_dtype = [torch.float32], torch.float32
        self.crop_input, self.disable_offload = True, True
        self.not_video, self.extra_1d_channel = False, None
        self.device, self.output_device = model_management.vae_device(), model_management.intermediate_device()
        self.memory_used_encode = lambda shape, _: working_memory(autoencoder, shape)
        self.memory_used_decode = lambda shape, _: working_memory(
            autoencoder, (*shape[:2], *(side * factor for side in shape[2:]))
        )
        self.patcher = patcher_of(autoencoder, devices=(self.device, model_management.vae_offload_device()))

    def encode_tiled_(self, pixel_samples: Tensor, tile_x: int = 512, tile_y: int = 512, overlap: int = 64) -> Tensor:
        """Where the host would take tiles, asked to or out of memory: strips of tile_y pixels, which leave no seams."""
        encode, ours = self.first_stage_model.encode_steps, self.first_stage_model.vitrail
        return self._in_strips(lambda x, strip: encode(_to_x(ours, x), strip), pixel_samples, tile_y)

    def decode_tiled_(self, samples: Tensor, tile_x: int = 64, tile_y: int = 64, overlap: int = 16) -> Tensor:
        """As `encode_tiled_`; tile_y: in cells of the latent."""
        decode = self.first_stage_model.decode_steps
        shown = self._in_strips(decode, samples, tile_y * self.upscale_ratio)
        return _to_image(self.first_stage_model.vitrail, shown)

    def _in_strips(self, steps: "Callable[[Tensor, int], StripSteps]", batch: Tensor, strip: int) -> Tensor:
        from ..core.memory import LOWEST_STRIP, with_less_memory

        def run(rows: int) -> Tensor:
            return one_by_one(lambda one: steps(one.to(self.device, self.vae_dtype), rows), batch, self.output_device)

        return with_less_memory(run, strip, then=strip, smallest=LOWEST_STRIP)


def _to_x(autoencoder: "Autoencoder", image: Tensor) -> Tensor:
    """[B, C, H, W] in 0..1 as the autoencoder takes it: colours, or a grey picture of one channel."""
    return autoencoder.from_rgb((image[:, :3] * 2 - 1).expand(-1, 3, -1, -1))


def _to_image(autoencoder: "Autoencoder", decoded: Tensor) -> Tensor:
    return ((autoencoder.to_rgb(decoded) + 1) / 2).clamp(0, 1)


@cache
def _class() -> type[Any]:
    from comfy.sd import VAE

    return type("VitrailVAE", (HostVAE, VAE), {})
