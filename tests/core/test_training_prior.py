"""The trainer of priors: codes learnt by heart come back, conditions tell, figures are those of the definition."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import KLConfig, ResidualConfig, VQConfig
from vitrail.core.checkpoints import companions, describe, load, save_model
from vitrail.core.checkpoints.convert import convert
from vitrail.core.errors import CheckpointError, ConfigError
from vitrail.core.priors import Prior, sample
from vitrail.core.priors.conditions import LabelConfig, StartConfig
from vitrail.core.training.data import Example, Pictures
from vitrail.core.training.loop import Schedule, train
from vitrail.core.training.prior import PriorRecipe, PriorTask
from vitrail.nodes import host
from vitrail.nodes.codes import VQDecode
from vitrail.nodes.condition import ClassCondition
from vitrail.nodes.loaders import LoadPrior
from vitrail.nodes.prior import SampleCodes

CODES = AutoencoderConfig(
    ch=32, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), attn_type="none", resolution=16, z_channels=4,
    embed_dim=4, patch_size=4, bottleneck=VQConfig(codes=16, dim=4),
)  # fmt: skip
SCHEDULE = Schedule(steps=80, batch_size=3, learning_rate=5e-3, warmup=5, ema=0.9, precision="fp32")


def tokenizer(config: AutoencoderConfig = CODES) -> Autoencoder:
    """An autoencoder whose codes tell pictures apart: its codebook lies among the latents."""
    torch.manual_seed(0)
    model = Autoencoder(config).eval()
    if isinstance(config.bottleneck, VQConfig):
        nn.init.normal_(model.quantize.embedding.weight, std=0.5)  # pyright: ignore
    return model


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    made, folder = [], tmp_path_factory.mktemp("pictures")
    for i, (text, colour) in enumerate([("apple", "red"), ("leaf", "green"), ("sea", "blue"), ("apple", "orange")]):
        path = folder / f"{i}.png"
        picture = Image.new("RGB", (16, 16), "white")
        picture.paste(colour, (2 * i, 2, 10, 12 - 2 * i))
        picture.save(path)
        made.append(Example(path=path, text=text, style="flat", split="train" if i < 3 else "held-out"))
    return made


def task(examples: list[Example], schedule: Schedule = SCHEDULE, **changes: Any) -> PriorTask:
    settings = {"width": 32, "depth": 2, "heads": 2, "size": 16, "condition": "text", "mirrored": 0.0, **changes}
    return PriorTask(PriorRecipe(schedule=schedule, **settings), examples, tokenizer())


@pytest.fixture(scope="module")
def trained(examples: list[Example], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    list(train(task(examples), folder))
    return folder / "model.safetensors"


def truth(examples: list[Example], model: Prior) -> torch.Tensor:
    return model.codes(Pictures(examples[:3], 16).batch(range(3))).view(3, 4, 4)


def test_pictures_learnt_by_heart_are_written_again(trained: Path, examples: list[Example]) -> None:
    model = load(trained)
    assert isinstance(model, Prior) and model.config.class_names == ("apple", "leaf", "sea")
    wanted = truth(examples, model)
    assert len({tuple(codes.flatten().tolist()) for codes in wanted}) == 3 and len(wanted.unique()) > 3
    *_, last = sample(model, (4, 4), [0, 1, 2], condition=torch.arange(3), temperature=0)
    assert torch.equal(last.codes, wanted)


def test_the_nodes_open_and_write_it(trained: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "find", lambda name, kind: trained.parent / name)
    model, vq_model = LoadPrior().execute(name=trained.name, dtype="auto", config="auto")
    (told,) = ClassCondition().execute(model, "sea")
    (codes,) = SampleCodes().execute(
        model, width=16, height=16, temperature=0.0, top_k=0, top_p=1.0, seed=0, conditioning=told
    )
    assert torch.equal(codes.indices[0], truth(examples, model)[2])
    (picture,) = VQDecode().execute(vq_model=vq_model, quantize=True, tile_size=0, codes=codes)
    assert picture.shape == (1, 16, 16, 3)


def test_its_file_names_the_autoencoder_beside_it(trained: Path, tmp_path: Path) -> None:
    beside = trained.with_name("autoencoder.safetensors")
    assert describe(trained)["notes"]["autoencoder"] == beside.name and beside in companions(trained)
    assert not any(name.startswith("autoencoder.") for name in load(trained).state_dict())
    (alone,) = convert(trained, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="needs its autoencoder autoencoder.safetensors"):
        load(alone)
    shutil.copy(beside, tmp_path)
    opened = load(alone)
    assert isinstance(opened, Prior) and opened.autoencoder_file == beside.name and opened.autoencoder is not None


def test_a_prior_with_its_autoencoder_inside_is_converted_with_it(examples: list[Example], tmp_path: Path) -> None:
    made = task(examples).model.half().float()
    whole = Prior(replace(made.config, autoencoder=CODES), tokenizer())
    whole.load_state_dict(made.state_dict())
    save_model(whole, tmp_path / "whole.safetensors")
    (out,) = convert(tmp_path / "whole.safetensors", tmp_path / "again.safetensors")
    again = load(out)
    assert isinstance(again, Prior) and again.autoencoder is not None
    for name, value in tokenizer().state_dict().items():
        assert torch.equal(again.autoencoder.state_dict()[name], value), name


def test_the_figures_are_bits_a_held_out_code(examples: list[Example]) -> None:
    made = task(examples)
    figures, codes = made.figures(), made.model.codes(Pictures(examples[3:], 16).batch([0]))
    scores = made.model(codes, torch.tensor([[0]]))
    nats = F.cross_entropy(scores.flatten(0, 1), codes.flatten()).detach()
    assert figures["held_out_bits"] == pytest.approx(float(nats) / 0.693147, abs=1e-3)
    seen = truth(examples, made.model).flatten().tolist()
    shares = torch.tensor([(seen.count(code) + 1) / (len(seen) + 16) for code in codes.flatten().tolist()])
    assert figures["unigram_bits"] == pytest.approx(float(-shares.log2().mean()), abs=1e-3)
    assert abs(figures["held_out_bits"] - 4) < 0.2, "before training every one of 16 codes is about as likely"


def test_the_figures_go_into_the_file(trained: Path) -> None:
    assert set(describe(trained)["notes"]) >= {"held_out_bits", "unigram_bits"}


def test_without_held_out_pictures_there_are_no_figures(examples: list[Example]) -> None:
    made = task(examples[:3])
    assert made.figures() == {} and made.samples().shape == (12, 3, 16, 16)


def test_a_class_that_training_never_saw_is_no_class(examples: list[Example]) -> None:
    made = task([*examples[:3], replace(examples[3], text="tree")])
    assert made.model.config.condition == LabelConfig(classes=3) and made.held_out == []


def test_a_prior_may_be_told_nothing(examples: list[Example]) -> None:
    made = task(examples[:1], replace(SCHEDULE, batch_size=1), condition=None)
    assert made.model.config.condition == StartConfig()
    for step in range(60):
        made.update(step)
    *_, last = sample(made.model, (4, 4), [0], temperature=0)
    assert torch.equal(last.codes.flatten(), made.codes[0, 0].long())


def test_more_classes_than_codes_have_tokens_too(examples: list[Example]) -> None:
    many = [replace(examples[0], text=f"thing {i}") for i in range(20)]
    made = task(many)
    assert made.model.config.transformer.vocab == 20 and made.update(0)["bits"] > 0
    *_, last = sample(made.model, (4, 4), [0], condition=torch.tensor([19]))
    assert int(last.codes.max()) < 16


def test_mirrored_pictures_are_encoded_too(examples: list[Example]) -> None:
    made = task(examples, mirrored=0.5)
    mirrored = made.model.codes(Pictures(examples[:3], 16).batch(range(3)).flip(3))
    assert torch.equal(made.codes[1].long(), mirrored) and not torch.equal(made.codes[0], made.codes[1])
    assert made.codes.dtype == torch.int16
    always = task(examples, mirrored=1.0).batch(0)[0]
    assert {tuple(row.tolist()) for row in always} == {tuple(row.tolist()) for row in mirrored}


def test_pkeep_corrupts_what_is_seen_not_what_is_told(examples: list[Example]) -> None:
    made = task(examples, pkeep=0.5)
    codes = torch.zeros(64, 16, dtype=torch.int64)
    changed = (made._corrupted(codes) != codes).double().mean()
    assert 0.4 < float(changed) < 0.54, "half of the codes are drawn anew, one in 16 of them as it was"
    assert torch.equal(task(examples)._corrupted(codes), codes)


def test_only_matrices_of_linear_layers_decay(examples: list[Example]) -> None:
    made = task(examples)
    decayed, kept = made.optimizers["prior"].param_groups
    names = {id(p): name for name, p in made.model.named_parameters()}
    assert decayed["weight_decay"] > 0 and kept["weight_decay"] == 0 and decayed["betas"] == (0.9, 0.95)
    found = {names[id(p)] for p in decayed["params"]}
    assert {name.split(".", 3)[-1] for name in found if "blocks" in name} == {
        "attn.key.weight", "attn.query.weight", "attn.value.weight", "attn.proj.weight", "mlp.0.weight", "mlp.2.weight"
    }  # fmt: skip
    assert len(decayed["params"]) + len(kept["params"]) == len(names)
    assert {name for name in found if "blocks" not in name} == {"transformer.head.weight"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"pkeep": 0.0}, "pkeep is 0.0"), ({"mirrored": 2.0}, "mirrored 2.0"), ({"condition": "size"}, "'size'")],
)
def test_a_wrong_recipe_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PriorRecipe(**settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bottleneck": KLConfig(), "double_z": True}, "no codebook"),
        ({"bottleneck": ResidualConfig(depth=2, book=VQConfig(codes=16, dim=4, legacy=False))}, "2 codes in each cell"),
    ],
)
def test_an_autoencoder_without_one_code_a_cell_is_refused(
    changes: dict[str, Any], message: str, examples: list[Example]
) -> None:
    with pytest.raises(ConfigError, match=message):
        PriorTask(PriorRecipe(size=16), examples, tokenizer(replace(CODES, **changes)))


def test_what_does_not_fit_is_named(examples: list[Example]) -> None:
    with pytest.raises(ConfigError, match="size is 18; expected a multiple of 4"):
        task(examples, size=18)
    with pytest.raises(ConfigError, match=r"0\.png has no style"):
        task([replace(examples[0], style=None)], condition="style")


def test_only_a_prior_of_these_codes_and_classes_goes_on(trained: Path, examples: list[Example]) -> None:
    model = load(trained)
    assert isinstance(model, Prior) and model.autoencoder is not None
    recipe = PriorRecipe(size=16, condition="text")
    with pytest.raises(ConfigError, match="told LabelConfig"):
        PriorTask(replace(recipe, condition=None), examples, tokenizer(), model)
    with pytest.raises(ConfigError, match="'other'"):
        PriorTask(recipe, [replace(e, text="other") for e in examples], tokenizer(), model)
    with pytest.raises(ConfigError, match="sees 16 at once; this run needs 16 and 64"):
        PriorTask(replace(recipe, size=32), examples, tokenizer(), model)
    stranger = tokenizer()
    nn.init.normal_(stranger.quantize.embedding.weight)  # pyright: ignore
    with pytest.raises(ConfigError, match="codes of another autoencoder"):
        PriorTask(recipe, examples, stranger, model)


def test_a_prior_that_names_no_classes_goes_on_with_as_many(examples: list[Example]) -> None:
    known = task(examples).model
    nameless = Prior(replace(known.config, class_names=()), tokenizer())
    made = PriorTask(PriorRecipe(size=16, condition="text"), examples, tokenizer(), nameless)
    assert made.model.config == known.config and made.update(0)["bits"] > 0
    fewer = Prior(replace(nameless.config, condition=LabelConfig(classes=2)), tokenizer())
    with pytest.raises(ConfigError, match="classes=2"):
        PriorTask(PriorRecipe(size=16, condition="text"), examples, tokenizer(), fewer)
