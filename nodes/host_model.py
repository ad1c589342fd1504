"""MODEL: a latent diffusion model as the host's own kind of model, so that every stock node can drive or patch it."""

import logging
from functools import cache
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import ShapeError
from ..core.types import Condition
from .host_concat import concat_channels
from .host_env import IN_HOST
from .host_images import colours
from .host_memory import Borrowed, patcher_of
from .host_patches import Control, HostHooks, without_place
from .host_table import SAMPLING, fit_levels, host_sampling

if TYPE_CHECKING:
    from ..core.diffusion.latent_diffusion import LatentDiffusion
    from ..core.diffusion.unet import UNet, UNetConfig

log = logging.getLogger(__name__)


def wrap_model(diffusion: "LatentDiffusion") -> Any:
    """The MODEL of a diffusion model: itself headless, a ModelPatcher in the host."""
    if not IN_HOST:
        return diffusion
    from comfy.model_base import ModelType

    kind = ModelType[SAMPLING[diffusion.prediction][1]]
    model = _classes()["model"](_host_config(diffusion), model_type=kind)
    object.__setattr__(model, "vitrail", diffusion)
    model.null = diffusion.null(1) or Condition()
    model.diffusion_model = HostNetwork(diffusion.network)
    model.model_sampling = host_sampling(diffusion)
    if diffusion.autoencoder is not None:
        colours(diffusion.autoencoder)  # now: in mid-run the host may hold parts of it elsewhere
    return patcher_of(diffusion.network, model.eval())


def unwrap_model(model: Any) -> "LatentDiffusion | None":
    """The diffusion model in a MODEL, or None in a stock one."""
    return getattr(model.model, "vitrail", None) if hasattr(model, "model") else model


class HostNetwork(Borrowed):
    """A UNet as the host calls its networks."""

    vitrail: "UNet"

    def __init__(self, network: "UNet") -> None:
        super().__init__(network)
        self.passed_over: set[str] = set()

    @property
    def dtype(self) -> torch.dtype:
        return self.vitrail.dtype

    @property
    def in_channels(self) -> int:
        """Some stock nodes read it of a network."""
        return self.vitrail.config.in_channels

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: Control | None = None,
        transformer_options: dict[str, Any] | None = None,
        **more: Any,
    ) -> Tensor:
        from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers

        options = {} if transformer_options is None else transformer_options
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        run = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return run.execute(x, timesteps, context, y, control, options, **more)

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None,
        y: Tensor | None,
        control: Control | None,
        options: dict[str, Any],
        **_: Any,
    ) -> Tensor:
        config = self.vitrail.config
        self._tell(without_place(config, options))
        hooks = HostHooks(config.model_channels, options, control, lambda name: self._tell({name}))
        return self.vitrail(x, timesteps, context, y, hooks)

    def _tell(self, patches: set[str]) -> None:
        """One warning for each kind of patch that this network has no place for."""
        if new := patches - self.passed_over:
            self.passed_over |= new
            log.warning("this network has no place for %s: passed over", ", ".join(sorted(new)))


class HostModel:
    """What differs from the host's BaseModel: which conditions the network takes, and what stands in for a missing one.

    vitrail: LatentDiffusion. null: Condition of batch 1, empty where the model has no text encoder of its own.
    """

    vitrail: "LatentDiffusion"
    null: Condition

    def fit_part(self, name: str, part: Any) -> None:
        """Make a stock node's noise levels those that the network was trained on."""
        if name == "model_sampling":
            fit_levels(part, self.vitrail)
        elif name == "manual_cast_dtype" and part is not None:
            log.warning("this network computes in the dtype of its weights, not in %s: choose it in its loader", part)

    def state_dict_for_saving(self, clip: Any = None, vae: Any = None, *others: Any) -> dict[str, Tensor]:
        """What stock nodes save: a file of ours where the text encoder is ours, else one in the host's layout.

        clip, vae: their weights, LoRAs merged. The autoencoder stays in its own file, which ours names.
        """
        ours = self.vitrail
        if ours.conditioner is None:
            return super().state_dict_for_saving(clip, vae, *others)  # type: ignore[misc]
        from ..core.checkpoints.families.vitrail import NOTES, notes_tensor

        text = ours.conditioner.state_dict() if clip is None else under("encoder.", clip)
        parts = {"network": self.diffusion_model.state_dict(), "conditioner": text}  # type: ignore[attr-defined]
        named = {} if ours.autoencoder_file is None else {"autoencoder": ours.autoencoder_file}
        state = {f"{part}.{name}": tensor for part, found in parts.items() for name, tensor in found.items()}
        return {**state, NOTES: notes_tensor(ours, **named)}

    def encode_adm(self, **given: Any) -> Tensor | None:
        """y: the pooled vector or the class labels of the conditioning."""
        config = self.vitrail.config.unet
        y = given.get("pooled_output")
        if config.num_classes is not None:
            return torch.tensor([config.num_classes - 1]) if y is None else y
        if config.vector_dim is None:
            return None
        if y is None:
            y = torch.zeros(1, config.vector_dim) if self.null.vector is None else self.null.vector
        if y.shape[-1] != config.vector_dim:
            raise ShapeError(
                f"the conditioning's vector has {y.shape[-1]} numbers, this network takes {config.vector_dim}: encode "
                "the text with this model's own text encoder"
            )
        return y

    def concat_cond(self, **given: Any) -> Tensor | None:
        """The picture of the conditioning as the network sees it, stacked on the latent."""
        return concat_channels(self.vitrail, given, given["noise"])

    def extra_conds(self, **given: Any) -> dict[str, Any]:
        """The conditions as the host batches them."""
        from comfy.conds import CONDCrossAttn

        conds = super().extra_conds(**given)  # type: ignore[misc]
        if self.vitrail.config.unet.context_dim is None:
            conds.pop("c_crossattn", None)
        elif "c_crossattn" not in conds and self.null.context is not None:
            conds["c_crossattn"] = CONDCrossAttn(self.null.context)
        return {name: self._placed(cond, given.get("device")) for name, cond in conds.items()}

    @staticmethod
    def _placed(cond: Any, device: Any) -> Any:
        if device is not None and isinstance(getattr(cond, "cond", None), Tensor):
            cond.cond = cond.cond.to(device)
        return cond


