"""The U-Net critic against the reference's numbers, at any size, and learning."""

from pathlib import Path

import pytest
import torch
from golden_cases import case

from vitrail.core.checkpoints import load, save_model
from vitrail.core.config_io import from_dict, to_dict
from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.losses.adversarial import GAMES
from vitrail.core.losses.critics import CRITICS, CriticConfig, build_critic
from vitrail.core.losses.patchgan import PatchGANConfig
from vitrail.core.losses.unet_critic import UNetCritic, UNetCriticConfig
from vitrail.core.refine import Refiner, RefinerConfig, RefinerParts

TINY = {"patchgan": PatchGANConfig(ndf=4, n_layers=1, norm="spectral"), "unetcritic": UNetCriticConfig(num_feat=4)}


@torch.no_grad()
def test_logits_are_the_references() -> None:
    golden = case("unet_disc_sn")
    critic = load(golden.path / "net_d.pth")
    assert isinstance(critic, UNetCritic) and critic.config == UNetCriticConfig(num_feat=golden.config["num_feat"])
    golden.check("out.logits", critic(golden.tensors["in.x"] * 2 - 1))


def test_every_pixel_gets_a_logit_at_any_size() -> None:
    critic = UNetCritic(UNetCriticConfig(num_feat=2)).eval()
    for size in ((1, 1), (7, 30), (16, 24), (41, 33)):
        logits, activations = critic.features(torch.randn(2, 3, *size))
        assert logits.shape == (2, 1, *size) and len(activations) == 9


@pytest.mark.parametrize("skip", [True, False])
def test_without_skips_the_way_up_knows_only_the_bottom(skip: bool) -> None:
    torch.manual_seed(0)
    critic = UNetCritic(UNetCriticConfig(num_feat=2, skip_connection=skip)).eval()
    critic.conv3.register_forward_hook(lambda *parts: torch.zeros_like(parts[2]))
    assert bool(critic(torch.randn(1, 3, 16, 16)).std() > 1e-4) is skip


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("game", GAMES)
def test_every_critic_learns_every_game(name: str, game: str) -> None:
    torch.manual_seed(0)
    critic = build_critic(TINY[name])
    optimizer = torch.optim.Adam(critic.parameters(), 2e-3)
    losses = []
    for _ in range(50):
        loss = GAMES[game].critic(critic(torch.randn(4, 3, 8, 8)), critic(torch.full((4, 3, 8, 8), 0.1)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("name", CRITICS)
def test_critics_of_every_kind_survive_json_in_a_refiners_config(name: str) -> None:
    parts = RefinerParts(generator=RefinerConfig(), discriminator=TINY[name])
    assert from_dict(RefinerParts, to_dict(parts)) == parts
    assert to_dict(parts)["discriminator"]["kind"] == name


@pytest.mark.parametrize("config", [*TINY.values(), PatchGANConfig(ndf=4, n_layers=1, norm="act")])
@torch.no_grad()
def test_critics_of_every_kind_are_kept_with_their_refiner(config: CriticConfig, tmp_path: Path) -> None:
    refiner = Refiner(RefinerConfig(num_feat=4, num_block=1, num_grow=2), config)
    refiner.discriminator.train()(torch.randn(2, 3, 16, 16))
    save_model(refiner.eval(), tmp_path / "refiner.safetensors")
    opened, image = load(tmp_path / "refiner.safetensors"), torch.rand(2, 3, 16, 16)
    assert opened.discriminator_config == config
    assert torch.equal(opened.realism(image), refiner.realism(image))


def test_a_critic_that_names_no_kind_is_a_patchgan() -> None:
    data = {"generator": {}, "discriminator": {"ndf": 8}}
    assert from_dict(RefinerParts, data).discriminator == PatchGANConfig(ndf=8)


def test_what_is_no_critic_is_refused() -> None:
    with pytest.raises(ConfigError, match="patchgan, unetcritic"):
        build_critic(RefinerConfig())  # pyright: ignore[reportArgumentType]
    for wrong in ({"num_feat": 0}, {"in_channels": 0}):
        with pytest.raises(ConfigError, match="at least 1"):
            UNetCriticConfig(**wrong)
    for shape in ((1, 4, 8, 8), (3, 8, 8)):
        with pytest.raises(ShapeError, match="expected"):
            UNetCritic(UNetCriticConfig(num_feat=2))(torch.zeros(shape))
