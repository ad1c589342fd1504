"""Lookup-free quantisation: each number of a latent is rounded to its sign, and the signs are the bits of the code."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..types import Quantized
from .gradient import straight_through
from .rows import check_indices, to_latent, to_map, to_rows

MOST_BITS = 24


@dataclass(frozen=True, kw_only=True)
class LFQConfig:
    """Codes of so many bits.

    bits: channels of the latent; there are 2^bits codes.
    entropy_weight: of the entropy terms; diversity: of the second of them, that all codes are used.
    temperature: of the soft choice of codes that the entropies are of.
    beta: weight of the commitment term.
    Raises: ConfigError for values out of range.
    """

    bits: int = 10
    entropy_weight: float = 0.1
    diversity: float = 1.0
    temperature: float = 0.01
    beta: float = 0.25

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MOST_BITS:
            raise ConfigError(f"bits are {self.bits}; expected 1 to {MOST_BITS}")
        weights = {name: getattr(self, name) for name in ("entropy_weight", "diversity", "beta")}
        if wrong := {name: value for name, value in weights.items() if value < 0}:
            raise ConfigError(f"weights must be 0 or more, found {wrong}; expected none below 0")
        if self.temperature <= 0:
            raise ConfigError(f"temperature is {self.temperature}; expected more than 0")

    @property
    def codes(self) -> int:
        return 2**self.bits

    @property
    def dim(self) -> int:
        return self.bits


class LookupFreeQuantizer(nn.Module):
    """Rounds each channel to -1 or 1; no weights.

    index = sum_i 2^i [z_i > 0]
    p(c|z) = softmax_c(2 z.c / temperature), which is a product over channels of sigmoid(4 z_i c_i / temperature)
    loss = entropy_weight (mean_z H(p(.|z)) - diversity H(mean_z p(.|z))) + beta mean (z - sg(q))^2
    The entropy of the mean is exact at any number of bits: one matrix product of the two halves of the bits.
    Source: Yu et al. 2023 ("Language model beats diffusion"), eq. 3-5.
    """

    def __init__(self, config: LFQConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def codebook(self) -> Tensor:
        """Every corner of the cube, [K, D] float32, on the CPU."""
        return _signs(torch.arange(self.config.codes), self.config.bits)

    def forward(self, z: Tensor) -> Quantized:
        """Round z [B, D, h, w], any float dtype, to signs; 0 and what is no number count as negative.

        Returns the latent with a gradient to z; indices [B, h, w]; the loss, [] float32.
        Raises: ShapeError when D is not the number of bits.
        """
        with torch.autocast(z.device.type, enabled=False):
            rows = to_rows(z, self.config.dim)
            positive = rows.detach() > 0
            rounded = positive * 2.0 - 1
            indices = (positive << torch.arange(self.config.bits, device=z.device)).sum(1)
            commitment = F.mse_loss(rows, rounded)
            sample, whole = self.entropies(rows)
            entropy = sample - self.config.diversity * whole
            loss = self.config.entropy_weight * entropy + self.config.beta * commitment
        latent = to_latent(straight_through(rows, rounded), z)
        return Quantized(latent=latent, indices=to_map(indices, z), loss=loss)

    def lookup(self, indices: Tensor) -> Tensor:
        """The cube's corners: int64 [B, h, w] -> [B, D, h, w] float32. Raises: ShapeError for what is no code."""
        check_indices(indices, self.config.codes)
        return _signs(indices, self.config.bits).permute(0, 3, 1, 2).contiguous()

    def entropies(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """mean_z H(p(.|z)) and H(mean_z p(.|z)) in nats, of vectors [N, D] float32: two []."""
        logits = 4 * rows / self.config.temperature
        sample = (F.softplus(logits) - logits * logits.sigmoid()).sum(1).mean()
        low, high = logits[:, : self.config.bits // 2], logits[:, self.config.bits // 2 :]
        mean = _joint(high).T @ _joint(low) / len(rows)
        return sample, -(mean * mean.clamp_min(1e-9).log()).sum()


def _signs(indices: Tensor, bits: int) -> Tensor:
    """[...] -> [..., bits], -1 or 1, the lowest bit first."""
    return (indices[..., None] >> torch.arange(bits, device=indices.device) & 1) * 2.0 - 1


def _joint(logits: Tensor) -> Tensor:
    """The probability of each pattern of independent bits with these logits of being 1: [N, n] -> [N, 2^n]."""
    on = _signs(torch.arange(2 ** logits.shape[1], device=logits.device), logits.shape[1]).add(1) / 2
    return (F.logsigmoid(logits) @ on.T + F.logsigmoid(-logits) @ (1 - on).T).exp()
