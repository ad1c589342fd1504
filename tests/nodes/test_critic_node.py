"""GAN Critic."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.checkpoints import load, shipped_path
from vitrail.core.errors import ConfigError, ShapeError, VitrailError
from vitrail.core.losses.critics import build_critic
from vitrail.core.losses.patchgan import PatchGANConfig
from vitrail.core.losses.unet_critic import UNetCriticConfig
from vitrail.core.refine import Refiner, RefinerConfig
from vitrail.nodes.critic import GANCritic

Pictures = Callable[..., Tensor]
EXAMPLE = Path(__file__).parents[2] / "example_workflows" / "example.png"
PATCHGAN = PatchGANConfig(ndf=4, n_layers=2)


def judge(image: Tensor, critic: object) -> tuple[Tensor, float]:
    return GANCritic().execute(image=image, critic=critic)


def refiner(config: PatchGANConfig | UNetCriticConfig | None = PATCHGAN) -> Refiner:
    torch.manual_seed(0)
    return Refiner(RefinerConfig(num_feat=8, num_block=1, num_grow=4), config).eval().requires_grad_(False)


def test_realism_is_the_sigmoid_of_the_logits_at_the_size_of_the_picture(pictures: Pictures) -> None:
    image, critic = pictures(3, 40, 32), refiner()
    realism, score = judge(image, critic)
    logits = critic.discriminator(image.movedim(-1, 1) * 2 - 1)
    expected = F.interpolate(logits.sigmoid(), size=(40, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(realism, expected)
    assert score == pytest.approx(expected.mean().item(), abs=1e-6)
    assert realism.dtype == torch.float32 and not realism.requires_grad
    torch.testing.assert_close(judge(image[1:2], critic)[0], realism[1:2])


@pytest.mark.parametrize("config", [PATCHGAN, UNetCriticConfig(num_feat=2)])
@pytest.mark.parametrize(("height", "width"), [(13, 31), (47, 12)])
def test_any_size_and_a_batch(
    config: PatchGANConfig | UNetCriticConfig, pictures: Pictures, height: int, width: int
) -> None:
    realism, score = judge(pictures(2, height, width), refiner(config))
    assert realism.shape == (2, height, width) and 0 <= realism.min() <= realism.max() <= 1 and 0 < score < 1


def test_alpha_is_laid_on_white(pictures: Pictures) -> None:
    clear = torch.cat([pictures(1), torch.zeros(1, 32, 32, 1)], dim=3)
    torch.testing.assert_close(judge(clear, refiner())[0], judge(torch.ones(1, 32, 32, 3), refiner())[0])


def test_an_autoencoder_with_the_critic_of_its_training(vq_model: Autoencoder, pictures: Pictures) -> None:
    critic = build_critic(PATCHGAN).eval()
    vq_model.discriminator = critic
    try:
        realism, _ = judge(pictures(1), vq_model)
    finally:
        vq_model.discriminator = None
    expected = critic(pictures(1).movedim(-1, 1) * 2 - 1).sigmoid()
    torch.testing.assert_close(realism, F.interpolate(expected, size=(32, 32), mode="bilinear")[:, 0].detach())


def test_the_shipped_critic_ranks_a_drawing_its_refinement_and_a_blurred_one() -> None:
    critic = load(shipped_path("vitrail-1", "refiner"))
    with Image.open(EXAMPLE) as opened:
        drawing = opened.convert("RGB").resize((128, 128), Image.Resampling.LANCZOS)
    truth = torch.tensor(list(drawing.tobytes()), dtype=torch.float32).view(1, 128, 128, 3) / 255
    small = F.avg_pool2d(truth.movedim(-1, 1), 2)
    blurred = F.interpolate(small, scale_factor=2, mode="bicubic").clamp(0, 1)
    shown = (truth.movedim(-1, 1), critic.refine(small), blurred)
    real, refined, soft = (judge(x.movedim(1, -1), critic)[1] for x in shown)
    assert real > refined > soft + 0.01


def test_without_a_critic_the_error_says_what_to_take(vq_model: Autoencoder, pictures: Pictures) -> None:
    for critic in (refiner(None), vq_model):
        with pytest.raises(ConfigError, match="has no discriminator.*the shipped refiner"):
            judge(pictures(1), critic)
    with pytest.raises(ConfigError, match='"critic" is empty'):
        judge(pictures(1), None)


def test_a_picture_too_small_says_how_large(pictures: Pictures) -> None:
    with pytest.raises(ShapeError, match="at least 12 pixels"):
        judge(pictures(1, 11, 40), refiner())


def test_running_out_of_memory_is_said(pictures: Pictures) -> None:
    class Full(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("out of memory")

    model = refiner()
    model.discriminator = Full()
    with pytest.raises(VitrailError, match="memory ran out for a picture of 24 x 16 pixels"):
        judge(pictures(1, 16, 24), model)


def test_the_critic_of_a_depth_model_sees_grey(depth_model: Autoencoder, pictures: Pictures) -> None:
    torch.manual_seed(0)
    critic = build_critic(PatchGANConfig(in_channels=1, ndf=4, n_layers=2)).eval().requires_grad_(False)
    model = copy(depth_model)
    model.discriminator = critic
    grey = pictures(2, channels=1)
    logits = critic(grey.movedim(-1, 1) * 2 - 1)
    expected = F.interpolate(logits.sigmoid(), size=(32, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(judge(grey.repeat(1, 1, 1, 3), model)[0], expected)
