"""Tiny models with random weights, saved as this pack's own files, so that a host can be checked without good ones.

python tests/host/tiny.py MODELS_DIR      (the host's `models` folder)
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import VQConfig
from vitrail.core.checkpoints import save_model
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, TableConfig
from vitrail.core.diffusion.unet import UNetConfig
from vitrail.core.priors import Prior, PriorConfig
from vitrail.core.priors.conditions import PictureConfig
from vitrail.core.priors.gpt import GPTConfig
from vitrail.core.refine.refiner import Refiner
from vitrail.core.refine.rrdb import RefinerConfig
from vitrail.core.text.conditioners import RescalerConfig
from vitrail.core.text.encoder import TextConfig

AUTOENCODER = AutoencoderConfig(
    ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), attn_type="none", resolution=64, z_channels=4,
    embed_dim=4, patch_size=2, bottleneck=VQConfig(codes=64, dim=4), latent_shift=(0.1,), latent_scale=(0.8,),
)  # fmt: skip
DIFFUSION = LatentDiffusionConfig(
    unet=UNetConfig(
        in_channels=4, out_channels=4, model_channels=32, num_res_blocks=1, attention_resolutions=(2,),
        channel_mult=(1, 2), num_head_channels=32, context_dim=32, vector_dim=32,
    ),
    table=TableConfig(kind="cosine", end=0.985, s=0.008), prediction="v",
    text=TextConfig(vocab=("cat", "red", "apple"), styles=("noto", "pixel"), width=32, depth=1, heads=2,
                    context_dim=32, vector_dim=32),
)  # fmt: skip


SEGMENTS = replace(AUTOENCODER, in_channels=9, out_channels=9, palette=True, latent_shift=(0.0,), latent_scale=(1.0,))
PRIOR = PriorConfig(
    transformer=GPTConfig(vocab=64, block=127, width=32, depth=2, heads=2), autoencoder=AUTOENCODER,
    condition=PictureConfig(autoencoder=SEGMENTS),
)  # fmt: skip
SEMANTIC = replace(
    DIFFUSION, unet=replace(DIFFUSION.unet, in_channels=7, context_dim=None, vector_dim=None), text=None,
    conditioner=RescalerConfig(in_channels=9, out_channels=3, stages=2),
)  # fmt: skip


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Give every weight a random value of a sound size: layers that start at zero would hide what they are fed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            fan_in = weight[0].numel() if weight.ndim > 1 else 400
            noise = torch.randn(weight.shape, generator=generator) * fan_in**-0.5
            norm = weight.ndim == 1 and name.endswith("weight")
            weight.copy_(weight + noise if norm else noise)
    return model.eval()


def compact(upscale: int = 2, width: int = 6) -> dict[str, torch.Tensor]:
    """A refiner of another maker, in the layout of Real-ESRGAN's SRVGGNetCompact."""
    convs = (nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 3), nn.Conv2d(width, 3 * upscale**2, 3))
    body = nn.Sequential(convs[0], nn.PReLU(width), convs[1], nn.PReLU(width), convs[2])
    return {f"body.{name}": weight for name, weight in randomise(body, 3).state_dict().items()}


def write_tiny_models(folder: Path) -> None:
    """Put models into a `models` folder: an autoencoder, a network with it and without, refiners of twice the size.

    Over maps of nine labels: an autoencoder, a prior and a network.
    """
    for name in ("checkpoints", "vae", "upscale_models"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    autoencoder = randomise(Autoencoder(AUTOENCODER), 0)
    save_model(autoencoder, folder / "vae" / "tiny-autoencoder.safetensors")
    save_model(autoencoder, folder / "checkpoints" / "tiny-autoencoder.safetensors")
    diffusion = randomise(LatentDiffusion(DIFFUSION), 1)
    save_model(diffusion, folder / "checkpoints" / "tiny-diffusion.safetensors")
    save_model(diffusion, folder / "checkpoints" / "tiny-network.safetensors")  # names no autoencoder
    refiner = Refiner(RefinerConfig(num_feat=8, num_block=1, num_grow=4, scale=2, base="bicubic"))
    save_model(randomise(refiner, 2), folder / "upscale_models" / "tiny-refiner.safetensors")
    torch.save({"params": compact()}, folder / "upscale_models" / "tiny-compact.pth")
    segments = randomise(Autoencoder(SEGMENTS), 4)
    segments.palette.colours = torch.randn(3, 9, 1, 1, generator=torch.Generator().manual_seed(4))
    save_model(segments, folder / "vae" / "tiny-segments.safetensors")
    prior = randomise(Prior(PRIOR, autoencoder), 5)
    prior.told = segments
    save_model(prior, folder / "checkpoints" / "tiny-prior.safetensors")
    semantic = randomise(LatentDiffusion(SEMANTIC), 6)
    save_model(
        semantic, folder / "checkpoints" / "tiny-semantic.safetensors", autoencoder="tiny-autoencoder.safetensors"
    )


if __name__ == "__main__":
    write_tiny_models(Path(sys.argv[1]))
