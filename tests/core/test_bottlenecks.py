"""Codebooks: the search is exact, the losses and gradients are the reference's, the codebook learns as configured."""

import pytest
import torch
from golden_cases import case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitrail.core.bottlenecks import BOTTLENECKS, KLBottleneck, KLConfig, VectorQuantizer, VQConfig, build_bottleneck
from vitrail.core.bottlenecks import search as search_module
from vitrail.core.bottlenecks.gradient import GRADIENTS
from vitrail.core.bottlenecks.kmeans import kmeans
from vitrail.core.bottlenecks.search import nearest
from vitrail.core.errors import ConfigError, ShapeError

EXPONENTS = st.sampled_from([-40, -30, -12, -3, 0, 3, 12, 30, 38])


def brute(flat: Tensor, codebook: Tensor) -> Tensor:
    """Squared distances in float64, [N, K]."""
    return (flat.float().double()[:, None] - codebook.float().double()).square().sum(-1)


def assert_exact(flat: Tensor, codebook: Tensor) -> None:
    """Every pick as near as float64's, and the lowest index of those that are equally near."""
    distances, picks = brute(flat, codebook), nearest(flat, codebook)
    chosen = distances.gather(1, picks[:, None])[:, 0]
    assert (chosen <= distances.amin(1)).all()
    assert torch.equal(picks, distances.argmin(1))


