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
from vitrail.core.checkpoints import describe, load
from vitrail.core.checkpoints.write_compvis import compvis_layout
from vitrail.core.diffusion.concat import Picture
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, TableConfig
from vitrail.core.diffusion.unet import UNetConfig
from vitrail.core.text.bert import BertConfig
from vitrail.core.text.conditioners import ClassConfig, RescalerConfig

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
    table, params = config.table, {"unet_config": {"params": {"num_heads": config.unet.num_heads}}}
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
        state |= {f"cond_stage_model.{name}": tensor for name, tensor in model.conditioner.state_dict().items()}
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
        conditioner = RescalerConfig(in_channels=5, out_channels=3)
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
