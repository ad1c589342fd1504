"""Critics and LPIPS as files, and inside the training files of autoencoders."""

from pathlib import Path

import pytest
import torch
from golden_cases import case
from torch import Tensor, nn

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import VQConfig
from vitrail.core.checkpoints import describe, load, load_perceptual, save_model
from vitrail.core.errors import CheckpointError, UnknownFamily
from vitrail.core.losses.patchgan import NORMS, PatchGAN, PatchGANConfig
from vitrail.core.losses.perceptual import PerceptualConfig, PerceptualLoss
from vitrail.core.losses.unet_critic import UNetCritic, UNetCriticConfig

AUTOENCODER = AutoencoderConfig(
    ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), z_channels=4, embed_dim=4,
    bottleneck=VQConfig(codes=8, dim=4),
)  # fmt: skip
NAMES = {
    "parametrizations.weight.original": "weight_orig",
    "parametrizations.weight.0._u": "weight_u",
    "parametrizations.weight.0._v": "weight_v",
}


def written(state: dict[str, Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


def older(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of spectral norm before torch had parametrizations."""
    renamed = {}
    for name, tensor in state.items():
        for new, old in NAMES.items():
            name = name.replace(new, old)
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n_layers", [1, 3])
def test_patchgans_come_back_whatever_their_norm(norm: str, n_layers: int, tmp_path: Path) -> None:
    critic = PatchGAN(PatchGANConfig(in_channels=4, ndf=2, n_layers=n_layers, norm=norm))
    critic.train()(torch.randn(3, 4, 24, 24))
    x = torch.randn(2, 4, 24, 30)
    for state in (critic.state_dict(), older(critic.state_dict())):
        opened = load(written(state, tmp_path / "disc.pth"))
        assert opened.config == critic.config and not opened.training
        assert torch.equal(opened(x), critic.eval()(x))


def test_u_nets_come_back_under_both_namings(tmp_path: Path) -> None:
    critic, x = UNetCritic(UNetCriticConfig(in_channels=1, num_feat=2)).eval(), torch.randn(1, 1, 16, 9)
    for state in (critic.state_dict(), {"params": older(critic.state_dict())}):
        opened = load(written(state, tmp_path / "net_d.pth"))
        assert opened.config == critic.config and torch.equal(opened(x), critic(x))
    without = load(tmp_path / "net_d.pth", config={"network_d": {"skip_connection": False}})
    assert not torch.equal(without(x), critic(x))


@pytest.mark.parametrize("name", ["patchgan_bn", "patchgan_actnorm"])
@torch.no_grad()
def test_tamings_critics_give_the_references_logits(name: str) -> None:
    golden = case(name)
    assert describe(golden.path / "disc.pth")["kind"] == "discriminator"
    golden.check("out.logits_x_eval", load(golden.path / "disc.pth")(golden.tensors["in.x"]))


def test_lpips_is_of_the_kind_perceptual() -> None:
    found = describe(case("lpips_narrow").path / "lpips.pth")
    assert (found["family"], found["kind"]) == ("lpips", "perceptual")


def test_linear_layers_alone_say_what_is_missing(tmp_path: Path) -> None:
    state = {f"lin{level}.model.1.weight": torch.zeros(1, 4, 1, 1) for level in range(5)}
    with pytest.raises(CheckpointError, match="without VGG16"):
        load(written(state, tmp_path / "vgg.pth"))


@pytest.fixture(scope="module")
def training() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "": Autoencoder(AUTOENCODER),
        "loss.discriminator.": PatchGAN(PatchGANConfig(ndf=2, n_layers=1)),
        "loss.perceptual_loss.": PerceptualLoss(PerceptualConfig(widths=(2, 2, 3, 3, 3))),
    }


@pytest.fixture
def training_file(training: dict[str, nn.Module], tmp_path: Path) -> Path:
    state = {prefix + name: t for prefix, part in training.items() for name, t in part.state_dict().items()}
    return written({"state_dict": state}, tmp_path / "last.ckpt")


def test_an_autoencoder_brings_the_critic_of_its_training(training: dict[str, nn.Module], training_file: Path) -> None:
    model, x = load(training_file), torch.randn(1, 3, 16, 16)
    critic = training["loss.discriminator."].eval()
    assert torch.equal(model.discriminator(x), critic(x))
    assert not any(name.startswith("discriminator") for name in model.state_dict())
    assert load(training_file, dtype=torch.float16).discriminator.main[0].weight.dtype == torch.float16


def test_an_autoencoder_without_a_critic_has_none(training_file: Path, tmp_path: Path) -> None:
    model = load(training_file)
    save_model(model, tmp_path / "plain.safetensors")
    assert load(tmp_path / "plain.safetensors").discriminator is None


def test_a_critic_that_is_no_number_does_not_spoil_its_autoencoder(training_file: Path) -> None:
    state = torch.load(training_file, weights_only=True)
    state["state_dict"]["loss.discriminator.main.0.weight"].fill_(torch.nan)
    written(state, training_file)
    assert load(training_file).discriminator is None


def test_lpips_is_found_in_both_places(training: dict[str, nn.Module], training_file: Path, tmp_path: Path) -> None:
    own = training["loss.perceptual_loss."]
    alone = written(own.state_dict(), tmp_path / "lpips.pth")
    a, b = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    for path in (alone, training_file):
        assert torch.equal(load_perceptual(path)(a, b), own(a, b))
    critic = written(training["loss.discriminator."].state_dict(), tmp_path / "disc.pth")
    with pytest.raises(UnknownFamily, match="holds no LPIPS"):
        load_perceptual(critic)
