"""Layouts as diffusers and transformers write them: what lies about a network's weights, and what they read back."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import case
from safetensors.torch import load_file, save_file

from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import KLConfig
from vitrail.core.checkpoints import describe, load, save_model
from vitrail.core.checkpoints.convert import convert
from vitrail.core.checkpoints.read import read_header
from vitrail.core.checkpoints.write_compvis import compvis_layout
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from vitrail.core.diffusion.unet import UNet, UNetConfig
from vitrail.core.errors import CheckpointError, ConfigError
from vitrail.core.text.bert import BertConfig
from vitrail.core.text.byte_pairs import BytePairTokenizer, vocabulary_of
from vitrail.core.text.clip import ClipTextConfig
from vitrail.core.text.word_pieces import WordPieceTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"


def network(**changes: Any) -> UNetConfig:
    given: dict[str, Any] = dict(
        in_channels=4, out_channels=4, model_channels=8, channel_mult=(1, 2), num_res_blocks=1, norm_groups=4,
        attention_resolutions=(1, 2), num_heads=2, new_attention_order=True,
    )  # fmt: skip
    return UNetConfig(**given | changes)


@pytest.mark.parametrize("length", [640, 640 + 65536])
def test_a_header_whose_length_begins_like_a_pickle(length: int, tmp_path: Path) -> None:
    """80 02 begins a pickle, and a header of 640 bytes."""
    entry = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + entry.ljust(length) + b"\0\0\x80\x3f")
    assert read_header(path).value("x").tolist() == [1.0]


def test_attention_of_the_middle_always_looks_at_the_picture() -> None:
    """Neither CompVis's nor diffusers' settings of the levels reach it."""
    unet = UNet(network(context_dim=6, disable_self_attentions=(True, True)))
    assert unet.middle_block[1].transformer_blocks[0].attn1.to_k.in_features == 16
    assert unet.input_blocks[3][1].transformer_blocks[0].attn1.to_k.in_features == 6


def test_a_level_as_wide_as_its_context_attends_as_the_config_says(tmp_path: Path) -> None:
    config = network(context_dim=64, model_channels=32, norm_groups=32, disable_self_attentions=(True, True))
    state = {f"model.diffusion_model.{name}": value for name, value in UNet(config).state_dict().items()}
    save_file(state, tmp_path / "x.safetensors")
    said = {"disable_self_attentions": [True, True], "num_heads": 2}
    for params, expected in ((said, (True, True)), ({"num_heads": 2}, (True, False))):
        yaml = {"model": {"params": {"unet_config": {"params": params}}}}
        assert load(tmp_path / "x.safetensors", config=yaml).config.unet.disable_self_attentions == expected


def test_frequencies_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(ConfigError, match="time_shift is 1.0; expected less than half of model_channels 2"):
        network(model_channels=2, norm_groups=1, time_shift=1.0)


KL = AutoencoderConfig(
    ch=8, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, embed_dim=4, norm_groups=4, double_z=True,
    bottleneck=KLConfig(), attn_resolutions=(), resolution=256,
)  # fmt: skip


def words(pad: int, vocab: int = 514, end: int = 513) -> ClipTextConfig:
    return ClipTextConfig(vocab=vocab, length=9, width=8, inner=16, depth=2, heads=2, start=vocab - 2, end=end, pad=pad)


def clip_tokenizer() -> BytePairTokenizer:
    return BytePairTokenizer(vocabulary_of([]), [])


def with_text(pad: int, channels: int = 4, classes: int | None = None) -> LatentDiffusion:
    unet = network(context_dim=8, in_channels=channels, num_classes=classes)
    config = LatentDiffusionConfig(
        unet=unet, conditioner=words(pad), autoencoder=load(case("diffusers_kl").path).config
    )
    model = LatentDiffusion(config).eval()
    model.conditioner.tokenizer = clip_tokenizer()
    return model


def written(model: LatentDiffusion, tmp_path: Path) -> Path:
    """A model as a folder of diffusers, without training's zeros."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_model(model, tmp_path / "x.safetensors")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.json").write_text(json.dumps(clip_tokenizer().vocab))
    (tmp_path / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    convert(tmp_path / "x.safetensors", tmp_path / "folder", to="diffusers")
    return tmp_path / "folder"


def edited(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_follows_a_text_is_the_tokenizers_to_say(tmp_path: Path) -> None:
    folder = written(with_text(pad=0), tmp_path)
    assert json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text())["pad_token"] == "!"
    edited(folder / "text_encoder" / "config.json", pad_token_id=1)
    assert load(folder).config.conditioner.pad == 0
    assert load(folder / "text_encoder").config.pad == 0
    assert describe(folder)["inferred"]["pad_token_id"] == "the tokenizer's config"
    edited(folder / "tokenizer" / "tokenizer_config.json", pad_token={"content": END})
    assert load(folder).config.conditioner.pad == 513
    shutil.rmtree(folder / "tokenizer")
    assert load(folder).config.conditioner.pad == 513, "1 is what transformers writes where nobody chose"
    edited(folder / "text_encoder" / "config.json", pad_token_id=7)
    assert load(folder).config.conditioner.pad == 7


def test_a_tokenizers_config_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = written(with_text(pad=0), tmp_path)
    (folder / "tokenizer" / "tokenizer_config.json").write_text("[")
    with pytest.raises(ConfigError, match="the tokenizer's config in"):
        load(folder)


def test_a_part_knows_its_pipeline(tmp_path: Path) -> None:
    """The scheduler of the pipeline, and its vocabulary, though only a folder or file of a part is opened."""
    folder = written(with_text(pad=0), tmp_path)
    settings = {"prediction_type": "v_prediction", "beta_start": 0.002, "beta_end": 0.03, "beta_schedule": "sigmoid"}
    edited(folder / "scheduler" / "scheduler_config.json", **settings)
    for path in (folder / "unet", folder / "unet" / "diffusion_pytorch_model.safetensors"):
        config = load(path).config
        assert (config.prediction, config.table.kind, config.table.end) == ("v", "sigmoid", 0.03)
    assert load(folder / "text_encoder").tokenizer.vocab == clip_tokenizer().vocab
    (folder / "model_index.json").unlink()
    config = load(folder / "unet").config
    assert (config.prediction, config.table.end) == ("eps", 0.012)


def test_a_scheduler_that_leaves_its_betas_out_has_those_of_its_class(tmp_path: Path) -> None:
    folder = written(with_text(pad=0), tmp_path)
    file, found = folder / "scheduler" / "scheduler_config.json", {}
    for name in ("HeunDiscreteScheduler", "LCMScheduler", "PNDMScheduler"):
        file.write_text(json.dumps({"_class_name": name}))
        table = load(folder).config.table
        found[name] = (table.kind, table.start, table.end)
    assert found == {
        "HeunDiscreteScheduler": ("linear", 0.00085, 0.012),
        "LCMScheduler": ("scaled_linear", 0.00085, 0.012),
        "PNDMScheduler": ("linear", 0.0001, 0.02),
    }


@pytest.mark.parametrize("kind", ["CLIPImageProcessorPil", "CLIPTokenizerFast", "DPTForDepthEstimation"])
def test_parts_that_no_picture_needs_are_passed_over(kind: str, tmp_path: Path) -> None:
    folder = written(with_text(pad=0), tmp_path)
    edited(folder / "model_index.json", extra=["transformers", kind])
    assert load(folder).config.unet.context_dim == 8


@pytest.mark.parametrize(
    ("channels", "classes", "name"),
    [
        (4, None, "StableDiffusionPipeline"),
        (9, None, "StableDiffusionInpaintPipeline"),
        (7, 20, "StableDiffusionUpscalePipeline"),
    ],
)
def test_a_pipeline_of_the_right_kind_is_written(channels: int, classes: int, name: str, tmp_path: Path) -> None:
    folder = written(with_text(pad=0, channels=channels, classes=classes), tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == name and ("low_res_scheduler" in index) == (channels == 7)
    if diffusers := pytest.importorskip("diffusers"):
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
        assert type(pipeline).__name__ == name
        ids = pipeline.tokenizer("a", padding="max_length", max_length=9, truncation=True).input_ids
        ours = load(folder).conditioner
        assert torch.tensor(ids).tolist() == ours.config.frame.filled(ours.tokenizer.ids("a")).tolist()


def test_networks_without_a_text_are_written_as_pipelines_too(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    for name, channels, first in (("DDPMPipeline", 3, False), ("LDMSuperResolutionPipeline", 6, True)):
        unet = network(in_channels=channels, out_channels=3, num_heads=1)
        vq = load(case("diffusers_vqmodel_oldkeys").path).config if first else None
        save_model(LatentDiffusion(LatentDiffusionConfig(unet=unet, autoencoder=vq)), tmp_path / f"{name}.safetensors")
        convert(tmp_path / f"{name}.safetensors", tmp_path / name, to="diffusers")
        assert type(diffusers.DiffusionPipeline.from_pretrained(tmp_path / name)).__name__ == name


@pytest.mark.parametrize("to", ["vitrail", "diffusers"])
def test_a_vocabulary_goes_along(to: str, tmp_path: Path) -> None:
    vocab = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##b"])}
    bert = BertConfig(vocab=6, length=9, width=8, depth=1, heads=2, head_width=4, start=0, end=0)
    config = LatentDiffusionConfig(unet=network(context_dim=8), conditioner=bert, autoencoder=KL)
    model = LatentDiffusion(config)
    save_model(model, tmp_path / "x.safetensors")
    (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n")
    out = tmp_path / "new" / ("folder" if to == "diffusers" else "x.safetensors")
    files = convert(tmp_path / "x.safetensors", out, to=to)
    assert isinstance(read := load(out).conditioner.tokenizer, WordPieceTokenizer) and read.vocab == vocab
    if to == "vitrail":
        assert files == [out, tmp_path / "new" / "tokenizer" / "vocab.txt"]
        assert convert(tmp_path / "x.safetensors", tmp_path / "new" / "y.safetensors") == [
            out.with_name("y.safetensors")
        ]


def test_the_scale_of_an_autoencoder_alone_survives_compvis(tmp_path: Path) -> None:
    source = case("ldm_kl_f4")
    model = load(source.path / "model.ckpt", config=source.config, latent_scale=(0.5,), latent_shift=(0.25,))
    save_model(model, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="compvis")
    config = load(tmp_path / "b.safetensors").config
    assert (config.latent_scale, config.latent_shift) == ((0.5,), (0.25,))


def test_norms_that_look_at_the_latent_are_named(tmp_path: Path) -> None:
    shutil.copytree(case("diffusers_vqmodel").path, tmp_path / "m")
    weights = tmp_path / "m" / "diffusion_pytorch_model.safetensors"
    renamed = {
        name.replace(".norm1.", ".norm1.norm_layer.") if name.startswith("decoder.") else name: tensor
        for name, tensor in load_file(weights).items()
    }
    save_file(renamed, weights)
    edited(tmp_path / "m" / "config.json", norm_type="spatial")
    with pytest.raises(ConfigError, match="norm_type 'spatial'"):
        load(tmp_path / "m")


def test_attention_of_two_kinds_in_one_network_is_named(tmp_path: Path) -> None:
    folder = written(with_text(pad=0), tmp_path)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    names = load_file(weights)
    save_file(
        {n: t for n, t in names.items() if not n.startswith("down_blocks.0.attentions.")}
        | {f"down_blocks.0.attentions.0.{n}.weight": torch.zeros(8, 8) for n in ("to_q", "to_k", "to_v")},
        weights,
    )
    with pytest.raises(CheckpointError, match="plain attention beside attention to a context"):
        load(folder)


VISION = ("vision_model.embeddings.class_embedding", "visual_projection.weight", "text_projection.weight")
VISUAL = ("visual.conv1.weight", "visual.transformer.resblocks.0.attn.in_proj_weight", "text_projection")


@torch.no_grad()
def test_the_half_of_a_clip_model_that_looks_at_pictures_is_left_out(tmp_path: Path) -> None:
    source, ids = case("clip_text_quickgelu"), torch.arange(5)[None]
    settings = json.loads((source.path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "text_config": settings}))
    rest = {name: torch.randn(4, 4) for name in (*VISION, "logit_scale")}
    save_file(load_file(source.path / "model.safetensors") | rest, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path)(ids), load(source.path)(ids))


@torch.no_grad()
def test_the_same_of_open_clip(tmp_path: Path) -> None:
    config = replace(words(pad=0), activation="gelu")
    unet = {"norm_groups": 32, "model_channels": 32, "new_attention_order": False}
    whole = LatentDiffusion(LatentDiffusionConfig(unet=network(context_dim=8, **unet), conditioner=config)).eval()
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    beginning, (tensors, _) = "cond_stage_model.model.", compvis_layout(whole)
    text = {name.removeprefix(beginning): value for name, value in tensors.items() if name.startswith(beginning)}
    save_file(text | {name: torch.randn(4, 4) for name in VISUAL}, tmp_path / "open_clip_model.safetensors")
    model, ids = load(tmp_path / "open_clip_model.safetensors", config={"heads": 2}), torch.arange(5)[None]
    torch.testing.assert_close(model(ids), whole.conditioner(ids))


@torch.no_grad()
def test_the_heads_of_a_bert_survive_compvis(tmp_path: Path) -> None:
    bert = BertConfig(vocab=30, length=9, width=8, depth=1, heads=2, head_width=8, start=0, end=0)
    unet = network(context_dim=8, norm_groups=32, model_channels=32, new_attention_order=False)
    model = LatentDiffusion(LatentDiffusionConfig(unet=unet, conditioner=bert)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_model(model, tmp_path / "x.safetensors")
    convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors", to="compvis")
    ids = torch.arange(9)[None]
    assert torch.equal(load(tmp_path / "y.safetensors").conditioner(ids), model.conditioner(ids))
    settings = json.loads((tmp_path / "y.yaml").read_text())
    settings["model"]["params"]["cond_stage_config"]["heads"] = 3
    with pytest.raises(CheckpointError, match="attention over 16 channels has no 3 heads"):
        load(tmp_path / "y.safetensors", config=settings)


def test_the_network_of_stable_diffusion_xl_is_named(tmp_path: Path) -> None:
    folder = written(with_text(pad=0), tmp_path)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(weights) | {"add_embedding.linear_1.weight": torch.zeros(2, 2)}, weights)
    for path in (folder, folder / "unet", weights):
        with pytest.raises(CheckpointError, match="Stable Diffusion XL"):
            load(path)
