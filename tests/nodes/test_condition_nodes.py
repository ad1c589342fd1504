"""Conditions beside words: classes, and pictures to paint into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.diffusion.concat import Picture
from vitrail.core.diffusion.guidance import guided
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion
from vitrail.core.diffusion.noise import seeded
from vitrail.core.diffusion.schedules import make_sigmas
from vitrail.core.errors import ConfigError
from vitrail.core.samplers.run import sample as core_sample
from vitrail.core.text.conditioners import ClassConfig
from vitrail.core.types import Condition
from vitrail.nodes import host
from vitrail.nodes.condition import ClassCondition, ConcatCondition, TextEncode

Pictures = Callable[..., Tensor]
NAMES = ("goldfish", "tabby cat")


def variant(diffusion: LatentDiffusion, unet: dict[str, Any], **changes: Any) -> LatentDiffusion:
    """The small model of these tests with other inputs, every weight random."""
    config = replace(diffusion.config, unet=replace(diffusion.config.unet, **unet), **changes)
    generator, made = torch.Generator().manual_seed(4), LatentDiffusion(config, diffusion.autoencoder)
    with torch.no_grad():
        for weight in made.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise * weight[0].numel() ** -0.5 if weight.ndim > 1 else 1 + 0.05 * noise)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def by_label(diffusion: LatentDiffusion) -> LatentDiffusion:
    """With FiLM: where each channel is normalised by itself, a label that is only added would be taken out again."""
    unet = {"context_dim": None, "vector_dim": None, "num_classes": 4, "use_scale_shift_norm": True}
    return variant(diffusion, unet, text=None, class_names=NAMES)


@pytest.fixture(scope="module")
def by_token(diffusion: LatentDiffusion) -> LatentDiffusion:
    unet = {"vector_dim": None}
    return variant(diffusion, unet, text=None, conditioner=ClassConfig(classes=4, width=16), class_names=NAMES)


@pytest.fixture(scope="module")
def with_text(diffusion: LatentDiffusion) -> LatentDiffusion:
    """As Stable Diffusion's inpainting networks: mask and latent beside text."""
    return variant(diffusion, {"in_channels": 9})


@pytest.fixture(scope="module")
def without_text(diffusion: LatentDiffusion) -> LatentDiffusion:
    """As CompVis's inpainting network: latent and mask, no text."""
    return variant(diffusion, {"in_channels": 9, "context_dim": None, "vector_dim": None}, text=None)


@pytest.fixture(scope="module")
def enlarging(diffusion: LatentDiffusion) -> LatentDiffusion:
    return variant(diffusion, {"in_channels": 7, "context_dim": None, "vector_dim": None}, text=None)


def classed(model: Any, label: str) -> Condition:
    return host.to_condition(ClassCondition().execute(model=model, label=label)[0][0])


def run(
    model: LatentDiffusion, positive: Any, negative: Any = None, batch: int = 1, side: int = 32, **more: Any
) -> Tensor:
    settings = {"sampler": host.solver("euler"), "cfg": 2.0, "seed": 5, **more}
    latent = settings.pop("latent", None) or host.empty_latent(model, None, side, side, batch)
    sigmas = make_sigmas("karras", model.table, 3)
    return host.sample(model, sigmas, latent, positive, negative, **settings)[0]["samples"]


# Class Condition


@pytest.mark.parametrize(("label", "number"), [("2", 2), ("Tabby Cat", 1), ("none", 3)])
def test_a_class_reaches_the_network_as_it_takes_it(
    by_label: LatentDiffusion, by_token: LatentDiffusion, label: str, number: int
) -> None:
    assert classed(by_label, label).vector.tolist() == [number]
    expected = by_token.conditioner.embedding.weight[number]
    assert torch.equal(classed(by_token, label).context, expected[None, None])


