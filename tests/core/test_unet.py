"""The diffusion UNet against the reference networks' numbers, and on its own."""

from typing import Any

import pytest
import torch
from compvis_weights import unet_of
from golden_cases import Case, case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitrail.core.config_io import from_dict, to_dict
from vitrail.core.diffusion.unet import UNet, UNetConfig
from vitrail.core.diffusion.unet_config import from_compvis
from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.nn.attention import AttentionBlock, attend
from vitrail.core.nn.timestep import timestep_embedding

CASES = {
    "ldm_uncond_vq4": "eps",
    "ldm_uncond_ss_open": "eps",
    "ldm_class_cin": "eps",
    "ldm_txt2img_bert": "eps",
    "ldm_inpaint_concat": "eps",
    "sd1_tiny_safetensors": "eps",
    "sd2_tiny_v": "model_out",
    "sd2_inpaint": "model_out",
}


def tiny(**changes: Any) -> UNetConfig:
    given = dict(in_channels=4, out_channels=4, model_channels=32, channel_mult=(1, 2), num_res_blocks=1, num_heads=2)
    return UNetConfig(**(given | changes))


def filled(config: UNetConfig) -> UNet:
    """A network whose zero layers are random, so that a wrong wiring shows."""
    torch.manual_seed(0)
    network = UNet(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return network


def inputs_of(golden: Case) -> tuple[Tensor, Tensor | None]:
    """What each case feeds the network: x (with its stacked condition) and the context."""
    x, context = golden.tensors["in.x"], golden.tensors.get("out.context")
    if golden.path.name == "ldm_inpaint_concat":
        assert context is not None
        return torch.cat([x, context], dim=1), None
    if golden.path.name == "sd2_inpaint":
        return torch.cat([x, golden.tensors["in.mask_latent"], golden.tensors["in.masked_latent"]], dim=1), context
    return x, context


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_reference_networks(name: str) -> None:
    golden = case(name)
    network = UNet(from_compvis(golden.config["model"]["params"]["unet_config"]["params"])).eval()
    network.load_state_dict(unet_of(golden))
    x, context = inputs_of(golden)
    out = f"out.{CASES[name]}"
    times = {"": "in.t", "_frac": "in.t_frac"}
    for ending, time in times.items():
        golden.check(out + ending, network(x, golden.tensors[time], context))
    for time in (0, 999):
        golden.check(f"{out}_t{time}", network(x, torch.tensor(time), context))
    if f"{out}_uncond" in golden.tensors:
        golden.check(f"{out}_uncond", network(x, golden.tensors["in.t"], golden.tensors["out.uc_context"]))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "attention_resolutions": (1, 2),
            "context_dim": 8,
            "vector_dim": 6,
            "use_scale_shift_norm": True,
            "patch_size": 2,
        },
        {"vector_dim": 6, "patch_size": 2, "sketch_size": 4, "sketch_width": 8},
        {"num_classes": 5, "resblock_updown": True, "use_linear_in_transformer": True, "context_dim": 8},
        {"num_res_blocks": (2, 1), "transformer_depth": (0, 2), "attention_resolutions": (1, 2), "context_dim": 8},
        {"conv_resample": False, "new_attention_order": True, "attention_resolutions": (2,), "num_head_channels": 16},
    ],
)
@torch.no_grad()
def test_every_switch_builds_runs_and_round_trips(changes: dict[str, Any]) -> None:
    config = tiny(**changes)
    assert from_dict(UNetConfig, to_dict(config)) == config
    network = filled(config)
    context = torch.randn(3, 5, config.context_dim) if config.context_dim else None
    y = torch.randn(3, 6) if config.vector_dim else torch.tensor([0, 4, 2]) if config.num_classes else None
    x, time = torch.randn(3, 4, 8, 8), torch.tensor([0.0, 1.5, 999.0])
    together = network(x, time, context, y)
    assert together.shape == x.shape and together.isfinite().all() and together.std() > 0
    for i in range(3):
        part = [None if t is None else t[i : i + 1] for t in (x, time, context, y)]
        torch.testing.assert_close(network(*part), together[i : i + 1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_sketch_is_seen_place_by_place_at_any_size() -> None:
    network = filled(tiny(vector_dim=6, sketch_size=4, sketch_width=8))
    y = torch.randn(2, 6)
    guess = network.sketch(y)
    assert guess.shape == (2, 4, 4, 4)
    assert torch.equal(network.sketch.sized(y, (4, 4)), guess)
    assert network.sketch.sized(y, (6, 10)).shape == (2, 4, 6, 10)
    x, time = torch.randn(2, 4, 6, 10), torch.tensor(3.0)
    before = network(x, time, y=y)
    network.sketch.layers[-1].bias += 1
    assert not torch.allclose(network(x, time, y=y), before)


def test_a_sketch_needs_a_vector() -> None:
    with pytest.raises(ConfigError, match="vector_dim"):
        tiny(sketch_size=4)


def test_a_new_network_predicts_nothing_and_its_blocks_pass_through() -> None:
    network = UNet(tiny(context_dim=8, attention_resolutions=(1, 2)))
    assert not network(torch.randn(1, 4, 8, 8), torch.tensor(3.0), torch.randn(1, 2, 8)).any()
    h, emb = torch.randn(1, 32, 4, 4), torch.randn(1, 128)
    assert torch.equal(network.input_blocks[1](h, emb, torch.randn(1, 2, 8)), h)


@settings(max_examples=12, deadline=None)
@given(height=st.integers(1, 13), width=st.integers(1, 13), patch=st.sampled_from([1, 2]))
@torch.no_grad()
def test_any_size_goes_in_and_comes_out(height: int, width: int, patch: int) -> None:
    network = filled(tiny(model_channels=64, patch_size=patch))
    x = torch.randn(1, 4, height, width)
    answer = network(x, torch.tensor(7.0))
    assert answer.shape == x.shape and answer.isfinite().all()


@torch.no_grad()
def test_padding_is_a_reflection_cropped_back() -> None:
    network = filled(tiny())
    x = torch.randn(1, 4, 7, 5)
    padded = torch.nn.functional.pad(x, (0, 1, 0, 1), mode="reflect")
    assert torch.equal(network(x, torch.tensor(7.0)), network(padded, torch.tensor(7.0))[..., :7, :5])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_weights_stay_close(dtype: torch.dtype) -> None:
    network = filled(tiny(context_dim=8, attention_resolutions=(2,), vector_dim=6))
    args = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 900.0]), torch.randn(2, 5, 8), torch.randn(2, 6)
    exact = network(*args)
    half = network.to(dtype)(*args)
    assert half.dtype == dtype
    assert (half.float() - exact).std() < 0.05 * exact.std()


