"""Trainers with every bottleneck, critic, game and extra loss."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bottleneck_cases import WITH_CODES
from PIL import Image

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import BOTTLENECKS, BottleneckConfig, KLConfig, VQConfig
from vitrail.core.checkpoints import load
from vitrail.core.config_io import from_dict, to_dict
from vitrail.core.errors import ConfigError
from vitrail.core.losses.adversarial import GAMES
from vitrail.core.losses.critics import CRITICS
from vitrail.core.losses.patchgan import PatchGANConfig
from vitrail.core.losses.perceptual import PerceptualConfig, PerceptualLoss
from vitrail.core.losses.unet_critic import UNetCriticConfig
from vitrail.core.nn.actnorm import ActNorm
from vitrail.core.refine import RefinerConfig
from vitrail.core.training.adversary import Rules
from vitrail.core.training.autoencoder import AutoencoderRecipe, AutoencoderTask
from vitrail.core.training.data import Example, Pictures
from vitrail.core.training.evaluation import autoencoder_figures
from vitrail.core.training.loop import Schedule, train
from vitrail.core.training.refiner import RefinerRecipe, RefinerTask

EVERY: dict[str, BottleneckConfig] = {**WITH_CODES, "kl": KLConfig()}
CRITIC_CONFIGS = {
    "patchgan": PatchGANConfig(ndf=4, n_layers=1, norm="act"),
    "unetcritic": UNetCriticConfig(num_feat=4),
}
SCHEDULE = Schedule(steps=30, batch_size=4, warmup=1, learning_rate=5e-3, precision="fp32", decay_from=1.0)


def model_with(bottleneck: BottleneckConfig) -> AutoencoderConfig:
    return AutoencoderConfig(
        ch=32,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=(),
        attn_type="none",
        resolution=16,
        z_channels=4,
        embed_dim=4,
        patch_size=4,
        double_z=isinstance(bottleneck, KLConfig),
        bottleneck=bottleneck,
    )


@pytest.fixture
def examples(tmp_path: Path) -> Iterator[list[Example]]:
    made = []
    for i, colour in enumerate(("red", "green", "blue", "black")):
        picture = Image.new("RGB", (32, 32), "white")
        picture.paste(colour, (4 + i, 4, 24, 20))
        picture.save(tmp_path / f"{i}.png")
        made.append(Example(path=tmp_path / f"{i}.png", text=colour))
    yield made


def task_of(
    examples: list[Example], bottleneck: BottleneckConfig = WITH_CODES["vq"], **changes: object
) -> AutoencoderTask:
    settings = {"schedule": SCHEDULE, "model": model_with(bottleneck), "critic": CRITIC_CONFIGS["patchgan"], "size": 16}
    return AutoencoderTask(AutoencoderRecipe(**{**settings, "critic_from": 1.0, **changes}), examples)


def test_every_bottleneck_and_critic_is_covered() -> None:
    assert set(EVERY) == set(BOTTLENECKS) and set(CRITIC_CONFIGS) == set(CRITICS)


@pytest.mark.parametrize("name", EVERY)
def test_every_bottleneck_learns(name: str, examples: list[Example], tmp_path: Path) -> None:
    task = task_of(examples, EVERY[name])
    losses = [step.losses["l1"] for step in train(task, tmp_path / "run")]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert load(tmp_path / "run" / "model.safetensors").config.bottleneck == EVERY[name]


@pytest.mark.parametrize("name", EVERY)
def test_every_recipe_survives_json(name: str) -> None:
    recipe = AutoencoderRecipe(
        model=model_with(EVERY[name]), critic=CRITIC_CONFIGS["unetcritic"], rules=Rules(game="vanilla")
    )
    assert from_dict(AutoencoderRecipe, to_dict(recipe)) == recipe


@pytest.mark.parametrize("name", EVERY)
def test_the_decoder_alone_learns_behind_every_bottleneck(name: str, examples: list[Example], tmp_path: Path) -> None:
    task = task_of(examples, EVERY[name], decoder_only=True, schedule=replace(SCHEDULE, steps=4))
    before = {key: value.clone() for key, value in task.model.state_dict().items()}
    list(train(task, tmp_path / "run"))
    changed = {
        key.split(".")[0] for key, value in task.model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {"decoder", "post_quant_conv"}


@pytest.mark.parametrize("name", EVERY)
def test_figures_count_the_codes_of_every_bottleneck(name: str, examples: list[Example]) -> None:
    torch.manual_seed(0)
    model = Autoencoder(model_with(EVERY[name])).eval()
    found = autoencoder_figures(model, [replace(example, split="test") for example in examples], 16)
    x = Pictures(examples, 16).batch(range(4))
    quantized = model(x)[1]
    assert torch.equal(model.rounded(model.encode(x)), quantized.latent)
    if quantized.indices is None:
        assert found["codes_used_percent"] == 0
        return
    levels = quantized.indices.reshape(4, 4, 4, -1).unbind(-1)
    used = sum(len(level.unique()) for level in levels) / len(levels)
    assert found["codes_used_held_out_percent"] == pytest.approx(100 * used / model.codebook_size)


def test_gumbel_cools_with_the_run(examples: list[Example]) -> None:
    task = task_of(examples, EVERY["gumbel"])
    temperatures = []
    for step in (0, 15, 29):
        task.update(step)
        temperatures.append(task.model.quantize.temperature)
    assert temperatures[0] == 1.0 > temperatures[1] > temperatures[2] > 1 / 16


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("critic", CRITICS)
def test_every_game_is_played_with_every_critic(
    game: str, critic: str, examples: list[Example], tmp_path: Path
) -> None:
    rules = Rules(game=game, lecam_weight=0.1, r1_weight=1.0, r1_every=2)
    task = task_of(
        examples, critic=CRITIC_CONFIGS[critic], critic_from=0.0, rules=rules, schedule=replace(SCHEDULE, steps=4)
    )
    before = {key: value.clone() for key, value in task.critic.state_dict().items()}
    for step in train(task, tmp_path / "run"):
        assert {"fooling", "features", "critic"} <= set(step.losses)
        assert all(torch.tensor(value).isfinite() for value in step.losses.values())
    assert any(not torch.equal(value, before[key]) for key, value in task.critic.state_dict().items())
    assert all(module.initialized for module in task.critic.modules() if isinstance(module, ActNorm))
    assert task.adversary.averages.started


def test_the_extra_terms_are_what_their_functions_say(examples: list[Example]) -> None:
    torch.manual_seed(0)
    made, truth = (torch.rand(2, 3, 16, 16) * 2 - 1 for _ in range(2))
    plain = task_of(examples, critic=PatchGANConfig(ndf=4, n_layers=1, norm="none"))
    losses = {}
    for name, rules in {"": Rules(), "r1": Rules(r1_weight=2.0), "lecam": Rules(lecam_weight=3.0)}.items():
        plain.adversary.rules = rules
        losses[name] = plain.adversary.loss(made, truth, 16).item()
    x = truth.clone().requires_grad_()
    slope = torch.autograd.grad(plain.critic(x).flatten(1).mean(1).sum(), x)[0]
    penalty = slope.square().flatten(1).sum(1).mean().item() / 2
    assert losses["r1"] - losses[""] == pytest.approx(2 * 16 * penalty, rel=1e-3)
    plain.adversary.rules = Rules(r1_weight=2.0)
    assert plain.adversary.loss(made, truth, 17).item() == pytest.approx(losses[""])
    real, fake = plain.critic(truth), plain.critic(made)
    apart = ((real - fake.mean()).square().mean() + (fake - real.mean()).square().mean()).item()
    assert losses["lecam"] - losses[""] == pytest.approx(3 * apart, rel=1e-3)


def test_a_run_with_averages_goes_on_where_it_stopped(examples: list[Example], tmp_path: Path) -> None:
    changes = {"critic_from": 0.0, "rules": Rules(lecam_weight=1.0), "schedule": replace(SCHEDULE, steps=6)}
    whole, first, second = (task_of(examples, **changes) for _ in range(3))
    losses = [step.losses for step in train(whole, tmp_path / "whole")]
    with closing(train(first, tmp_path / "parts")) as steps:
        for step in steps:
            if step.step == 3:
                break
    assert [step.losses for step in train(second, tmp_path / "parts", resume=True)] == losses[3:]


def test_a_refiner_plays_esrgans_game(examples: list[Example], tmp_path: Path) -> None:
    recipe = RefinerRecipe(
        schedule=replace(SCHEDULE, steps=4),
        model=RefinerConfig(scale=2, num_feat=8, num_block=1, num_grow=4, base="bicubic"),
        critic=UNetCriticConfig(num_feat=4),
        size=16,
        crop=16,
        critic_from=0.0,
        rules=Rules(game="relativistic", r1_weight=0.1),
    )
    task = RefinerTask(recipe, examples, Autoencoder(model_with(VQConfig(codes=16, dim=4))))
    for step in train(task, tmp_path / "run"):
        assert all(torch.tensor(value).isfinite() for value in step.losses.values())
    assert load(tmp_path / "run" / "model.safetensors").discriminator_config == recipe.critic


def test_lpips_joins_where_a_file_is_given(examples: list[Example], tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(PerceptualLoss(PerceptualConfig(widths=(2, 2, 2, 2, 2))).state_dict(), tmp_path / "lpips.pth")
    schedule = replace(SCHEDULE, steps=3)
    plain, seen = (
        task_of(examples, schedule=schedule, **extra)
        for extra in ({}, {"perceptual": str(tmp_path / "lpips.pth"), "perceptual_weight": 5.0})
    )
    losses = [list(train(task, tmp_path / name)) for task, name in ((plain, "plain"), (seen, "seen"))]
    assert losses[0][0].losses.items() < losses[1][0].losses.items()
    assert losses[1][0].losses["perceptual"] != 0
    assert losses[0][2].losses["l1"] != losses[1][2].losses["l1"]


@pytest.mark.parametrize("wrong", [{"game": "chess"}, {"lecam_weight": -1.0}, {"r1_weight": -1.0}, {"r1_every": 0}])
def test_rules_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected|must be"):
        Rules(**wrong)
