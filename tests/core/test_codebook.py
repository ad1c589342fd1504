"""The numbers of a codebook against their definitions, and its pictures: right size, right place, right colour."""

import json
from dataclasses import replace
from math import exp, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import KLConfig, VQConfig
from vitrail.core.codebook import nearest_distances, neighbours, perplexity, project, report, usage
from vitrail.core.codebook_views import VIEWS, Look, as_rgb, columns_for, decode_patches
from vitrail.core.drawing import Canvas, heat, palette
from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.types import Codes


def tiny(codes: int = 40, **changes: object) -> Autoencoder:
    torch.manual_seed(0)
    config = AutoencoderConfig(
        ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), attn_type="none", z_channels=4, embed_dim=4,
        bottleneck=VQConfig(codes=codes, dim=4),
    )  # fmt: skip
    model = Autoencoder(replace(config, **changes)).eval()
    if model.codebook is not None:
        torch.nn.init.normal_(model.quantize.embedding.weight)
    return model


def codes_of(indices: Tensor, codes: int = 40, size: tuple[int, int] | None = None) -> Codes:
    size = size or (2 * indices.shape[1], 2 * indices.shape[2])
    return Codes(indices=indices, codebook_size=codes, factor=2, image_size=size)


@given(st.lists(st.integers(0, 9), max_size=60))
def test_usage_counts_and_perplexity_is_exp_of_entropy(indices: list[int]) -> None:
    counts = usage(torch.tensor(indices, dtype=torch.int64), 10)
    assert counts.tolist() == [indices.count(code) for code in range(10)]
    shares = [indices.count(code) / len(indices) for code in set(indices)]
    expected = exp(-sum(p * log(p) for p in shares)) if indices else 0.0
    assert perplexity(counts) == pytest.approx(expected)


def test_a_code_that_is_not_there_is_refused() -> None:
    for indices in ([3], [-1]):
        with pytest.raises(ShapeError, match="expected 0 to 2"):
            usage(torch.tensor(indices), 3)
    for code in (-1, 3):
        with pytest.raises(ConfigError, match="0 to 2"):
            neighbours(torch.randn(3, 2), code)


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 99))
def test_neighbours_come_in_order_of_distance(count: int, dim: int, seed: int) -> None:
    codebook = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)).round()
    code = seed % count
    order, distances = neighbours(codebook, code, 8)
    exact = (codebook.double() - codebook[code].double()).norm(dim=1)
    rest = sorted((float(exact[i]), i) for i in range(count) if i != code)[:8]
    assert order.tolist() == [i for _, i in rest]
    assert torch.allclose(distances.double(), exact[order])


def test_nearest_distances_see_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrail.core.codebook.PAIRS", 20)
    codebook = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [10.0, 4.0]])
    distances, others = nearest_distances(codebook)
    assert distances.tolist() == [0.0, 5.0, 0.0, 7.0] and others.tolist() == [2, 0, 0, 1]


def test_the_projection_keeps_a_plane_as_it_is() -> None:
    torch.manual_seed(0)
    plane = torch.randn(50, 2) * torch.tensor([5.0, 1.0])
    basis = torch.linalg.qr(torch.randn(6, 6))[0][:, :2]
    found = project(plane @ basis.T + 3.0)
    assert torch.allclose(torch.cdist(found.points, found.points), torch.cdist(plane, plane), atol=1e-3)
    assert sum(found.shares) == pytest.approx(1.0) and found.shares[0] > 0.8
    assert torch.equal(project(plane).points, project(plane).points)


@pytest.mark.parametrize("shape", [(1, 3), (5, 1), (2, 2)])
def test_the_projection_of_few_or_narrow_codes(shape: tuple[int, int]) -> None:
    found = project(torch.ones(shape))
    assert found.points.shape == (shape[0], 2) and found.points.isfinite().all()


def test_the_report_is_json_and_sees_what_is_wrong() -> None:
    codebook = torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 1.0], [torch.nan, 0.0]])
    found = report(codebook, torch.tensor([6, 0, 2, 0]))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["codes"], found["dim"], found["duplicates"], found["not_finite"]) == (4, 2, 1, 1)
    assert (found["tokens"], found["used"], found["dead"]) == (8, 2, 2)
    assert found["top"] == [{"code": 0, "count": 6, "share": 0.75}, {"code": 2, "count": 2, "share": 0.25}]
    assert found["norms"]["max"] == 5.0
    assert "used" not in report(codebook)
    assert report(codebook, torch.zeros(4))["perplexity"] == 0.0
    assert report(torch.ones(1, 3))["codes"] == 1


