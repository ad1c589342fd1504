"""Losses: values worked out by hand, gradients, half precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vitrail.core.losses import LOSSES
from vitrail.core.losses.adversarial import (
    GAMES,
    LogitAverages,
    adaptive_weight,
    hinge_discriminator,
    hinge_generator,
    lecam,
    r1,
    relativistic_discriminator,
    vanilla_discriminator,
    vanilla_generator,
)
from vitrail.core.losses.reconstruction import feature_matching, gradient_l1, l1, mse

ONE_PICTURE = ("hinge_generator", "vanilla_generator")


def made_up(name: str, seed: int = 0) -> list:
    generator = torch.Generator().manual_seed(seed)
    pictures = [torch.randn(2, 3, 8, 8, generator=generator) for _ in range(2)]
    if name == "feature_matching":
        return [[picture, picture[..., ::2]] for picture in pictures]
    if name == "lecam":
        return [*pictures, torch.tensor(0.3), torch.tensor(-0.5)]
    return pictures[:1] if name in ONE_PICTURE else pictures


def cast(part: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    return part.bfloat16() if isinstance(part, Tensor) else [tensor.bfloat16() for tensor in part]


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "r1"])
def test_a_loss_of_half_precision_is_a_float32_number_near_the_exact_one(name: str) -> None:
    parts = made_up(name)
    exact = LOSSES[name](*parts)
    with torch.autocast("cpu", torch.bfloat16):
        rough = LOSSES[name](*map(cast, parts))
    assert exact.shape == rough.shape == () and exact.dtype == rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.02, abs=0.01)


@pytest.mark.parametrize("name", ["l1", "mse", "gradient_l1", "feature_matching"])
def test_what_is_equal_costs_nothing_and_what_differs_costs(name: str) -> None:
    a, b = made_up(name)
    assert LOSSES[name](a, a) == 0
    assert LOSSES[name](a, b) > 0


def test_plain_losses() -> None:
    made, truth = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 1.0]])
    assert l1(made, truth).item() == 2
    assert mse(made, truth).item() == 5


def test_gradient_l1_of_one_wrong_row() -> None:
    truth = torch.zeros(1, 1, 4, 4)
    made = truth.clone()
    made[..., 0, :] = 1
    assert gradient_l1(made, truth, scales=1).item() == pytest.approx(4 / 12)  # 4 of the 12 vertical differences
    # halved, the row is 0.5 above 0: 2 of 2 vertical differences of 0.5
    assert gradient_l1(made, truth, scales=2).item() == pytest.approx((4 / 12 + 0.5) / 2)


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-2, 2), seed=st.integers(0, 99))
def test_gradient_l1_ignores_brightness(shift: float, seed: int) -> None:
    made, truth = made_up("gradient_l1", seed)
    assert gradient_l1(made + shift, truth).item() == pytest.approx(gradient_l1(made, truth).item(), abs=1e-5)


def test_feature_matching_teaches_only_what_was_made() -> None:
    made, truth = torch.randn(2, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    feature_matching([made, 2 * made], [truth, 2 * truth]).backward()
    assert made.grad is not None and truth.grad is None


def test_feature_matching_wants_as_many_layers_on_both_sides() -> None:
    with pytest.raises(ValueError):
        feature_matching([torch.zeros(1)], [torch.zeros(1), torch.zeros(1)])


def test_hinge() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    assert hinge_discriminator(real, fake).item() == pytest.approx((0.25 + 1.0) / 2)
    assert hinge_generator(fake).item() == pytest.approx(1.0)


def test_vanilla_is_the_cross_entropy_of_the_two_classes() -> None:
    real, fake = torch.randn(3, 4), torch.randn(3, 4)
    entropy = nn.functional.binary_cross_entropy_with_logits
    expected = (entropy(real, torch.ones(3, 4)) + entropy(fake, torch.zeros(3, 4))) / 2
    assert vanilla_discriminator(real, fake).item() == pytest.approx(expected.item(), rel=1e-5)
    assert vanilla_generator(fake).item() == pytest.approx(entropy(fake, torch.ones(3, 4)).item(), rel=1e-5)


@pytest.mark.parametrize("generator_loss", [hinge_generator, vanilla_generator])
def test_a_generator_is_pushed_towards_higher_logits(generator_loss) -> None:
    logits = torch.randn(2, 5, requires_grad=True)
    generator_loss(logits).backward()
    assert logits.grad is not None and (logits.grad < 0).all()


@pytest.mark.parametrize("critic_loss", [hinge_discriminator, vanilla_discriminator])
def test_a_critic_is_pushed_apart(critic_loss) -> None:
    real, fake = (torch.zeros(2, 5, requires_grad=True) for _ in range(2))
    critic_loss(real, fake).backward()
    assert real.grad is not None and (real.grad < 0).all()
    assert fake.grad is not None and (fake.grad > 0).all()


def test_adaptive_weight_is_the_ratio_of_the_gradients() -> None:
    layer = nn.Parameter(torch.tensor([1.0, 2.0]))
    slope, other = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    weight = adaptive_weight((layer * slope).sum(), (layer * other).sum(), layer)
    assert weight.item() == pytest.approx(5 / 2.0001)
    assert not weight.requires_grad and layer.grad is None


def test_adaptive_weight_leaves_the_graph_for_the_step_itself() -> None:
    layer = nn.Parameter(torch.ones(2))
    reconstruction, adversarial = (layer**2).sum(), (layer**3).sum()
    (reconstruction + adaptive_weight(reconstruction, adversarial, layer) * adversarial).backward()
    assert layer.grad is not None and layer.grad.isfinite().all()


def test_adaptive_weight_is_bounded_where_the_critic_says_nothing() -> None:
    layer = nn.Parameter(torch.ones(2))
    assert adaptive_weight(1e6 * layer.sum(), 0 * layer.sum(), layer).item() == 1e4


def test_relativistic_losses_are_cross_entropies_of_differences() -> None:
    real, fake = torch.randn(3, 4), torch.randn(3, 4)
    entropy = nn.functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(3, 4), torch.zeros(3, 4)
    expected = (entropy(real - fake.mean(), ones) + entropy(fake - real.mean(), zeros)) / 2
    assert relativistic_discriminator(real, fake).item() == pytest.approx(expected.item(), rel=1e-5)
    expected = (entropy(real - fake.mean(), zeros) + entropy(fake - real.mean(), ones)) / 2
    assert LOSSES["relativistic_generator"](fake, real).item() == pytest.approx(expected.item(), rel=1e-5)
    assert relativistic_discriminator(real + 3, fake + 3).item() == pytest.approx(
        relativistic_discriminator(real, fake).item(), abs=1e-5
    )


@pytest.mark.parametrize("name", GAMES)
def test_the_two_sides_of_a_game_pull_apart(name: str) -> None:
    real, fake = (torch.randn(4, 5, requires_grad=True) for _ in range(2))
    GAMES[name].critic(real, fake).backward()
    assert (fake.grad >= 0).all() and (real.grad <= 0).all() and fake.grad.sum() > 0
    fake.grad = None
    GAMES[name].generator(fake, real.detach()).backward()
    assert (fake.grad < 0).all()


def test_r1_is_half_the_squared_slope_of_a_linear_critic() -> None:
    slope = torch.randn(3, 4, 4)
    x = torch.randn(5, 3, 4, 4, requires_grad=True)
    logits = (x * slope).flatten(1).sum(1)
    assert r1(logits, x).item() == pytest.approx(slope.square().sum().item() / 2, rel=1e-5)
    patches = logits[:, None].expand(-1, 7)
    assert r1(patches, x).item() == pytest.approx(slope.square().sum().item() / 2, rel=1e-5)


def test_r1_teaches_a_critic_to_be_flat() -> None:
    weight = nn.Parameter(torch.full((6,), 2.0))
    x = torch.randn(3, 6, requires_grad=True)
    penalty = r1((x * weight).sum(1), x)
    penalty.backward()
    assert torch.allclose(weight.grad, weight.detach()) and penalty.item() == pytest.approx(12.0)


def test_lecam_holds_each_side_near_the_others_average() -> None:
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 0.0])
    found = lecam(real, fake, torch.tensor(2.0), torch.tensor(-1.0))
    assert found.item() == pytest.approx((4 + 16) / 2 + (9 + 4) / 2)
    anchors = [torch.tensor(value, requires_grad=True) for value in (2.0, -1.0)]
    real = real.requires_grad_()
    lecam(real, fake, *anchors).backward()
    assert real.grad is not None and all(anchor.grad is None for anchor in anchors)


def test_averages_of_logits_start_at_the_first_batch_and_follow() -> None:
    averages = LogitAverages(decay=0.9)
    averages.update(torch.tensor([1.0, 3.0]), torch.tensor([-1.0]))
    assert (averages.real.item(), averages.fake.item()) == (2.0, -1.0)
    averages.update(torch.tensor([4.0]), torch.tensor([1.0]))
    assert averages.real.item() == pytest.approx(2.2) and averages.fake.item() == pytest.approx(-0.8)
    assert set(averages.state_dict()) == {"real", "fake", "started"}
