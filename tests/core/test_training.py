"""Trainers: each learns, stops, and goes on exactly where it stopped."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import KLConfig, VQConfig
from vitrail.core.checkpoints import load, save_model
from vitrail.core.diffusion.latent_diffusion import LatentDiffusionConfig, TableConfig
from vitrail.core.diffusion.unet import UNetConfig
from vitrail.core.errors import CheckpointError, ConfigError
from vitrail.core.losses.patchgan import PatchGANConfig
from vitrail.core.refine.rrdb import RefinerConfig
from vitrail.core.text.encoder import TextConfig
from vitrail.core.training import distributed
from vitrail.core.training.autoencoder import AutoencoderRecipe, AutoencoderTask
from vitrail.core.training.data import Example
from vitrail.core.training.diffusion import DiffusionRecipe, DiffusionTask
from vitrail.core.training.loop import Schedule, Task, train
from vitrail.core.training.prior import PriorRecipe, PriorTask
from vitrail.core.training.recipes import RECIPES, build_task, read_recipe
from vitrail.core.training.refiner import RefinerRecipe, RefinerTask

AUTOENCODER = AutoencoderConfig(
    ch=32,
    ch_mult=(1,),
    num_res_blocks=1,
    attn_resolutions=(),
    attn_type="none",
    resolution=16,
    z_channels=4,
    embed_dim=4,
    patch_size=4,
    bottleneck=VQConfig(codes=16, dim=4, legacy=False, ema=0.9, revive=0.03),
)
SCHEDULE = Schedule(steps=6, batch_size=4, warmup=1, precision="fp32")
CRITIC = PatchGANConfig(ndf=8, n_layers=1, norm="spectral")


@pytest.fixture
def examples(tmp_path: Path) -> list[Example]:
    made = []
    for i, (text, colour) in enumerate([("red apple", "red"), ("green leaf", "green"), ("blue sea", "blue")] * 2):
        path = tmp_path / f"{i}.png"
        picture = Image.new("RGB", (32, 32), "white")
        picture.paste(colour, (4 + i, 4, 24, 20))
        picture.save(path)
        style = ("flat", "mono")[i % 2]
        made.append(Example(path=path, text=text, keywords=("thing", "colour"), style=style))
    return made


def autoencoder(schedule: Schedule, examples: list[Example]) -> Task:
    recipe = AutoencoderRecipe(schedule=schedule, model=AUTOENCODER, critic=CRITIC, size=16, critic_from=0.5)
    return AutoencoderTask(recipe, examples)


def diffusion(
    schedule: Schedule,
    examples: list[Example],
    sketch_size: int | None = None,
    first: AutoencoderConfig = AUTOENCODER,
    **changes: Any,
) -> Task:
    unet = UNetConfig(
        in_channels=4,
        out_channels=4,
        model_channels=32,
        channel_mult=(1,),
        num_res_blocks=1,
        num_heads=2,
        context_dim=16,
        vector_dim=16,
        sketch_size=sketch_size,
        sketch_width=16,
    )
    model = LatentDiffusionConfig(
        unet=unet,
        table=TableConfig(kind="cosine", end=0.985),
        prediction="v",
        text=TextConfig(length=6, width=16, depth=1, heads=2, context_dim=16, vector_dim=16),
    )
    torch.manual_seed(0)
    recipe = DiffusionRecipe(schedule=schedule, model=model, size=16, **changes)
    return DiffusionTask(recipe, examples, Autoencoder(first))


def sketching(schedule: Schedule, examples: list[Example]) -> Task:
    return diffusion(schedule, examples, sketch_size=4, sketch_steps=2)


def refiner(schedule: Schedule, examples: list[Example]) -> Task:
    model = RefinerConfig(scale=2, num_feat=8, num_block=1, num_grow=4, base="bicubic")
    recipe = RefinerRecipe(schedule=schedule, model=model, critic=CRITIC, size=16, crop=16, critic_from=0.5)
    torch.manual_seed(0)
    return RefinerTask(recipe, examples, Autoencoder(AUTOENCODER))


def prior(schedule: Schedule, examples: list[Example], **changes: Any) -> PriorTask:
    settings = {"condition": "style", "pkeep": 0.9, **changes}
    recipe = PriorRecipe(schedule=schedule, width=16, depth=1, heads=2, size=16, **settings)
    torch.manual_seed(0)
    return PriorTask(recipe, examples, Autoencoder(AUTOENCODER))


TASKS: list[Callable[[Schedule, list[Example]], Task]] = [autoencoder, diffusion, sketching, refiner, prior]


def weights(task: Task) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, net in task.networks.items() for key, value in net.state_dict().items()}


@pytest.mark.parametrize("make", TASKS)
def test_a_stopped_run_goes_on_exactly_where_it_stopped(
    make: Callable[..., Task], examples: list[Example], tmp_path: Path
) -> None:
    whole, first, second = (make(SCHEDULE, examples) for _ in range(3))
    losses = [step.losses for step in train(whole, tmp_path / "whole")]
    with closing(train(first, tmp_path / "parts")) as steps:
        for step in steps:
            if step.step == 4:
                break
    resumed = list(train(second, tmp_path / "parts", resume=True))
    assert [step.step for step in resumed] == [5, 6]
    assert [step.losses for step in resumed] == losses[4:]
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(second)[name]), name
    for name, value in whole.ema.average.items():
        assert torch.equal(value, second.ema.average[name]), name


@pytest.mark.parametrize("make", TASKS)
def test_training_lowers_its_first_loss(make: Callable[..., Task], examples: list[Example], tmp_path: Path) -> None:
    task = make(replace(SCHEDULE, steps=40, learning_rate=3e-3), examples)
    losses = [next(iter(step.losses.values())) for step in train(task, tmp_path / "run")]
    assert sum(losses[-8:]) < 0.85 * sum(losses[:8])


def test_a_sketch_is_learnt_first_and_alone(examples: list[Example], tmp_path: Path) -> None:
    task = sketching(replace(SCHEDULE, weight_decay=0.0), examples)
    before = {name: value.clone() for name, value in weights(task).items()}
    steps = train(task, tmp_path / "run")
    assert [list(next(steps).losses) for _ in range(2)] == [["sketch"]] * 2
    changed = {name for name, value in weights(task).items() if not torch.equal(value, before[name])}
    assert changed and all(".network.sketch." in name or ".conditioner." in name for name in changed)
    assert sorted(next(steps).losses) == ["loss", "sketch"]
    steps.close()


def test_a_network_without_a_sketch_learns_none(examples: list[Example]) -> None:
    with pytest.raises(ConfigError, match="sketch_size"):
        diffusion(SCHEDULE, examples, sketch_steps=2)


@pytest.mark.parametrize("make", TASKS)
def test_what_is_exported_opens_again(make: Callable[..., Task], examples: list[Example], tmp_path: Path) -> None:
    task = make(SCHEDULE, examples)
    list(train(task, tmp_path / "run"))
    model = load(tmp_path / "run" / "model.safetensors")
    assert type(model) is type(task.networks[task.averaged])
    for name, value in model.state_dict().items():
        assert torch.allclose(value.float(), task.ema.average[name].float(), atol=2e-3), name


@pytest.mark.parametrize("make", TASKS)
def test_samples_are_pictures(make: Callable[..., Task], examples: list[Example]) -> None:
    pictures = make(SCHEDULE, examples).samples()
    assert pictures.ndim == 4 and pictures.shape[1] == 3 and bool(pictures.isfinite().all())


def test_a_continuous_latent_is_learnt_and_drawn_too(examples: list[Example]) -> None:
    task = diffusion(SCHEDULE, examples, first=replace(AUTOENCODER, bottleneck=KLConfig(), double_z=True))
    assert task.update(0)["loss"] > 0 and bool(task.samples().isfinite().all())


def test_an_earlier_run_is_not_overwritten(examples: list[Example], tmp_path: Path) -> None:
    list(train(autoencoder(SCHEDULE, examples), tmp_path / "run"))
    with pytest.raises(CheckpointError, match="--resume"):
        next(train(autoencoder(SCHEDULE, examples), tmp_path / "run"))


def test_a_state_of_another_model_is_refused(examples: list[Example], tmp_path: Path) -> None:
    list(train(autoencoder(SCHEDULE, examples), tmp_path / "run"))
    with pytest.raises(CheckpointError, match="another model"):
        next(train(refiner(SCHEDULE, examples), tmp_path / "run", resume=True))


def test_decoder_only_leaves_latents_as_they_are(examples: list[Example], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Autoencoder(AUTOENCODER)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = AutoencoderRecipe(schedule=SCHEDULE, model=AUTOENCODER, critic=CRITIC, size=16, decoder_only=True)
    list(train(AutoencoderTask(recipe, examples, model), tmp_path / "run"))
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"decoder", "post_quant_conv"}


@pytest.mark.parametrize("kind", RECIPES)
def test_the_shipped_recipes_can_be_read(kind: str) -> None:
    assert read_recipe(kind).schedule.steps > 100


@pytest.mark.parametrize("kind", RECIPES)
def test_training_goes_on_from_a_file_of_weights(kind: str, examples: list[Example], tmp_path: Path) -> None:
    make = {"autoencoder": autoencoder, "diffusion": diffusion, "refiner": refiner, "prior": prior}[kind]
    first = make(SCHEDULE, examples)
    list(train(first, tmp_path / "first"))
    torch.manual_seed(0)
    save_model(Autoencoder(AUTOENCODER), tmp_path / "ae.safetensors")
    second = build_task(
        first.recipe,
        examples,
        autoencoder=str(tmp_path / "ae.safetensors"),
        start_from=tmp_path / "first" / "model.safetensors",
    )
    begun = second.networks[second.averaged].state_dict()
    for name, value in load(tmp_path / "first" / "model.safetensors").state_dict().items():
        assert torch.equal(begun[name].float(), value.float()), name
    groups = second.optimizers[second.averaged].param_groups
    assert any(p.requires_grad for group in groups for p in group["params"])


def test_a_file_of_another_kind_is_no_start(examples: list[Example], tmp_path: Path) -> None:
    save_model(Autoencoder(AUTOENCODER), tmp_path / "ae.safetensors")
    recipe = refiner(SCHEDULE, examples).recipe
    file = tmp_path / "ae.safetensors"
    with pytest.raises(ConfigError, match="holds a model of class Autoencoder"):
        build_task(recipe, examples, autoencoder=str(file), start_from=file)


def test_a_broken_state_is_named(examples: list[Example], tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="state.pt is broken"):
        next(train(autoencoder(SCHEDULE, examples), tmp_path, resume=True))


def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="there is no cuda:99"):
        distributed.device("cuda:99")
