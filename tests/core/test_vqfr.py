"""VQFR: the reference's numbers, both layouts over varied sizes, pictures of any size, files that do not fit.

The numbers were measured by running the published code (github.com/TencentARC/VQFR, with torchvision's deformable
convolution) on the weights and the picture that `vqfr_weights` makes.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from vqfr_weights import Shapes, filled, first_version, hashed, second_version

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import GumbelConfig, VQConfig
from vitrail.core.checkpoints import describe, load, save_model
from vitrail.core.checkpoints.convert import convert
from vitrail.core.checkpoints.families import FAMILIES
from vitrail.core.checkpoints.keymap import translate
from vitrail.core.errors import CheckpointError, ConfigError, KeyMismatch, ShapeError, VitrailError
from vitrail.core.refine.vqfr import VQFR, VQFRConfig
from vitrail.headless.cli import main
from vitrail.nodes import host
from vitrail.nodes.codes import VQDecode, VQEncode
from vitrail.nodes.host_upscale import HostUpscaler
from vitrail.nodes.loaders import LoadAutoencoder, LoadRefiner
from vitrail.nodes.refine import GANRefine

MAIN = ("main_", "inpfeat_", "feat2index")

CASES: dict[str, tuple[Shapes, tuple[int, int]]] = {
    "first": (first_version((32, 64, 96), (2, 1), 20, 9, groups=(1, 2, 8)), (24, 16)),
    "first, two dictionaries": (
        first_version((64, 32, 32), dictionaries=(1, 2), groups=(2, 2, 2), features=3),
        (16, 24),
    ),
    "first, warped from the middle": (first_version((32, 32, 64), (1, 2), dim=None, groups=(4, 16)), (12, 20)),
    "second, nearest": (second_version((32, 64, 96), (2, 1), 20, 9, groups=8), (24, 16)),
    "second, predicted": (
        second_version((32, 64), (1, 2), attends=(True, False), groups=2, predicts=True),
        (12, 18),
    ),
    "second, around the codes": (second_version((64, 32), attends=(False, False), own=9, groups=4), (12, 8)),
}

NUMBERS: dict[str, dict[float | str, tuple[float, ...]]] = {
    "first": {
        1.0: (0.2642244, 0.0182053, -1.5184606, -0.8552253, 1.6473348, -1.4132259, -0.7160954, 0.5823143),
        "vqgan": (-0.0216605, -1.0390747, -0.0549949, 0.224573, 0.1869865, 0.0500079, -0.0044871, 0.5436645),
    },
    "first, two dictionaries": {
        1.0: (0.2967139, 0.4262666, -0.7464042, -1.4376851, 0.5477387, 0.4945554, -0.14514, 0.5992041),
        "vqgan": (-0.1637104, -1.9895416, -0.5777656, -1.1932434, -0.5523874, 1.0733621, -0.2522749, 0.6567525),
    },
    "first, warped from the middle": {
        1.0: (0.4283169, 0.9483967, -0.5341699, 0.6074575, -0.010187, -0.9495506, 0.776262, 0.5678691),
        "vqgan": (-0.2951457, 0.7796264, -0.4112967, 0.2612827, -0.4346844, 0.2983803, 0.0098734, 0.543306),
    },
    "second, nearest": {
        0.0: (-0.2378132, -0.6374762, 1.592114, 0.3353425, 0.5577323, 0.9272041, 0.3089349, 0.544215),
        0.5: (-0.4776981, -0.0176042, 1.3779798, 0.5433072, 0.638342, 0.5729195, -0.0085256, 0.5495241),
        1.0: (-0.7197256, 0.3062728, 1.1143825, 0.5711008, 0.5923337, -0.0999271, -0.1598532, 0.5525782),
        "vqgan": (-0.2378132, -0.6374762, 1.592114, 0.3353425, 0.5577323, 0.9272041, 0.3089349, 0.544215),
    },
    "second, predicted": {
        0.0: (0.0929529, -0.0280489, -0.3026202, -0.0932503, 0.0727997, -1.9898491, -0.2999125, 0.5647618),
        0.5: (0.1305382, 0.0330608, -0.0657699, -0.2669533, -0.4042381, -2.0069928, -0.1787331, 0.5691398),
        1.0: (0.0911615, 0.0062776, 0.0801712, -0.402397, -0.7840971, -1.8285807, -0.0778585, 0.57011),
        "vqgan": (-1.0999482, -1.0042746, 0.746966, -0.1530069, -2.719502, -0.3351029, -0.4327575, 0.5599564),
    },
    "second, around the codes": {
        0.0: (-0.0890045, -0.3338116, 0.0869037, -1.0720454, 0.7655396, 0.3354451, -1.475831, 0.6843961),
        0.5: (0.0997571, -0.3552823, 0.0241433, -1.1135648, 0.3070019, 0.5192236, -1.5085841, 0.6807365),
        1.0: (0.1265314, -0.3432881, -0.2015528, -1.0218375, -0.0669774, 0.5986136, -1.489089, 0.6710204),
        "vqgan": (-0.0890045, -0.3338116, 0.0869037, -1.0720454, 0.7655396, 0.3354451, -1.475831, 0.6843961),
    },
}
"""By fidelity (the first version has none) or for the VQGAN alone: seven numbers of the picture, and the mean."""


def sampled(picture: Tensor) -> Tensor:
    """What NUMBERS hold of a picture."""
    flat = picture.flatten()
    return torch.stack([*(flat[i * len(flat) // 7 + i] for i in range(7)), flat.abs().mean()])


def without(shapes: Shapes) -> Shapes:
    """The VQGAN alone."""
    return {name: shape for name, shape in shapes.items() if not name.startswith(MAIN)}


def written(path: Path, shapes: Shapes, wrapper: str = "params_ema") -> Path:
    torch.save({wrapper: filled(shapes)}, path)
    return path


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_it_has_the_references_numbers(name: str, tmp_path: Path) -> None:
    shapes, size = CASES[name]
    x, numbers = hashed("picture", (2, 3, *size)), NUMBERS[name]
    model = load(written(tmp_path / "vqfr.pth", shapes))
    vqgan = load(written(tmp_path / "vqgan.pth", without(shapes), "params"))
    assert isinstance(model, VQFR) and isinstance(vqgan, Autoencoder)
    for fidelity in (key for key in numbers if not isinstance(key, str)):
        torch.testing.assert_close(sampled(model(x, fidelity)), torch.tensor(numbers[fidelity]), atol=1e-5, rtol=0)
    decoded = vqgan.decode(vqgan.lookup(vqgan.quantize(vqgan.encode(x)).indices))
    torch.testing.assert_close(sampled(decoded), torch.tensor(numbers["vqgan"]), atol=1e-5, rtol=0)


def vqgan_config(first: bool, multiples: list[int], blocks: tuple[int, int], **changes: Any) -> AutoencoderConfig:
    """As it must come out of a file, by the words of the published options."""
    widths, resolution = [32 * multiple for multiple in multiples], 2 ** (len(multiples) + 3)
    common: dict[str, Any] = {
        "ch": widths[0],
        "ch_mult": tuple(width / widths[0] if width % widths[0] else width // widths[0] for width in widths),
        "num_res_blocks": blocks[0],
        "decoder_blocks": blocks[1],
        "resolution": resolution,
    }
    if first:
        common |= {"attn_type": "none", "attn_resolutions": (), "resampling": "bilinear", "middle": False}
        return AutoencoderConfig(**common, z_channels=widths[-1], **changes)
    encoder, decoder = changes.pop("attends")
    kinds = {True: "vanilla", False: "none"}
    common |= {
        "attn_type": kinds[encoder],
        "decoder_attn_type": None if encoder == decoder else kinds[decoder],
        "attn_resolutions": (resolution // 2 ** (len(widths) - 1),) if encoder or decoder else (),
    }
    return AutoencoderConfig(**common, **changes)


def file_state(model: VQFR | Autoencoder, family: str, shapes: Shapes) -> dict[str, Tensor]:
    """A model's weights by the file's names, those that it drops by the formula."""
    ours, state = translate(FAMILIES[family].keys(model.config), shapes), model.state_dict()
    assert set(ours.values()) == set(state)
    return {name: state[ours[name]] if name in ours else filled({name: shapes[name]})[name] for name in shapes}


def round_trip(model: VQFR | Autoencoder, family: str, shapes: Shapes, folder: Path, **options: Any) -> None:
    path, again = folder / "file.pth", folder / "again.safetensors"
    torch.save({"params": file_state(model.eval(), family, shapes)}, path)
    loaded = load(path, **options)
    convert(path, again, config=options.get("config"))
    converted = load(again)
    side = 2 * (model.config.autoencoder if isinstance(model, VQFR) else model.config).factor
    x = hashed("picture", (1, 3, side, side * 2))
    assert loaded.config == model.config == converted.config
    with torch.no_grad():
        made = [run(x) if isinstance(model, VQFR) else run(x)[0] for run in (model, loaded, converted)]
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])
    assert describe(path)["family"] == family and describe(again)["kind"] == FAMILIES[family].kind


MULTIPLES = st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3)
BLOCKS = st.tuples(st.integers(1, 2), st.integers(1, 2))


@settings(max_examples=8, deadline=None)
@given(st.data(), MULTIPLES, BLOCKS, st.booleans(), st.booleans())
def test_the_first_layout_opens_as_what_was_saved(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    multiples: list[int],
    blocks: tuple[int, int],
    around: bool,
    whole: bool,
) -> None:
    last, widths = len(multiples) - 1, tuple(32 * multiple for multiple in multiples)
    dictionaries = (*sorted(data.draw(st.sets(st.integers(0, max(last - 1, 0)))) - {last}), last)
    groups = tuple(data.draw(st.lists(st.sampled_from([1, 4]), min_size=1, max_size=last + 1))) if whole else ()
    dim = 6 if around else None
    shapes = first_version(widths, blocks, 12, dim, dictionaries, groups)
    book = {
        "embed_dim": dim or widths[-1],
        "quant_conv": around,
        "bottleneck": VQConfig(codes=12, dim=dim or widths[-1]),
    }
    inside = vqgan_config(True, multiples, blocks, **book)
    model = VQFR(VQFRConfig(autoencoder=inside, features=5, groups=groups)) if whole else Autoencoder(inside)
    round_trip(model, "vqfr-1" if whole else "vqfr-1-vqgan", shapes, tmp_path_factory.mktemp("first"))


@settings(max_examples=8, deadline=None)
@given(
    MULTIPLES,
    BLOCKS,
    st.tuples(st.booleans(), st.booleans()),
    st.sampled_from(["", "predicts", "around"]),
    st.booleans(),
)
def test_the_second_layout_opens_as_what_was_saved(
    tmp_path_factory: pytest.TempPathFactory,
    multiples: list[int],
    blocks: tuple[int, int],
    attends: tuple[bool, bool],
    special: str,
    whole: bool,
) -> None:
    widths, dim = tuple(32 * multiple for multiple in multiples), 9 if special == "around" else 6
    shapes = second_version(
        widths, blocks, attends=attends, own=9 if special == "around" else None, groups=4 if whole else 0,
        predicts=whole and special == "predicts",
    )  # fmt: skip
    book = {"z_channels": 6, "embed_dim": dim, "quant_conv": dim == 9, "bottleneck": VQConfig(codes=12, dim=dim)}
    inside = vqgan_config(False, multiples, blocks, attends=attends, **book)
    if not whole:
        round_trip(Autoencoder(inside), "vqfr-2-vqgan", shapes, tmp_path_factory.mktemp("second"))
        return
    groups = (4,) * len(widths)
    config = VQFRConfig(autoencoder=inside, features=5, groups=groups, predicts=special == "predicts", cells=3)
    options = {"config": {"network_sr": {"quantizer_opt": {"spatial_size": [3, 3]}}}}
    round_trip(VQFR(config), "vqfr-2", shapes, tmp_path_factory.mktemp("second"), **options)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(host, "find", lambda name, kind: tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(("name", "same"), [("first", True), ("second, nearest", False)])
def test_the_nodes_restore_pictures_of_any_size(folder: Path, name: str, same: bool) -> None:
    written(folder / "face.pth", CASES[name][0])
    refiner, upscaler = LoadRefiner().execute(name="face.pth", dtype="auto")
    image = torch.rand(3, 11, 37, 4, generator=torch.Generator().manual_seed(0))
    settings = {"scale": 0.0, "strength": 1.0, "tile_size": 0}
    (low,), (high,) = (GANRefine().execute(image, refiner, fidelity=f, **settings) for f in (0.0, 1.0))
    assert low.shape == image.shape and low.isfinite().all() and torch.equal(low[..., 3], image[..., 3])
    assert torch.equal(low, high) == same, "the first version has no fidelity"
    (tiled,) = GANRefine().execute(image, upscaler, fidelity=1.0, **{**settings, "tile_size": 16})
    assert torch.equal(tiled, high), "a face is seen whole"
    with pytest.raises(ConfigError, match="fidelity"):
        refiner.picture(torch.rand(1, 3, 8, 8), 1.5)
    with pytest.raises(ConfigError, match="critic"):
        refiner.realism(torch.rand(1, 3, 8, 8))


def test_as_a_stock_upscale_model_it_is_the_same_restorer(tmp_path: Path) -> None:
    model = load(written(tmp_path / "face.pth", CASES["second, nearest"][0]))
    image = torch.rand(2, 40, 24, 3, generator=torch.Generator().manual_seed(0))
    settings = {"scale": 0.0, "strength": 1.0, "fidelity": 0.9, "tile_size": 16}
    (ours,), (stock,) = (GANRefine().execute(image, refiner, **settings) for refiner in (model, HostUpscaler(model)))
    assert torch.equal(ours, stock)


def test_memory_that_runs_out_for_a_face_is_told_and_no_face_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(written(tmp_path / "face.pth", CASES["first"][0]))
    seen: list[tuple[int, ...]] = []

    def full(self: VQFR, x: Tensor, fidelity: float) -> Tensor:
        seen.append(tuple(x.shape))
        raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(VQFR, "forward", full)
    with pytest.raises(VitrailError, match="memory ran out for a face of 64 x 64 pixels: free some"):
        GANRefine().execute(torch.rand(3, 80, 90, 3), model, scale=0.0, strength=1.0, fidelity=0.5, tile_size=0)
    assert seen == [(1, 3, 64, 64)], "one face at a time, and whole"


@torch.no_grad()
def test_a_picture_of_its_own_size_is_the_networks_own_result(folder: Path) -> None:
    written(folder / "face.pth", CASES["second, predicted"][0])
    refiner, _ = LoadRefiner().execute(name="face.pth", dtype="auto")
    image = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    (found,) = GANRefine().execute(image, refiner, scale=0.0, strength=1.0, fidelity=0.3, tile_size=0)
    x = image.movedim(3, 1) * 2 - 1
    assert refiner.face == 32 and refiner.scale == 1
    torch.testing.assert_close(found.movedim(3, 1), ((refiner(x, 0.3) + 1) / 2).clamp(0, 1), atol=1e-5, rtol=0)
    with pytest.raises(ShapeError, match="multiples of 2"):
        refiner(x[:, :, :, :31])


@pytest.mark.parametrize("name", ["first, two dictionaries", "second, around the codes"])
def test_a_vqgan_gives_codes_and_takes_them(folder: Path, name: str) -> None:
    written(folder / "vqgan.pth", without(CASES[name][0]))
    vq_model, vae = LoadAutoencoder().execute(name="vqgan.pth", dtype="auto", config="auto")
    image = torch.rand(3, 13, 10, 3, generator=torch.Generator().manual_seed(0))
    codes, latent = VQEncode().execute(image=image, vq_model=vq_model, tile_size=0)
    (decoded,) = VQDecode().execute(vq_model=vq_model, codes=codes, quantize=True, tile_size=0)
    (rounded,) = VQDecode().execute(vq_model=vq_model, latent=latent, quantize=True, tile_size=0)
    assert vae is not None and decoded.shape == image.shape and codes.indices.ndim == 3
    torch.testing.assert_close(rounded[:, :13, :10], decoded, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 0.12), (torch.float16, 0.03)])
@pytest.mark.parametrize("name", ["first", "second, predicted"])
def test_half_precision_is_near(tmp_path: Path, name: str, dtype: torch.dtype, most: float) -> None:
    """Some codes are chosen otherwise; pictures that had nothing in common would be 0.28 apart."""
    path = written(tmp_path / "face.pth", CASES[name][0])
    model, whole = load(path, dtype=dtype), load(path)
    image = torch.rand(1, 3, whole.face, whole.face, generator=torch.Generator().manual_seed(0))
    assert model.features.weight.dtype == dtype and model.vqgan.codebook.dtype == torch.float32
    found, expected = model.picture(image), whole.picture(image)
    assert found.dtype == torch.float32 and float((found - expected).abs().mean()) < most


def broken(change: Callable[[dict[str, Tensor]], Any], name: str = "first") -> dict[str, Tensor]:
    state = filled(CASES[name][0])
    change(state)
    return state


BROKEN: dict[str, tuple[dict[str, Tensor], type[VitrailError], str]] = {
    "keys missing": (
        broken(lambda s: [s.pop(f"main_decoder.align_func_dict.Level_2.dcn.{n}") for n in ("weight", "bias")]),
        KeyMismatch, r"2 keys missing: main_decoder\S+_2.dcn.weight, main_decoder\S+_2.dcn.bias",
    ),
    "another shape": (
        broken(lambda s: s.update({"decoder.conv_out.0.bias": torch.ones(3)})),
        KeyMismatch, r"1 keys of another shape: decoder.conv_out.0.bias \(3,\) instead of \(32,\)",
    ),
    "left over": (
        broken(lambda s: s.update({"encoder.pre_downsample_dict.Level_1.conv.weight": torch.ones(1)})),
        KeyMismatch, r"1 keys left over: encoder.pre_downsample_dict.Level_1.conv.weight",
    ),
    "no dictionary of the smallest level": (
        broken(lambda s: s.update({n.replace("Level_4", "Level_2"): s.pop(n) for n in list(s) if "quantize_" in n})),
        CheckpointError, r"lacks quantizer.quantize_dict.Level_4.embedding.weight",
    ),
    "a level between": (
        broken(lambda s: s.update({"encoder.encoder_dict.Level_3.0.conv1.weight": torch.ones(1)})),
        CheckpointError, r"levels \[1, 2, 3, 4\]; expected 1, 2, 4",
    ),
    "a level too many": (
        broken(lambda s: s.update({"main_decoder.align_func_dict.Level_8.dcn.conv_offset.weight": torch.ones(27)})),
        ConfigError, r"groups of 4 levels; this VQFR 1 has 3 levels",
    ),
    "a block far away": (
        broken(lambda s: s.update({"encoder.encoder_dict.Level_1.999999999999.conv1.weight": torch.ones(1)})),
        CheckpointError, r"999999999999|keys missing",
    ),
    "a level far away": (
        broken(lambda s: s.update({"encoder.blocks.99999999999999.0.conv1.weight": torch.ones(1)}), "second, nearest"),
        CheckpointError, r"lacks encoder.blocks.3.1.conv1.weight",
    ),
    "a number of two thousand digits": (
        broken(lambda s: s.update({f"encoder.encoder_dict.Level_{'9' * 2000}.0.conv1.weight": torch.ones(1)})),
        CheckpointError, r"levels",
    ),
    "no first convolution": (
        broken(lambda s: s.pop("encoder.conv_in.weight"), "second, nearest"),
        CheckpointError, r"lacks encoder.conv_in.weight",
    ),
    "no number": (
        broken(lambda s: s["main_branch.align_func_dict.Level_1.dcn.bias"].fill_(float("nan")), "second, nearest"),
        CheckpointError, r"no numbers .* main_branch.align_func_dict.Level_1.dcn.bias",
    ),
    "codes of no width": (
        broken(lambda s: s.update({"quantizer.embedding.weight": torch.ones(20, 0)}), "second, nearest"),
        ConfigError, r"must be at least 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_does_not_fit_says_why(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, error, message = BROKEN[name]
    torch.save({"params": state}, tmp_path / "wrong.pth")
    with pytest.raises(error, match=message):
        load(tmp_path / "wrong.pth")
    assert main(["convert", str(tmp_path / "wrong.pth"), str(tmp_path / "out.safetensors")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1 and not (tmp_path / "out.safetensors").exists()


def test_the_options_of_the_training_say_how_large_a_face_is(tmp_path: Path) -> None:
    path = written(tmp_path / "face.pth", CASES["second, predicted"][0])
    assert load(path).face == 32
    assert "512 pixels" in str(describe(path)["inferred"])
    for said in (
        {"quantizer_opt": {"spatial_size": [9, 9]}},
        {"network_sr": {"quantizer_opt": {"spatial_size": [9, 9]}}},
    ):
        path.with_suffix(".json").write_text(json.dumps(said))
        assert load(path).face == 18 and "face.json" in str(describe(path)["inferred"])
    assert load(path, cells=5).face == 10


def test_what_a_trainer_counted_is_dropped(tmp_path: Path) -> None:
    for name, book in (("first", "quantizer.quantize_dict.Level_4."), ("second, nearest", "quantizer.")):
        state = filled(CASES[name][0])
        torch.save(state, tmp_path / "plain.pth")
        extra = {f"{book}usage": torch.ones(20), f"{book}reestimation_reservoir.buffer": torch.ones(4, 9)}
        torch.save(state | extra, tmp_path / "trained.pth")
        plain, trained = (load(tmp_path / f"{file}.pth").state_dict() for file in ("plain", "trained"))
        assert plain.keys() == trained.keys() and all(torch.equal(plain[key], trained[key]) for key in plain)


@pytest.mark.parametrize("to", ["compvis", "diffusers"])
def test_a_bilinear_vqgan_has_no_place_in_other_layouts(to: str, tmp_path: Path) -> None:
    path = written(tmp_path / "vqgan.pth", without(CASES["first"][0]))
    out = tmp_path / ("out" if to == "diffusers" else "out.safetensors")
    with pytest.raises(ConfigError, match="no place for .*resampling"):
        convert(path, out, to=to)
    assert not out.exists()


INSIDE = vqgan_config(True, [1, 2], (1, 1), embed_dim=6, bottleneck=VQConfig(codes=12, dim=6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": 0}, "0 features"),
        ({"cells": 0}, "0 cells"),
        ({"groups": ()}, "groups of 0 levels"),
        ({"groups": (1, 1, 1)}, "groups of 3 levels"),
        ({"groups": (3, 1)}, "do not fall into"),
        ({"groups": (0, 1)}, "do not fall into"),
        ({"predicts": True}, "second version"),
        ({"autoencoder": replace(INSIDE, bottleneck=GumbelConfig(codes=12, dim=6))}, "codebook"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VQFRConfig(**{"autoencoder": INSIDE, "groups": (1, 1), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resampling": "nearest"}, "resampling"),
        ({"ch": 16, "ch_mult": (2, 4)}, "as|16 wide"),
        ({"z_channels": 6}, "without a middle"),
        ({"decoder_attn_type": "square"}, "decoder_attn_type"),
        ({"attn_type": None}, "attn_type"),
        ({"resamp_with_conv": False}, "resamp_with_conv"),
    ],
)
def test_an_autoencoder_of_no_such_kind_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(INSIDE, **changes)


def test_a_restorer_is_saved_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "face.pth", CASES["second, predicted"][0])
    model = load(path)
    save_model(model, tmp_path / "own.safetensors")
    again, x = load(tmp_path / "own.safetensors"), hashed("picture", (1, 3, 8, 8))
    assert again.config == model.config and torch.equal(again(x), model(x))
    assert describe(tmp_path / "own.safetensors")["kind"] == "refiner"
