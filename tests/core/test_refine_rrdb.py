"""The RRDB generator against the reference's numbers; any size; its bicubic base."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from golden_cases import case
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.refine.rrdb import RefinerConfig, RRDBNet


def tiny(scale: int = 2, base: str | None = None, **settings: int) -> RRDBNet:
    return RRDBNet(RefinerConfig(num_feat=4, num_block=1, num_grow=2, scale=scale, base=base, **settings)).eval()


@pytest.mark.parametrize("name", ["rrdb_new_x2", "rrdb_new_x4"])
@torch.no_grad()
def test_output_is_the_references(name: str) -> None:
    golden = case(name)
    said = golden.config
    sizes = {field: said[field] for field in ("num_feat", "num_block", "scale")}
    config = RefinerConfig(
        in_channels=said["in_ch"], out_channels=said["out_ch"], num_grow=said["num_grow_ch"], **sizes
    )
    network = RRDBNet(config).eval()
    weights = torch.load(Path(golden.path) / "model.pth", weights_only=True)[said["wrapper_key"]]
    network.load_state_dict({key: value.float() for key, value in weights.items()})
    golden.check("out.y", network(golden.tensors["in.x"]))


@settings(max_examples=25, deadline=None)
@given(
    scale=st.sampled_from([1, 2, 4]),
    base=st.sampled_from([None, "bicubic"]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
@torch.no_grad()
def test_any_size_comes_out_scaled(scale: int, base: str | None, height: int, width: int) -> None:
    made = tiny(scale, base)(torch.rand(2, 3, height, width))
    assert made.shape == (2, 3, scale * height, scale * width)
    assert made.isfinite().all()


@pytest.mark.parametrize("scale", [4, 2, 1])
@torch.no_grad()
def test_an_untrained_network_with_a_base_is_the_bicubic_resize(scale: int) -> None:
    x = torch.rand(1, 3, 10, 7)
    made = tiny(scale, "bicubic")(x)
    expected = F.interpolate(x, scale_factor=float(scale), mode="bicubic")
    assert (made - expected).abs().max() < 1e-6


def test_every_parameter_of_a_based_network_learns_after_one_step() -> None:
    torch.manual_seed(0)
    network = tiny(2, "bicubic").train()
    optimizer = torch.optim.SGD(network.parameters(), 1.0)
    for _ in range(2):
        optimizer.zero_grad()
        network(torch.rand(1, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@torch.no_grad()
def test_more_channels_out_than_in() -> None:
    assert tiny(2, in_channels=1, out_channels=4)(torch.rand(1, 1, 6, 5)).shape == (1, 4, 12, 10)


@torch.no_grad()
def test_half_precision_weights_take_and_give_float32() -> None:
    network = tiny(2, "bicubic")
    torch.nn.init.normal_(network.conv_last.weight, std=0.1)
    x = torch.rand(1, 3, 8, 8)
    exact, rough = network(x), network.bfloat16()(x)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.02


@torch.no_grad()
def test_autocast_gives_float32_with_a_base() -> None:
    x = torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert tiny(2, "bicubic")(x).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (1, 3, 0, 8)])
def test_what_the_network_cannot_take_is_said(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="expected \\[batch, 3, height, width\\]"):
        tiny()(torch.zeros(shape))


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 3}, {"scale": 8}, {"scale": 2, "doublings": 6}, {"doublings": -1}, {"base": "lanczos"},
        {"num_feat": 0}, {"num_block": 0}, {"base": "bicubic", "in_channels": 4},
    ],
)  # fmt: skip
def test_wrong_sizes_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        RefinerConfig(**wrong)
