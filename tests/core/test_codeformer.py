"""CodeFormer: the reference's numbers, its flat layout over varied sizes, pictures of any size."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import VQConfig
from vitrail.core.checkpoints import load
from vitrail.core.checkpoints.families.codeformer import vqgan_keys
from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.refine.codeformer import CodeFormer, CodeFormerConfig
from vitrail.nodes.refine import GANRefine


def vqgan(mults: tuple[int, ...] = (1, 2), blocks: int = 1, attending: tuple[int, ...] = ()) -> AutoencoderConfig:
    resolution = 2 ** (len(mults) + 3)
    return AutoencoderConfig(
        ch=32, ch_mult=mults, num_res_blocks=blocks, decoder_blocks=blocks, resolution=resolution,
        attn_resolutions=tuple(resolution // 2**i for i in attending), z_channels=8, embed_dim=8, quant_conv=False,
        last_activation=False, bottleneck=VQConfig(codes=12, dim=8, legacy=True),
    )  # fmt: skip


def flat(model: Autoencoder, prefix: str = "") -> dict[str, Tensor]:
    """A VQGAN's weights in the flat layout."""
    back = {new[: -len(".{*}")]: old[: -len(".{*}")] for old, new in vqgan_keys(model.config).items() if new}
    state = {}
    for name, tensor in model.state_dict().items():
        layer = next(part for part in sorted(back, key=len, reverse=True) if name.startswith(part + "."))
        state[prefix + back[layer] + name[len(layer) :]] = tensor
    return state


def public(model: CodeFormer) -> dict[str, Tensor]:
    """A CodeFormer's weights by their public names."""
    state = flat(model.vqgan)
    for name, tensor in model.state_dict().items():
        if not name.startswith("vqgan."):
            for ours, theirs in NAMES:
                name = name.replace(ours, theirs)
            state[name] = tensor
    return state


def tiny(**changes: Any) -> CodeFormer:
    torch.manual_seed(0)
    sizes = {"width": 8, "depth": 2, "heads": 2, "inner": 12, "places": 16, "fused": (8,)}
    model = CodeFormer(CodeFormerConfig(**{"autoencoder": vqgan(), **sizes, **changes})).eval()
    nn.init.normal_(model.position_emb)
    return model


@torch.no_grad()
def test_the_vqgan_has_the_references_numbers() -> None:
    golden = case("codeformer_vqgan")
    model = load(golden.path / "vqgan.pth")
    latent = model.encode(golden.tensors["in.x"])
    golden.check("out.h_encoder", latent)
    quantized = model.quantize(latent)
    golden.check("out.quant", quantized.latent)
    golden.check("out.quant_loss", quantized.loss)
    golden.check("out.indices", quantized.indices.flatten())
    golden.check("out.decoded", model.decode(quantized.latent))


@torch.no_grad()
def test_codeformer_has_the_references_numbers() -> None:
    golden = case("codeformer")
    model = load(golden.path / "codeformer.pth", config=golden.config)
    x = golden.tensors["in.small"].repeat_interleave(8, 2).repeat_interleave(8, 3)
    latent = model.features(x)["latent"]
    golden.check("out.lq_feat", latent[:, ::4])
    scores = model.scores(latent)
    golden.check("out.logits", scores[:, ::8])
    golden.check("out.top_codes", scores.argmax(2))
    best = scores.topk(2, 2).values
    golden.check("out.top_margin", best[..., 0] - best[..., 1])
    for name, w, adain in (("w0", 0.0, False), ("w05", 0.5, False), ("w1_adain", 1.0, True)):
        made = model(x, w, adain)
        golden.check(f"out.image_{name}", made[:, :, ::8, ::8])
        golden.check(f"out.crop_{name}", made[:, :, 200:232, 240:272])


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.sampled_from([1, 2]), min_size=1, max_size=4), st.integers(1, 2), st.sets(st.integers(0, 3)),
    st.booleans(),
)  # fmt: skip
def test_the_flat_layout_opens_as_what_was_saved(
    tmp_path_factory: pytest.TempPathFactory, mults: list[int], blocks: int, attending: set[int], whole: bool
) -> None:
    inside = vqgan(tuple(mults), blocks, tuple(sorted(attending & set(range(len(mults))))))
    path = tmp_path_factory.mktemp("flat") / "m.pth"
    x = torch.rand(1, 3, 4 * inside.factor, 4 * inside.factor) * 2 - 1
    if not whole:
        model = Autoencoder(inside).eval()
        torch.save({"params_ema": flat(model)}, path)
        loaded = load(path)
        assert loaded.config == inside and torch.equal(loaded(x)[0], model(x)[0])
        return
    model = tiny(autoencoder=inside, fused=(4 * inside.factor,))
    torch.save({"params_ema": public(model)}, path)
    loaded = load(path, config={"network_g": {"n_head": 2}} if blocks == 1 else {"n_head": 2})
    assert loaded.config == model.config
    with torch.no_grad():
        assert torch.equal(loaded(x, 0.7), model(x, 0.7))


