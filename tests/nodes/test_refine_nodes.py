"""GAN Refine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.refine import Refiner, RefinerConfig, resize
from vitrail.nodes.refine import GANRefine

Pictures = Callable[..., Tensor]


def refine(image: Tensor, refiner: Any, **changes: Any) -> Tensor:
    settings = {"scale": 0.0, "strength": 1.0, "fidelity": 0.5, "tile_size": 0}
    return GANRefine().execute(image=image, refiner=refiner, **{**settings, **changes})[0]


class Stock(nn.Module):
    """What the host's loader of upscale models gives: a descriptor with a network inside, not a module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return 1 - x.repeat_interleave(4, 2).repeat_interleave(4, 3)


class Descriptor:
    def __init__(self) -> None:
        self.model, self.scale = Stock(), 4

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(x)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (1, 3)])
def test_refine_is_the_refiners(refiner: Refiner, pictures: Pictures, height: int, width: int) -> None:
    image = pictures(3, height, width)
    found = refine(image, refiner)
    assert found.shape == (3, 2 * height, 2 * width, 3)
    torch.testing.assert_close(found, refiner.refine(image.movedim(-1, 1)).movedim(1, -1), atol=1e-5, rtol=0)


def test_any_scale(refiner: Refiner, pictures: Pictures) -> None:
    image = pictures(1, 20, 11)
    assert refine(image, refiner, scale=1.0).shape == (1, 20, 11, 3)
    assert refine(image, refiner, scale=3.3).shape == (1, 66, 36, 3)


def test_strength_goes_from_a_plain_resize_to_the_refiner(refiner: Refiner, pictures: Pictures) -> None:
    image = pictures(2)
    plain = resize(image.movedim(-1, 1), (64, 64)).movedim(1, -1)
    torch.testing.assert_close(refine(image, refiner, strength=0.0), plain, atol=1e-5, rtol=0)
    half = (plain + refine(image, refiner)) / 2
    torch.testing.assert_close(refine(image, refiner, strength=0.5), half, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(32, 32), (1, 32, 32), (2, 64, 64)])
def test_a_mask_says_where(refiner: Refiner, pictures: Pictures, shape: tuple[int, ...]) -> None:
    image, mask = pictures(2), torch.zeros(shape)
    mask[..., shape[-1] // 2 :] = 1
    plain, whole = (refine(image, refiner, strength=strength) for strength in (0.0, 1.0))
    found = refine(image, refiner, mask=mask)
    torch.testing.assert_close(found[:, :, :30], plain[:, :, :30], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, :, 34:], whole[:, :, 34:], atol=1e-5, rtol=0)


def test_a_mask_for_each_picture(refiner: Refiner, pictures: Pictures) -> None:
    image = pictures(3)
    mask = torch.stack([torch.zeros(32, 32), torch.ones(32, 32)])
    plain, whole = (refine(image, refiner, strength=strength) for strength in (0.0, 1.0))
    found = refine(image, refiner, mask=mask)
    torch.testing.assert_close(found[0], plain[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1:], whole[1:], atol=1e-5, rtol=0)


def test_alpha_is_kept_at_the_new_size(refiner: Refiner, pictures: Pictures) -> None:
    image = pictures(2, 20, 12, channels=4)
    image[..., 3] = 0.25
    found = refine(image, refiner)
    assert found.shape == (2, 40, 24, 4)
    torch.testing.assert_close(found[..., 3], torch.full((2, 40, 24), 0.25))
    white = image[..., :3] * 0.25 + 0.75
    torch.testing.assert_close(found[..., :3], refine(white, refiner), atol=1e-5, rtol=0)


def test_tiles_agree_with_the_whole(refiner: Refiner, pictures: Pictures) -> None:
    image = pictures(2, 70, 50)
    torch.testing.assert_close(refine(image, refiner, tile_size=48), refine(image, refiner), atol=2e-2, rtol=0)


@pytest.mark.parametrize("tile_size", [0, 16])
def test_stock_upscale_models_work(pictures: Pictures, tile_size: int) -> None:
    image = pictures(2, 20, 24)
    expected = 1 - image.repeat_interleave(4, 1).repeat_interleave(4, 2)
    torch.testing.assert_close(refine(image, Descriptor(), tile_size=tile_size), expected, atol=1e-5, rtol=0)


def of_channels(inputs: int, outputs: int) -> Refiner:
    torch.manual_seed(0)
    config = RefinerConfig(num_feat=4, num_block=1, num_grow=2, in_channels=inputs, out_channels=outputs)
    return Refiner(config).eval().requires_grad_(False)


def test_refiners_of_other_channels(pictures: Pictures) -> None:
    image = pictures(2, 5, 7)
    x = image.movedim(-1, 1)
    grey, with_alpha, to_grey = of_channels(1, 1), of_channels(4, 4), of_channels(3, 1)
    one_by_one = [grey.generator(x[:, [c]]) for c in range(3)]
    torch.testing.assert_close(refine(image, grey), torch.cat(one_by_one, 1).clamp(0, 1).movedim(1, -1))
    seen = with_alpha.generator(torch.cat([x, torch.ones_like(x[:, :1])], 1))[:, :3]
    torch.testing.assert_close(refine(image, with_alpha), seen.clamp(0, 1).movedim(1, -1))
    torch.testing.assert_close(
        refine(image, to_grey), to_grey(x).clamp(0, 1).movedim(1, -1).expand(-1, -1, -1, 3)
    )  # fmt: skip
    assert refine(pictures(2, 5, 7, channels=4), grey).shape == (2, 20, 28, 4)
    with pytest.raises(ShapeError, match="2 channels; expected 3, or 1"):
        refine(image, of_channels(3, 2))
    with pytest.raises(ShapeError, match="batch, 6, height"):
        refine(image, of_channels(6, 3))


def test_bad_input_says_what_is_wrong(refiner: Refiner, pictures: Pictures) -> None:
    with pytest.raises(ConfigError, match='"refiner" is empty.*Load GAN Refiner'):
        refine(pictures(), None)
    with pytest.raises(ShapeError, match=r"the mask is \(2, 3, 4, 5\)"):
        refine(pictures(), refiner, mask=torch.zeros(2, 3, 4, 5))
    with pytest.raises(ConfigError, match="at least 16"):
        refine(pictures(), refiner, tile_size=8)
    with pytest.raises(ConfigError, match="larger one"):
        refine(pictures(), refiner, scale=0.01)
