"""The parts of a latent diffusion model as one function."""

import copy
from typing import Any

import pytest
import torch
from compvis_weights import unet_of
from golden_cases import case

from vitrail.core.config_io import from_dict, to_dict
from vitrail.core.diffusion.guidance import guided
from vitrail.core.diffusion.latent_diffusion import TABLES, LatentDiffusion, LatentDiffusionConfig, TableConfig
from vitrail.core.diffusion.schedules import NoiseTable
from vitrail.core.diffusion.unet_config import UNetConfig, from_compvis
from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.text.encoder import TextConfig
from vitrail.core.types import Condition

TEXT = TextConfig(vocab=("apple", "red"), styles=("3d",), length=3, width=8, heads=2, context_dim=8, vector_dim=6)


def unet(**changes: Any) -> UNetConfig:
    return UNetConfig(
        **(
            dict(in_channels=4, out_channels=4, model_channels=32, channel_mult=(1,), num_res_blocks=1, num_heads=1)
            | changes
        )
    )


def config(**changes: Any) -> LatentDiffusionConfig:
    parts = dict(
        unet=unet(context_dim=8, vector_dim=6), table=TableConfig(kind="cosine", end=0.98), prediction="v", text=TEXT
    )
    return LatentDiffusionConfig(**(parts | changes))


def awake(config: LatentDiffusionConfig) -> LatentDiffusion:
    torch.manual_seed(0)
    model = LatentDiffusion(config).eval()
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.normal_(std=0.1)
    return model


@torch.no_grad()
def test_denoise_is_x_minus_sigma_eps_of_the_reference() -> None:
    golden = case("ldm_uncond_vq4")
    params = golden.config["model"]["params"]
    table = TableConfig(kind="scaled_linear", start=params["linear_start"], end=params["linear_end"])
    model = LatentDiffusion(
        LatentDiffusionConfig(unet=from_compvis(params["unet_config"]["params"]), table=table)
    ).eval()
    model.network.load_state_dict(unet_of(golden))
    sigma = model.table.sigma(golden.tensors["in.t"])
    wide = sigma[:, None, None, None]
    x = golden.tensors["in.x"] * (1 + wide**2).sqrt()
    eps = (x - model.denoise(x, sigma)) / wide
    assert (eps - golden.tensors["out.eps"]).abs().max() <= 2 * golden.atol("out.eps")


@torch.no_grad()
def test_prompt_to_denoised_with_guidance() -> None:
    model = awake(config())
    x, sigma = torch.randn(2, 4, 5, 6), torch.tensor(2.0)
    cond, null = model.conditioner.encode(["red apple", "apple"], ["3d", None]), model.null(2)
    plain, other = model.denoise(x, sigma, cond), model.denoise(x, sigma, null)
    assert plain.shape == x.shape and not torch.allclose(plain, other)
    torch.testing.assert_close(guided(model.denoise, cond, null, 3.0)(x, sigma), other + 3 * (plain - other))


@torch.no_grad()
def test_concat_is_stacked_on_the_input() -> None:
    model = awake(config(unet=unet(in_channels=7), text=None))
    x, extra, sigma = torch.randn(2, 4, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor([1.0, 3.0])
    assert model.denoise(x, sigma, Condition(concat=extra)).shape == x.shape
    with pytest.raises(ShapeError, match="7"):
        model.denoise(x, sigma)


def test_a_model_without_text_has_no_null() -> None:
    model = LatentDiffusion(config(unet=unet(), text=None))
    assert model.conditioner is None and model.null(3) is None


def test_the_autoencoder_stays_outside() -> None:
    model = LatentDiffusion(config())
    model.autoencoder = torch.nn.Linear(1, 1)
    assert model.autoencoder is not None and not any(key.startswith("autoencoder") for key in model.state_dict())
    assert {key.split(".")[0] for key in model.state_dict()} == {"network", "conditioner"}
    assert copy.deepcopy(model).autoencoder is not model.autoencoder
    assert LatentDiffusion(config(), model.autoencoder).autoencoder is model.autoencoder


def test_config_round_trip() -> None:
    assert from_dict(LatentDiffusionConfig, to_dict(config())) == config()


@pytest.mark.parametrize("kind", TABLES)
def test_every_table_builds_and_its_sigmas_ascend(kind: Any) -> None:
    listed = {"betas": (0.1,) * 50} if kind == "betas" else {}
    table = TableConfig(kind=kind, timesteps=50, **listed).build()
    assert len(table.sigmas) == 50 and (table.sigmas.diff() > 0).all()
    assert table.flow == (kind == "flow")


@pytest.mark.parametrize("wrong", [{"kind": "betas"}, {"betas": (0.1,) * 4}, {"kind": "betas", "betas": (0.1,) * 3}])
def test_a_table_lists_as_many_betas_as_it_has_levels(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="betas"):
        TableConfig(**{"timesteps": 4, **wrong})


def test_table_settings_reach_the_table() -> None:
    assert TableConfig(kind="linear", start=0.1, end=0.2, timesteps=9).build().sigma_max == pytest.approx(
        NoiseTable.linear(9, 0.1, 0.2).sigma_max
    )
    assert TableConfig(kind="log", start=0.5, end=4.0).build().sigma_max == pytest.approx(4.0)
    assert TableConfig(kind="cosine", s=0.1, end=0.9).build().sigma_max == pytest.approx(
        NoiseTable.cosine(s=0.1, end=0.9).sigma_max
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction": "noise"}, "'noise'"),
        ({"prediction": "flow"}, "does not go with a cosine"),
        ({"table": TableConfig(kind="flow")}, "does not go with a flow"),
        ({"unet": unet(context_dim=9, vector_dim=6)}, "context_dim is 8, the network's 9"),
        ({"unet": unet(context_dim=8)}, "vector_dim is 6, the network's None"),
    ],
)
def test_parts_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_a_setting_that_a_table_lacks() -> None:
    with pytest.raises(ConfigError, match="cosine table of noise levels has no start"):
        TableConfig(kind="cosine", start=0.1)
    with pytest.raises(ConfigError, match="'warp'"):
        TableConfig(kind="warp")  # pyright: ignore[reportArgumentType]
