"""Pictures for networks over labels, depth or alpha: what they take, and what their answers look like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_cases import case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import VQConfig
from vitrail.core.checkpoints import load, save_model
from vitrail.core.checkpoints.convert import convert
from vitrail.core.codebook_views import decode_patches
from vitrail.core.errors import ShapeError
from vitrail.core.nn.channels import Palette, from_rgb, full_range, labels_of, to_rgb

SEGMENTS = AutoencoderConfig(
    in_channels=7, out_channels=7, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), attn_type="none",
    z_channels=4, embed_dim=4, bottleneck=VQConfig(codes=20, dim=4), palette=True,
)  # fmt: skip


def map_of(labels: Tensor) -> Tensor:
    """Labels [B, H, W] as a grey picture in -1..1, by way of 8 bits and an IMAGE."""
    image = labels.to(torch.uint8).numpy().astype("float32") / 255.0
    return (torch.from_numpy(image)[:, None] * 2 - 1).repeat(1, 3, 1, 1)


def palette(labels: int, seed: int = 0) -> Palette:
    made = Palette(labels)
    made.colours = torch.randn(3, labels, 1, 1, generator=torch.Generator().manual_seed(seed))
    return made


def model(**changes: Any) -> Autoencoder:
    torch.manual_seed(0)
    made = Autoencoder(replace(SEGMENTS, **changes)).eval()
    if made.palette is not None:
        made.palette.colours.normal_()
    return made


@settings(deadline=None, max_examples=30)
@given(st.integers(5, 256), st.integers(0, 99), st.booleans(), st.sampled_from([torch.round, torch.floor, torch.clone]))
def test_a_map_of_labels_survives_the_way_there_and_back(count: int, seed: int, coloured: bool, rounding: Any) -> None:
    """Also through a file of 8 bits a channel, rounded or, as ComfyUI saves it, cut off."""
    labels = torch.randint(count, (3, 5, 7), generator=torch.Generator().manual_seed(seed))
    colours = palette(count, seed) if coloured else None
    taken = from_rgb(map_of(labels), count, colours)
    assert torch.equal(taken, F.one_hot(labels, count).movedim(-1, 1).float())
    shown = to_rgb(taken * 9 - 4, colours)
    saved = ((rounding((shown + 1) / 2 * 255) / 255) * 2 - 1).to(torch.float32)
    assert shown.shape == (3, 3, 5, 7) and -1 <= shown.min() <= shown.max() <= 1
    levels = None if colours is None else colours.levels()
    if levels is None or len(levels.unique(dim=0)) == count:
        assert torch.equal(labels_of(saved, count, colours), labels)


def test_pictures_of_a_batch_are_each_read_as_they_are() -> None:
    """A grey one by its numbers, a coloured one by its colours."""
    colours, labels = palette(9), torch.randint(9, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    grey, coloured = map_of(labels[:1]), to_rgb(F.one_hot(labels[1:], 9).movedim(-1, 1).float(), colours)
    assert torch.equal(labels_of(torch.cat([grey, coloured]), 9, colours), labels)


def test_numbers_that_are_no_labels_are_named_with_how_many_there_are() -> None:
    wrong = map_of(torch.tensor([[[0, 6, 7], [182, 255, 3]]]))
    with pytest.raises(ShapeError, match=r"holds 7, 182, 255; this model knows 7 labels, 0 to 6"):
        from_rgb(wrong, 7)


def test_maps_that_were_blurred_or_have_strange_colours_are_refused() -> None:
    labels = torch.tensor([[[0, 5], [5, 0]]])
    with pytest.raises(ShapeError, match="nearest-exact"):
        from_rgb(F.interpolate(map_of(labels), scale_factor=2, mode="bilinear"), 7)
    coloured = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with pytest.raises(ShapeError, match="no palette: it takes a grey picture whose level, 0 to 6"):
        from_rgb(coloured, 7)
    with pytest.raises(
        ShapeError, match=r"colours #[0-9a-f]{6}, .* and 10 more, which are not in this model's palette"
    ):
        from_rgb(coloured, 7, palette(7))


def test_a_palette_that_is_one_colour_is_none() -> None:
    labels = torch.tensor([[[0, 6], [5, 1]]])
    shown = to_rgb(F.one_hot(labels, 7).movedim(-1, 1).float(), Palette(7))
    torch.testing.assert_close(shown, map_of(labels), atol=1e-3, rtol=0)


def test_one_channel_is_luminance_four_are_opaque() -> None:
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).repeat(2, 1, 3, 4)
    torch.testing.assert_close(from_rgb(red, 1), torch.full((2, 1, 3, 4), 2 * 0.299 - 1))
    grey = torch.rand(2, 1, 3, 4) * 2 - 1
    torch.testing.assert_close(from_rgb(grey.repeat(1, 3, 1, 1), 1), grey)
    assert torch.equal(to_rgb(grey), grey.repeat(1, 3, 1, 1))
    assert torch.equal(from_rgb(red, 3), red) and torch.equal(to_rgb(red), red)
    assert torch.equal(from_rgb(red, 4)[:, 3], torch.ones(2, 3, 4)) and torch.equal(to_rgb(from_rgb(red, 4)), red)


def test_the_full_range_is_each_pictures_own() -> None:
    x = torch.stack([torch.linspace(0.2, 0.4, 6), torch.linspace(-1, 1, 6), torch.full((6,), 0.3)]).view(3, 1, 2, 3)
    found = full_range(x)
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)
    assert torch.allclose(found[1], x[1], atol=1e-6) and found[2].unique().tolist() == [-1]


def as_taming_saves_it(made: Autoencoder, path: Path) -> dict[str, Tensor]:
    state = {name.replace("palette.colours", "colorize"): value for name, value in made.state_dict().items()}
    torch.save({"state_dict": {**state, "loss.x": torch.zeros(1)}}, path)
    return state


@pytest.mark.parametrize("to", ["vitrail", "compvis", "diffusers"])
def test_a_files_palette_stays_with_its_model(tmp_path: Path, to: str) -> None:
    made = model()
    as_taming_saves_it(made, tmp_path / "m.ckpt")
    loaded = load(tmp_path / "m.ckpt", dtype=torch.bfloat16)
    assert loaded.config == made.config and torch.equal(loaded.palette.colours, made.palette.colours)
    name = "d" if to == "diffusers" else "c.safetensors"
    convert(tmp_path / "m.ckpt", tmp_path / name, to=to)
    again, labels = load(tmp_path / name), torch.randint(7, (2, 4, 6))
    assert again.config.palette == (to != "diffusers"), "diffusers has no place for one"
    latent = made.encode(made.from_rgb(map_of(labels)))
    torch.testing.assert_close(again.encode(again.from_rgb(map_of(labels))), latent)
    if again.palette is not None:
        assert torch.equal(again.to_rgb(again.decode(latent)), made.to_rgb(made.decode(latent)))


def test_a_palette_of_another_number_of_labels_is_left_out(tmp_path: Path) -> None:
    made = model(palette=False)
    torch.save({"state_dict": {**made.state_dict(), "colorize": torch.zeros(3, 5, 1, 1)}}, tmp_path / "m.ckpt")
    assert load(tmp_path / "m.ckpt").palette is None
    save_model(made, tmp_path / "own.safetensors")
    assert load(tmp_path / "own.safetensors").config == made.config


def test_codes_of_labels_are_drawn_in_the_palettes_colours() -> None:
    made = model()
    patches = decode_patches(made, torch.arange(20))
    known = {tuple(colour) for colour in made.palette.levels().tolist()}
    assert {tuple(colour) for colour in (patches * 255).round().flatten(0, -2).tolist()} <= known


@torch.no_grad()
def test_the_references_model_of_five_labels_takes_them_as_numbers() -> None:
    golden = case("taming_vq_seg_in5")
    made, labels = load(golden.path / "model.ckpt", config=golden.config), golden.tensors["in.x"].argmax(1)
    hot = F.one_hot(labels, 5).movedim(-1, 1).float()
    torch.testing.assert_close(made.encode(made.from_rgb(map_of(labels))), made.encode(hot))
    decoded = golden.tensors["out.decoded"]
    assert torch.equal(labels_of(made.to_rgb(decoded), 5), decoded.argmax(1))