@st.composite
def searches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Vectors and codes that are hard to tell apart: far from zero, far apart in size, doubled, on the vectors."""
    n, k, d = draw(st.integers(1, 40)), draw(st.integers(1, 50)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    vectors = torch.randn(n, d, generator=generator) * 10.0 ** draw(EXPONENTS)
    codes = torch.randn(k, d, generator=generator) * 10.0 ** draw(EXPONENTS)
    if draw(st.booleans()):
        offset = torch.randn(d, generator=generator) * 10.0 ** draw(st.sampled_from([0, 3, 6]))
        vectors, codes = vectors + offset, codes + offset
    if draw(st.booleans()):
        codes = torch.cat([codes, codes[torch.randperm(k, generator=generator)[: k // 2 + 1]]])
    if draw(st.booleans()):
        vectors[: len(codes)] = codes[: len(vectors)]
    if draw(st.booleans()):
        vectors, codes = vectors.round(), codes.round()
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
    return vectors.clamp(-1e38, 1e38).to(dtype), codes.clamp(-1e38, 1e38)


@settings(max_examples=300, deadline=None)
@given(searches())
def test_the_search_is_as_good_as_float64(search: tuple[Tensor, Tensor]) -> None:
    assert_exact(*search)


@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
@pytest.mark.parametrize("dim", [4, 64])
def test_large_searches_are_exact(offset: float, dim: int) -> None:
    torch.manual_seed(0)
    assert_exact(torch.randn(300, dim) + offset, torch.randn(1000, dim) + offset)


def test_a_fresh_codebook_is_searched_exactly() -> None:
    torch.manual_seed(0)
    assert_exact(torch.randn(300, 4), (torch.rand(2048, 4) * 2 - 1) / 2048)


def test_low_precision_products_do_not_worsen_the_search() -> None:
    torch.manual_seed(0)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert_exact(torch.randn(200, 32), torch.randn(500, 32))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_exact(torch.randn(200, 32), torch.randn(500, 32))
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_search_never_holds_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = torch.Tensor.__matmul__

    def watched(a: Tensor, b: Tensor) -> Tensor:
        out = real(a, b)
        seen.append(out.numel())
        return out

    monkeypatch.setattr(search_module, "CHUNK", 1000)
    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    assert_exact(torch.randn(500, 3), torch.randn(100, 3))
    assert len(seen) == 50 and max(seen) <= 1000


def test_ties_everywhere_go_to_the_lowest_index() -> None:
    codes = torch.ones(64, 3)
    assert torch.equal(nearest(torch.randn(10, 3), codes), torch.zeros(10, dtype=torch.int64))
    assert nearest(torch.zeros(1, 2), torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0]])).item() == 0


def test_vectors_that_are_not_finite_get_a_code_and_spoil_no_other() -> None:
    flat = torch.tensor([[torch.nan, 0.0], [torch.inf, 0.0], [0.9, 1.0]])
    assert nearest(flat, torch.tensor([[5.0, 5.0], [1.0, 1.0]])).tolist() == [0, 0, 1]


def test_no_vectors_and_wrong_shapes() -> None:
    assert nearest(torch.empty(0, 3), torch.randn(4, 3)).shape == (0,)
    for flat, codes in [((2, 3), (4, 5)), ((2,), (4, 2)), ((2, 3), (0, 3))]:
        with pytest.raises(ShapeError, match="expected"):
            nearest(torch.randn(flat), torch.randn(codes))


@pytest.mark.parametrize("legacy", [True, False])
def test_losses_and_gradients_are_tamings(legacy: bool) -> None:
    golden, name = case("taming_quantizer"), "legacy" if legacy else "fixed"
    config = golden.config
    quantizer = VectorQuantizer(VQConfig(codes=config["n_e"], dim=config["e_dim"], beta=config["beta"], legacy=legacy))
    quantizer.load_state_dict({"embedding.weight": golden.tensors["in.codebook"]})
    z = golden.tensors["in.z"].clone().requires_grad_()
    quantized = quantizer(z)
    quantized.loss.backward()
    golden.check(f"out.loss_{name}", quantized.loss.detach())
    golden.check(f"out.grad_z_{name}", z.grad)
    golden.check(f"out.grad_codebook_{name}", quantizer.embedding.weight.grad)
    golden.check("out.quant", quantized.latent.detach())
    golden.check("out.indices", quantized.indices.flatten())
    golden.check("out.entry", quantizer.lookup(golden.tensors["in.codes"].view(2, 6, 6)).detach())


def test_cosine_codebooks_are_llamagens() -> None:
    golden = case("llamagen_vq16")
    codebook = torch.load(golden.path / "vq.pt", weights_only=True)["model"]["quantize.embedding.weight"].float()
    quantizer = VectorQuantizer(VQConfig(codes=256, dim=8, metric="cosine")).eval()
    quantizer.load_state_dict({"embedding.weight": codebook})
    quantized = quantizer(golden.tensors["out.h_prequant"])
    golden.check("out.indices", quantized.indices.flatten())
    golden.check("out.quant", quantized.latent.detach())
    assert torch.allclose(quantizer.codebook.norm(dim=1), torch.ones(256), atol=1e-6)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_the_latent_is_exactly_the_codes_vectors(gradient: str, metric: str) -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(VQConfig(codes=32, dim=5, gradient=gradient, metric=metric))
    z = torch.randn(2, 5, 3, 4, requires_grad=True)
    quantized = quantizer(z)
    assert quantized.indices.shape == (2, 3, 4)
    assert torch.equal(quantized.latent, quantizer.lookup(quantized.indices))
    quantized.latent.sum().backward()
    assert z.grad is not None and z.grad.abs().max() > 0


def test_straight_through_copies_the_gradient() -> None:
    z, rounded = torch.randn(7, 4, requires_grad=True), torch.randn(7, 4)
    weights = torch.randn(7, 4)
    (GRADIENTS["straight_through"](z, rounded) * weights).sum().backward()
    assert torch.equal(z.grad, weights)


def test_the_rotation_turns_and_scales_the_gradient() -> None:
    """Checked against the rotation as a matrix: it takes z to the code, its transpose takes gradients back."""
    torch.manual_seed(0)
    z, rounded, weights = torch.randn(4, requires_grad=True), torch.randn(4), torch.randn(4)
    e, q = z.detach() / z.detach().norm(), rounded / rounded.norm()
    r = (e + q) / (e + q).norm()
    turn = (rounded.norm() / z.detach().norm()) * (
        torch.eye(4) - 2 * torch.outer(r, r) + 2 * torch.outer(q, e)
    )
    assert torch.allclose(turn @ z.detach(), rounded, atol=1e-5)
    (GRADIENTS["rotation"](z, rounded) * weights).sum().backward()
    assert torch.allclose(z.grad, turn.T @ weights, atol=1e-5)


@pytest.mark.parametrize("z", [torch.zeros(1, 3), -torch.ones(1, 3), torch.full((1, 3), 1e-30)])
def test_the_rotation_is_finite_where_there_is_no_direction(z: Tensor) -> None:
    z = z.clone().requires_grad_()
    out = GRADIENTS["rotation"](z, torch.ones(1, 3))
    out.sum().backward()
    assert torch.equal(out, torch.ones(1, 3)) and z.grad.isfinite().all()


def test_a_moving_average_codebook_follows_its_vectors() -> None:
    """One step against the equations of van den Oord et al. 2017, appendix A.1, with Laplace's smoothing."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(VQConfig(codes=8, dim=3, ema=0.9, legacy=False))
    before, z = quantizer.embedding.weight.clone(), torch.randn(2, 3, 4, 4)
    quantized = quantizer.train()(z)
    flat, chosen = z.permute(0, 2, 3, 1).reshape(-1, 3), quantized.indices.flatten()
    for code in range(8):
        mine = flat[chosen == code]
        size = 0.9 + 0.1 * len(mine)
        total = 0.9 * 8 + 0.1 * len(flat)
        smooth = (size + 1e-5) / (total + 8 * 1e-5) * total
        expected = (0.9 * before[code] + 0.1 * mine.sum(0)) / smooth
        assert torch.allclose(quantizer.embedding.weight[code], expected, atol=1e-5)
    assert not quantizer.embedding.weight.requires_grad
    rounded = before[chosen].view(2, 4, 4, 3).permute(0, 3, 1, 2)
    assert torch.allclose(quantized.loss, 0.25 * (z - rounded).square().mean())


