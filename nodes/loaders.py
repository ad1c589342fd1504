"""Nodes that open files of weights."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from . import host
from .spec import InputTypes, Node, choice

if TYPE_CHECKING:
    from ..core.autoencoders.autoencoder import Autoencoder

log = logging.getLogger(__name__)

AUTO = "auto"
DTYPES = {AUTO: None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PREDICTIONS = (AUTO, "eps", "v", "x0", "edm", "flow")

LACKING = {
    "clip": ("text encoder of its own", "open one with Load CLIP or take another file"),
    "vae": ("autoencoder", "put the one that it names beside it, or open one with Load VQ Autoencoder"),
    "vq_model": ("codebook (its latent is continuous)", "use the output vae, or open a VQ autoencoder"),
    "first stage": ("autoencoder", "open the one that it was trained on with Load VQ Autoencoder"),
}
"""By output (or the part behind it): what a file can lack, and what to do."""

DTYPE_TIP = (
    "Precision of the weights while they compute. auto is fp32, or what ComfyUI was started with (--bf16-unet, "
    "--fp16-vae, ...); bf16 and fp16 halve the memory. A codebook is always looked up in fp32."
)
CONFIG_TIP = (
    "The publisher's config file, for files that do not say everything about their network. auto takes the YAML or "
    "JSON file of the same name beside the weights where there is one. Vitrail's own files carry their config."
)


def _dtype() -> tuple[Any, ...]:
    return choice(list(DTYPES), DTYPE_TIP, default=AUTO)


def _config() -> tuple[Any, ...]:
    return choice([AUTO, *host.names("config")], CONFIG_TIP, default=AUTO)


def _load(name: str, kind: str, dtype: str, config: str = AUTO, **settings: Any) -> Any:
    """The model in a file. Raises: CheckpointError and its kinds, ConfigError for another kind of model."""
    from ..core.checkpoints import describe, load
    from ..core.errors import ConfigError

    path = host.find(name, kind)
    sidecar = None if config == AUTO else host.find(config, "config")
    if (found := describe(path, config=sidecar)["kind"]) != kind:
        advice = f"open it with {LOADERS[found]}" if found in LOADERS else "no node opens those"
        raise ConfigError(f"{name} holds a model of the kind {found}: {advice}")
    model = load(path, config=sidecar, dtype=DTYPES[dtype], ema=None, **settings)
    return host.honour_flags(model) if dtype == AUTO else model


def _load_refiner(name: str, dtype: str) -> Any:
    """A refiner of our families, or else one that spandrel knows.

    Raises: as `_load`; what spandrel lacks is told beside it, where none of our families fits.
    """
    from ..core.errors import KeyMismatch, UnknownFamily

    try:
        return _load(name, "refiner", dtype)
    except (KeyMismatch, UnknownFamily) as error:
        ours = error
    from .spandrel_refiner import open_instead

    return open_instead(ours, host.find(name, "refiner"), DTYPES[dtype])


def _absent(name: str, output: str, part: str | None = None) -> Any:
    """What comes out for a part that the file lacks, said now in the log and again to whoever is handed it."""
    lacking, advice = LACKING[part or output]
    reason = f'{name} has no {lacking}, so nothing comes out of "{output}": {advice}'
    log.warning("%s", reason)
    return host.absent(reason)


def _with_codebook(autoencoder: Autoencoder, name: str) -> Any:
    """The autoencoder as a VQ_MODEL, or what stands for one where it has no codebook."""
    return autoencoder if autoencoder.codebook_size is not None else _absent(name, "vq_model")


class Loader(Node):
    """A node that opens one file, again when that or what belongs to it changes."""

    KIND: ClassVar[str]

    @classmethod
    def IS_CHANGED(cls, name: str | None = None, config: str | None = None, **_: Any) -> str:
        return "" if name is None else host.changed(name, cls.KIND, None if config == AUTO else config)

    @classmethod
    def VALIDATE_INPUTS(cls, name: str | None = None, config: str | None = None) -> bool | str:
        """True, or which file is missing; a name that comes by wire (None) is looked at when the node runs."""
        from ..core.errors import ConfigError

        try:
            return all(
                value in (None, AUTO) or bool(host.find(value, kind))
                for value, kind in ((name, cls.KIND), (config, "config"))
            )
        except ConfigError as error:
            return str(error)


class LoadAutoencoder(Loader):
    """Open an autoencoder."""

    KIND = "autoencoder"

    ID, TITLE, CATEGORY = "VitrailLoadAutoencoder", "Load VQ Autoencoder", "Vitrail/loaders"
    DESCRIPTION = "Opens an autoencoder that turns pictures into codes or latents and back: VQGAN and its relatives."
    SEARCH_ALIASES = ["vqgan", "vae", "codebook", "first stage", "load vqgan", "vitrail"]
    RETURN_TYPES, RETURN_NAMES = ("VQ_MODEL", "VAE"), ("vq_model", "vae")
    OUTPUT_TOOLTIPS = (
        "The autoencoder with its codebook, for the nodes that work on codes. Empty where it has no codebook (KL).",
        "The same autoencoder for VAE Encode, VAE Decode and every other stock node.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        names = host.names("autoencoder")
        return {
            "required": {
                "name": choice(names, "The file, or weights that come with Vitrail (vitrail-1)."),
                "dtype": _dtype(),
                "config": _config(),
            }
        }

    def execute(self, name: str, dtype: str, config: str) -> tuple[Any, ...]:
        autoencoder = _load(name, self.KIND, dtype, config)
        return _with_codebook(autoencoder, name), host.wrap_vae(autoencoder)


class LoadDiffusion(Loader):
    """Open a latent diffusion model with all its parts."""

    KIND = "diffusion"

    ID, TITLE, CATEGORY = "VitrailLoadDiffusion", "Load Latent Diffusion", "Vitrail/loaders"
    DESCRIPTION = (
        "Opens a latent diffusion model: the network that removes noise, its text encoder and its autoencoder. "
        "A part that the file does not have comes out empty."
    )
    SEARCH_ALIASES = ["checkpoint", "ldm", "unet", "load checkpoint", "text to image", "vitrail"]
    RETURN_TYPES = ("MODEL", "CLIP", "VAE", "VQ_MODEL")
    RETURN_NAMES = ("model", "clip", "vae", "vq_model")
    OUTPUT_TOOLTIPS = (
        "The network, for Vitrail's sampler and for KSampler.",
        "The text encoder, for Text & Style Encode and CLIP Text Encode. Empty where the model has none of its own.",
        "The autoencoder, for VAE Encode and VAE Decode.",
        "The autoencoder with its codebook, for the nodes that work on codes. Empty where it has no codebook.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        names = host.names("diffusion")
        return {
            "required": {
                "name": choice(names, "The file, or weights that come with Vitrail (vitrail-1)."),
                "dtype": _dtype(),
                "config": _config(),
                "prediction": choice(
                    PREDICTIONS,
                    "What the network was trained to predict. auto is what the file or its config says; change it only "
                    "where that is wrong.",
                    default=AUTO,
                ),
            }
        }

    def execute(self, name: str, dtype: str, config: str, prediction: str) -> tuple[Any, ...]:
        model = _load(name, self.KIND, dtype, config, **({} if prediction == AUTO else {"prediction": prediction}))
        autoencoder = model.autoencoder
        conditioner = model.conditioner if hasattr(model.conditioner, "encode") else None  # classes are no text
        clip = _absent(name, "clip") if conditioner is None else host.wrap_clip(conditioner)
        if autoencoder is None:
            return host.wrap_model(model), clip, _absent(name, "vae"), host.absent(f"{name} has no autoencoder")
        return host.wrap_model(model), clip, host.wrap_vae(autoencoder), _with_codebook(autoencoder, name)


class LoadRefiner(Loader):
    """Open a refiner."""

    KIND = "refiner"

    ID, TITLE, CATEGORY = "VitrailLoadRefiner", "Load GAN Refiner", "Vitrail/loaders"
    DESCRIPTION = (
        "Opens a GAN that makes pictures larger and sharper, with its critic where the file has one. Files of other "
        "makers (SwinIR, GFPGAN, Real-ESRGAN Compact ...) open through spandrel, which ComfyUI has."
    )
    SEARCH_ALIASES = ["upscale model", "esrgan", "rrdb", "swinir", "gfpgan", "super resolution", "gan", "vitrail"]
    RETURN_TYPES, RETURN_NAMES = ("GAN_REFINER", "UPSCALE_MODEL"), ("refiner", "upscale_model")
    OUTPUT_TOOLTIPS = (
        "The refiner, for GAN Refine.",
        "The same refiner for Upscale Image (using Model) and other stock nodes.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        names = host.names("refiner")
        return {
            "required": {
                "name": choice(names, "The file, or weights that come with Vitrail (vitrail-1)."),
                "dtype": _dtype(),
            }
        }

    def execute(self, name: str, dtype: str) -> tuple[Any, ...]:
        refiner = _load_refiner(name, dtype)
        return refiner, host.wrap_upscaler(refiner)


class LoadPrior(Loader):
    """Open a prior."""

    KIND = "prior"

    ID, TITLE, CATEGORY = "VitrailLoadPrior", "Load Code Prior", "Vitrail/loaders"
    DESCRIPTION = "Opens a transformer that writes the codes of pictures, with the autoencoder that they are codes of."
    SEARCH_ALIASES = ["taming transformers", "net2net", "gpt", "autoregressive", "load transformer", "vitrail"]
    RETURN_TYPES, RETURN_NAMES = ("CODE_PRIOR", "VQ_MODEL"), ("prior", "vq_model")
    OUTPUT_TOOLTIPS = (
        "The transformer, for Sample Codes and Prior Condition.",
        "The autoencoder whose codes it writes, for VQ Encode and VQ Decode. Empty where the file has none.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        names = host.names("prior")
        return {
            "required": {
                "name": choice(names, "The file, in models/vq or models/checkpoints."),
                "dtype": _dtype(),
                "config": _config(),
            }
        }

    def execute(self, name: str, dtype: str, config: str) -> tuple[Any, ...]:
        prior = _load(name, self.KIND, dtype, config)
        if prior.autoencoder is None:
            return prior, _absent(name, "vq_model", "first stage")
        return prior, _with_codebook(prior.autoencoder, name)


NODES = (LoadAutoencoder, LoadDiffusion, LoadRefiner, LoadPrior)

LOADERS = {
    "autoencoder": LoadAutoencoder.TITLE,
    "diffusion": LoadDiffusion.TITLE,
    "refiner": LoadRefiner.TITLE,
    "prior": LoadPrior.TITLE,
}
"""By the kind of model that they open."""
