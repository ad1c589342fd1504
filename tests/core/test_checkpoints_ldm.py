"""Latent diffusion in one file: whatever is built, saved in that layout and opened again is the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import KLConfig, VQConfig
from vitrail.core.checkpoints import describe, load, save_model
from vitrail.core.checkpoints.families.ldm import bert_keys
from vitrail.core.checkpoints.keymap import translate
from vitrail.core.checkpoints.write_compvis import compvis_layout
from vitrail.core.diffusion.concat import Picture
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, TableConfig
from vitrail.core.diffusion.unet import UNetConfig
from vitrail.core.errors import CheckpointError, ConfigError
from vitrail.core.text.bert import BertConfig
from vitrail.core.text.conditioners import ClassConfig, EncodedConfig, RescalerConfig

VQ = AutoencoderConfig(
    ch=32, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), z_channels=3, embed_dim=3,
    bottleneck=VQConfig(codes=16, dim=3),
)  # fmt: skip
KL = replace(VQ, double_z=True, bottleneck=KLConfig())

networks = st.fixed_dictionaries(
    {
        "channel_mult": st.lists(st.sampled_from([1, 2]), min_size=1, max_size=3).map(tuple),
        "num_res_blocks": st.integers(1, 2),
        "attending": st.sets(st.integers(0, 2)),
        "num_heads": st.sampled_from([1, 2, 4]),
        "context_dim": st.sampled_from([None, 8]),
        "transformer_depth": st.integers(1, 2),
        "use_scale_shift_norm": st.booleans(),
        "resblock_updown": st.booleans(),
        "use_linear_in_transformer": st.booleans(),
        "extra": st.sampled_from([0, 3]),
        "num_heads_upsample": st.sampled_from([-1, 8]),
        "n_embed": st.sampled_from([None, 5]),
    }
)


def network(drawn: dict[str, Any]) -> UNetConfig:
    drawn = dict(drawn)
    levels, context = len(drawn["channel_mult"]), drawn["context_dim"]
    attending = tuple(sorted(2**level for level in drawn.pop("attending") if level < levels))
    plain = {} if context else {"transformer_depth": 1, "use_linear_in_transformer": False}
    drawn["resblock_updown"] &= levels > 1  # nothing else would show it
    inputs = 3 + drawn.pop("extra")
    return UNetConfig(
        in_channels=inputs, out_channels=3, model_channels=32, attention_resolutions=attending, **{**drawn, **plain}
    )


def said(config: LatentDiffusionConfig) -> dict[str, Any]:
    """What only the publisher's config says."""
    heads = {name: getattr(config.unet, name) for name in ("num_heads", "num_heads_upsample")}
    table, params = config.table, {"unet_config": {"params": heads}}
    ours = {"linear_start": table.start, "linear_end": table.end, "scale_factor": config.autoencoder.latent_scale[0]}
    return {"model": {"params": {**params, **ours, "parameterization": config.prediction}}}


def as_compvis_saves_it(model: LatentDiffusion, path: Path, *, averages: bool) -> None:
    state = {f"model.diffusion_model.{name}": tensor for name, tensor in model.network.state_dict().items()}
    if averages:
        for name, tensor in list(state.items()):
            state["model_ema." + name.removeprefix("model.").replace(".", "")] = tensor
            state[name] = torch.zeros_like(tensor)
        state |= {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(3)}
    state |= {f"first_stage_model.{name}": tensor for name, tensor in model.autoencoder.state_dict().items()}
    if model.conditioner is not None:
        told = {name.removeprefix("inner."): tensor for name, tensor in model.conditioner.state_dict().items()}
        state |= {f"cond_stage_model.{name}": tensor for name, tensor in told.items()}
    state |= {"betas": model.table.betas.float(), "first_stage_model.loss.logvar": torch.zeros(())}
    torch.save({"state_dict": state, "global_step": 1}, path)


