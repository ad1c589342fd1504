"""What networks see stacked on the latent: order, values, sizes; and CompVis's own numbers."""

from __future__ import annotations

import pytest
import torch
from golden_cases import case
from torch import Tensor

from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import VQConfig
from vitrail.core.checkpoints import load
from vitrail.core.diffusion.concat import CONCATS, Picture, concat, fitted, hole, kind_of
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from vitrail.core.diffusion.unet import UNetConfig
from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.text.conditioners import EncodedConfig, RescalerConfig

LIKE = torch.zeros(3, 4, 6, 8)
PICTURE = Picture(
    latent=torch.full((1, 4, 6, 8), 2.0),
    dark=torch.full((1, 4, 6, 8), 5.0),
    image=torch.linspace(-1, 1, 6 * 8).reshape(1, 1, 6, 8).repeat(1, 3, 1, 1),
    mask=torch.cat([torch.ones(1, 12, 32), torch.zeros(1, 12, 32)], dim=1),
)


def double(z: Tensor) -> Tensor:
    return z * 2


def unet(extra: int, channels: int = 4, context_dim: int | None = None) -> UNetConfig:
    return UNetConfig(
        in_channels=channels + extra, out_channels=channels, model_channels=32, context_dim=context_dim, num_heads=1
    )


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (unet(0), None),
        (unet(5, context_dim=8), "mask, latent"),
        (unet(4, 3), "latent, mask"),
        (unet(3, 3), "image"),
        (unet(3, 4, 8), "image"),
        (unet(4, 4, 8), "latent"),
        (unet(3, 3, 8), "latent"),
        (unet(9), None),
    ],
)
def test_channels_speak_for_what_they_are(config: UNetConfig, kind: str | None) -> None:
    assert kind_of(config) == kind


@pytest.mark.parametrize(("kind", "channels"), [("mask, latent", 5), ("latent, mask", 5), ("latent", 4), ("image", 3)])
def test_every_kind_fills_the_batch(kind: str, channels: int) -> None:
    found = concat(kind, PICTURE, LIKE, double)
    assert found.shape == (3, channels, 6, 8) and torch.equal(found[0], found[2])
    assert set(CONCATS) == {"mask, latent", "latent, mask", "latent", "image"}


def test_stable_diffusion_has_the_mask_first_and_a_scaled_latent() -> None:
    found = concat("mask, latent", PICTURE, LIKE, double)
    assert found[:, :1].unique().tolist() == [0, 1] and found[:, 1:].unique().tolist() == [4]


def test_compvis_has_the_mask_last_signed_and_a_dark_hole() -> None:
    found = concat("latent, mask", PICTURE, LIKE, double)
    assert found[:, :4].unique().tolist() == [5] and found[:, 4:].unique().tolist() == [-1, 1]
    grey = Picture(latent=PICTURE.latent, mask=PICTURE.mask)
    assert concat("latent, mask", grey, LIKE, double)[:, :4].unique().tolist() == [2]


def test_without_a_mask_everything_is_painted() -> None:
    assert bool((hole(None, LIKE) == 1).all()) and hole(None, LIKE).shape == (3, 1, 6, 8)
    found = concat("latent, mask", Picture(latent=PICTURE.latent), LIKE, double)
    assert found[:, 4:].unique().tolist() == [1]


@pytest.mark.parametrize("shape", [(24, 32), (2, 24, 32), (5, 1, 24, 32)])
def test_masks_are_brought_to_the_latents_size_and_batch(shape: tuple[int, ...]) -> None:
    mask = torch.zeros(shape)
    mask[..., 12:, :] = 0.9
    found = hole(mask, LIKE)
    assert found.shape == (3, 1, 6, 8)
    assert not found[:, :, :3].any() and bool((found[:, :, 3:] == 1).all())


def test_another_size_is_interpolated_and_the_dtype_kept() -> None:
    found = fitted(torch.rand(1, 3, 12, 16), LIKE.half())
    assert found.shape == (3, 3, 6, 8) and found.dtype == torch.half


@pytest.mark.parametrize("kind", CONCATS)
def test_a_condition_without_the_picture_says_what_to_wire(kind: str) -> None:
    with pytest.raises(ConfigError, match="Concat Condition"):
        concat(kind, Picture(mask=PICTURE.mask), LIKE, double)