def test_autocast_trains_every_parameter() -> None:
    network = UNet(tiny(context_dim=8, attention_resolutions=(1, 2), vector_dim=6, use_scale_shift_norm=True))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        answer = network(torch.randn(2, 4, 8, 8), torch.tensor([1.0, 2.0]), torch.randn(2, 5, 8), torch.randn(2, 6))
    answer.float().square().mean().backward()
    assert answer.dtype == torch.bfloat16
    lacking = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not lacking


@pytest.mark.parametrize("masked", [False, True])
def test_16_bit_training_path_of_attention_agrees_with_the_fused_kernel(masked: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8).bfloat16() for n in (7, 5, 5))
    mask = torch.tensor([[True, True, False, True, False]]) if masked else None
    fused = attend(q, k, v, mask)
    products = attend(q.requires_grad_(), k, v, mask)
    assert products.requires_grad
    torch.testing.assert_close(products, fused, atol=0.03, rtol=0.03)


def test_attention_order_cuts_the_same_weights_differently() -> None:
    torch.manual_seed(0)
    new, old = AttentionBlock(32, 2, new_order=True), AttentionBlock(32, 2)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.normal_(std=0.3)
    old.load_state_dict(new.state_dict())
    rows = torch.arange(96).reshape(3, 2, 16).transpose(0, 1).flatten()  # (3, heads, d) -> (heads, 3, d)
    x = torch.randn(1, 32, 4, 4)
    assert not torch.allclose(new(x), old(x))
    old.qkv.load_state_dict({key: value[rows] for key, value in new.qkv.state_dict().items()})
    torch.testing.assert_close(new(x), old(x))