NAMES = (
    ("fuse.", "fuse_convs_dict."), ("layers.", "ft_layers."), (".qkv.", ".self_attn.in_proj_"),
    (".out.", ".self_attn.out_proj."), ("nin_shortcut", "conv_out"), ("head.", "idx_pred_layer.1."),
    ("norm.", "idx_pred_layer.0."),
)  # fmt: skip


@torch.no_grad()
def test_a_level_with_attention_is_fused_between_its_last_block_and_that() -> None:
    """As the reference has it at 16, the only level of its own with attention; elsewhere after the first block up."""
    model = tiny(autoencoder=vqgan((1, 2), 2, (1,)), fused=(4,))
    level, other = model.vqgan.encoder.down[1], model.vqgan.decoder.up[1]
    seen: dict[str, Tensor] = {}
    level.block[1].register_forward_hook(lambda _, __, out: seen.update(enc=out))
    other.block[1].register_forward_hook(lambda _, __, out: seen.update(dec=out))
    other.attn[1].register_forward_pre_hook(lambda _, inputs: seen.update(fused=inputs[0]))
    model(torch.rand(1, 3, 8, 8), 0.5)
    assert torch.equal(seen["fused"], model.fuse["4"](seen["enc"], seen["dec"], 0.5))


@pytest.mark.parametrize("places", [4, 9])
def test_levels_go_by_the_names_of_the_public_code(places: int, tmp_path: Path) -> None:
    inside = vqgan((1, 1, 1, 1, 2, 1))
    config = {"autoencoder": inside, "places": places, "fused": (32, 256), "named_for": 512, "depth": 0, "inner": 16}
    model = tiny(**config)
    assert model.fuse["32"].scale[0].in_channels == 64 and model.fuse["256"].scale[0].in_channels == 32
    torch.save(public(model), tmp_path / "m.pth")
    loaded = load(tmp_path / "m.pth", config={"n_head": 2})
    x = torch.rand(1, 3, model.config.size, model.config.size)
    assert loaded.config == model.config
    with torch.no_grad():
        assert torch.equal(loaded(x, 0.7), model(x, 0.7))


def test_pictures_of_any_size_and_the_fidelity_of_the_node() -> None:
    model = tiny()
    image = torch.rand(2, 11, 37, 4)
    settings = {"scale": 0.0, "strength": 1.0, "tile_size": 0}
    (low,), (high,) = (GANRefine().execute(image, model, fidelity=f, **settings) for f in (0.0, 1.0))
    assert low.shape == image.shape and low.isfinite().all() and not torch.equal(low[..., :3], high[..., :3])
    (tiled,) = GANRefine().execute(image, model, fidelity=1.0, **{**settings, "tile_size": 16})
    assert torch.equal(tiled, high), "a face is seen whole"
    with pytest.raises(ConfigError, match="fidelity"):
        model.picture(torch.rand(1, 3, 8, 8), 1.5)
    with pytest.raises(ShapeError, match="8, 8"):
        model(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize("changes", [{"heads": 3}, {"places": 12}, {"fused": (5,)}, {"width": 0}])
def test_sizes_that_do_not_go_together_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        tiny(**changes)