class HostFormat:
    """The latent format of one autoencoder: (z - shift) * scale, and colours for quick previews."""

    latent_dimensions = 2
    scale_factor = 1.0
    taesd_decoder_name = None

    def __init__(self, diffusion: "LatentDiffusion") -> None:
        self.autoencoder, self.scale, self.unscale = diffusion.autoencoder, diffusion.scale, diffusion.unscale
        self.latent_channels = latent_channels(diffusion)
        self.spacial_downscale_ratio = 8 if self.autoencoder is None else self.autoencoder.factor

    def process_in(self, latent: Tensor) -> Tensor:
        if latent.shape[1] != self.latent_channels:
            raise ShapeError(
                f"the latent has {latent.shape[1]} channels, this model works on {self.latent_channels}: encode the "
                "picture with the model's own VAE, or start from Empty Latent"
            )
        return self.scale(latent)

    def process_out(self, latent: Tensor) -> Tensor:
        return self.unscale(latent)

    @property
    def latent_rgb_factors(self) -> list[list[float]] | None:
        return None if self.autoencoder is None else colours(self.autoencoder)[0].tolist()

    @property
    def latent_rgb_factors_bias(self) -> list[float] | None:
        return None if self.autoencoder is None else colours(self.autoencoder)[1].tolist()


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start so, without that beginning."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def latent_channels(diffusion: "LatentDiffusion") -> int:
    """Channels of the latents that a diffusion model makes."""
    config = diffusion.config.unet
    return config.out_channels if diffusion.autoencoder is None else diffusion.autoencoder.config.embed_dim


@cache
def _classes() -> dict[str, type[Any]]:
    from comfy.latent_formats import LatentFormat
    from comfy.model_base import BaseModel

    return {
        "model": type("VitrailModel", (HostModel, BaseModel), {}),
        "format": type("VitrailLatentFormat", (HostFormat, LatentFormat), {}),
    }


def _host_config(diffusion: "LatentDiffusion") -> Any:
    """The host's description of a model, with what its LoRA loader needs to find the layers."""
    from comfy.supported_models_base import BASE

    made = _classes()["format"](diffusion)
    config = type("VitrailModelConfig", (BASE,), {"latent_format": staticmethod(lambda: made), "unet_extra_config": {}})
    return config(layout(diffusion.network.config))


def layout(config: "UNetConfig") -> dict[str, Any]:
    """A UNet in the host's words: transformer depths block by block, down, in the middle, and up."""
    depths = [
        depth if 2**level in config.attention_resolutions and config.context_dim is not None else 0
        for level, depth in enumerate(config.depths)
    ]
    down = [list(repeat(depth, count)) for depth, count in zip(depths, config.res_blocks, strict=True)]
    up = [list(repeat(depth, count + 1)) for depth, count in zip(depths, config.res_blocks, strict=True)]
    return {
        "disable_unet_model_creation": True,
        "image_size": 32,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "model_channels": config.model_channels,
        "num_res_blocks": list(config.res_blocks),
        "channel_mult": list(config.channel_mult),
        "attention_resolutions": list(config.attention_resolutions),
        "transformer_depth": list(chain.from_iterable(down)),
        "transformer_depth_output": list(chain.from_iterable(up)),
        "transformer_depth_middle": (config.depths[-1] or 1) if config.context_dim is not None else 0,
        "context_dim": config.context_dim,
        "adm_in_channels": config.vector_dim,
        "num_heads": config.num_heads,
        "num_head_channels": config.num_head_channels,
    }
