"""PatchGAN against the reference's numbers, and its other norms."""

from pathlib import Path

import pytest
import torch
from golden_cases import Case, case
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.losses.adversarial import hinge_discriminator, hinge_generator, vanilla_discriminator
from vitrail.core.losses.patchgan import NORMS, PatchGAN, PatchGANConfig
from vitrail.core.nn.actnorm import ActNorm


@pytest.fixture(scope="module")
def golden() -> Case:
    return case("patchgan_bn")


def reference(golden: Case) -> PatchGAN:
    said = golden.config
    critic = PatchGAN(PatchGANConfig(in_channels=said["input_nc"], ndf=said["ndf"], n_layers=said["n_layers"]))
    weights = torch.load(Path(golden.path) / "disc.pth", weights_only=True)
    critic.load_state_dict(weights)
    return critic


@torch.no_grad()
def test_logits_and_losses_are_the_references(golden: Case) -> None:
    critic = reference(golden).eval()
    real, fake = critic(golden.tensors["in.x"]), critic(golden.tensors["in.y"])
    golden.check("out.logits_x_eval", real)
    golden.check("out.logits_y_eval", fake)
    golden.check("out.hinge", hinge_discriminator(real, fake))
    golden.check("out.vanilla", vanilla_discriminator(real, fake))
    golden.check("out.g_loss", hinge_generator(fake))


@torch.no_grad()
def test_training_uses_and_keeps_the_statistics_of_the_batch(golden: Case) -> None:
    critic = reference(golden).train()
    golden.check("out.logits_x_train", critic(golden.tensors["in.x"]))
    norm = critic.main[3]
    assert isinstance(norm, torch.nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    golden.check("out.running_mean_after", norm.running_mean)
    golden.check("out.running_var_after", norm.running_var)


@torch.no_grad()
def test_with_actnorm_logits_and_losses_are_the_references() -> None:
    golden = case("patchgan_actnorm")
    critic = PatchGAN(PatchGANConfig(ndf=golden.config["ndf"], n_layers=golden.config["n_layers"], norm="act")).eval()
    critic.load_state_dict(torch.load(golden.path / "disc.pth", weights_only=True))
    real, fake = critic(golden.tensors["in.x"]), critic(golden.tensors["in.y"])
    golden.check("out.logits_x_eval", real)
    golden.check("out.logits_y_eval", fake)
    golden.check("out.hinge", hinge_discriminator(real, fake))
    golden.check("out.vanilla", vanilla_discriminator(real, fake))
    golden.check("out.g_loss", hinge_generator(fake))
    golden.check("out.logits_x_train", critic.train()(golden.tensors["in.x"]))


def test_actnorm_starts_from_the_first_training_batch_and_stays() -> None:
    torch.manual_seed(0)
    norm, x = ActNorm(5), torch.randn(4, 5, 6, 6) * 3 + 2
    assert torch.equal(norm.eval()(x), x)
    made = norm.train()(x)
    assert made.mean((0, 2, 3)).abs().max() < 1e-5 and (made.std((0, 2, 3)) - 1).abs().max() < 1e-3
    before = norm.scale.detach().clone()
    assert (norm(2 * x).std((0, 2, 3)) - 2).abs().max() < 1e-2 and torch.equal(norm.scale, before)
    restored = ActNorm(5)
    restored.load_state_dict(norm.state_dict())
    assert torch.equal(restored.train()(2 * x), norm(2 * x))


@settings(max_examples=20, deadline=None)
@given(
    norm=st.sampled_from(NORMS),
    n_layers=st.integers(1, 3),
    height=st.integers(24, 41),
    width=st.integers(24, 41),
)
def test_features_are_the_activations_on_the_way_to_the_logits(
    norm: str, n_layers: int, height: int, width: int
) -> None:
    critic = PatchGAN(PatchGANConfig(in_channels=1, ndf=2, n_layers=n_layers, norm=norm)).eval()
    x = torch.randn(2, 1, height, width)
    logits, activations = critic.features(x)
    assert torch.equal(logits, critic(x))
    assert len(activations) == n_layers + 1
    assert torch.equal(critic.main[-1](activations[-1]), logits)
    assert logits.shape == (2, 1, height // 2**n_layers - 2, width // 2**n_layers - 2)


def test_spectral_norm_bounds_every_layer() -> None:
    critic = PatchGAN(PatchGANConfig(ndf=4, n_layers=2, norm="spectral")).train()
    with torch.no_grad():
        for _ in range(30):
            critic(torch.randn(1, 3, 16, 16))
    for layer in critic.main:
        if isinstance(layer, torch.nn.Conv2d):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("norm", NORMS)
def test_a_critic_learns_to_tell_noise_from_grey(norm: str) -> None:
    torch.manual_seed(0)
    critic = PatchGAN(PatchGANConfig(ndf=4, n_layers=1, norm=norm))
    optimizer = torch.optim.Adam(critic.parameters(), 5e-3)
    losses = []
    for _ in range(40):
        loss = hinge_discriminator(critic(torch.randn(4, 3, 8, 8)), critic(torch.full((4, 3, 8, 8), 0.1)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("shape", [(1, 4, 32, 32), (1, 3, 23, 32), (3, 32, 32)])
def test_what_a_critic_cannot_take_is_said(shape: tuple[int, ...]) -> None:
    critic = PatchGAN(PatchGANConfig(ndf=2))
    with pytest.raises(ShapeError, match="24 pixels"):
        critic(torch.zeros(shape))


@pytest.mark.parametrize("wrong", [{"ndf": 0}, {"n_layers": 0}, {"in_channels": 0}, {"norm": "layer"}])
def test_wrong_sizes_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        PatchGANConfig(**wrong)
