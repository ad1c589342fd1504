"""The autoencoder gives the reference's numbers, forwards and backwards, and refuses what does not fit."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from golden_cases import Case, case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import KLConfig, VQConfig
from vitrail.core.checkpoints import load
from vitrail.core.checkpoints.read import read_header, read_tensors
from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.losses.adversarial import adaptive_weight, hinge_discriminator, hinge_generator
from vitrail.core.losses.patchgan import PatchGAN, PatchGANConfig
from vitrail.core.nn.pad import crop, pad_to

VQ_CASES = ("taming_vq_f4_n256", "taming_vq_nonsquare", "taming_vq_seg_in5", "ldm_vq_f4", "ldm_vq_f8_vqmodel")
SMALL = AutoencoderConfig(
    ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(16,), resolution=32, z_channels=4, embed_dim=4,
    bottleneck=VQConfig(codes=16, dim=4),
)  # fmt: skip


def opened(name: str) -> tuple[Case, Autoencoder]:
    golden = case(name)
    return golden, load(golden.path / "model.ckpt", config=golden.config)


@pytest.mark.parametrize("name", VQ_CASES)
@torch.no_grad()
def test_vq_autoencoders_give_the_references_numbers(name: str) -> None:
    golden, model = opened(name)
    x = golden.tensors["in.x"]
    golden.check("out.h_encoder", model.encoder(x))
    z = model.encode(x)
    golden.check("out.h_prequant", z)
    quantized = model.quantize(z)
    golden.check("out.indices", quantized.indices.flatten())
    golden.check("out.quant", quantized.latent)
    golden.check("out.quant_loss", quantized.loss)
    golden.check("out.decoded", model.decode(quantized.latent))
    golden.check("out.decoded", model(x)[0])
    codes = golden.tensors["in.codes"].view_as(quantized.indices)
    golden.check("out.decoded_from_codes", model.decode(model.lookup(codes)))


@torch.no_grad()
def test_a_latent_is_decoded_as_it_is_or_quantised_first() -> None:
    golden, model = opened("ldm_vq_f4")
    golden.check("out.decoded_noquant", model.decode(model.encode(golden.tensors["in.x"])))
    golden.check("out.decoded_z", model.decode(model.quantize(golden.tensors["in.z"]).latent))


@torch.no_grad()
def test_kl_autoencoders_give_the_references_numbers() -> None:
    golden, model = opened("ldm_kl_f4")
    x = golden.tensors["in.x"]
    golden.check("out.moments", model.quant_conv(model.encoder(x)))
    mean, logvar = model.moments(x)
    golden.check("out.mean", mean)
    golden.check("out.logvar", logvar)
    golden.check("out.kl", model.quantize.kl(mean, logvar))
    sample = mean + (logvar / 2).exp() * golden.tensors["in.noise"]
    golden.check("out.sample", sample)
    golden.check("out.decoded_mean", model.decode(model.encode(x)))
    golden.check("out.decoded_sample", model.decode(sample))
    golden.check("out.decoded_z", model.decode(golden.tensors["in.z"]))


def critic_of(state: dict[str, Tensor]) -> PatchGAN:
    """The discriminator among the training leftovers of a checkpoint."""
    critic, prefix = PatchGAN(PatchGANConfig(ndf=8, n_layers=2)), "loss.discriminator."
    critic.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return critic


def perceptual(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """LPIPS over a narrow VGG, [B, 1, 1, 1]. Source: Zhang et al. 2018, eq. 1."""
    shift, scale = weights["scaling_layer.shift"], weights["scaling_layer.scale"]
    pair, total = torch.cat([(x - shift) / scale, (y - shift) / scale]), torch.zeros(())
    for level, layers in enumerate(((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))):
        pair = F.max_pool2d(pair, 2) if level else pair
        for i in layers:
            key = f"net.slice{level + 1}.{i}"
            pair = F.conv2d(pair, weights[f"{key}.weight"], weights[f"{key}.bias"], padding=1).relu()
        a, b = (pair / (pair.square().sum(1, keepdim=True).sqrt() + 1e-10)).chunk(2)
        total = total + F.conv2d((a - b).square(), weights[f"lin{level}.model.1.weight"]).mean((2, 3), keepdim=True)
    return total


def test_a_step_of_taming_training_has_the_references_losses_and_gradients() -> None:
    """Reconstruction, perceptual distance, critic with its adaptive weight and codebook term, through the quantiser."""
    golden, model = opened("taming_vq_f4_n256")
    state = {name: tensor.float() for name, tensor in read_tensors(read_header(golden.path / "model.ckpt")).items()}
    vgg = {name.removeprefix("loss.perceptual_loss."): tensor for name, tensor in state.items()}
    critic = critic_of(state)
    x = golden.tensors["in.x"]
    y, quantized = model.train()(x)
    distance = perceptual(vgg, x, y)
    reconstruction = ((x - y).abs() + distance).mean()
    fooling = hinge_generator(critic.train()(y))
    weight = adaptive_weight(reconstruction, fooling, model.decoder.conv_out.weight) * 0.8
    total = reconstruction + weight * fooling + quantized.loss
    total.backward()
    for name, value in {
        "quant_loss": quantized.loss, "nll_loss": reconstruction, "p_loss": distance.mean(), "g_loss": fooling,
        "d_weight": weight, "total_loss": total,
    }.items():  # fmt: skip
        golden.check(f"out.ae.{name}", value.detach())
    golden.check("out.grad_conv_out", model.decoder.conv_out.weight.grad)
    golden.check("out.grad_conv_in", model.encoder.conv_in.weight.grad)
    golden.check("out.grad_codebook", model.quantize.embedding.weight.grad)


@torch.no_grad()
def test_the_critic_in_a_checkpoint_gives_the_references_verdict() -> None:
    golden, model = opened("taming_vq_f4_n256")
    state = read_tensors(read_header(golden.path / "model.ckpt"))
    critic = critic_of(state)
    x = golden.tensors["in.x"]
    y = model(x)[0]
    real, fake = critic.train()(x), critic(y)
    golden.check("out.disc.disc_loss", hinge_discriminator(real, fake))
    critic = critic_of(state).eval()
    golden.check("out.disc_logits_real_eval", critic(x))
    golden.check("out.disc_logits_fake_eval", critic(y))


@pytest.mark.parametrize("patch_size", [1, 2])
@pytest.mark.parametrize("levels", [(1,), (1, 2), (1, 1, 2)])
@torch.no_grad()
def test_shapes_follow_the_config(patch_size: int, levels: tuple[int, ...]) -> None:
    config = replace(SMALL, patch_size=patch_size, ch_mult=levels, in_channels=4, out_channels=2)
    model = Autoencoder(config).eval()
    factor = model.factor
    assert factor == patch_size * 2 ** (len(levels) - 1)
    z = model.encode(torch.randn(2, 4, 8 * factor, 4 * factor))
    assert z.shape == (2, 4, 8, 4)
    quantized = model.quantize(z)
    assert model.decode(quantized.latent).shape == (2, 2, 8 * factor, 4 * factor)
    assert torch.equal(model.lookup(quantized.indices), quantized.latent)
    assert model.codebook.shape == (16, 4) and model.codebook.dtype == torch.float32


def test_the_scale_has_an_inverse_and_is_per_channel() -> None:
    model = Autoencoder(replace(SMALL, latent_shift=(1.0, 2.0, 3.0, 4.0), latent_scale=(0.5,)))
    z = torch.randn(2, 4, 3, 3)
    assert torch.allclose(model.scale(z)[:, 1], (z[:, 1] - 2.0) * 0.5)
    assert torch.allclose(model.unscale(model.scale(z)), z, atol=1e-6)


def test_kl_has_no_codes_and_vq_no_posterior() -> None:
    kl = Autoencoder(replace(SMALL, double_z=True, bottleneck=KLConfig())).eval()
    x = torch.randn(1, 3, 8, 8)
    assert kl.codebook is None
    with pytest.raises(ConfigError, match="no codebook"):
        kl.lookup(torch.zeros(1, 4, 4, dtype=torch.int64))
    with pytest.raises(ConfigError, match="codebook, not a posterior"):
        Autoencoder(SMALL).moments(x)
    first, same, other = (kl.encode(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(kl.encode(x), kl.moments(x)[0])


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 4, 8, 8), "3"), ((1, 3, 9, 8), "multiples of 2"), ((3, 8, 8), "batch")]
)
def test_pictures_that_do_not_fit_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Autoencoder(SMALL).encode(torch.zeros(shape))


def test_latents_of_another_autoencoder_are_refused() -> None:
    with pytest.raises(ShapeError, match="another autoencoder"):
        Autoencoder(SMALL).decode(torch.zeros(1, 5, 2, 2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"ch": 0},
        {"ch_mult": ()},
        {"attn_type": "flash"},
        {"resolution": 0},
        {"latent_scale": (1.0, 2.0)},
        {"patch_size": 0},
    ],
)
def test_configs_that_do_not_go_together_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(SMALL, **wrong)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 4, 8, 16]))
def test_padding_is_undone_by_cropping(height: int, width: int, factor: int) -> None:
    x = torch.arange(float(height * width)).view(1, 1, height, width)
    padded, size = pad_to(x, factor)
    assert padded.shape[2] % factor == padded.shape[3] % factor == 0
    assert padded.shape[2] - height < factor and padded.shape[3] - width < factor
    assert torch.equal(crop(padded, size), x)
    assert padded.unique().numel() == x.unique().numel()


def test_autoencoders_of_other_layouts() -> None:
    config = AutoencoderConfig(
        ch=16, ch_mult=(1, 1.5), num_res_blocks=1, attn_resolutions=(128,), z_channels=4, embed_dim=4, norm_groups=8,
        mid_attention=False, quant_conv=False, bottleneck=VQConfig(codes=8, dim=4),
    )  # fmt: skip
    model = Autoencoder(config).eval()
    assert config.widths == (16, 24) and model.encoder.conv_out.in_channels == 24
    names = set(model.state_dict())
    assert "encoder.mid.attn_1.q.weight" not in names and "encoder.down.1.attn.0.q.weight" in names
    assert not any("quant_conv" in name for name in names)
    assert {m.num_groups for m in model.modules() if isinstance(m, torch.nn.GroupNorm)} == {8}
    with torch.no_grad():
        assert model.decode(model.encode(torch.rand(1, 3, 4, 6))).shape == (1, 3, 4, 6)
    with pytest.raises(ConfigError, match="z_channels"):
        replace(config, z_channels=5)
    with pytest.raises(ConfigError, match="groups"):
        replace(config, norm_groups=7)
