"""LPIPS against the reference's numbers, small and at the width of the public weights."""

import pytest
import torch
from golden_cases import Case, case
from torch import Tensor

from vitrail.core.checkpoints import load
from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.losses.perceptual import PerceptualConfig, PerceptualLoss


def check(golden: Case, model: PerceptualLoss) -> None:
    a, b = golden.tensors["in.a"], golden.tensors["in.b"].clone().requires_grad_()
    distance = model.distance(a, b)
    golden.check("out.distance", distance.detach().view(2, 1, 1, 1))
    golden.check("out.distance_same", model.distance(a, a).view(2, 1, 1, 1))
    for index, level in enumerate(model.levels(a, b)):
        golden.check(f"out.level{index}", level.detach().view(2, 1, 1, 1))
    golden.check("out.feat4_a", model.features(a)[4])
    golden.check("out.grad_b", torch.autograd.grad(distance.sum(), b)[0])
    assert model(a, b).item() == pytest.approx(distance.mean().item())


def by_rule(name: str, place: int, shape: torch.Size) -> Tensor:
    """The weights that the case describes instead of holding them."""
    index = torch.arange(shape.numel(), dtype=torch.int64)
    values = ((index * 2654435761 + (place + 1) * 40503) % 2**32).double() / 2**32
    if name.startswith("lin"):
        return values.float().view(shape)
    scale = 0.1 if len(shape) == 1 else (6 / shape[1:].numel()) ** 0.5
    return ((values - 0.5) * 2 * scale).float().view(shape)


def test_narrow_weights_give_the_references_numbers() -> None:
    golden = case("lpips_narrow")
    model = load(golden.path / "lpips.pth")
    assert isinstance(model, PerceptualLoss) and model.config.widths == tuple(golden.config["vgg_widths"])
    check(golden, model)


def test_the_width_of_public_weights_gives_the_references_numbers() -> None:
    golden, model = case("lpips_full_rule"), PerceptualLoss(PerceptualConfig())
    state = {
        name: tensor if name.startswith("scaling_layer") else by_rule(name, place, tensor.shape)
        for place, (name, tensor) in enumerate(sorted(model.state_dict().items()))
    }
    model.load_state_dict(state)
    check(golden, model)


def tiny() -> PerceptualLoss:
    torch.manual_seed(0)
    return PerceptualLoss(PerceptualConfig(widths=(2, 3, 4, 4, 4)))


def test_only_pictures_get_gradients_and_they_are_finite_where_nothing_is_seen() -> None:
    model = tiny()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad
        if name.endswith("bias"):
            parameter.fill_(-9.0)
    made = torch.zeros(1, 3, 16, 16, requires_grad=True)
    model(made, torch.ones(1, 3, 16, 16)).backward()
    assert made.grad.isfinite().all()


def test_half_precision_is_seen_in_float32() -> None:
    model, a, b = tiny(), torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(a.bfloat16(), b.bfloat16())
    assert rough.dtype == torch.float32
    assert torch.allclose(rough, model(a.bfloat16().float(), b.bfloat16().float()))


@pytest.mark.parametrize("shapes", [((1, 3, 15, 32),) * 2, ((1, 4, 16, 16),) * 2, ((1, 3, 16, 16), (2, 3, 16, 16))])
def test_pictures_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ShapeError, match="at least 16 pixels"):
        tiny()(*(torch.zeros(shape) for shape in shapes))


def test_other_numbers_of_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected five"):
        PerceptualConfig(widths=(1, 2))
