"""Numbered classes: their tokens, their names, and models that take them in each of the two ways."""

from __future__ import annotations

import pytest
import torch

from vitrail.core.config_io import from_dict, to_dict
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from vitrail.core.diffusion.unet import UNetConfig
from vitrail.core.errors import ConfigError
from vitrail.core.text.classes import class_number
from vitrail.core.text.conditioners import ClassConfig

NAMES = ("tench, Tinca tinca", "Goldfish", "great white shark")


def unet(**changes: int) -> UNetConfig:
    return UNetConfig(
        in_channels=4, out_channels=4, model_channels=32, num_res_blocks=1, attention_resolutions=(1,),
        channel_mult=(1,), num_heads=1, use_scale_shift_norm=True, **changes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("label", "number"),
    [("0", 0), (" 2 ", 2), ("goldfish", 1), ("Tench, tinca tinca", 0), ("", 3), ("none", 3), ("None ", 3), ("3", 3)],
)
def test_a_class_by_its_number_or_name(label: str, number: int) -> None:
    assert class_number(label, 4, NAMES) == number


@pytest.mark.parametrize(
    ("label", "names", "message"),
    [
        ("4", NAMES, "no class 4; this model has 4, 0 to 3"),
        ("9" * 5000, (), "no class 9"),
        ("-1", (), "give a number"),
        ("1.0", (), "give a number"),
        ("\u0663", (), "give a number"),
        ("white shark", NAMES, "near: great white shark"),
    ],
)
def test_an_unknown_class_is_named(label: str, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        class_number(label, 4, names)


def test_a_model_told_by_a_token_and_one_told_by_its_label() -> None:
    token = LatentDiffusion(
        LatentDiffusionConfig(unet=unet(context_dim=8), conditioner=ClassConfig(classes=5, width=8))
    )
    label = LatentDiffusion(LatentDiffusionConfig(unet=unet(num_classes=5)))
    x = torch.randn(2, 4, 4, 4)
    for model in (token, label):
        assert model.classes == 5
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        with torch.no_grad():
            one, two = (model.denoise(x, torch.tensor(1.0), model.of_class(torch.tensor([n, n]))) for n in (1, 2))
            last = model.denoise(x, torch.tensor(1.0), model.of_class(torch.tensor([4, 4])))
            assert torch.equal(last, model.denoise(x, torch.tensor(1.0), model.null(2)))
        assert one.shape == x.shape and not torch.allclose(one, two, atol=1e-5)


def test_a_model_without_classes_says_so() -> None:
    model = LatentDiffusion(LatentDiffusionConfig(unet=unet()))
    assert model.classes is None and model.null(1) is None
    with pytest.raises(ConfigError, match="no numbered classes"):
        model.of_class(torch.tensor([1]))


def test_configs_come_back_and_are_checked() -> None:
    config = LatentDiffusionConfig(
        unet=unet(context_dim=8), conditioner=ClassConfig(classes=4, width=8), class_names=NAMES, concat="latent"
    )
    assert from_dict(LatentDiffusionConfig, to_dict(config)) == config
    with pytest.raises(ConfigError, match="nothing to stack.*'sideways'"):
        LatentDiffusionConfig(unet=unet(), concat="sideways")
