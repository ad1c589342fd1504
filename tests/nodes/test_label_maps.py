"""Maps of labels and of depth in the graph: into autoencoders and out again, to priors, to semantic synthesis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion
from vitrail.core.diffusion.schedules import make_sigmas
from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.nn.pad import pad_to
from vitrail.core.priors import Prior, PriorConfig
from vitrail.core.priors.conditions import LabelConfig, PictureConfig, StartConfig
from vitrail.core.priors.gpt import GPTConfig
from vitrail.core.priors.sample import sample
from vitrail.core.text.conditioners import RescalerConfig
from vitrail.headless.standins.latents import VAEDecode, VAEEncode
from vitrail.nodes import host
from vitrail.nodes.codes import CodebookInspect, VQDecode, VQEncode
from vitrail.nodes.condition import ClassCondition, ConcatCondition
from vitrail.nodes.prior import PriorCondition, SampleCodes
from vitrail.nodes.sampling import Sampler

Maps = Callable[..., tuple[Tensor, Tensor]]
GREEDY: dict[str, Any] = {"width": 256, "height": 256, "temperature": 0.0, "top_k": 1, "top_p": 1.0, "seed": 3}
FACTOR = 4


def hot(labels: Tensor, count: int = 7) -> Tensor:
    return F.one_hot(labels, count).movedim(-1, 1).float()


@pytest.mark.parametrize(("size", "channels"), [((32, 32), 3), ((13, 18), 4), ((8, 9), 1)])
def test_an_autoencoder_of_labels_takes_their_map(
    segments: Autoencoder, label_maps: Maps, size: tuple[int, int], channels: int
) -> None:
    labels, image = label_maps(3, *size, channels=channels)
    codes, latent = VQEncode().execute(image, segments, 0)
    expected = segments.encode(hot(pad_to(labels[:, None].float(), FACTOR)[0][:, 0].long()))
    torch.testing.assert_close(latent["samples"], expected)
    assert torch.equal(codes.indices, segments.quantize(expected).indices) and codes.image_size == size
    strips, _ = VQEncode().execute(image, segments, 16)
    assert torch.equal(strips.indices, codes.indices)


def test_what_it_decodes_is_a_map_that_it_takes_again(segments: Autoencoder, label_maps: Maps) -> None:
    """In the colours of its file, and the colours stand for the labels of the highest channels."""
    codes, _ = VQEncode().execute(label_maps(2, 13, 18)[1], segments, 0)
    (decoded,) = VQDecode().execute(segments, True, 0, codes=codes)
    labels = segments.decode(segments.lookup(codes.indices)).argmax(1)[:, :13, :18]
    assert decoded.shape == (2, 13, 18, 3) and len(labels.unique()) > 2
    assert torch.equal((decoded * 255).round(), segments.palette.levels()[labels])
    again, _ = VQEncode().execute(decoded, segments, 0)
    from_numbers, _ = VQEncode().execute((labels / 255)[..., None].repeat(1, 1, 1, 3), segments, 0)
    assert torch.equal(again.indices, from_numbers.indices)
    latent = {"samples": segments.lookup(codes.indices)}
    (whole,) = VQDecode().execute(segments, True, 0, latent=latent)
    assert torch.equal(whole[:, :13, :18], decoded)


def test_stock_nodes_take_and_give_the_same_maps(segments: Autoencoder, label_maps: Maps) -> None:
    _, image = label_maps(2, 16, 20)
    codes, latent = VQEncode().execute(image, segments, 0)
    (stock,) = VAEEncode().execute(pixels=image, vae=segments)
    torch.testing.assert_close(stock["samples"], latent["samples"])
    (decoded,) = VAEDecode().execute(samples=stock, vae=segments)
    assert torch.equal(decoded, VQDecode().execute(segments, True, 0, codes=codes)[0])
    assert host.preview_image(segments, latent["samples"]).mode == "RGB"


@pytest.mark.parametrize("view", ["atlas", "usage", "token map", "neighbours", "projection"])
def test_its_codebook_can_be_looked_into(segments: Autoencoder, label_maps: Maps, view: str) -> None:
    found = CodebookInspect().execute(vq_model=segments, view=view, code=0, image=label_maps()[1])
    assert found["result"][0].shape[-1] == 3


def test_depth_goes_in_and_out_as_grey(depth_model: Autoencoder) -> None:
    image = torch.rand(3, 13, 18, 1, generator=torch.Generator().manual_seed(0)).repeat(1, 1, 1, 3)
    codes, latent = VQEncode().execute(image, depth_model, 0)
    x, _ = pad_to(image[..., 0][:, None] * 2 - 1, FACTOR)
    torch.testing.assert_close(latent["samples"], depth_model.encode(x), atol=1e-5, rtol=1e-5)
    (decoded,) = VQDecode().execute(depth_model, True, 0, codes=codes)
    assert decoded.shape == (3, 13, 18, 3) and torch.equal(decoded[..., 0], decoded[..., 2])


def test_a_picture_that_is_no_map_says_what_to_give(segments: Autoencoder, label_maps: Maps) -> None:
    labels, image = label_maps()
    with pytest.raises(ShapeError, match=r"holds 9; this model knows 7 labels, 0 to 6"):
        VQEncode().execute(torch.where(image == 2 / 255, 9 / 255, image), segments, 0)
    with pytest.raises(ShapeError, match="not in this model's palette"):
        VQEncode().execute(torch.rand(1, 32, 32, 3), segments, 0)
    see_through = torch.cat([image, torch.zeros_like(image[..., :1])], dim=-1)
    with pytest.raises(ShapeError, match="holds 255; .*transparent"):
        VQEncode().execute(see_through, segments, 0)


def told(vq_model: Autoencoder, told_by: Autoencoder | None, size: int | None = None) -> Prior:
    """A prior that is told the codes of a picture."""
    torch.manual_seed(0)
    gpt = GPTConfig(vocab=32, block=31, width=16, depth=1, heads=2)
    condition = PictureConfig(autoencoder=None if told_by is None else told_by.config)
    config = PriorConfig(transformer=gpt, autoencoder=vq_model.config, condition=condition, condition_size=size)
    prior = Prior(config, vq_model).eval()
    prior.told = told_by
    for weight in (prior.transformer.head.weight, prior.transformer.tok_emb.weight, prior.transformer.pos_emb):
        torch.nn.init.normal_(weight)
    return prior


@pytest.mark.parametrize(("size", "channels"), [((16, 16), 3), ((13, 18), 4), ((24, 22), 1)])
def test_segments_reach_a_prior(
    vq_model: Autoencoder, segments: Autoencoder, label_maps: Maps, size: tuple[int, int], channels: int
) -> None:
    """Three maps, each told to its own picture, which has the size of its map; the largest goes through windows."""
    prior, (labels, image) = told(vq_model, segments), label_maps(3, *size, channels=channels)
    condition, reconstruction = PriorCondition().execute(prior, image)
    (codes,) = SampleCodes().execute(prior, **GREEDY, conditioning=condition)
    padded = pad_to(labels[:, None].float(), FACTOR)[0][:, 0].long()
    cells = tuple(side // FACTOR for side in padded.shape[1:])
    *_, expected = sample(prior, cells, [0, 1, 2], condition=hot(padded), temperature=0)
    assert torch.equal(codes.indices, expected.codes) and codes.image_size == size
    alone, _ = PriorCondition().execute(prior, image[2:])
    (one,) = SampleCodes().execute(prior, **GREEDY, conditioning=alone)
    assert torch.equal(one.indices[0], codes.indices[2])
    seen = segments.to_rgb(segments.decode(segments.lookup(segments.quantize(segments.encode(hot(padded))).indices)))
    assert torch.equal(reconstruction, host.to_image(seen[..., : size[0], : size[1]]))
    again, _ = PriorCondition().execute(prior, reconstruction)
    assert again[0][1].keys() == condition[0][1].keys()


def test_depth_reaches_a_prior_over_its_full_range(vq_model: Autoencoder, depth_model: Autoencoder) -> None:
    prior = told(vq_model, depth_model)
    depth = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(2))
    depth = F.interpolate(depth[:, None], size=(16, 15), mode="bilinear")[:, 0] * 0.4 + 0.2
    low, high = depth.amin((1, 2), keepdim=True), depth.amax((1, 2), keepdim=True)
    image = depth[..., None].repeat(1, 1, 1, 3)
    condition, reconstruction = PriorCondition().execute(prior, image)
    (codes,) = SampleCodes().execute(prior, **GREEDY, conditioning=condition)
    x, _ = pad_to(((depth - low) / (high - low) * 2 - 1)[:, None], FACTOR)
    *_, expected = sample(prior, (4, 4), [0, 1], condition=x, temperature=0)
    assert torch.equal(codes.indices, expected.codes) and reconstruction.shape == (2, 16, 15, 3)


def test_a_picture_of_the_priors_own_autoencoder_reaches_it(vq_model: Autoencoder) -> None:
    image = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(2))
    codes, _ = VQEncode().execute(image, vq_model, 0)
    for size, expected in ((None, codes.indices), (16, codes.indices)):
        condition, _ = PriorCondition().execute(told(vq_model, None, size), image)
        assert torch.equal(condition[0][1]["vitrail_codes"].indices, expected)
    condition, reconstruction = PriorCondition().execute(told(vq_model, None, 8), image)
    (codes,) = SampleCodes().execute(told(vq_model, None, 8), **GREEDY, conditioning=condition)
    assert reconstruction.shape == (1, 8, 8, 3) and codes.indices.shape == (1, 4, 4) and codes.image_size == (16, 16)


def test_a_mask_writes_anew_under_a_map(vq_model: Autoencoder, segments: Autoencoder, label_maps: Maps) -> None:
    prior, (_, image) = told(vq_model, segments), label_maps(1, 16, 16)
    condition, _ = PriorCondition().execute(prior, image)
    codes, _ = VQEncode().execute(torch.rand(2, 16, 16, 3), vq_model, 0)
    mask = torch.zeros(1, 16, 16)
    mask[:, 8:] = 1
    (drawn,) = SampleCodes().execute(prior, **GREEDY, conditioning=condition, codes=codes, mask=mask)
    assert torch.equal(drawn.indices[:, :2], codes.indices[:, :2])
    assert not torch.equal(drawn.indices[:, 2:], codes.indices[:, 2:])
    other, _ = VQEncode().execute(torch.rand(1, 16, 20, 3), vq_model, 0)
    with pytest.raises(ShapeError, match="condition covers 16 x 16 pixels, the picture to be written has 20 x 16"):
        SampleCodes().execute(prior, **GREEDY, conditioning=condition, codes=other)


def test_what_a_prior_cannot_be_told_is_named(
    vq_model: Autoencoder, other_model: Autoencoder, segments: Autoencoder, label_maps: Maps
) -> None:
    _, image = label_maps(1, 16, 16)
    prior = told(vq_model, segments)
    with pytest.raises(ConfigError, match="Load Code Prior"):
        PriorCondition().execute(None, image)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Prior Condition"):
        SampleCodes().execute(prior, **GREEDY)
    with pytest.raises(ConfigError, match="no numbered classes"):
        ClassCondition().execute(prior, "1")
    condition, _ = PriorCondition().execute(prior, image)
    with pytest.raises(ShapeError, match="codebook of 32 codes.* codebook of 64"):
        SampleCodes().execute(told(vq_model, other_model), **GREEDY, conditioning=condition)
    config = prior.config
    for other, advice in ((LabelConfig(classes=3), "Class Condition"), (StartConfig(), "nothing")):
        without = Prior(replace(config, condition=other), vq_model)
        for run in (
            lambda prior=without: PriorCondition().execute(prior, image),
            lambda prior=without: SampleCodes().execute(prior, **GREEDY, conditioning=condition),
        ):
            with pytest.raises(ConfigError, match=f"no picture can be told.*{advice}"):
                run()


@pytest.fixture(scope="module")
def semantic(diffusion: LatentDiffusion) -> LatentDiffusion:
    """As latent diffusion for semantic synthesis: a map of labels, made small, on top of the latent."""
    unet = replace(diffusion.config.unet, in_channels=7, context_dim=None, vector_dim=None)
    rescaler = RescalerConfig(in_channels=7, out_channels=3, stages=2)
    config = replace(diffusion.config, unet=unet, text=None, conditioner=rescaler)
    generator, made = torch.Generator().manual_seed(4), LatentDiffusion(config, diffusion.autoencoder)
    with torch.no_grad():
        for weight in made.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise * weight[0].numel() ** -0.5 if weight.ndim > 1 else 1 + 0.05 * noise)
    return made.eval().requires_grad_(False)


def painted(model: LatentDiffusion, positive: Any, negative: Any = None, size: tuple[int, int] = (32, 32)) -> Tensor:
    latent = {"samples": torch.zeros(len(positive[0][1]["concat_image"]), 4, *(side // 4 for side in size))}
    sampled, _ = Sampler().execute(
        model=host.wrap_model(model), sigmas=make_sigmas("karras", model.table, 3), latent=latent, positive=positive,
        negative=negative, sampler="euler", cfg=2.0, seed=5, eta=0.0, add_noise=True,
    )  # fmt: skip
    return sampled["samples"]


@pytest.mark.parametrize("channels", [3, 4])
def test_a_map_of_labels_reaches_a_model_of_semantic_synthesis(
    semantic: LatentDiffusion, label_maps: Maps, channels: int
) -> None:
    labels, image = label_maps(3, 30, 29, channels=channels)
    (positive,) = ConcatCondition().execute(vae=semantic.autoencoder, image=image)
    padded = pad_to(labels[:, None].float(), FACTOR)[0][:, 0].long()
    (ready,) = host.conditioning(semantic.conditioner.condition(hot(padded)))
    ready[1]["concat_image"] = positive[0][1]["concat_image"]
    found = painted(semantic, positive)
    torch.testing.assert_close(found, painted(semantic, [ready]))
    other = labels[:1].flip(1) / 255
    (negative,) = ConcatCondition().execute(vae=semantic.autoencoder, image=other[..., None].repeat(3, 1, 1, 3))
    assert not torch.allclose(found, painted(semantic, positive, negative), atol=1e-3)
    (wrong,) = ConcatCondition().execute(vae=semantic.autoencoder, image=image[..., :3] + 7 / 255)
    with pytest.raises(ShapeError, match="this model knows 7 labels, 0 to 6"):
        painted(semantic, wrong)
