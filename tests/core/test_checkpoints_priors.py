"""Priors in taming-transformers' files: whatever is built, saved in that layout and opened again is the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import GumbelConfig, VQConfig
from vitrail.core.checkpoints import describe, load, save_model
from vitrail.core.errors import CheckpointError, ConfigError, ShapeError
from vitrail.core.priors import Prior, PriorConfig, sample
from vitrail.core.priors.conditions import (
    CoordinateConfig,
    LabelConfig,
    PictureConfig,
    StartConfig,
    TokensConfig,
)
from vitrail.core.priors.gpt import GPTConfig

CODES = AutoencoderConfig(
    ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), attn_type="none", z_channels=4, embed_dim=4,
    bottleneck=VQConfig(codes=20, dim=4),
)  # fmt: skip


def prior(**settings: Any) -> Prior:
    torch.manual_seed(0)
    model = Prior(PriorConfig(**settings)).eval()
    assert model.autoencoder is not None
    model.autoencoder.eval()
    with torch.no_grad():
        model.transformer.pos_emb.normal_()
        model.transformer.head.weight.normal_()
    return model


def drawn(*arguments: Any, **options: Any) -> Tensor:
    *_, last = sample(*arguments, **options)
    return last.codes


CONDITIONS = {
    "start": (StartConfig(token=2), {"cond_stage_config": "__is_unconditional__", "sos_token": 2}),
    "label": (
        LabelConfig(classes=9),
        {"cond_stage_config": {"target": "taming.modules.util.Labelator", "params": {"n_classes": 9}}},
    ),
    "coordinates": (
        CoordinateConfig(codes=20, factor=2),
        {"cond_stage_config": {"target": "x.CoordStage", "params": {"n_embed": 20, "down_factor": 2}}},
    ),
    "one token": (
        StartConfig(token=3),
        {
            "cond_stage_config": {"target": "x.SOSProvider", "params": {"sos_token": 3}},
            "sos_token": 1,
        },
    ),
    "tokens": (
        TokensConfig(),
        {"cond_stage_config": {"target": "x.DummyCondStage"}},
    ),
    "first stage": (PictureConfig(), {"cond_stage_config": "__is_first_stage__"}),
    "picture": (PictureConfig(autoencoder=replace(CODES, in_channels=5, out_channels=5)), {}),
    "segments": (PictureConfig(autoencoder=replace(CODES, in_channels=6, out_channels=6, palette=True)), {}),
}


def as_taming_saves_it(model: Prior, path: Path) -> None:
    """A Net2NetTransformer's file, with masks and what training leaves."""
    config, state = model.config, {}
    for name, tensor in model.state_dict().items():
        state["permuter.forward_shuffle_idx" if name == "order" else name] = tensor
    for stage, inside in (("first_stage_model.", model.autoencoder), ("cond_stage_model.", model.told)):
        for name, tensor in inside.state_dict().items() if inside else ():
            state[stage + name.replace("palette.colours", "colorize")] = tensor
    if config.permuted:
        state["permuter.backward_shuffle_idx"] = model.order.argsort()
    block = config.transformer.block
    for i in range(config.transformer.depth):
        mask = torch.ones(block, block).tril()
        mask[: config.transformer.unmasked, : config.transformer.unmasked] = 1
        state[f"transformer.blocks.{i}.attn.mask"] = mask.view(1, 1, block, block)
    state["first_stage_model.loss.discriminator.main.0.weight"] = torch.zeros(2, 3, 4, 4)
    state["first_stage_model.colorize"] = torch.zeros(3, 5, 1, 1)
    torch.save({"state_dict": state, "epoch": 1}, path)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(sorted(CONDITIONS)), st.sampled_from([1, 2, 4]), st.integers(1, 3), st.sampled_from([0, 4]),
    st.sampled_from([0, 6]), st.sampled_from([None, 6]), st.booleans(),
)  # fmt: skip
def test_priors_survive_tamings_layout_and_ours(
    tmp_path_factory: pytest.TempPathFactory, told: str, heads: int, depth: int, unmasked: int, permuted: int,
    size: int | None, gumbel: bool,
) -> None:  # fmt: skip
    condition, options = CONDITIONS[told]
    sizes = GPTConfig(vocab=24, block=20, width=8 * heads, depth=depth, heads=heads, unmasked=unmasked)
    first = replace(CODES, bottleneck=GumbelConfig(codes=20, dim=4, kl_weight=1e-8)) if gumbel else CODES
    model = prior(transformer=sizes, autoencoder=first, condition=condition, permuted=permuted, condition_size=size)
    options = options | ({} if size is None else {"downsample_cond_size": size})
    folder = tmp_path_factory.mktemp("prior")
    as_taming_saves_it(model, folder / "m.ckpt")
    said = {"model": {"params": {"transformer_config": {"params": {"n_head": heads}}, **options}}}
    loaded = load(folder / "m.ckpt", config=said)
    assert loaded.config == model.config
    save_model(model, folder / "own.safetensors")
    assert describe(folder / "own.safetensors")["kind"] == "prior"
    codes, tokens = torch.randint(20, (2, 6)), torch.randint(9, (2, 3))
    for other in (loaded, load(folder / "own.safetensors")):
        assert other.config == model.config and not (other.training or other.autoencoder.training)
        assert torch.equal(other(codes, tokens), model(codes, tokens))
        assert torch.equal(other.picture(codes, (2, 3)), model.picture(codes, (2, 3)))


