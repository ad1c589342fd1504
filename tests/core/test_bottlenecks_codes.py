"""What every bottleneck with codes promises, over the table of them, alone and in an autoencoder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bottleneck_cases import WITH_CODES
from torch import Tensor, nn

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import (
    BOTTLENECKS,
    FiniteScalarQuantizer,
    FSQConfig,
    LFQConfig,
    LookupFreeQuantizer,
    ResidualConfig,
    VQConfig,
    build_bottleneck,
)
from vitrail.core.checkpoints import load, save_model
from vitrail.core.codebook import level_usage, usage
from vitrail.core.codebook_views import VIEWS, Look, atlas
from vitrail.core.config_io import from_dict, to_dict
from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.types import Codes

every_name = pytest.mark.parametrize("name", WITH_CODES)


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomised(build_bottleneck(WITH_CODES[name]))


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.eval()


def autoencoder(name: str) -> Autoencoder:
    torch.manual_seed(0)
    config = AutoencoderConfig(
        ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), attn_type="none", z_channels=4, embed_dim=4,
        bottleneck=WITH_CODES[name],
    )  # fmt: skip
    model = Autoencoder(config)
    randomised(model.quantize)
    return model.eval().requires_grad_(False)


def latent(*, seed: int = 1, grad: bool = False) -> Tensor:
    """Vectors inside the box of the grid, where every bottleneck takes them."""
    return torch.empty(2, 4, 3, 5).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed)).requires_grad_(grad)


def test_every_bottleneck_but_the_continuous_one_is_covered() -> None:
    assert set(WITH_CODES) == set(BOTTLENECKS) - {"kl"}


@every_name
def test_the_latent_is_what_its_codes_look_up(name: str) -> None:
    bottleneck, levels = built(name), (3,) if name == "residual" else ()
    quantized = bottleneck(latent())
    assert quantized.indices.shape == (2, 3, 5, *levels) and quantized.indices.dtype == torch.int64
    assert torch.equal(bottleneck.lookup(quantized.indices), quantized.latent)
    assert quantized.loss.shape == () and quantized.loss.isfinite()
    assert len(quantized.indices.unique()) > 4


@every_name
def test_the_codebook_lists_what_single_codes_look_up(name: str) -> None:
    bottleneck, codes = built(name), WITH_CODES[name].codes
    assert bottleneck.codebook.shape == (codes, 4) and bottleneck.codebook.dtype == torch.float32
    looked_up = bottleneck.lookup(torch.arange(codes).view(codes, 1, 1))
    assert torch.equal(looked_up[:, :, 0, 0], bottleneck.codebook)
    assert len(bottleneck.codebook.unique(dim=0)) == codes


@pytest.mark.parametrize("name", [name for name in WITH_CODES if name != "residual"])
def test_rounding_a_codes_vector_gives_that_code(name: str) -> None:
    bottleneck, codes = built(name), WITH_CODES[name].codes
    every = torch.arange(codes).view(1, 1, codes)
    assert torch.equal(bottleneck(bottleneck.lookup(every)).indices, every)


@every_name
def test_training_sends_a_gradient_to_the_latent(name: str) -> None:
    bottleneck, z = built(name).train(), latent(grad=True)
    weights = torch.randn(2, 4, 3, 5)
    (bottleneck(z).latent * weights).sum().backward()
    assert z.grad is not None and z.grad.isfinite().all() and z.grad.norm() > 0
    if not name.startswith("gumbel"):
        assert torch.allclose(z.grad, weights)


@every_name
def test_half_precision_and_autocast_change_no_code(name: str) -> None:
    bottleneck, z = built(name), latent().half()
    expected = bottleneck(z.float()).indices
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantized = bottleneck(z)
    assert torch.equal(quantized.indices, expected)
    assert quantized.latent.dtype == torch.float16 and quantized.loss.dtype == torch.float32


@every_name
def test_latents_and_codes_that_do_not_fit_are_refused(name: str) -> None:
    bottleneck, codes = built(name), WITH_CODES[name].codes
    for wrong in (torch.zeros(1, 5, 2, 2), torch.zeros(1, 4, 2)):
        with pytest.raises(ShapeError, match="this codebook takes"):
            bottleneck(wrong)
    below, above = torch.full((1, 2, 2), -1), torch.full((1, 2, 2), codes)
    for wrong in (below, above, torch.zeros(2, 2).long(), torch.zeros(1, 2, 2)):
        with pytest.raises(ShapeError, match="codes (are|run)"):
            bottleneck.lookup(wrong)


@every_name
def test_vectors_that_are_not_finite_get_a_code(name: str) -> None:
    z = latent()
    z[0, :, 0, 0], z[0, 1, 0, 1] = torch.nan, torch.inf
    indices = built(name)(z).indices
    assert torch.equal(indices[1], built(name)(latent()).indices[1])
    assert indices.min() >= 0 and indices.max() < WITH_CODES[name].codes


@every_name
def test_an_autoencoder_is_saved_and_opened_again(name: str, tmp_path: Path) -> None:
    model, x = autoencoder(name), torch.rand(2, 3, 8, 12) * 2 - 1
    save_model(model, tmp_path / "model.safetensors")
    opened = load(tmp_path / "model.safetensors")
    assert opened.config == model.config
    assert from_dict(AutoencoderConfig, json.loads(json.dumps(to_dict(model.config)))) == model.config
    decoded, quantized = model(x)
    again, codes = opened(x)
    assert torch.equal(decoded, again) and torch.equal(quantized.indices, codes.indices)
    assert torch.equal(opened.decode(opened.lookup(codes.indices)), again)
    assert torch.equal(opened.quantize(opened.encode(x)).indices, codes.indices)


@every_name
def test_a_half_precision_autoencoder_keeps_its_codebook(name: str, tmp_path: Path) -> None:
    model = autoencoder(name)
    save_model(model, tmp_path / "model.safetensors", dtype=torch.float16)
    opened = load(tmp_path / "model.safetensors", dtype=torch.float16)
    assert torch.equal(opened.codebook, model.codebook)
    assert opened(torch.zeros(1, 3, 8, 8).half())[0].dtype == torch.float16


@every_name
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_shows_every_kind_of_codebook(name: str, view: str) -> None:
    model = autoencoder(name)
    indices = model.quantize(latent()).indices
    codes = Codes(indices=indices, codebook_size=WITH_CODES[name].codes, factor=2, image_size=(6, 10))
    look = Look(model=model, codes=codes)
    picture = VIEWS[view](look)
    assert picture.shape[-1] == 3 and picture.isfinite().all() and picture.std() > 0
    first = indices[..., 0] if indices.ndim == 4 else indices
    assert torch.equal(look.counts, usage(first, codes.codebook_size))
    assert ("levels" in look.levels) == (name == "residual")


def test_every_level_is_counted() -> None:
    indices = torch.tensor([[[[0, 1], [0, 2]], [[0, 1], [3, 1]]]])
    assert level_usage(indices, 4).tolist() == [[3, 0, 0, 1], [0, 3, 1, 0]]
    assert level_usage(indices[..., 0], 4).tolist() == [[3, 0, 0, 1]]


def test_codebooks_too_large_to_draw_are_refused() -> None:
    config = replace(autoencoder("lfq").config, bottleneck=LFQConfig(bits=17), embed_dim=17)
    with pytest.raises(ConfigError, match="at most 65536 codes, and the codebook has 131072"):
        atlas(Look(model=Autoencoder(config)))


def test_codebook_and_latent_have_one_width() -> None:
    with pytest.raises(ConfigError, match="embed_dim is 4, but the codebook's vectors have 3"):
        AutoencoderConfig(embed_dim=4, bottleneck=FSQConfig(levels=(5, 5, 5)))


def test_the_first_levels_of_a_residual_codebook_are_a_coarser_latent() -> None:
    bottleneck, z = built("residual"), latent(seed=2) * 3
    indices = bottleneck(z).indices
    latents = [bottleneck.lookup(indices[..., :levels]) for levels in (1, 2, 3)]
    assert torch.equal(latents[0], bottleneck.lookup(indices[..., 0]))
    for level, (coarse, fine) in enumerate(zip(latents, latents[1:], strict=False), 1):
        step = bottleneck.books[level].lookup(indices[..., level])
        assert torch.equal(coarse + step, fine)
        nearest = (z - coarse - step).norm(dim=1)
        assert all((nearest <= (z - coarse - other.view(1, 4, 1, 1)).norm(dim=1) + 1e-5).all()
                   for other in bottleneck.codebooks[level])  # fmt: skip
    with pytest.raises(ShapeError, match="1 to 3 levels"):
        bottleneck.lookup(torch.zeros(1, 2, 2, 4).long())


def test_residual_codebooks_learn_as_configured_and_leave_training_out_of_the_file(tmp_path: Path) -> None:
    book = VQConfig(codes=16, dim=4, legacy=False, ema=0.8, revive=0.5, kmeans_start=True)
    config = replace(autoencoder("residual").config, bottleneck=ResidualConfig(depth=2, book=book))
    model = Autoencoder(config).train()
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    losses = [model(x)[1].loss for _ in range(8)]
    assert all(book.started for book in model.quantize.books) and losses[-1] < losses[0]
    save_model(model, tmp_path / "model.safetensors")
    opened = load(tmp_path / "model.safetensors")
    assert opened.config.bottleneck == config.bottleneck.fixed()
    assert torch.equal(opened.quantize.codebooks, model.quantize.codebooks)


@pytest.mark.parametrize("levels", [(3,), (4,), (8, 5), (7, 6, 3)])
def test_the_bound_keeps_zero_and_reaches_every_value_of_every_channel(levels: tuple[int, ...]) -> None:
    bottleneck = FiniteScalarQuantizer(FSQConfig(levels=levels))
    z = torch.linspace(-9, 9, 4001).view(1, 1, 1, -1).expand(1, len(levels), 1, -1)
    bounded = bottleneck.bound(z)[0, :, 0]
    assert (bounded.diff(dim=1) >= 0).all() and bounded[:, 2000].abs().max() < 1e-6
    rounded = bottleneck(bottleneck.bound(z)).latent[0, :, 0]
    for values, count in zip(rounded, levels, strict=True):
        steps = (values.unique() * (count // 2)).round().long().tolist()
        assert steps == list(range(-(count // 2), count - count // 2))


def test_the_first_channel_of_a_grid_counts_ones_and_the_lowest_bit_is_the_first_sign() -> None:
    grid = FiniteScalarQuantizer(FSQConfig(levels=(4, 3)))
    assert grid.codebook[:5].tolist() == [[-1, -1], [-0.5, -1], [0, -1], [0.5, -1], [-1, 0]]
    signs = LookupFreeQuantizer(LFQConfig(bits=3))
    assert signs.codebook[[0, 1, 4]].tolist() == [[-1, -1, -1], [1, -1, -1], [-1, -1, 1]]


@pytest.mark.parametrize("temperature", [0.01, 0.3, 5.0])
def test_the_entropies_of_signs_are_those_of_the_choice_among_all_codes(temperature: float) -> None:
    bottleneck = LookupFreeQuantizer(LFQConfig(bits=7, temperature=temperature))
    rows = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    each = (2 * rows.double() @ bottleneck.codebook.double().T / temperature).softmax(1)
    sample, whole = bottleneck.entropies(rows)
    assert sample.item() == pytest.approx(torch.special.entr(each).sum(1).mean().item(), abs=1e-5)
    assert whole.item() == pytest.approx(torch.special.entr(each.mean(0)).sum().item(), abs=1e-5)


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (FSQConfig, {"levels": ()}),
        (FSQConfig, {"levels": (8, 2)}),
        (LFQConfig, {"bits": 0}),
        (LFQConfig, {"bits": 25}),
        (LFQConfig, {"beta": -1.0}),
        (LFQConfig, {"entropy_weight": -1.0}),
        (LFQConfig, {"temperature": 0.0}),
        (ResidualConfig, {"depth": 0}),
        (ResidualConfig, {"book": VQConfig(metric="cosine")}),
    ],
)
def test_settings_out_of_range_are_refused(config: type, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        config(**wrong)