def test_evaluation_changes_nothing() -> None:
    quantizer = VectorQuantizer(VQConfig(codes=8, dim=3, ema=0.9, revive=0.5, kmeans_start=True)).eval()
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    quantizer(torch.randn(1, 3, 4, 4))
    assert all(torch.equal(before[name], tensor) for name, tensor in quantizer.state_dict().items())


@pytest.mark.parametrize("ema", [None, 0.9])
def test_dead_codes_come_back_as_vectors_of_the_batch(ema: float | None) -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(VQConfig(codes=64, dim=2, ema=ema, revive=0.5)).train()
    with torch.no_grad():
        quantizer.embedding.weight.fill_(50.0)
        if ema is not None:
            quantizer.ema_sum.fill_(50.0)
    batches = [torch.randn(1, 2, 16, 16) for _ in range(80)]
    used = [len(quantizer(z).indices.unique()) for z in batches]
    assert used[0] == 1 and used[-1] > 50


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_the_k_means_start_happens_once_and_fits_the_batch(metric: str) -> None:
    torch.manual_seed(0)
    started = VectorQuantizer(VQConfig(codes=16, dim=3, metric=metric, kmeans_start=True)).train()
    fresh = VectorQuantizer(VQConfig(codes=16, dim=3, metric=metric)).train()
    z = torch.randn(2, 3, 8, 8)
    assert started(z).loss < fresh(z).loss / 2
    before = started.embedding.weight.detach().clone()
    started(z + 1)
    assert torch.equal(started.embedding.weight, before)
    restored = VectorQuantizer(started.config)
    restored.load_state_dict(started.state_dict())
    restored.train()(z + 1)
    assert torch.equal(restored.embedding.weight, before)