@pytest.mark.parametrize("codes", [1, 2, 40])
@pytest.mark.parametrize("given_codes", [True, False])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_a_picture(view: str, given_codes: bool, codes: int) -> None:
    look = Look(
        model=tiny(codes),
        codes=codes_of(torch.arange(24).view(2, 3, 4) % codes, codes) if given_codes else None,
        code=codes - 1,
    )
    if view == "token map" and not given_codes:
        with pytest.raises(ConfigError, match="needs codes"):
            VIEWS[view](look)
        return
    picture = VIEWS[view](look)
    assert picture.ndim == 4 and picture.shape[0] == (2 if view == "token map" else 1) and picture.shape[3] == 3
    assert picture.dtype == torch.float32 and picture.is_contiguous()
    assert 0 <= picture.min() < picture.max() <= 1 or view == "token map"
    assert torch.equal(picture, VIEWS[view](look))


@pytest.mark.parametrize("view", ["atlas", "usage", "neighbours", "projection"])
def test_a_continuous_latent_has_no_views(view: str) -> None:
    model = tiny(double_z=True, bottleneck=KLConfig())
    with pytest.raises(ConfigError, match="no codebook"):
        VIEWS[view](Look(model=model))


def test_patches_are_what_the_decoder_paints() -> None:
    model = tiny()
    patches = decode_patches(model, torch.tensor([5, 7]), batch=1)
    with torch.no_grad():
        whole = model.decode(model.lookup(torch.full((1, 3, 3), 7)))[0, :, 2:4, 2:4]
    assert patches.shape == (2, 2, 2, 3)
    assert torch.allclose(patches[1], ((whole + 1) / 2).clamp(0, 1).permute(1, 2, 0), atol=1e-6)


def test_the_atlas_shows_each_code_in_its_place() -> None:
    model = tiny()
    sheet, patches = VIEWS["atlas"](Look(model=model))[0], decode_patches(model, torch.arange(40))
    columns = columns_for(40)
    scale = (960 - 52) // columns // 2 - 1
    pitch = 2 * scale + 2
    for code in (0, 9, 39):
        y, x = 80 + code // columns * pitch, 68 + code % columns * pitch
        assert torch.allclose(sheet[y, x], patches[code, 0, 0], atol=1 / 255)
        assert torch.allclose(sheet[y + 2 * scale - 1, x + 2 * scale - 1], patches[code, 1, 1], atol=1 / 255)


def test_the_token_map_has_the_size_of_the_picture_and_a_colour_for_each_code() -> None:
    indices = torch.tensor([[[0, 1], [2, 0]]])
    picture = VIEWS["token map"](Look(model=tiny(), codes=codes_of(indices, size=(3, 4))))
    colours = palette(40)
    assert picture.shape == (1, 3, 4, 3)
    assert torch.equal(picture[0, 0, 0], colours[0]) and torch.equal(picture[0, 1, 2], colours[1])
    assert torch.equal(picture[0, 2, 0], colours[2]) and torch.equal(picture[0, 2, 3], colours[0])


def test_unused_codes_are_black_on_the_usage_map_and_frequent_ones_bright() -> None:
    indices = torch.tensor([[[0] * 30 + [1] + [2] * 5]])
    picture = VIEWS["usage"](Look(model=tiny(), codes=codes_of(indices)))[0]
    places = [(90, 78 + code * ((960 - 52) // 8)) for code in range(4)]
    often, once, some, never = (picture[y, x] for y, x in places)
    assert torch.equal(never, torch.zeros(3)) and often.sum() > some.sum() > once.sum() > 0


def test_codes_with_levels_and_other_channels_are_shown() -> None:
    levels = torch.arange(12).view(1, 2, 3, 2)
    codes = Codes(indices=levels, codebook_size=40, factor=2, image_size=(4, 6))
    picture = VIEWS["token map"](Look(model=tiny(), codes=codes))
    assert torch.equal(picture[0, 0, 2], palette(40)[2])
    for channels in (1, 2, 3, 4, 7):
        model = tiny(in_channels=channels, out_channels=channels)
        assert VIEWS["atlas"](Look(model=model)).shape[3] == 3
        assert as_rgb(torch.rand(2, channels, 4, 4)).shape == (2, 3, 4, 4)


def test_half_precision_models_are_shown() -> None:
    assert VIEWS["atlas"](Look(model=tiny().bfloat16())).isfinite().all()


def test_colours_are_stable_and_apart() -> None:
    colours = palette(64)
    assert torch.equal(colours[:10], palette(10)) and palette(0).shape == (0, 3)
    assert torch.cdist(colours, colours).fill_diagonal_(1).min() > 0.06
    ramp = heat(torch.linspace(0, 1, 50))
    luma = ramp @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert (luma.diff() > 0).all()


def test_the_canvas_writes_and_pastes() -> None:
    canvas = Canvas(60, 20)
    blank = canvas.tensor()
    canvas.paste(torch.ones(2, 3, 3), (1, 2), scale=2)
    picture = canvas.tensor()
    assert torch.equal(picture[2:6, 1:7], torch.ones(4, 6, 3)) and torch.equal(picture[6:], blank[6:])
    canvas.text((20, 2), "code 7")
    assert not torch.equal(canvas.tensor()[:, 20:], blank[:, 20:])
