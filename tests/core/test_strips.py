"""In strips an autoencoder gives the numbers of the whole picture, whatever the sizes."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.autoencoders.strip_sources import Held, Plan
from vitrail.core.autoencoders.strips import SMALLEST, StripStep, drained
from vitrail.core.bottlenecks import FSQConfig, KLConfig, VQConfig
from vitrail.core.errors import ConfigError
from vitrail.core.nn.pad import pad_to

PLAIN = AutoencoderConfig(
    ch=16, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), resolution=32, z_channels=4, embed_dim=4,
    bottleneck=VQConfig(codes=16, dim=4),
)  # fmt: skip
CONFIGS = {
    "vq": PLAIN,
    "kl": replace(PLAIN, double_z=True, bottleneck=KLConfig()),
    "three levels, attention on two": replace(PLAIN, ch_mult=(1, 1, 2), num_res_blocks=2, attn_resolutions=(8, 16)),
    "attention at full size": replace(PLAIN, attn_resolutions=(32,)),
    "no attention, patches": replace(PLAIN, attn_type="none", patch_size=2),
    "linear attention, no convolutions between levels, tanh": replace(
        PLAIN, ch_mult=(1, 2, 2), attn_type="linear", resamp_with_conv=False, tanh_out=True
    ),
    "one level, patches": replace(PLAIN, ch_mult=(2,), patch_size=2),
    "odd ones": replace(
        PLAIN,
        ch_mult=(1, 1.5),
        decoder_blocks=1,
        last_activation=False,
        norm_groups=8,
        mid_attention=False,
        quant_conv=False,
        bottleneck=FSQConfig(levels=(5, 5, 5, 5)),
    ),
    "bilinear": replace(PLAIN, ch_mult=(1, 2, 1.5), attn_resolutions=(16,), resampling="bilinear"),
    "bilinear, no middle": replace(
        PLAIN,
        attn_type="none",
        resampling="bilinear",
        middle=False,
        quant_conv=False,
        z_channels=32,
        embed_dim=32,
        bottleneck=VQConfig(codes=16, dim=32),
    ),
    "attention in the decoder alone": replace(PLAIN, attn_type="none", decoder_attn_type="vanilla"),
}


def made(config: AutoencoderConfig) -> Autoencoder:
    """Random weights whose activations are far from unit variance and zero mean."""
    torch.manual_seed(0)
    model = Autoencoder(config).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if not name.startswith("quantize"):
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


MODELS = {name: made(config) for name, config in CONFIGS.items()}


ROUNDING = 1e-4
"""Of the range: norms over the few numbers of a tiny picture enlarge what rounds otherwise; at most 3.3e-5 was seen."""


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def off(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the expected range."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return float((found - expected).abs().max() / (expected.max() - expected.min()))


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=12, deadline=None)
@given(height=st.integers(2, 75), width=st.integers(2, 40), strip=st.integers(1, 90), batch=st.integers(1, 2))
def test_strips_are_the_whole_picture(name: str, height: int, width: int, strip: int, batch: int) -> None:
    model = MODELS[name]
    x, _ = pad_to(noise(batch, 3, height, width), model.factor * 2)
    z = model.encode(x)
    assert off(model.encode(x, strip=strip), z) < ROUNDING
    assert off(model.decode(z, strip=strip), model.decode(z)) < ROUNDING


@pytest.mark.parametrize("strip", [8, 24])
def test_codes_are_the_same(strip: int) -> None:
    model = MODELS["vq"]
    x = noise(2, 3, 96, 64)
    whole, strips = (model.quantize(model.encode(x, strip=height)).indices for height in (0, strip))
    assert torch.equal(whole, strips) and len(whole.unique()) > 4


def test_a_sample_of_the_posterior_takes_the_same_noise() -> None:
    model, x = MODELS["kl"], noise(2, 3, 48, 32)
    whole, strips = (model.encode(x, torch.Generator().manual_seed(2), strip=strip) for strip in (0, 16))
    assert off(strips, whole) < 1e-5


def test_a_mean_far_above_the_spread_costs_no_digits() -> None:
    """Sums of squares in float32 would be off by far more than what is asked here."""
    model = made(PLAIN)
    model.encoder.conv_in.bias += 300.0
    x = noise(1, 3, 96, 32) * 0.1
    exact = model.double().encode(x.double())
    model.float()
    whole, strips = model.encode(x), model.encode(x, strip=8)
    assert off(strips.double(), exact) < 3 * off(whole.double(), exact) < 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_as_the_whole_is(dtype: torch.dtype) -> None:
    x = noise(1, 3, 64, 48)
    exact, model = MODELS["vq"].encode(x), made(PLAIN).to(dtype)
    whole, strips = model.encode(x.to(dtype)), model.encode(x.to(dtype), strip=16)
    assert strips.dtype == dtype
    assert off(strips.float(), exact) < 2 * off(whole.float(), exact) + 1e-3 < 0.1
    z = whole
    exact = MODELS["vq"].decode(z.float())
    assert off(model.decode(z, strip=16).float(), exact) < 2 * off(model.decode(z).float(), exact) + 1e-3 < 0.1


@pytest.mark.parametrize("name", ["vq", "bilinear, no middle"])
def test_the_input_is_left_alone_and_no_graph_is_kept(name: str) -> None:
    model = made(CONFIGS[name]).requires_grad_(True)
    x = noise(1, 3, 64, 16)
    before, z = x.clone(), model.encode(x, strip=8).contiguous(memory_format=torch.channels_last)
    kept = z.clone()
    assert not z.requires_grad and not model.decode(z, strip=8).requires_grad
    assert torch.equal(x, before) and torch.equal(z, kept)


def test_strips_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="-8 pixels high; expected at least 1"):
        MODELS["vq"].encode(noise(1, 3, 16, 16), strip=-8)


def test_what_was_read_for_the_last_time_goes_over_to_the_result() -> None:
    plan = Plan(SMALLEST, finest=64)
    x = drained(plan.hold(Held([noise(1, 2, 64, 5)], 64), Held([], SMALLEST)))
    memory = {strip.data_ptr() for strip in x.strips}

    def reaching(a: int, b: int) -> Tensor:
        return x.rows(max(a - 1, 0), min(b + 1, 64))[:, :, min(a, 1) :][:, :, : b - a] + 1

    class Plus:
        height, rows = 64, staticmethod(reaching)

    out = drained(plan.hold(Plus(), x))
    assert torch.equal(out.rows(0, 64), noise(1, 2, 64, 5) + 1)
    assert not x.strips and memory == {strip.data_ptr() for strip in out.strips}


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=6, deadline=None)
@given(height=st.integers(2, 75), strip=st.integers(1, 90), batch=st.integers(1, 2))
def test_steps_count_to_their_total(name: str, height: int, strip: int, batch: int) -> None:
    model = MODELS[name]
    x, _ = pad_to(noise(batch, 3, height, 8), model.factor * 2)
    z = model.encode(x)
    for steps in (model.encode_steps(x, strip=strip), model.decode_steps(z, strip=strip)):
        found = list(steps)
        assert len(found) > 1
        assert found == [StripStep(done, len(found)) for done in range(1, len(found) + 1)]


def test_whoever_stops_in_mid_picture_leaves_nothing() -> None:
    model = MODELS["vq"]
    x = noise(1, 3, 64, 16).requires_grad_(True)
    z = model.encode(x).detach()
    for steps, given_one in ((model.encode_steps(x, strip=8), x), (model.decode_steps(z, strip=8), z)):
        assert torch.is_grad_enabled()
        before = {id(t) for t in gc.get_objects() if type(t) is Tensor}
        kept: list[weakref.ref[Tensor]] = []
        for step in steps:
            assert torch.is_grad_enabled()
            if step.done > step.total // 2:
                kept = [weakref.ref(t) for t in gc.get_objects() if type(t) is Tensor and id(t) not in before]
                break
        steps.close()
        alive = [one for one in (ref() for ref in kept) if one is not None and one is not given_one and one is not x]
        assert kept and not alive
