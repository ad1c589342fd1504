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


@pytest.mark.parametrize("norm", ["spectral", "spectral_batch"])
def test_spectral_norm_as_a_module_around_layers(norm: str, tmp_path: Path) -> None:
    """VQFR's names."""
    critic = PatchGAN(PatchGANConfig(in_channels=3, ndf=2, n_layers=2, norm=norm))
    critic.train()(torch.randn(3, 3, 24, 24))
    names = {"parametrizations.weight.original": "weight_bar", **dict(list(NAMES.items())[1:])}
    state = {}
    for name, tensor in critic.state_dict().items():
        new = next((name.replace(ours, f"module.{theirs}") for ours, theirs in names.items() if ours in name), name)
        is_layer = f"{name.removesuffix('.bias')}.parametrizations.weight.original" in critic.state_dict()
        state[name.replace(".bias", ".module.bias") if is_layer else new] = tensor
    opened, x = load(written({"params": state}, tmp_path / "net_d_local.pth")), torch.randn(2, 3, 24, 30)
    assert opened.config == critic.config and torch.equal(opened(x), critic.eval()(x))


@pytest.mark.parametrize("norm", ["batch", "instance", "identity", "spectral"])
@pytest.mark.parametrize("place", ["model.", "module.model.", "discriminator.main.", "loss.discriminator.main."])
def test_patchgans_go_by_other_names_too(place: str, norm: str, tmp_path: Path) -> None:
    critic = PatchGAN(PatchGANConfig(in_channels=6, ndf=2, n_layers=2, norm=norm)).eval()
    state = {name.replace("main.", place, 1): t for name, t in older(critic.state_dict()).items()}
    opened, x = load(written(state, tmp_path / "latest_net_D.pth")), torch.randn(2, 6, 24, 30)
    assert opened.config == critic.config and torch.equal(opened(x), critic(x))


def test_a_row_of_other_convolutions_is_no_patchgan(tmp_path: Path) -> None:
    state = {f"model.{i}.weight": torch.zeros(4, 4, 3, 3) for i in (0, 2, 4)}
    with pytest.raises(UnknownFamily, match="no family known"):
        load(written(state, tmp_path / "m.pth"))


def test_u_nets_come_back_under_both_namings(tmp_path: Path) -> None:
    critic, x = UNetCritic(UNetCriticConfig(in_channels=1, num_feat=2)).eval(), torch.randn(1, 1, 16, 9)
    for state in (critic.state_dict(), {"params": older(critic.state_dict())}):
        opened = load(written(state, tmp_path / "net_d.pth"))
        assert opened.config == critic.config and torch.equal(opened(x), critic(x))
    for config in ({"network_d": {"skip_connection": False}}, {"skip_connection": False}):
        without = load(tmp_path / "net_d.pth", config=config)
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


@pytest.mark.parametrize("dropout", [True, False])
def test_lpips_as_its_own_package_saves_it(dropout: bool, tmp_path: Path) -> None:
    """Every linear layer stands in it twice; without dropout they are the first in their row."""
    own = PerceptualLoss(PerceptualConfig(widths=(2, 2, 3, 3, 3)))
    state = dict(own.state_dict())
    for level in range(5):
        weight = state.pop(f"lin{level}.model.1.weight").uniform_()
        place = "model.1.weight" if dropout else "model.0.weight"
        state |= {f"lin{level}.{place}": weight, f"lins.{level}.{place}": weight}
    opened, (a, b) = load(written(state, tmp_path / "lpips.pth")), torch.rand(2, 1, 3, 16, 16)
    assert torch.equal(opened(a, b), own(a, b))


@pytest.mark.parametrize("features", [True, False])
@pytest.mark.parametrize(
    ("widths", "network"),
    [((64, 192, 384, 256, 256), "AlexNet"), ((64, 128, 256, 384, 384, 512, 512), "SqueezeNet")],
)
def test_lpips_on_other_networks_is_named(
    features: bool, widths: tuple[int, ...], network: str, tmp_path: Path
) -> None:
    state = {f"lin{level}.model.1.weight": torch.zeros(1, width, 1, 1) for level, width in enumerate(widths)}
    if features:
        state["net.slice1.0.weight"] = torch.zeros(64, 3, 11, 11)
    with pytest.raises(CheckpointError, match=f"LPIPS on {network} .* expected LPIPS on VGG16"):
        load(written(state, tmp_path / "m.pth"))


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