@settings(max_examples=15, deadline=None)
@given(networks, st.booleans(), st.booleans(), st.sampled_from(["eps", "v"]), st.booleans())
def test_latent_diffusion_survives_compvis_layout(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: dict[str, Any],
    kl: bool,
    averages: bool,
    prediction: str,
    file: bool,
) -> None:
    unet = network(drawn)
    conditioner = ClassConfig(classes=4, width=8) if unet.context_dim else None
    if unet.context_dim is None and unet.in_channels > 3:
        other = replace(KL, in_channels=1, out_channels=1)
        conditioner = EncodedConfig(autoencoder=other) if kl else RescalerConfig(in_channels=5, out_channels=3)
    config = LatentDiffusionConfig(
        unet=unet,
        table=TableConfig(kind="scaled_linear", start=0.001, end=0.015),
        prediction=prediction,
        conditioner=conditioner,
        autoencoder=replace(KL if kl else VQ, latent_scale=(0.5,)),
    )
    torch.manual_seed(0)
    model = LatentDiffusion(config).eval()
    for parameter in model.network.parameters():
        nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("ldm") / "m.ckpt"
    as_compvis_saves_it(model, path, averages=averages)
    loaded = load(path, config=said(config), ema=None)
    assert loaded.config == config and not loaded.autoencoder.training
    x, context = torch.randn(1, unet.in_channels, 8, 8), None if unet.context_dim is None else torch.randn(1, 2, 8)
    with torch.no_grad():
        assert torch.equal(loaded.network(x, torch.tensor(3.0), context), model.network(x, torch.tensor(3.0), context))
    alone = describe(path, config={}, ema=None)
    assert alone["config"]["table"]["kind"] == "scaled_linear" and abs(alone["config"]["table"]["end"] - 0.015) < 1e-6
    assert ("model_ema" in alone["weights"]) == averages


def test_a_rescaler_without_weights_has_the_channels_that_the_network_stacks(tmp_path: Path) -> None:
    """Its config need not say them, as nothing in it depends on them."""
    unet = UNetConfig(in_channels=12, out_channels=3, model_channels=32, attention_resolutions=(), num_heads=1)
    config = LatentDiffusionConfig(unet=unet, conditioner=RescalerConfig(in_channels=9, stages=1), autoencoder=VQ)
    model = LatentDiffusion(config).eval()
    as_compvis_saves_it(model, tmp_path / "m.ckpt", averages=False)
    ends = {"unet_config": {"params": {"num_heads": 1}}}
    stage = {"target": "ldm.modules.encoders.modules.SpatialRescaler", "params": {"n_stages": 1}}
    loaded = load(tmp_path / "m.ckpt", config={"model": {"params": {"cond_stage_config": stage, **ends}}})
    assert loaded.config.conditioner == config.conditioner
    labels = torch.randint(9, (2, 8, 8))
    image = (labels[:, None] / 255 * 2 - 1).expand(-1, 3, -1, -1)
    assert loaded.stacked(Picture(image=image), torch.zeros(2, 3, 4, 4)).shape == (2, 9, 4, 4)


def test_a_vocabulary_beside_a_text_model_reads_its_prompts(tmp_path: Path) -> None:
    text = BertConfig(vocab=120, length=8, width=16, depth=1, heads=8, head_width=64)
    unet = UNetConfig(
        in_channels=3, out_channels=3, model_channels=32, num_res_blocks=1, attention_resolutions=(1,),
        channel_mult=(1,), num_heads=8, context_dim=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LatentDiffusion(LatentDiffusionConfig(unet=unet, autoencoder=KL, conditioner=text)).eval()
    torch.save({"state_dict": compvis_layout(model)[0]}, tmp_path / "model.ckpt")
    assert load(tmp_path / "model.ckpt").conditioner.tokenizer is None
    pieces = [f"[unused{i}]" for i in range(text.vocab)]
    pieces[0], pieces[100:103], pieces[5:8] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]"], ["red", "cat", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    found = load(tmp_path / "model.ckpt").conditioner
    ids = torch.tensor([[101, 5, 6, 7, 102, 0, 0, 0]])
    assert torch.equal(found.encode(["Red cats"]).context, model.conditioner(ids))


PLAIN = LatentDiffusionConfig(
    unet=UNetConfig(in_channels=3, out_channels=3, model_channels=32, num_res_blocks=1, channel_mult=(1,), num_heads=1),
    table=TableConfig(kind="scaled_linear", start=0.001, end=0.015),
    autoencoder=VQ,
)