def test_k_means_finds_the_clusters() -> None:
    torch.manual_seed(0)
    places = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    vectors = places.repeat_interleave(50, 0) + torch.randn(150, 2) * 0.1
    centres = kmeans(vectors, 12)
    assert brute(places, centres).amin(1).max() < 0.1
    assert kmeans(vectors[:2], 5).shape == (5, 2)


def test_under_autocast_the_codebook_stays_float32() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(VQConfig(codes=64, dim=4, ema=0.9)).train()
    z = torch.randn(1, 4, 8, 8).bfloat16()
    expected = nearest(z.float().permute(0, 2, 3, 1).reshape(-1, 4), quantizer.codebook)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantized = quantizer(z)
    assert torch.equal(quantized.indices.flatten(), expected)
    assert quantized.loss.dtype == quantizer.embedding.weight.dtype == torch.float32
    assert quantized.latent.dtype == torch.bfloat16


def test_a_half_precision_model_searches_in_float32() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(VQConfig(codes=64, dim=4)).half().eval()
    z = torch.randn(1, 4, 8, 8).half()
    quantized = quantizer(z)
    expected = brute(z.permute(0, 2, 3, 1).reshape(-1, 4), quantizer.embedding.weight).argmin(1)
    assert torch.equal(quantized.indices.flatten(), expected)
    assert quantized.latent.dtype == torch.float16 and quantizer.codebook.dtype == torch.float32


@pytest.mark.parametrize(
    "wrong",
    [{"codes": 0}, {"dim": 0}, {"beta": -1}, {"metric": "l1"}, {"gradient": "none"}, {"ema": 1.0}, {"revive": 0.0}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float | str]) -> None:
    with pytest.raises(ConfigError, match="expected|at least"):
        VQConfig(**wrong)


def test_latents_and_codes_that_do_not_fit_are_refused() -> None:
    quantizer = VectorQuantizer(VQConfig(codes=4, dim=3))
    for call in (
        lambda: quantizer(torch.randn(1, 4, 2, 2)),
        lambda: quantizer.lookup(torch.full((1, 2, 2), 4)),
        lambda: quantizer.lookup(torch.zeros(2, 2, dtype=torch.int64)),
        lambda: quantizer.lookup(torch.zeros(1, 2, 2)),
    ):
        with pytest.raises(ShapeError):
            call()


def test_kl_is_the_references() -> None:
    golden = case("ldm_kl_f4")
    mean, logvar = KLBottleneck.split(golden.tensors["out.moments"])
    golden.check("out.mean", mean)
    golden.check("out.logvar", logvar)
    golden.check("out.std", (logvar / 2).exp())
    golden.check("out.kl", KLBottleneck.kl(mean, logvar))


def test_kl_samples_while_training_and_gives_the_mean_otherwise() -> None:
    bottleneck, moments = KLBottleneck(KLConfig(weight=0.5)), torch.randn(3, 4, 2, 2)
    mean, logvar = bottleneck.split(moments)
    quantized = bottleneck.eval()(moments)
    assert torch.equal(quantized.latent, mean) and quantized.indices is None
    assert torch.allclose(quantized.loss, 0.5 * bottleneck.kl(mean, logvar).mean())
    assert not torch.equal(bottleneck.train()(moments).latent, mean)
    draws = [bottleneck.sample(moments, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(bottleneck.split(torch.full((1, 2, 1, 1), 99.0))[1], torch.full((1, 1, 1, 1), 20.0))
    with pytest.raises(ShapeError):
        bottleneck.split(torch.randn(1, 3, 2, 2))


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_every_bottleneck_is_built_from_its_config(name: str) -> None:
    kind = BOTTLENECKS[name]
    assert type(build_bottleneck(kind.config())) is kind.module


def test_what_is_no_bottleneck_is_refused() -> None:
    with pytest.raises(ConfigError, match="vq, kl"):
        build_bottleneck(object())  # pyright: ignore[reportArgumentType]