@pytest.mark.parametrize("kind", ["by_label", "by_token"])
def test_classes_are_sampled_with_no_class_as_the_negative(kind: str, request: pytest.FixtureRequest) -> None:
    """Also a batch of 3, each its own run; the missing negative is the last class."""
    model = request.getfixturevalue(kind)
    goldfish, none, cat = (ClassCondition().execute(model=model, label=name)[0] for name in ("goldfish", "none", "1"))
    found = run(model, goldfish, batch=3)
    torch.testing.assert_close(found[2:], run(model, goldfish, none, seed=7), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, run(model, cat, batch=3), atol=1e-2)


def test_models_without_classes_and_unknown_ones_are_refused(
    diffusion: LatentDiffusion, by_label: LatentDiffusion
) -> None:
    for model, label, message in (
        (None, "1", '"model" is empty'),
        (diffusion, "1", "takes no numbered classes"),
        (by_label, "4", "this model has 4, 0 to 3"),
        (by_label, "tabby", "near: tabby cat"),
    ):
        with pytest.raises(ConfigError, match=message):
            ClassCondition().execute(model=model, label=label)


# Concat Condition


def conditioned(model: LatentDiffusion, image: Tensor, mask: Tensor | None = None, conditioning: Any = None) -> Any:
    vae = host.wrap_vae(model.autoencoder)
    return ConcatCondition().execute(vae=vae, image=image, mask=mask, conditioning=conditioning)[0]


def text_of(model: LatentDiffusion, text: str) -> Any:
    found = TextEncode().execute(clip=host.wrap_clip(model.conditioner), text=text, style="")
    return found["result"][0] if isinstance(found, dict) else found[0]