def test_time_embedding_is_cosines_then_sines() -> None:
    emb = timestep_embedding(torch.tensor([0.0, 2.0]), 5)
    assert emb.shape == (2, 5) and emb.dtype == torch.float32
    assert emb[0].tolist() == [1, 1, 0, 0, 0]
    torch.testing.assert_close(
        emb[1, [0, 2]], torch.tensor([2.0, 2.0]).cos() * torch.tensor([1.0, 0]) + torch.tensor([0, 2.0]).sin()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_channels": 48}, "multiple of 32"),
        ({"num_heads": -1}, "num_heads or num_head_channels"),
        ({"num_heads": 3}, "heads of"),
        ({"num_classes": 3, "vector_dim": 4}, "one of them"),
        ({"num_res_blocks": (1, 2, 3)}, "one value for each of the 2 levels"),
        ({"patch_size": 0}, "1 or more"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**changes)


def test_head_widths() -> None:
    odd = {"context_dim": 8, "num_head_channels": 24}
    assert tiny(**odd).heads(1) == (2, 32)
    assert tiny(**odd, legacy=False).heads(1) == (2, 24)
    assert tiny().heads(1) == (2, 32)


def test_yaml_settings() -> None:
    params = dict(in_channels=4, out_channels=4, model_channels=32, channel_mult=[1], num_heads=1, image_size=8)
    plain = from_compvis(params | {"context_dim": 8})
    assert plain.context_dim is None and plain.channel_mult == (1,)
    assert from_compvis(params | {"context_dim": [8], "use_spatial_transformer": True}).context_dim == 8
    vector = from_compvis(params | {"num_classes": "sequential", "adm_in_channels": 7, "use_new_attention_order": True})
    assert (vector.vector_dim, vector.num_classes, vector.new_attention_order) == (7, None, True)
    with pytest.raises(ConfigError, match="warp"):
        from_compvis(params | {"warp": 9})


def test_inputs_that_do_not_fit_are_named() -> None:
    x, time = torch.randn(1, 4, 8, 8), torch.tensor(1.0)
    plain, told = UNet(tiny()), UNet(tiny(context_dim=8, vector_dim=6))
    with pytest.raises(ShapeError, match=r"\[batch, 4, height, width\]"):
        plain(x[:, :3], time)
    with pytest.raises(ShapeError, match="takes no context"):
        plain(x, time, torch.randn(1, 2, 8))
    with pytest.raises(ShapeError, match="takes no y"):
        plain(x, time, y=torch.randn(1, 6))
    with pytest.raises(ShapeError, match="needs a context"):
        told(x, time, y=torch.randn(1, 6))
    with pytest.raises(ShapeError, match=r"\[batch, tokens, 8\]"):
        told(x, time, torch.randn(1, 2, 9), torch.randn(1, 6))
    with pytest.raises(ShapeError, match=r"\[batch, 6\]"):
        told(x, time, torch.randn(1, 2, 8), torch.randn(1, 7))


def test_settings_of_other_layouts_change_what_they_should() -> None:
    x, time, context = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 700.0]), torch.randn(2, 5, 8)
    told = {"context_dim": 8, "attention_resolutions": (1, 2)}
    base = filled(tiny(**told))
    plain = base(x, time, context)
    changes = [{"norm_eps": 0.1}, {"time_shift": 1.0}, {"sine_first": True}, {"norm_groups": 16}, {"num_heads": (1, 4)}]
    for change in changes:
        other = UNet(tiny(**(told | change))).eval()
        other.load_state_dict(base.state_dict())
        assert not torch.allclose(other(x, time, context), plain), change
    bare = filled(tiny(**told, middle_attention=False))
    assert isinstance(bare.middle_block[1], torch.nn.Identity) and bare(x, time, context).isfinite().all()
    fraction = UNet(tiny(model_channels=16, channel_mult=(1, 1.5), norm_groups=8, num_heads=4))
    assert fraction.config.widths == (16, 24) and fraction.middle_block[0].in_layers[2].in_channels == 24
    one_sided = filled(tiny(one_sided_downsample=True))
    assert one_sided(x, time).shape == x.shape and one_sided.input_blocks[2][0].op.padding == (0, 0)


def test_transformers_that_only_look_at_the_context() -> None:
    config = tiny(context_dim=8, attention_resolutions=(1, 2), disable_self_attentions=(True, False))
    network = filled(config)
    first, second = (network.input_blocks[i][1].transformer_blocks[0].attn1.to_k for i in (1, 3))
    assert (first.in_features, second.in_features) == (8, 64)
    assert network(torch.randn(1, 4, 8, 8), torch.tensor(1.0), torch.randn(1, 3, 8)).shape == (1, 4, 8, 8)
    params = dict(in_channels=4, out_channels=4, model_channels=32, channel_mult=[1], num_heads=1, context_dim=8)
    read = from_compvis(params | {"use_spatial_transformer": True, "disable_self_attentions": [True]})
    assert read.disable_self_attentions == (True,)
