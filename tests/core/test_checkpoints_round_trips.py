"""LlamaGen, CompVis's autoencoders, ESRGAN: a model of any sizes, saved in its layout, opens as what it was."""

import re
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import GumbelConfig, GumbelRemapConfig, KLConfig, RemapConfig, VQConfig
from vitrail.core.checkpoints import describe, load
from vitrail.core.refine.refiner import Refiner
from vitrail.core.refine.rrdb import RefinerConfig

State = dict[str, Tensor]

few = settings(max_examples=8, deadline=None)
mults = st.lists(st.sampled_from([1, 2]), min_size=1, max_size=3).map(tuple)
wrappers = st.sampled_from(["safetensors", None, "model", "state_dict", "params_ema", "params", "ema"])
sizes = st.fixed_dictionaries(
    {
        "in_channels": st.sampled_from([1, 3, 4]),
        "out_channels": st.sampled_from([1, 3]),
        "ch_mult": mults,
        "num_res_blocks": st.integers(1, 2),
        "z_channels": st.integers(2, 6),
        "embed_dim": st.integers(1, 5),
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layouts")


def random_weights(model: nn.Module, std: float = 0.2) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model.eval().requires_grad_(False)


def saved(state: State, folder: Path, wrapper: str | None) -> Path:
    if wrapper == "safetensors":
        save_file(state, folder / "m.safetensors")
        return folder / "m.safetensors"
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, folder / "m.pth")
    return folder / "m.pth"


def renamed(state: State, *rules: tuple[str, str | Callable[[re.Match[str]], str]]) -> State:
    """Every name with the first rule that it begins with."""
    found: State = {}
    for name, value in state.items():
        made = (re.sub(f"^{rule}", new, name) for rule, new in rules if re.match(rule, name))
        found[next(made, name)] = value
    return found


def same_autoencoder(loaded: Any, model: Autoencoder) -> bool:
    factor = model.config.factor
    x = torch.rand(1, model.config.in_channels, 2 * factor, 3 * factor) * 2 - 1
    if isinstance(model.config.bottleneck, KLConfig):
        same = all(torch.equal(*pair) for pair in zip(loaded.moments(x), model.moments(x), strict=True))
        return same and torch.equal(loaded.decode(model.encode(x)), model.decode(model.encode(x)))
    got, want = loaded.quantize(loaded.encode(x)), model.quantize(model.encode(x))
    same = torch.equal(got.indices, want.indices) and torch.equal(got.latent, want.latent)
    same &= torch.equal(got.loss, want.loss)
    return same and torch.equal(loaded.decode(got.latent), model.decode(want.latent))


def as_llamagen_names_it(state: State, levels: int) -> State:
    middle = {"block_1": "0", "attn_1": "1", "block_2": "2"}

    def turned(found: re.Match[str]) -> str:
        return f"decoder.conv_blocks.{levels - 1 - int(found[1])}."

    state = renamed(
        state,
        (r"(encoder|decoder)\.mid\.(block_1|attn_1|block_2)", lambda found: f"{found[1]}.mid.{middle[found[2]]}"),
        (r"encoder\.down\.(\d+)\.", r"encoder.conv_blocks.\1."),
        (r"decoder\.up\.(\d+)\.", turned),
    )
    return renamed(state, (r"(.*conv_blocks\.\d+)\.block\.", r"\1.res."))


@few
@given(sizes, st.integers(3, 20), wrappers, st.booleans(), st.sampled_from([0.25, 0.5]), st.booleans())
def test_llamagen(
    folder: Path, drawn: dict[str, Any], codes: int, wrapper: str, normed: bool, beta: float, other: bool
) -> None:
    book = VQConfig(
        codes=codes, dim=drawn["embed_dim"], beta=beta, legacy=False, metric="cosine" if normed else "l2"
    )  # fmt: skip
    last = 256 // 2 ** (len(drawn["ch_mult"]) - 1)
    up = tuple(3 - mult for mult in drawn["ch_mult"]) if other else None
    config = AutoencoderConfig(
        ch=32, attn_resolutions=(last,), resolution=256, bottleneck=book, decoder_ch_mult=up, **drawn
    )  # fmt: skip
    model = random_weights(Autoencoder(config))
    state = as_llamagen_names_it(model.state_dict(), len(config.ch_mult))
    state["quantize.codebook_used"] = torch.zeros(65536)
    path = saved(state, folder, wrapper)
    loaded = load(path, config={"codebook_l2_norm": normed, "commit_loss_beta": beta})
    assert describe(path)["family"] == "llamagen-vq"
    assert loaded.config == config and same_autoencoder(loaded, model)
    usual = replace(book, metric="cosine", beta=0.25)
    assert load(path).config == replace(config, bottleneck=usual)
    arguments = Namespace(codebook_l2_norm=normed, commit_loss_beta=beta, betas=(0.9, 0.95), vq_ckpt=None)
    torch.save({"model": state, "ema": state, "optimizer": {}, "steps": 5, "args": arguments}, folder / "train.pt")
    assert load(folder / "train.pt").config == config
    assert describe(folder / "train.pt")["inferred"]["codebook_l2_norm"] == "the trainer's arguments in it"


BOOKS: dict[str, Callable[[int], Any]] = {
    "compvis-vq": lambda dim: VQConfig(codes=7, dim=dim),
    "compvis-vq with a list": lambda dim: RemapConfig(book=VQConfig(codes=7, dim=dim), kept=3, unknown="extra"),
    "compvis-vq that followed averages": lambda dim: VQConfig(codes=7, dim=dim, legacy=False, ema=0.99),
    "compvis-gumbel": lambda dim: GumbelConfig(codes=7, dim=dim, kl_weight=1e-3),
    "compvis-gumbel with a list": lambda dim: GumbelRemapConfig(
        book=GumbelConfig(codes=7, dim=dim, kl_weight=1e-3), kept=3
    ),
    "compvis-kl": lambda dim: KLConfig(weight=1e-3),
}


@pytest.mark.parametrize("book", BOOKS)
@few
@given(
    drawn=sizes, wrapper=wrappers, attending=st.sets(st.integers(0, 2)), size=st.sampled_from([256, 96]),
    attention=st.sampled_from(["vanilla", "linear", "none"]), resampling=st.booleans(), bounded=st.booleans(),
    training=st.booleans(),
)  # fmt: skip
def test_compvis(
    book: str, folder: Path, drawn: dict[str, Any], wrapper: str, attending: set[int], size: int, attention: str,
    resampling: bool, bounded: bool, training: bool,
) -> None:  # fmt: skip
    levels = len(drawn["ch_mult"])
    places = tuple(size // 2**level for level in sorted(attending) if level < levels and attention != "none")
    config = AutoencoderConfig(
        ch=32, attn_resolutions=places, attn_type=attention, resolution=size, double_z=book == "compvis-kl",
        resamp_with_conv=resampling or levels == 1, tanh_out=bounded,
        bottleneck=BOOKS[book](drawn["embed_dim"]), **drawn,
    )  # fmt: skip
    model = random_weights(Autoencoder(config), 0.05)
    names = {"quantize.ema_size": "quantize.embedding.cluster_size", "quantize.ema_sum": "quantize.embedding.embed_avg"}
    state = {names.get(name, name): tensor for name, tensor in model.state_dict().items()}
    if training:
        state |= {"loss.perceptual_loss.lin0.model.1.weight": torch.zeros(1, 4, 1, 1), "colorize": torch.zeros(3, 2)}
    path = saved(state, folder, wrapper)
    said = {"kl_weight": 1e-3, "lossconfig": {"params": {"kl_weight": 1e-3}}}
    said |= {"unknown_index": getattr(config.bottleneck, "unknown", None)}
    loaded = load(path, config={"model": {"params": {**said, "ddconfig": {"resolution": size, "tanh_out": bounded}}}})
    assert describe(path)["family"] == book.split()[0]
    assert loaded.config == config and same_autoencoder(loaded, model)


def rrdb_new(state: State, _: RefinerConfig) -> State:
    return state


def rrdb_old(state: State, _: RefinerConfig) -> State:
    return renamed(
        state,
        (r"body\.(\d+)\.rdb", r"RRDB_trunk.\1.RDB"),
        ("conv_body", "trunk_conv"),
        (r"conv_up(\d)", r"upconv\1"),
        ("conv_hr", "HRconv"),
    )


def rrdb_oldest(state: State, config: RefinerConfig) -> State:
    last = 3 * config.doublings + 2
    return renamed(
        state,
        (r"body\.(\d+)\.rdb(\d)\.conv1x1", r"model.1.sub.\1.RDB\2.conv1x1"),
        (r"body\.(\d+)\.rdb(\d)\.conv(\d)", r"model.1.sub.\1.RDB\2.conv\3.0"),
        ("conv_first", "model.0"),
        ("conv_body", f"model.1.sub.{config.num_block}"),
        (r"conv_up(\d)", lambda found: f"model.{3 * int(found[1])}"),
        ("conv_hr", f"model.{last}"),
        ("conv_last", f"model.{last + 2}"),
    )


LAYOUTS = {"esrgan": rrdb_new, "esrgan-old": rrdb_old, "esrgan-oldest": rrdb_oldest}


@pytest.mark.parametrize("layout", LAYOUTS)
@few
@given(
    drawn=st.fixed_dictionaries(
        {
            "num_feat": st.integers(2, 9),
            "num_grow": st.integers(1, 5),
            "num_block": st.integers(1, 12),
            "doublings": st.integers(0, 3),
            "plus": st.booleans(),
        }
    ),
    fold=st.sampled_from([1, 2, 4]),
    channels=st.sampled_from([(1, 1), (3, 3), (4, 4), (6, 3), (4, 3), (1, 3)]),
    wrapper=wrappers,
)
def test_esrgan(
    layout: str, folder: Path, drawn: dict[str, int], fold: int, channels: tuple[int, int], wrapper: str
) -> None:
    if fold > 2 ** drawn["doublings"]:
        fold = 1
    inputs, outputs = channels
    scale = 2 ** drawn["doublings"] // fold
    config = RefinerConfig(in_channels=inputs, out_channels=outputs, scale=scale, **drawn)
    model = random_weights(Refiner(config, None))
    path = saved(LAYOUTS[layout](model.generator.state_dict(), config), folder, wrapper)
    said = {"network_g": {"num_in_ch": inputs}}
    loaded = load(path, config=said if fold > 1 and inputs != outputs else None)
    assert describe(path)["family"] == layout
    assert loaded.parts == model.parts
    x = torch.rand(1, inputs, 5, 6)
    assert torch.equal(loaded.generator(x), model.generator(x))
