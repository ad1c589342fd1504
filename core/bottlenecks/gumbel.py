"""Gumbel-softmax codes: the encoder scores every code, and training draws one of them."""

from dataclasses import dataclass
from math import cos, log, pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..types import Quantized
from .gradient import straight_through
from .rows import check_indices, to_latent, to_map, to_rows
from .search import nearest


@dataclass(frozen=True, kw_only=True)
class GumbelConfig:
    """A codebook whose codes are drawn while training.

    codes, dim: K vectors of D numbers.
    kl_weight: of the divergence of the scores from the uniform distribution.
    temperature: of the draw at the start of training; final_temperature: at its end (a trainer cools between them).
    straight_through: draw one code; otherwise a mixture of codes, in training only.
    Raises: ConfigError for values out of range.
    """

    codes: int = 1024
    dim: int = 256
    kl_weight: float = 5e-4
    temperature: float = 1.0
    final_temperature: float = 1 / 16
    straight_through: bool = True

    def __post_init__(self) -> None:
        if self.codes < 1 or self.dim < 1:
            raise ConfigError(f"a codebook of {self.codes} codes of {self.dim} numbers; both must be at least 1")
        if self.kl_weight < 0:
            raise ConfigError(f"kl_weight is {self.kl_weight}; expected 0 or more")
        if not 0 < self.final_temperature <= self.temperature:
            raise ConfigError(
                f"temperatures are {self.temperature} and {self.final_temperature}; expected the first above 0 and "
                "the final one above 0 and no higher"
            )


class GumbelQuantizer(nn.Module):
    """Scores codes and takes the best, or while training one drawn; works in float32 whatever the dtype around it.

    scores = proj z,  y = softmax((scores + g) / temperature) with g of the Gumbel distribution,  latent = y embed
    loss = kl_weight * mean over vectors of sum_k p_k log(K p_k),  p = softmax(scores)
    A vector that is a row of `embed` already stays that code outside training, so that looking codes up and rounding
    them again changes nothing, although vectors before and after rounding are of two spaces.
    Source: Jang et al. 2017, eq. 2; Ramesh et al. 2021, section 2.1; the layout is taming's.
    """

    keep_float32 = True
    """Loading and saving leave these weights in float32."""

    def __init__(self, config: GumbelConfig) -> None:
        super().__init__()
        self.config = config
        self.temperature = config.temperature
        self.proj = nn.Conv2d(config.dim, config.codes, 1)
        self.embed = nn.Embedding(config.codes, config.dim)

    @property
    def codebook(self) -> Tensor:
        """The vectors that codes stand for, [K, D] float32."""
        return self.embed.weight.detach().float()

    def forward(self, z: Tensor) -> Quantized:
        """Round z: the best code, or in training mode a random draw by torch's global generator.

        z: [B, D, h, w], any float dtype; the latent comes back in the same one.
        Returns the latent with a gradient to z; indices [B, h, w]; the loss, [] float32.
        Raises: ShapeError when D is not the codebook's.
        """
        with torch.autocast(z.device.type, enabled=False):
            rows = to_rows(z, self.config.dim)
            scores = self.scores(rows)
            if self.training:
                noise = -torch.empty_like(scores).exponential_().clamp_min(1e-30).log()
                vectors, indices = self.draw(scores, noise)
            else:
                indices = self._settled(rows, scores.argmax(1))
                vectors = F.embedding(indices, self._vectors)
            loss = self.config.kl_weight * self.divergence(scores)
        return Quantized(latent=to_latent(vectors, z), indices=to_map(indices, z), loss=loss)

    def scores(self, rows: Tensor) -> Tensor:
        """proj z: [N, D] -> [N, K] float32."""
        bias = None if self.proj.bias is None else self.proj.bias.float()
        return F.linear(rows, self.proj.weight.float().flatten(1), bias)

    def draw(self, scores: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [N, D], with a gradient through the soft choice, and the codes int64 [N] that noise makes the best.

        scores, noise: [N, K] float32.
        """
        soft = ((scores + noise) / self.temperature).softmax(1)
        indices = soft.argmax(1)
        hard = torch.zeros_like(soft).scatter_(1, indices[:, None], 1.0)
        choice = straight_through(soft, hard) if self.config.straight_through else soft
        return choice @ self._vectors, indices

    def lookup(self, indices: Tensor) -> Tensor:
        """The vectors of codes: int64 [B, h, w] -> [B, D, h, w] in the dtype of the weights.

        Raises: ShapeError for another shape or a code that the codebook does not have.
        """
        check_indices(indices, self.config.codes)
        return self.embed(indices).permute(0, 3, 1, 2).contiguous()

    def anneal(self, share: float) -> None:
        """Cool to where a training run stands: a cosine from the first temperature (share 0) to the final one (1)."""
        high, low = self.config.temperature, self.config.final_temperature
        self.temperature = low + (high - low) * (1 + cos(pi * share)) / 2

    def divergence(self, scores: Tensor) -> Tensor:
        """mean over vectors of KL(softmax(scores) || uniform over all K codes), [N, K] -> []."""
        log_p = scores.log_softmax(1)
        return (log_p.exp() * log_p).sum(1).mean() + log(self.config.codes)

    @property
    def _vectors(self) -> Tensor:
        """What the scores choose among, [K, D] float32 with gradient."""
        return self.embed.weight.float()

    def _settled(self, rows: Tensor, indices: Tensor) -> Tensor:
        """The codes of rows that are entries of the codebook to the bit, else the given ones."""
        vectors = self._vectors.detach()
        entries = nearest(rows, vectors)
        return torch.where((vectors[entries] == rows).all(1), entries, indices)
