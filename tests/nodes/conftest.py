"""Tiny models with random weights, and pictures, for tests of the nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import BottleneckConfig, KLConfig, VQConfig
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, TableConfig
from vitrail.core.diffusion.unet import UNetConfig
from vitrail.core.refine import Refiner, RefinerConfig
from vitrail.core.text.encoder import TextConfig

FACTOR, CODES, LABELS = 4, 32, 7

AUTOENCODER = AutoencoderConfig(
    ch=32,
    ch_mult=(1, 1),
    num_res_blocks=1,
    attn_resolutions=(),
    attn_type="none",
    resolution=32,
    z_channels=4,
    embed_dim=4,
    patch_size=2,
    bottleneck=VQConfig(codes=CODES, dim=4),
    latent_shift=(0.1,),
    latent_scale=(0.8,),
)
DIFFUSION = LatentDiffusionConfig(
    unet=UNetConfig(
        in_channels=4,
        out_channels=4,
        model_channels=32,
        num_res_blocks=1,
        attention_resolutions=(2,),
        channel_mult=(1, 1),
        num_head_channels=32,
        context_dim=16,
        vector_dim=16,
    ),
    table=TableConfig(kind="cosine", end=0.9),
    prediction="v",
    text=TextConfig(
        vocab=("cat", "red", "apple"),
        styles=("noto", "pixel"),
        length=4,
        width=16,
        depth=1,
        heads=2,
        context_dim=16,
        vector_dim=16,
    ),
)


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Every weight random, so that layers that start at zero hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise * weight[0].numel() ** -0.5 if weight.ndim > 1 else weight + 0.05 * noise)
    return model.eval().requires_grad_(False)


def autoencoder(seed: int = 0, **changes: object) -> Autoencoder:
    return randomised(Autoencoder(replace(AUTOENCODER, **changes)), seed)


@pytest.fixture(scope="session")
def vq_model() -> Autoencoder:
    return autoencoder()


@pytest.fixture(scope="session")
def other_model() -> Autoencoder:
    """Another codebook: of twice as many codes."""
    return autoencoder(bottleneck=VQConfig(codes=2 * CODES, dim=4))


@pytest.fixture(scope="session")
def kl_model() -> Autoencoder:
    return autoencoder(bottleneck=KLConfig(), double_z=True)


@pytest.fixture(scope="session")
def with_bottleneck() -> Callable[[BottleneckConfig], Autoencoder]:
    return lambda config: autoencoder(bottleneck=config)


@pytest.fixture(scope="session")
def segments() -> Autoencoder:
    """Of maps of seven labels, with the colours that its file holds."""
    model = autoencoder(in_channels=LABELS, out_channels=LABELS, palette=True)
    assert model.palette is not None
    model.palette.colours = torch.randn(3, LABELS, 1, 1, generator=torch.Generator().manual_seed(1))
    return model


@pytest.fixture(scope="session")
def depth_model() -> Autoencoder:
    return autoencoder(in_channels=1, out_channels=1)


@pytest.fixture(scope="session")
def label_maps() -> Callable[..., Tensor]:
    """label_maps(batch, height, width, channels=3) -> labels int64 [B, H, W], and the IMAGE that is their map."""

    def make(batch: int = 1, height: int = 32, width: int = 32, channels: int = 3) -> tuple[Tensor, Tensor]:
        coarse = torch.randint(LABELS, (batch, 1, 5, 5), generator=torch.Generator().manual_seed(3)).float()
        labels = nn.functional.interpolate(coarse, size=(height, width), mode="nearest")[:, 0]
        image = (labels / 255)[..., None].repeat(1, 1, 1, channels)
        image[..., 3:] = 1
        return labels.long(), image

    return make


@pytest.fixture(scope="session")
def local_model() -> Autoencoder:
    """Without the normalisation, which sees the whole picture: each cell depends on its surroundings alone."""
    model = autoencoder()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, nn.Identity())
    return model


@pytest.fixture(scope="session")
def diffusion(vq_model: Autoencoder) -> LatentDiffusion:
    model = randomised(LatentDiffusion(DIFFUSION), 1)
    model.autoencoder = vq_model
    return model


@pytest.fixture(scope="session")
def refiner() -> Refiner:
    return randomised(Refiner(RefinerConfig(num_feat=8, num_block=1, num_grow=4, scale=2, base="bicubic")), 2)


@pytest.fixture(scope="session")
def pictures() -> Callable[..., Tensor]:
    """pictures(batch, height, width, channels=3) -> IMAGE."""

    def make(batch: int = 1, height: int = 32, width: int = 32, channels: int = 3) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        coarse = torch.rand(batch, channels, 4, 4, generator=generator)
        return nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").movedim(1, -1)

    return make