@pytest.mark.parametrize(("name", "kind"), [("ldm_inpaint_concat", "latent, mask"), ("sd2_inpaint", "mask, latent")])
def test_published_inpainting_networks_are_known_by_their_channels(name: str, kind: str) -> None:
    params = case(name).config["model"]["params"]["unet_config"]["params"]
    channels = {
        key: params[key] for key in ("in_channels", "out_channels", "model_channels", "num_heads") if key in params
    }
    assert kind_of(UNetConfig(**channels, context_dim=params.get("context_dim"), num_head_channels=16)) == kind


def test_compvis_inpainting_sees_what_it_saw_in_training() -> None:
    golden = case("ldm_inpaint_concat")
    model = load(golden.path / "model.ckpt", config=golden.path / "config.yaml")
    image, mask = golden.tensors["in.image"], (golden.tensors["in.mask"] + 1) / 2
    dark = (image + 1) * (1 - mask) - 1
    torch.testing.assert_close(dark, golden.tensors["in.masked_image"])
    with torch.no_grad():
        grey, dark = (model.autoencoder.encode(x) for x in (image * (1 - mask), dark))
        found = model.stacked(Picture(latent=grey, dark=dark, image=image, mask=mask), golden.tensors["in.x"])
    golden.check("out.context", found)


def test_stable_diffusion_inpainting_sees_mask_and_scaled_latent() -> None:
    golden = case("sd2_inpaint")
    model = load(golden.path / "model.safetensors", config=golden.path / "config.yaml")
    mask, scaled = golden.tensors["in.mask_latent"], golden.tensors["in.masked_latent"]
    found = model.stacked(Picture(latent=model.autoencoder.unscale(scaled), mask=mask), golden.tensors["in.x"])
    torch.testing.assert_close(found, torch.cat([mask, scaled], dim=1))


def test_a_rescaler_makes_the_picture_small_by_its_own_layers() -> None:
    config = LatentDiffusionConfig(
        unet=unet(3), conditioner=RescalerConfig(in_channels=3, out_channels=3, stages=2, bias=True)
    )
    model = LatentDiffusion(config)
    image = torch.rand(1, 3, 24, 32)
    found = model.stacked(Picture(image=image), LIKE)
    torch.testing.assert_close(found, model.conditioner(image).repeat(3, 1, 1, 1))
    with pytest.raises(ConfigError, match="Concat Condition"):
        model.stacked(Picture(), LIKE)


def test_another_autoencoder_sees_labels_by_number_and_in_its_colours() -> None:
    inside = AutoencoderConfig(
        in_channels=7, out_channels=7, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), attn_type="none",
        z_channels=3, embed_dim=3, bottleneck=VQConfig(codes=8, dim=3), palette=True,
    )  # fmt: skip
    config = LatentDiffusionConfig(unet=unet(3), conditioner=EncodedConfig(autoencoder=inside))
    model = LatentDiffusion(config).eval()
    encoder = model.conditioner.inner
    encoder.palette.colours.normal_()
    labels = torch.randint(7, (3, 12, 16), generator=torch.Generator().manual_seed(0))
    hot = torch.nn.functional.one_hot(labels, 7).movedim(-1, 1).float()
    numbers = (labels[:, None] / 255 * 2 - 1).expand(-1, 3, -1, -1)
    for image in (numbers, encoder.to_rgb(hot)):
        torch.testing.assert_close(model.stacked(Picture(image=image), LIKE), encoder.encode(hot))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_map_of_labels_is_a_channel_a_label_before_it_is_made_small(dtype: torch.dtype) -> None:
    """As semantic synthesis was trained; the numbers survive a latent of 16-bit floats, whose steps are coarser."""
    mapping = RescalerConfig(in_channels=182, out_channels=3, stages=2)
    model = LatentDiffusion(LatentDiffusionConfig(unet=unet(3), conditioner=mapping)).to(dtype)
    labels = torch.randint(182, (3, 24, 32), generator=torch.Generator().manual_seed(0))
    image = (labels[:, None] / 255 * 2 - 1).expand(-1, 3, -1, -1)
    hot = torch.nn.functional.one_hot(labels, 182).movedim(-1, 1).to(dtype)
    assert torch.equal(model.stacked(Picture(image=image), LIKE.to(dtype)), model.conditioner(hot))
    with pytest.raises(ShapeError, match="holds 182; this model knows 182 labels, 0 to 181"):
        model.stacked(Picture(image=torch.full((1, 3, 24, 32), 182 / 255 * 2 - 1)), LIKE.to(dtype))
