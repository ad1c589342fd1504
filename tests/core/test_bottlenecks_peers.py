"""Bottlenecks against vector-quantize-pytorch's: codes, latents, gradients and losses. Needs the extra `peers`."""

import pytest
import torch
from torch import Tensor

from vitrail.core.bottlenecks import (
    FiniteScalarQuantizer,
    FSQConfig,
    LFQConfig,
    LookupFreeQuantizer,
    ResidualConfig,
    ResidualQuantizer,
    VectorQuantizer,
    VQConfig,
)

peers = pytest.importorskip("vector_quantize_pytorch", reason='needs pip install "vitrail[peers]"')


def latent(channels: int, *, scale: float = 1.5) -> Tensor:
    z = torch.randn(3, channels, 6, 7, generator=torch.Generator().manual_seed(0))
    return (z * scale).requires_grad_()


def gradient(output: Tensor, z: Tensor) -> Tensor:
    """Of a sum weighted by fixed random numbers."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((output * weights).sum(), z)[0]


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (8, 6, 5), (7, 5, 5, 5, 5), (4, 3), (9,)])
def test_fsq(levels: tuple[int, ...]) -> None:
    peer, ours = peers.FSQ(list(levels)), FiniteScalarQuantizer(FSQConfig(levels=levels))
    z = latent(len(levels))
    values, indices = peer(z)
    quantized = ours(ours.bound(z))
    assert torch.equal(quantized.indices, indices.long())
    assert torch.allclose(quantized.latent, values, atol=1e-6)
    assert torch.allclose(gradient(quantized.latent, z), gradient(values, z), atol=1e-5)
    assert torch.allclose(ours.codebook, peer.implicit_codebook, atol=1e-6)
    assert torch.allclose(ours.lookup(indices.long()), peer.indices_to_codes(indices), atol=1e-6)


@pytest.mark.parametrize("bits", [1, 4, 9])
@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_lfq(bits: int, temperature: float) -> None:
    config = LFQConfig(bits=bits, entropy_weight=0.3, diversity=0.7, beta=0.2, temperature=temperature)
    ours = LookupFreeQuantizer(config).train()
    peer = peers.LFQ(dim=bits, entropy_loss_weight=0.3, diversity_gamma=0.7, commitment_loss_weight=0.2).train()
    z = latent(bits, scale=0.5)
    values, indices, loss = peer(z, inv_temperature=1 / temperature)
    quantized = ours(z)
    assert torch.equal(quantized.latent, values)
    mirrored = (quantized.indices[..., None] >> torch.arange(bits)) & 1  # theirs counts from the highest bit
    assert torch.equal((mirrored << torch.arange(bits - 1, -1, -1)).sum(-1), indices.long())
    assert torch.allclose(quantized.loss, loss, atol=2e-4)
    slopes = [torch.autograd.grad(each, z)[0] for each in (quantized.loss, loss)]
    assert torch.allclose(*slopes, atol=1e-3)  # they take no logarithm below 1e-5, which shows in the slope
    assert torch.equal(ours.lookup(quantized.indices), peer.indices_to_codes(indices))


def test_vq() -> None:
    torch.manual_seed(0)
    peer = peers.VectorQuantize(
        dim=4, codebook_size=32, accept_image_fmap=True, learnable_codebook=True, ema_update=False,
        commitment_weight=0.25, rotation_trick=False,
    )  # fmt: skip
    ours = VectorQuantizer(VQConfig(codes=32, dim=4, beta=0.25, legacy=False))
    ours.load_state_dict({"embedding.weight": peer._codebook.embed[0]})
    z = latent(4)
    values, indices, _ = peer.eval()(z)
    quantized = ours.eval()(z)
    assert torch.equal(quantized.indices, indices)
    assert torch.allclose(quantized.latent, values, atol=1e-6)


def test_residual() -> None:
    torch.manual_seed(0)
    peer = peers.ResidualVQ(dim=4, num_quantizers=3, codebook_size=32).eval()
    ours = ResidualQuantizer(ResidualConfig(depth=3, book=VQConfig(codes=32, dim=4, legacy=False))).eval()
    ours.load_state_dict({f"books.{i}.embedding.weight": book for i, book in enumerate(peer.codebooks)})
    z = latent(4)
    values, indices, _ = peer(z.flatten(2).mT)
    quantized = ours(z)
    assert torch.equal(quantized.indices.flatten(1, 2), indices)
    assert torch.allclose(quantized.latent.flatten(2).mT, values, atol=1e-6)
    assert torch.allclose(ours.codebooks, peer.codebooks)
    looked_up = ours.lookup(indices.view(3, 6, 7, 3)).flatten(2).mT
    assert torch.allclose(looked_up, peer.get_output_from_indices(indices), atol=1e-6)