def half(height: int, width: int, batch: int = 1) -> Tensor:
    mask = torch.zeros(batch, height, width)
    mask[:, :, width // 2 :] = 1
    return mask


def in_core(
    model: LatentDiffusion, x: Tensor, mask: Tensor | None, conds: list[Condition | None], side: int = 32
) -> Tensor:
    """The run that the nodes should make, with the core alone. x: [1, 3, H, W]; mask [1, 1, H, W]."""
    auto, like = model.autoencoder, torch.zeros(1, 4, side // 4, side // 4)
    keep = 1 if mask is None else 1 - mask
    picture = Picture(latent=auto.encode(x * keep), dark=auto.encode((x + 1) * keep - 1), image=x, mask=mask)
    stacked = model.stacked(picture, like)
    positive, negative = (None if c is None else replace(c, concat=stacked) for c in conds)
    sigmas = make_sigmas("karras", model.table, 3)
    denoise = guided(model.denoise, positive, negative, 2.0)
    *_, last = core_sample(
        denoise, like, sigmas, sampler="euler", noise=seeded(like, 5), sigma_max=model.table.sigma_max
    )
    return auto.unscale(last.x)


def test_a_network_with_text_sees_mask_and_grey_picture(with_text: LatentDiffusion, pictures: Pictures) -> None:
    image, mask, encode = pictures(), half(32, 32), with_text.conditioner.encode
    positive, negative = (conditioned(with_text, image, mask, text_of(with_text, text)) for text in ("cat", "red"))
    expected = in_core(with_text, image.movedim(-1, 1) * 2 - 1, mask[:, None], [encode(["cat"]), encode(["red"])])
    torch.testing.assert_close(run(with_text, positive, negative), expected, atol=1e-4, rtol=1e-4)


def test_a_missing_negative_sees_the_picture_too(with_text: LatentDiffusion, pictures: Pictures) -> None:
    image, mask = pictures(), half(32, 32)
    positive, empty = (conditioned(with_text, image, mask, text_of(with_text, text)) for text in ("cat", ""))
    torch.testing.assert_close(run(with_text, positive), run(with_text, positive, empty))
    no_text = conditioned(with_text, image, mask)
    torch.testing.assert_close(run(with_text, no_text), run(with_text, empty))


def test_a_network_without_text_sees_dark_picture_and_mask(without_text: LatentDiffusion, pictures: Pictures) -> None:
    image, mask = pictures(), half(32, 32)
    expected = in_core(without_text, image.movedim(-1, 1) * 2 - 1, mask[:, None], [Condition(), None])
    torch.testing.assert_close(
        run(without_text, conditioned(without_text, image, mask)), expected, atol=1e-4, rtol=1e-4
    )


def test_a_network_that_enlarges_sees_the_small_picture(enlarging: LatentDiffusion, pictures: Pictures) -> None:
    image = pictures(1, 8, 8)
    found = run(enlarging, conditioned(enlarging, image))
    expected = in_core(enlarging, image.movedim(-1, 1) * 2 - 1, None, [Condition(), None])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("size", "channels"), [((32, 32), 3), ((30, 41), 4)])
def test_pictures_of_a_batch_are_seen_each_by_its_own(
    without_text: LatentDiffusion, pictures: Pictures, size: tuple[int, int], channels: int
) -> None:
    """Three pictures, one mask; odd sizes and alpha too."""
    image, mask = pictures(3, *size, channels), half(*size)
    latent = host.empty_latent(without_text, None, size[1], size[0], 3)
    whole = run(without_text, conditioned(without_text, image, mask), latent=latent)
    single = {"samples": latent["samples"][:1]}
    alone = run(without_text, conditioned(without_text, image[2:], mask), latent=single, seed=7)
    torch.testing.assert_close(whole[2:], alone, atol=1e-4, rtol=1e-4)
    other = run(without_text, conditioned(without_text, image[:1], mask), latent=single, seed=7)
    assert not torch.allclose(alone, other, atol=1e-3)


def test_what_is_under_the_mask_is_not_shown(without_text: LatentDiffusion, pictures: Pictures) -> None:
    image, mask = pictures(), half(32, 32)
    changed = image.clone()
    changed[:, :, 16:] = 0.3
    one, two = (conditioned(without_text, shown, mask) for shown in (image, changed))
    torch.testing.assert_close(run(without_text, one), run(without_text, two))
    assert not torch.allclose(run(without_text, one), run(without_text, conditioned(without_text, image)), atol=1e-3)


def test_each_entry_of_a_conditioning_gets_the_picture(with_text: LatentDiffusion, pictures: Pictures) -> None:
    both = [*text_of(with_text, "cat"), *text_of(with_text, "red")]
    found = conditioned(with_text, pictures(), half(32, 32), both)
    assert [set(extra) >= {"concat_latent_image", "concat_mask", "pooled_output"} for _, extra in found] == [True, True]
    assert all("concat_mask" not in extra for _, extra in both), "the wired conditioning is left as it was"


def test_a_model_that_needs_a_picture_says_so(without_text: LatentDiffusion, with_text: LatentDiffusion) -> None:
    for model, positive in ((without_text, None), (with_text, text_of(with_text, "cat"))):
        with pytest.raises(ConfigError, match="Concat Condition, with the picture"):
            run(model, positive)


def test_plain_models_do_not_look_at_the_picture(diffusion: LatentDiffusion, pictures: Pictures) -> None:
    plain = text_of(diffusion, "cat")
    shown = conditioned(diffusion, pictures(), half(32, 32), plain)
    torch.testing.assert_close(run(diffusion, shown), run(diffusion, plain))


def test_an_empty_vae_says_where_to_look(pictures: Pictures) -> None:
    with pytest.raises(ConfigError, match='"vae" is empty'):
        ConcatCondition().execute(vae=None, image=pictures())


def test_encoding_is_the_autoencoders(vq_model: Autoencoder, pictures: Pictures) -> None:
    x = pictures(2).movedim(-1, 1) * 2 - 1
    keys = host.picture_keys(host.wrap_vae(vq_model), x, None)
    torch.testing.assert_close(keys["concat_latent_image"], vq_model.encode(x))
    assert torch.equal(keys["concat_image"], x) and isinstance(vq_model, nn.Module)
