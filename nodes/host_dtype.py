"""The precision that the host was started with (--bf16-unet, --fp16-vae, ...), for files opened with dtype `auto`."""

import logging

import torch
from torch import nn

from .host_env import IN_HOST

log = logging.getLogger(__name__)

NARROW = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PARTS = {"network": "unet", "conditioner": "text_enc", "autoencoder": "vae"}
"""Parts of a latent diffusion model, and the ending of the host's flags for them."""


def flag(ending: str) -> str | None:
    """The flag that the host was started with for "unet", "text_enc" or "vae", such as "bf16_vae"."""
    from comfy.cli_args import args

    return next((name for name, given in vars(args).items() if name.endswith(f"_{ending}") and given is True), None)


def honour_flags(model: nn.Module) -> nn.Module:
    """Cast a model's parts to the precision of the host's flags; without flags, or headless, leave it.

    Precisions that these networks do not have (fp8, fp64) are passed over with a warning.
    """
    if IN_HOST:
        whole = {"autoencoder": model} if hasattr(model, "quantize") else {}
        for name, ending in PARTS.items():
            if (part := whole.get(name, getattr(model, name, None))) is not None:
                _honour(part, name, flag(ending))
    return model


def _honour(part: nn.Module, name: str, flag: str | None) -> None:
    dtype = NARROW.get(flag.split("_")[0]) if flag else None
    if flag and dtype is None and flag.startswith(("fp8", "fp64")):
        log.warning("the %s computes in float32: it has no %s (--%s)", name, flag.split("_")[0], flag.replace("_", "-"))
    if dtype is not None:
        log.info("the %s computes in %s, as ComfyUI was started (--%s)", name, dtype, str(flag).replace("_", "-"))
        cast(part, dtype)


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """All weights to a dtype, but for those that are always float32 (codebooks)."""
    from ..core.checkpoints.fill import converted

    module.load_state_dict(converted(module, dtype), assign=True)