def test_a_gpt_alone_opens_without_an_autoencoder(tmp_path: Path) -> None:
    golden = case("gpt_small")
    assert describe(golden.path / "gpt.ckpt", config={"n_head": 4})["inferred"]["n_head"] == "the config"
    assert "taming" in describe(golden.path / "gpt.ckpt")["inferred"]["n_head"]
    model = load(golden.path / "gpt.ckpt", config={"n_head": 4})
    assert drawn(model, (4, 5), [0]).shape == (1, 4, 5)
    with pytest.raises(ConfigError, match="without its autoencoder"):
        model.picture(torch.zeros(1, 4, dtype=torch.int64))


def test_heads_are_what_the_config_or_tamings_own_default_says(tmp_path: Path) -> None:
    """Its GPT has 8 where a config is silent; its public priors, whose configs may be lost, have 16."""
    wide = prior(transformer=GPTConfig(vocab=24, block=20, width=32, depth=1, heads=8), autoencoder=CODES)
    as_taming_saves_it(wide, tmp_path / "m.ckpt")
    for config, heads in (({}, 16), ({"n_layer": 1}, 8), ({"n_head": 4}, 4)):
        said = {"model": {"params": {"transformer_config": {"params": config}}}}
        assert load(tmp_path / "m.ckpt", config=said).config.transformer.heads == heads
    narrow = prior(transformer=GPTConfig(vocab=24, block=20, width=12, depth=1, heads=4), autoencoder=CODES)
    as_taming_saves_it(narrow, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match="do not divide its width 12: .* n_head"):
        load(tmp_path / "m.ckpt")


def test_tokens_made_elsewhere_are_told_as_they_are() -> None:
    model = prior(transformer=GPTConfig(vocab=24, block=20, width=16, depth=1, heads=2), autoencoder=CODES,
                  condition=TokensConfig())  # fmt: skip
    boxes = torch.tensor([[3, 23, 0], [5, 5, 5]])
    assert torch.equal(model.tokens(boxes, 2, (2, 3)), boxes)
    assert drawn(model, (2, 3), [0, 1], condition=boxes).shape == (2, 2, 3)
    assert drawn(model, (6, 7), [0], condition=boxes[:1]).shape == (1, 6, 7)
    for wrong in (None, torch.rand(2, 3), torch.zeros(2, dtype=torch.int64)):
        with pytest.raises(ConfigError, match="int64"):
            model.tokens(wrong, 2, (2, 3))
    with pytest.raises(ShapeError, match="21 tokens of the condition"):
        drawn(model, (2, 3), [0], condition=torch.zeros(1, 21, dtype=torch.int64))


def test_a_condition_of_another_size_is_told_where_both_fill_the_block() -> None:
    """4 tokens of a condition that is half as large, and 16 codes: a transformer for 20 tokens learnt just that."""
    for block, fits in ((20, True), (19, True), (24, False)):
        sizes = GPTConfig(vocab=24, block=block, width=16, depth=1, heads=2)
        model = prior(transformer=sizes, autoencoder=CODES, condition=PictureConfig())
        half = torch.rand(1, 3, 4, 4)
        if fits:
            assert model.tokens(half, 1, (4, 4)).shape == (1, 4)
        else:
            with pytest.raises(ShapeError, match="covers 4 x 4 pixels"):
                model.tokens(half, 1, (4, 4))


def test_a_condition_is_made_small_first_where_the_config_says_so() -> None:
    settings: Any = {"transformer": GPTConfig(vocab=24, block=40, width=16, depth=1, heads=2), "autoencoder": CODES}
    small, whole = (prior(condition=PictureConfig(), condition_size=size, **settings) for size in (4, None))
    picture = torch.rand(1, 3, 8, 16) * 2 - 1
    assert torch.equal(small.tokens(picture, 1, (4, 4)), whole.tokens(picture[:, :, ::2, ::4], 1, (2, 2)))
    assert drawn(small, (4, 4), [0], condition=picture).shape == (1, 4, 4)
    assert drawn(small, (6, 7), [0], condition=picture).shape == (1, 6, 7)
    with pytest.raises(ConfigError, match="condition_size"):
        replace(small.config, condition_size=0)
