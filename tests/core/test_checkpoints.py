"""Vitrail's files keep models as they are; public ones open with their reference's numbers; keys are strict."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_cases import case
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import KLConfig, VQConfig
from vitrail.core.checkpoints import describe, keymap, load, save_model, shipped_models, shipped_path
from vitrail.core.checkpoints.families import _MODULES, FAMILIES
from vitrail.core.checkpoints.families import vitrail as vitrail_family
from vitrail.core.checkpoints.family import family_of
from vitrail.core.checkpoints.keymap import translate
from vitrail.core.checkpoints.read import read_header
from vitrail.core.checkpoints.safetensors_file import write_tensors
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from vitrail.core.diffusion.unet import UNetConfig
from vitrail.core.errors import CheckpointError, ConfigError, KeyMismatch, UnknownFamily, UnsafeFile
from vitrail.core.losses.patchgan import PatchGANConfig
from vitrail.core.refine.refiner import Refiner
from vitrail.core.refine.rrdb import RefinerConfig
from vitrail.core.text.encoder import TextConfig

TINY = AutoencoderConfig(
    ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(128,), z_channels=4, embed_dim=4,
    bottleneck=VQConfig(codes=16, dim=4, legacy=False), latent_shift=(0.1, 0.2, 0.3, 0.4), latent_scale=(2.0,),
)  # fmt: skip
UNET = UNetConfig(
    in_channels=4, out_channels=4, model_channels=32, num_res_blocks=1, attention_resolutions=(2,), channel_mult=(1, 2),
    num_head_channels=16, context_dim=24, vector_dim=40,
)  # fmt: skip
TEXT = TextConfig(vocab=("cat", "dog"), styles=("flat",), width=16, context_dim=24, vector_dim=40)
DIFFUSION = LatentDiffusionConfig(unet=UNET, text=TEXT)
TAMING, LDM = ("taming_vq_f4_n256", "taming_vq_nonsquare", "taming_vq_seg_in5"), ("ldm_vq_f4", "ldm_vq_f8_vqmodel")
PUBLIC = (*TAMING, *LDM, "ldm_kl_f4")


def tiny_refiner() -> Refiner:
    generator = RefinerConfig(num_feat=8, num_block=1, num_grow=4, scale=2, base="bicubic")
    return Refiner(generator, PatchGANConfig(ndf=8, n_layers=2, norm="spectral"))


MODELS = {
    "autoencoder": lambda: Autoencoder(TINY),
    "kl": lambda: Autoencoder(replace(TINY, double_z=True, bottleneck=KLConfig(weight=0.5))),
    "diffusion": lambda: LatentDiffusion(DIFFUSION),
    "refiner": tiny_refiner,
}


def config_of(model: nn.Module) -> object:
    return getattr(model, "parts", None) or model.config


@pytest.mark.parametrize("name", MODELS)
def test_a_model_survives_its_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    save_model(model, tmp_path / "a.safetensors", card="made in a test")
    loaded = load(tmp_path / "a.safetensors")
    assert type(loaded) is type(model) and config_of(loaded) == config_of(model)
    assert not loaded.training
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in loaded.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("name", MODELS)
def test_describe_says_the_same_without_building(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[name]()
    save_model(model, tmp_path / "a.safetensors", dtype=torch.float16, card="x")
    for cls in (Autoencoder, LatentDiffusion, Refiner):
        monkeypatch.setattr(cls, "__init__", None)
    found = describe(tmp_path / "a.safetensors")
    assert found["kind"] == {"kl": "autoencoder"}.get(name, name)
    assert found["family"] == f"vitrail-{found['kind']}"
    assert found["parameters"] == sum(tensor.numel() for tensor in model.state_dict().values())
    assert found["notes"]["card"] == "x"
    assert json.loads(json.dumps(found)) == found


def test_a_trained_codebook_is_saved_without_what_only_training_needs(tmp_path: Path) -> None:
    trained = VQConfig(codes=16, dim=4, ema=0.9, revive=0.1, kmeans_start=True)
    model = Autoencoder(replace(TINY, bottleneck=trained)).train()
    model(torch.rand(1, 3, 8, 8))
    save_model(model, tmp_path / "a.safetensors", dtype=torch.float16)
    loaded = load(tmp_path / "a.safetensors")
    assert loaded.config.bottleneck == trained.fixed()
    assert torch.equal(loaded.codebook, model.codebook), "a codebook is never rounded to 16 bits"


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_the_weights_get_the_dtype_asked_for_and_the_codebook_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    save_model(Autoencoder(TINY), tmp_path / "a.safetensors", dtype=torch.float16)
    model = load(tmp_path / "a.safetensors", dtype=dtype)
    assert {p.dtype for n, p in model.named_parameters() if not n.startswith("quantize.")} == {dtype or torch.float32}
    assert model.quantize.embedding.weight.dtype == torch.float32


def test_a_diffusion_file_finds_its_autoencoder_beside_it(tmp_path: Path) -> None:
    save_model(Autoencoder(TINY), tmp_path / "my-autoencoder.safetensors")
    save_model(LatentDiffusion(DIFFUSION), tmp_path / "my-diffusion.safetensors")
    model = load(tmp_path / "my-diffusion.safetensors")
    assert model.autoencoder.config == TINY and not model.autoencoder.training
    assert model.denoise(torch.randn(1, 4, 4, 4), torch.tensor(1.0), model.null(1)).isfinite().all()
    (tmp_path / "my-autoencoder.safetensors").unlink()
    with pytest.raises(CheckpointError, match="my-autoencoder.safetensors in the same folder"):
        load(tmp_path / "my-diffusion.safetensors")


def test_a_diffusion_file_finds_a_shipped_autoencoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitrail_family, "ASSETS", tmp_path / "assets")
    save_model(Autoencoder(TINY), tmp_path / "assets" / "vitrail-9-autoencoder.safetensors")
    save_model(LatentDiffusion(DIFFUSION), tmp_path / "a.safetensors", autoencoder="vitrail-9-autoencoder.safetensors")
    assert load(tmp_path / "a.safetensors").autoencoder.config == TINY


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "a\\b.safetensors", "C:b", "..", "", 3])
def test_a_diffusion_file_cannot_point_out_of_its_folder(name: object, tmp_path: Path) -> None:
    save_model(LatentDiffusion(DIFFUSION), tmp_path / "a.safetensors", autoencoder=name)
    with pytest.raises(UnsafeFile, match="without a folder"):
        load(tmp_path / "a.safetensors")


def test_a_diffusion_file_whose_autoencoder_is_none(tmp_path: Path) -> None:
    save_model(tiny_refiner(), tmp_path / "b.safetensors")
    save_model(LatentDiffusion(DIFFUSION), tmp_path / "a.safetensors", autoencoder="b.safetensors")
    with pytest.raises(CheckpointError, match="holds none"):
        load(tmp_path / "a.safetensors")


def test_overrides_replace_settings_and_unknown_ones_are_named(tmp_path: Path) -> None:
    save_model(LatentDiffusion(DIFFUSION), tmp_path / "a.safetensors")
    assert load(tmp_path / "a.safetensors", prediction="v").prediction == "v"
    with pytest.raises(ConfigError, match="predicton"):
        load(tmp_path / "a.safetensors", predicton="v")
    with pytest.raises(ConfigError, match="no prediction"):
        load(tmp_path / "a.safetensors", prediction="z")


def test_only_models_with_a_file_format_are_saved(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Linear"):
        save_model(nn.Linear(1, 1), tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="config"):
        save_model(Autoencoder(TINY), tmp_path / "a.safetensors", config={})
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_model(Autoencoder(TINY), path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_model(Autoencoder(TINY), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def rewritten(path: Path, **changes: object) -> Path:
    """The same file with other notes."""
    header = read_header(path)
    notes = json.loads(header.metadata["vitrail"]) | changes
    tensors = {name: torch.zeros(info.shape, dtype=info.dtype) for name, info in header.tensors.items()}
    write_tensors(path, tensors, {"format": "vitrail", "vitrail": json.dumps(notes)})
    return path


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"version": 2}, CheckpointError, "update Vitrail"),
        ({"version": None}, CheckpointError, "version"),
        ({"kind": "teapot"}, UnknownFamily, "no family"),
        ({"config": {"chh": 3}}, CheckpointError, "chh"),
        ({"config": {"ch": "wide"}}, CheckpointError, "AutoencoderConfig.ch"),
        ({"config": []}, CheckpointError, "mapping"),
        ({"config": {"ch": 10**12}}, CheckpointError, "cannot be built"),
    ],
)
def test_notes_that_cannot_be_used_are_named(
    changes: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    save_model(Autoencoder(TINY), tmp_path / "a.safetensors")
    with pytest.raises(error, match=message):
        load(rewritten(tmp_path / "a.safetensors", **changes))


def test_every_missing_extra_and_misshapen_key_is_reported(tmp_path: Path) -> None:
    model, path = Autoencoder(TINY), tmp_path / "a.safetensors"
    save_model(model, path)
    header, state = read_header(path), model.state_dict()
    del state["encoder.conv_in.weight"], state["decoder.norm_out.bias"]
    state["surplus"] = torch.zeros(1)
    state["encoder.conv_out.bias"] = torch.zeros(9)
    write_tensors(path, state, header.metadata)
    with pytest.raises(KeyMismatch) as error:
        load(path)
    message = str(error.value)
    assert "2 keys missing: encoder.conv_in.weight, decoder.norm_out.bias" in message
    assert "1 keys left over: surplus" in message
    assert "encoder.conv_out.bias (9,) instead of (4,)" in message


@pytest.mark.parametrize("name", PUBLIC)
def test_public_autoencoders_open_with_the_references_numbers(name: str) -> None:
    golden = case(name)
    params = golden.config["model"]["params"]
    model = load(golden.path / "model.ckpt", config=golden.config)
    dd = params["ddconfig"]
    found = (model.config.ch, model.config.ch_mult, model.config.num_res_blocks, model.config.attn_resolutions)
    assert found == (dd["ch"], tuple(dd["ch_mult"]), dd["num_res_blocks"], tuple(dd["attn_resolutions"]))
    assert (model.config.embed_dim, model.config.double_z) == (params["embed_dim"], dd["double_z"])
    with torch.no_grad():
        z = model.encode(golden.tensors["in.x"])
        if isinstance(model.config.bottleneck, KLConfig):
            assert model.config.bottleneck.weight == params["lossconfig"]["params"]["kl_weight"]
            golden.check("out.mean", z)
            golden.check("out.decoded_mean", model.decode(z))
            return
        assert model.config.bottleneck.codes == params["n_embed"] and model.config.bottleneck.legacy
        golden.check("out.h_prequant", z)
        quantized = model.quantize(z)
        golden.check("out.quant_loss", quantized.loss)
        golden.check("out.decoded", model.decode(quantized.latent))


def test_without_a_config_the_shapes_alone_make_the_same_model() -> None:
    golden = case("taming_vq_f4_n256")
    x = golden.tensors["in.x"]
    with torch.no_grad():
        golden.check("out.h_prequant", load(golden.path / "model.ckpt").encode(x))


def test_a_config_beside_the_file_is_found(tmp_path: Path) -> None:
    golden = case("ldm_vq_f8_vqmodel")
    (tmp_path / "m.ckpt").write_bytes((golden.path / "model.ckpt").read_bytes())
    assert describe(tmp_path / "m.ckpt")["config"]["resolution"] == 256
    (tmp_path / "m.json").write_text(json.dumps(golden.config))
    assert describe(tmp_path / "m.ckpt")["config"]["resolution"] == 32
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(ConfigError, match="m.json"):
        describe(tmp_path / "m.ckpt")


def test_a_public_model_saved_by_us_is_ours(tmp_path: Path) -> None:
    golden = case("ldm_vq_f4")
    model = load(golden.path / "model.ckpt", config=golden.config)
    save_model(model, tmp_path / "a.safetensors")
    assert describe(tmp_path / "a.safetensors")["family"] == "vitrail-autoencoder"
    assert load(tmp_path / "a.safetensors").config == model.config


def test_unknown_and_rival_families_are_named(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {"foo.weight": torch.zeros(2)}, {})
    header = read_header(tmp_path / "a.safetensors")
    with pytest.raises(UnknownFamily, match="foo.weight"):
        family_of(header, FAMILIES)
    rivals = {name: replace(FAMILIES["compvis-vq"], name=name, detect=~FAMILIES["compvis-vq"].detect) for name in "ab"}
    with pytest.raises(UnknownFamily, match="several families: a, b"):
        family_of(header, rivals)


def test_key_tables() -> None:
    table = {"loss.{*}": None, "blocks.{}.w.{*}": "layers.{}.{*}", "up.{~}.{}": "up.{~}.{}", "plain": "other"}
    names = ["loss.a.b", "blocks.3.w.x.y", "up.0.5", "up.2.7", "plain", "kept"]
    assert translate(table, names) == {
        "blocks.3.w.x.y": "layers.3.x.y", "up.0.5": "up.2.5", "up.2.7": "up.0.7", "plain": "other", "kept": "kept",
    }  # fmt: skip
    with pytest.raises(KeyMismatch, match="both stand for b"):
        translate({"a": "b"}, ["a", "b"])
    with pytest.raises(ValueError, match="placeholders"):
        translate({"a.{}": "b"}, ["a.1"])


def test_the_first_pattern_decides_however_it_begins() -> None:
    assert translate({"{*}.b": "short.{*}", "a.{*}": "long.{*}"}, ["a.b"]) == {"a.b": "short.a"}
    assert translate({"a.{*}": "long.{*}", "{*}.b": "short.{*}", "a.b": "whole"}, ["a.b"]) == {"a.b": "long.b"}


def test_a_table_of_thousands_of_layers_tries_few_of_them_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    compiled = keymap._compile
    monkeypatch.setattr(keymap, "_compile", lambda pattern: tried.append(pattern) or compiled(pattern))
    names = [f"blocks.{i}.weight" for i in range(5000)]
    table = {f"blocks.{i}.{{*}}": f"layers.{i}.{{*}}" for i in range(5000)}
    assert translate(table, names) == {name: name.replace("blocks", "layers") for name in names}
    assert len(tried) == 5000


@given(st.lists(st.text(st.characters(codec="ascii"), min_size=1), unique=True))
def test_the_identity_table_changes_nothing(names: list[str]) -> None:
    assert translate({"{*}": "{*}"}, [name for name in names if "\n" not in name]) == {
        name: name for name in names if "\n" not in name
    }


@given(st.permutations(range(5)))
def test_mirroring_twice_is_the_identity(levels: list[int]) -> None:
    names = [f"up.{level}.w" for level in levels]
    once = translate({"up.{~}.{*}": "up.{~}.{*}"}, names)
    twice = translate({"up.{~}.{*}": "up.{~}.{*}"}, once.values())
    assert [twice[once[name]] for name in names] == names


def test_shipped_models_are_named_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrail.core.checkpoints.shipped.ASSETS", tmp_path)
    for name in ("vitrail-2-refiner", "vitrail-10-refiner", "vitrail-1-diffusion", "other-refiner"):
        (tmp_path / f"{name}.safetensors").touch()
    assert list(shipped_models("refiner")) == ["vitrail-10", "vitrail-2"]
    assert shipped_path("vitrail-1", "diffusion") == tmp_path / "vitrail-1-diffusion.safetensors"
    assert shipped_path("vitrail-1", "autoencoder") is None


def test_notes_can_be_a_tensor_where_another_program_writes_the_file(tmp_path: Path) -> None:
    model = LatentDiffusion(DIFFUSION)
    save_model(Autoencoder(TINY), tmp_path / "own.safetensors")
    notes = {vitrail_family.NOTES: vitrail_family.notes_tensor(model, autoencoder="own.safetensors")}
    others = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    write_tensors(tmp_path / "saved.safetensors", {**model.state_dict(), **notes, **others}, {"prompt": "{}"})
    opened = load(tmp_path / "saved.safetensors")
    assert opened.config == model.config and opened.autoencoder_file == "own.safetensors"
    assert opened.autoencoder.config == TINY
    assert all(torch.equal(tensor, opened.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("bytes_of", [b"no JSON", b"[]", b"{}"])
def test_notes_that_say_nothing_are_one_clear_error(tmp_path: Path, bytes_of: bytes) -> None:
    write_tensors(tmp_path / "odd.safetensors", {vitrail_family.NOTES: torch.tensor(list(bytes_of)).byte()}, {})
    with pytest.raises(CheckpointError):
        load(tmp_path / "odd.safetensors")


def test_no_two_families_share_a_name() -> None:
    assert len(FAMILIES) == sum(len(module.FAMILIES) for module in _MODULES)