def plain_file(path: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    as_compvis_saves_it(LatentDiffusion(replace(PLAIN, **changes)).eval(), path, averages=False)
    return path


@pytest.mark.parametrize(
    ("table", "known"),
    [
        (TableConfig(kind="linear", timesteps=50, start=0.001, end=0.02), True),
        (TableConfig(kind="sqrt", timesteps=50, start=1e-6, end=1e-3), True),
        (TableConfig(kind="cosine", timesteps=1000), True),
        (TableConfig(kind="cosine", timesteps=40, s=0.02), False),
        (TableConfig(kind="sigmoid", timesteps=40), False),
    ],
)
def test_noise_levels_come_from_the_file_where_no_config_says_them(
    table: TableConfig, known: bool, tmp_path: Path
) -> None:
    loaded = load(plain_file(tmp_path / "m.ckpt", table=table))
    assert loaded.config.table.kind == (table.kind if known else "betas")
    torch.testing.assert_close(loaded.table.sigmas, table.build().sigmas, rtol=1e-4, atol=0)
    save_model(loaded, tmp_path / "own.safetensors")
    assert torch.equal(load(tmp_path / "own.safetensors").table.sigmas, loaded.table.sigmas)


def test_a_whole_config_that_is_silent_means_its_networks_own_defaults(tmp_path: Path) -> None:
    """A text model's latent is scaled by .18215 where nothing is known; LatentDiffusion itself takes 1."""
    text = BertConfig(vocab=9, length=5, width=8, depth=1)
    unet = replace(PLAIN.unet, context_dim=8, num_heads=8)
    torch.manual_seed(0)
    model = LatentDiffusion(replace(PLAIN, unet=unet, conditioner=text)).eval()
    back = {new: old for old, new in bert_keys(text).items() if new is not None}
    named = translate(back, model.conditioner.state_dict())
    state = {f"cond_stage_model.{named[name]}": value for name, value in model.conditioner.state_dict().items()}
    model.conditioner = None
    as_compvis_saves_it(model, tmp_path / "m.ckpt", averages=False)
    state |= torch.load(tmp_path / "m.ckpt")["state_dict"]
    torch.save(state, tmp_path / "m.ckpt")
    for params, scale in (({}, 0.18215), ({"parameterization": "v"}, 0.18215), ({"unet_config": {"a": 1}}, 1.0)):
        config = load(tmp_path / "m.ckpt", config={"model": {"params": params}}).config
        assert config.autoencoder.latent_scale == (scale,)


def test_a_rescaler_is_as_often_applied_as_its_own_default_says(tmp_path: Path) -> None:
    conditioner = RescalerConfig(in_channels=5, out_channels=3)
    path = plain_file(tmp_path / "m.ckpt", unet=replace(PLAIN.unet, in_channels=6), conditioner=conditioner)
    for stage, stages in (({}, 2), ({"target": "x.SpatialRescaler"}, 1), ({"params": {"n_stages": 3}}, 3)):
        said = {"model": {"params": {"cond_stage_config": stage}}}
        assert load(path, config=said).config.conditioner.stages == stages


def test_the_first_stage_as_condition_is_told_from_another_autoencoder(tmp_path: Path) -> None:
    path = plain_file(tmp_path / "m.ckpt", unet=replace(PLAIN.unet, in_channels=6))
    state = torch.load(path)["state_dict"]
    twice = {name.replace("first_", "cond_"): tensor for name, tensor in state.items() if name.startswith("first_")}
    torch.save(state | twice, path)
    assert load(path).conditioner is None
    twice["cond_stage_model.encoder.conv_in.weight"] = twice["cond_stage_model.encoder.conv_in.weight"] + 1
    torch.save(state | twice, path)
    loaded, x = load(path), torch.rand(1, 3, 8, 8)
    assert loaded.config.conditioner == EncodedConfig(autoencoder=VQ)
    assert not torch.equal(loaded.conditioner(x), loaded.autoencoder.encode(x))
    assert torch.equal(loaded.stacked(Picture(image=x), x), loaded.conditioner.condition(x).concat)
    said = {"model": {"params": {"cond_stage_config": "__is_first_stage__"}}}
    assert load(path, config=said).conditioner is None


def test_heads_that_the_file_contradicts_are_named(tmp_path: Path) -> None:
    """96 channels in 3 heads of 32 are 96 wide as 8 heads are, 32 channels in 3 heads of 10 only 30."""
    unet = replace(PLAIN.unet, context_dim=8, num_heads=3, channel_mult=(1, 3), attention_resolutions=(1,))
    path = plain_file(tmp_path / "m.ckpt", unet=unet)
    said = {"model": {"params": {"unet_config": {"params": {"num_heads": 3}}}}}
    assert load(path, config=said).config.unet == unet
    with pytest.raises(CheckpointError, match="level 0 is 30 wide, but 8 heads of 4 make 32: .*num_heads"):
        load(path)


def test_a_network_that_scores_codes_makes_no_latent(tmp_path: Path) -> None:
    loaded = load(plain_file(tmp_path / "m.ckpt", unet=replace(PLAIN.unet, n_embed=16)))
    x = torch.randn(1, 3, 8, 8)
    assert loaded.network(x, torch.tensor(3.0)).shape == (1, 16, 8, 8)
    with pytest.raises(ConfigError, match="scores the codes"):
        loaded.denoise(x, torch.tensor(1.0))
    with pytest.raises(ConfigError, match="n_embed"):
        replace(PLAIN.unet, n_embed=0)
