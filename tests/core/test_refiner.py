"""The refiner: generator and critic in one model."""

import pytest
import torch
import torch.nn.functional as F

from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.losses.patchgan import NORMS, PatchGANConfig
from vitrail.core.refine import Refiner, RefinerConfig, RefinerParts

GENERATOR = RefinerConfig(num_feat=4, num_block=1, num_grow=2, scale=2, base="bicubic")
CRITIC = PatchGANConfig(ndf=2, n_layers=1, norm="spectral")


def test_children_are_generator_and_discriminator() -> None:
    assert {key.split(".")[0] for key in Refiner(GENERATOR, CRITIC).state_dict()} == {"generator", "discriminator"}
    assert {key.split(".")[0] for key in Refiner(GENERATOR).state_dict()} == {"generator"}


def test_parts_are_both_configs() -> None:
    assert Refiner(GENERATOR, CRITIC).parts == RefinerParts(generator=GENERATOR, discriminator=CRITIC)
    assert Refiner(GENERATOR).parts == RefinerParts(generator=GENERATOR)


def test_refine_gives_a_picture_in_range_without_a_graph() -> None:
    refiner = Refiner(GENERATOR)
    torch.nn.init.normal_(refiner.generator.conv_last.weight, std=5.0)
    made = refiner.refine(torch.rand(2, 3, 9, 7))
    assert made.shape == (2, 3, 18, 14) and made.dtype == torch.float32 and not made.requires_grad
    assert made.min() == 0 and made.max() == 1


def test_an_untrained_refiner_is_a_bicubic_resize_with_and_without_tiles() -> None:
    image = torch.rand(1, 3, 40, 33)
    expected = F.interpolate(image, scale_factor=2.0, mode="bicubic").clamp(0, 1)
    for tile in (0, 16, 20):
        assert (Refiner(GENERATOR).refine(image, tile=tile, overlap=8) - expected).abs().max() < 1e-5


def test_realism_is_the_critics_logits_of_the_picture_in_its_own_range() -> None:
    refiner = Refiner(GENERATOR, CRITIC).eval()
    image = torch.rand(2, 3, 16, 12)
    logits = refiner.realism(image)
    assert logits.shape == (2, 1, 6, 4)
    assert refiner.discriminator is not None
    assert torch.equal(logits, refiner.discriminator(2 * image - 1))


def test_realism_without_a_critic_is_refused() -> None:
    with pytest.raises(ConfigError, match="without its critic"):
        Refiner(GENERATOR).realism(torch.rand(1, 3, 16, 16))


def test_a_picture_of_other_channels_is_refused() -> None:
    with pytest.raises(ShapeError, match="3, height"):
        Refiner(GENERATOR).refine(torch.rand(1, 4, 16, 16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", NORMS)
def test_weights_of_half_precision_take_and_give_float32(dtype: torch.dtype, norm: str) -> None:
    torch.manual_seed(0)
    refiner = Refiner(GENERATOR, PatchGANConfig(ndf=2, n_layers=1, norm=norm)).eval()
    torch.nn.init.normal_(refiner.generator.conv_last.weight, std=0.1)
    image = torch.rand(1, 3, 16, 12)
    exact = refiner.refine(image), refiner.realism(image)
    refiner.to(dtype)
    rough = refiner.refine(image), refiner.realism(image)
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).abs().max() < 0.03
