"""Codebooks of which a list of codes is kept: the reference's numbers, and the files that hold such a list."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import case
from torch import Tensor

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import (
    GumbelConfig,
    GumbelRemapConfig,
    RemapConfig,
    RemappedGumbelQuantizer,
    RemappedQuantizer,
    VectorQuantizer,
    VQConfig,
)
from vitrail.core.checkpoints import describe, load, save_model
from vitrail.core.checkpoints.convert import convert
from vitrail.core.checkpoints.read import read_header, read_tensors
from vitrail.core.config_io import from_dict, to_dict
from vitrail.core.errors import CheckpointError, ConfigError
from vitrail.core.priors.sample import sample

USED = torch.tensor([5, 1, 9, 14])


def tiny(unknown: str | int = "random") -> AutoencoderConfig:
    return AutoencoderConfig(
        ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), z_channels=4, embed_dim=4,
        bottleneck=RemapConfig(book=VQConfig(codes=16, dim=4), kept=4, unknown=unknown),
    )  # fmt: skip


def model_with_list(unknown: str | int = "random") -> Autoencoder:
    torch.manual_seed(0)
    model = Autoencoder(tiny(unknown)).eval().requires_grad_(False)
    model.quantize.used.copy_(USED)
    return model


def golden_quantizer(unknown: str | int) -> tuple[Any, RemappedQuantizer]:
    golden = case("taming_quantizer")
    book = VQConfig(codes=golden.config["n_e"], dim=golden.config["e_dim"], beta=golden.config["beta"])
    used = golden.tensors["in.used"]
    quantizer = RemappedQuantizer(RemapConfig(book=book, kept=len(used), unknown=unknown)).eval().requires_grad_(False)
    quantizer.load_state_dict({"embedding.weight": golden.tensors["in.codebook"], "used": used})
    return golden, quantizer


def test_numbers_are_the_references() -> None:
    golden, quantizer = golden_quantizer(case("taming_quantizer").config["unknown_index"])
    quantized = quantizer(golden.tensors["in.z"])
    golden.check("out.quant", quantized.latent)
    golden.check("out.indices_remapped", quantized.indices)
    golden.check("out.loss_legacy", quantized.loss)
    golden.check("out.entry_remapped", quantizer.lookup(golden.tensors["in.remapped_codes"].view(2, 6, 6)))
    kept = len(golden.tensors["in.used"])
    assert quantizer.codebook.shape == (kept + 1, 8) and torch.equal(quantizer.codebook[kept], quantizer.codebook[0])
    assert (quantized.indices == kept).any(), "the case has codes outside the list"


@pytest.mark.parametrize("unknown", ["random", 3])
def test_codes_outside_the_list_become_one_of_it(unknown: str | int) -> None:
    golden, quantizer = golden_quantizer(unknown)
    z, used, book = (golden.tensors[f"in.{name}"] for name in ("z", "used", "codebook"))
    found, theirs = quantizer(z).indices, golden.tensors["out.indices_remapped"]
    inside = theirs < len(used)
    assert torch.equal(found[inside], theirs[inside])
    whole = golden.tensors["out.indices"].view(2, 6, 6)[~inside]
    nearest = torch.cdist(book[whole].double(), book[used].double()).argmin(1)
    assert torch.equal(found[~inside], nearest if unknown == "random" else torch.full_like(nearest, 3))
    assert torch.equal(quantizer(z).indices, found)


def test_a_code_listed_twice_has_its_first_place() -> None:
    quantizer = RemappedQuantizer(RemapConfig(book=VQConfig(codes=4, dim=2), kept=3, unknown="extra"))
    quantizer.used.copy_(torch.tensor([2, 0, 2]))
    assert quantizer.to_kept(torch.arange(4)).tolist() == [1, 3, 0, 3]
    assert quantizer.to_all(torch.arange(4)).tolist() == [2, 0, 2, 2]


def test_a_gumbel_codebook_chooses_among_its_list_alone() -> None:
    torch.manual_seed(0)
    book = GumbelConfig(codes=16, dim=4, kl_weight=0.5)
    quantizer = RemappedGumbelQuantizer(GumbelRemapConfig(book=book, kept=4)).eval()
    quantizer.used.copy_(USED)
    z = torch.randn(2, 4, 5, 3)
    scores = quantizer.proj(z)[:, USED]
    found, best = quantizer(z), scores.argmax(1)
    assert torch.equal(found.indices, best) and len(best.unique()) > 1
    assert torch.equal(found.latent, quantizer.embed(USED[best]).permute(0, 3, 1, 2))
    assert torch.equal(found.latent, quantizer.lookup(best)) and quantizer.codebook.shape == (4, 4)
    share = scores.softmax(1)
    torch.testing.assert_close(found.loss, 0.5 * (share * (share * 16).log()).sum(1).mean())
    assert torch.equal(quantizer(found.latent).indices, best), "what was looked up rounds to itself"
    quantizer.train()(z).latent.sum().backward()
    outside = [i for i in range(16) if i not in USED]
    assert quantizer.embed.weight.grad[outside].eq(0).all() and quantizer.embed.weight.grad[USED].ne(0).any()


@pytest.mark.parametrize("wrong", [{"kept": 0}, {"unknown": "other"}, {"unknown": 4}, {"unknown": -1}])
def test_settings_that_make_no_list_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        replace(tiny().bottleneck, **wrong)  # type: ignore[type-var]


@pytest.mark.parametrize("unknown", ["random", "extra", 2])
def test_a_list_survives_every_file(unknown: str | int, tmp_path: Path) -> None:
    model, x = model_with_list(unknown), torch.rand(2, 3, 16, 16) * 2 - 1
    assert from_dict(AutoencoderConfig, to_dict(model.config)) == model.config
    torch.save({"state_dict": model.state_dict()}, tmp_path / "theirs.ckpt")
    said = {"model": {"params": {"n_embed": 16, "remap": "list.npy", "unknown_index": unknown}}}
    theirs = load(tmp_path / "theirs.ckpt", config=said)
    save_model(theirs, tmp_path / "ours.safetensors", dtype=torch.float16)
    save_model(theirs, tmp_path / "whole.safetensors")
    assert describe(tmp_path / "ours.safetensors")["config"]["bottleneck"]["kind"] == "remap"
    assert torch.equal(load(tmp_path / "ours.safetensors").codebook, model.codebook)
    for loaded in (theirs, load(tmp_path / "whole.safetensors")):
        assert loaded.config == model.config and loaded.codebook_size == 4 + (unknown == "extra")
        got, want = loaded.quantize(loaded.encode(x)), model.quantize(model.encode(x))
        assert torch.equal(got.indices, want.indices) and torch.equal(got.latent, want.latent)
        assert torch.equal(loaded.lookup(got.indices), model.codebook[want.indices].permute(0, 3, 1, 2))
        assert torch.equal(loaded.quantize.used, USED)
    with pytest.raises(ConfigError, match="no place for a bottleneck of the kind RemapConfig"):
        convert(tmp_path / "whole.safetensors", tmp_path / "c.safetensors", to="compvis")


def test_without_a_config_unknown_codes_are_random(tmp_path: Path) -> None:
    torch.save({"state_dict": model_with_list().state_dict()}, tmp_path / "m.ckpt")
    assert load(tmp_path / "m.ckpt").config == tiny()
    assert "VQModel" in describe(tmp_path / "m.ckpt")["inferred"]["model.params.unknown_index"]
    with pytest.raises(ConfigError, match="place in the list"):
        load(tmp_path / "m.ckpt", config={"model": {"params": {"unknown_index": 99}}})


@pytest.mark.parametrize("used", [torch.tensor([0, 1, 2, 16]), torch.tensor([-1, 1, 2, 3])])
def test_a_list_that_leaves_the_codebook_is_refused(used: Tensor, tmp_path: Path) -> None:
    torch.save(model_with_list().state_dict() | {"quantize.used": used}, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match="m.ckpt: the list .* the codebook has 0 to 15"):
        load(tmp_path / "m.ckpt")
    torch.save(model_with_list().state_dict() | {"quantize.used": used.view(2, 2)}, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError):
        load(tmp_path / "m.ckpt")


def with_list(name: str, path: Path, used: Tensor) -> Any:
    """A golden file whose first stage keeps a list of codes."""
    golden = case(name)
    tensors = read_tensors(read_header(next(golden.path.glob("model.*"))))
    torch.save({"state_dict": tensors | {"first_stage_model.quantize.used": used}}, path)
    return golden


def test_the_first_stage_of_latent_diffusion_can_have_a_list(tmp_path: Path) -> None:
    golden = with_list("ldm_uncond_vq4", tmp_path / "m.ckpt", USED)
    first = load(tmp_path / "m.ckpt", config=golden.config).autoencoder
    plain = load(next(golden.path.glob("model.*")), config=golden.config).autoencoder
    assert isinstance(plain.quantize, VectorQuantizer) and first.config.bottleneck.book == plain.config.bottleneck
    assert torch.equal(first.codebook, plain.codebook[USED])
    z = torch.randn(1, plain.config.embed_dim, 4, 4)
    assert torch.equal(first.rounded(z), plain.rounded(z)), "latents are rounded to the whole codebook"


def test_a_prior_writes_the_numbers_of_its_first_stages_list(tmp_path: Path) -> None:
    golden = with_list("net2net_coord", tmp_path / "m.ckpt", USED)
    prior = load(tmp_path / "m.ckpt", config=golden.config)
    assert prior.autoencoder.codebook_size == 4
    *_, last = sample(prior, (8, 8), [0], condition=golden.tensors["in.c"][:1])
    assert last.codes.unique().tolist() == [0, 1, 2, 3]
    pictures = golden.tensors["in.x"]
    assert int(prior.codes(pictures).max()) < 4
    assert prior.picture(last.codes.flatten(1)).shape == pictures[:1].shape
