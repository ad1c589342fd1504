"""Vector quantisation: each vector of a latent becomes the nearest vector of a learned codebook."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..types import Quantized
from .gradient import GRADIENTS
from .kmeans import draw, kmeans, totals
from .rows import check_indices, to_latent, to_map, to_rows
from .search import nearest

METRICS = ("l2", "cosine")
DECAY = 0.99
EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class VQConfig:
    """A codebook and how it learns.

    codes, dim: K vectors of D numbers.
    beta: weight of the commitment term; legacy puts it on the codebook term instead, as taming's models were trained.
    metric: "l2", or "cosine": latents and codes are scaled to length 1 first (Yu et al. 2021, section 3.2).
    gradient: "straight_through" or "rotation".
    ema: decay of a codebook that follows the mean of its vectors instead of a gradient, or None.
    revive: a code that fewer vectors a batch than this choose (a moving average) restarts from a random one, or None.
    kmeans_start: the first training batch sets the codebook.
    Raises: ConfigError for values out of range.
    """

    codes: int = 1024
    dim: int = 256
    beta: float = 0.25
    legacy: bool = True
    metric: str = "l2"
    gradient: str = "straight_through"
    ema: float | None = None
    revive: float | None = None
    kmeans_start: bool = False

    def __post_init__(self) -> None:
        if self.codes < 1 or self.dim < 1:
            raise ConfigError(f"a codebook of {self.codes} codes of {self.dim} numbers; both must be at least 1")
        if self.beta < 0:
            raise ConfigError(f"beta is {self.beta}; expected 0 or more")
        if self.metric not in METRICS:
            raise ConfigError(f'metric is "{self.metric}"; expected one of {", ".join(METRICS)}')
        if self.gradient not in GRADIENTS:
            raise ConfigError(f'gradient is "{self.gradient}"; expected one of {", ".join(GRADIENTS)}')
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"ema is {self.ema}; expected a decay between 0 and 1, such as 0.99, or none")
        if self.revive is not None and self.revive <= 0:
            raise ConfigError(f"revive is {self.revive}; expected vectors a batch, above 0, or none")

    def fixed(self) -> "VQConfig":
        """The same codebook with nothing that only training needs: no moving averages, revival or k-means start."""
        return replace(self, ema=None, revive=None, kmeans_start=False)


class VectorQuantizer(nn.Module):
    """Rounds latents to codes; works in float32 whatever the dtype around it.

    loss = w_c |q - sg(z)|^2 + w_z |sg(q) - z|^2, means over all numbers; (w_c, w_z) = (beta, 1) with `legacy`, else
    (1, beta); without the first term where the codebook follows a moving average.
    Source: van den Oord et al. 2017, eq. 3 and appendix A.1; taming's models as published have the weights swapped.
    """

    keep_float32 = True
    """Loading and saving leave these weights in float32."""

    ema_size: Tensor
    ema_sum: Tensor
    started: Tensor

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.codes, config.dim)
        nn.init.uniform_(self.embedding.weight, -1 / config.codes, 1 / config.codes)
        if config.metric == "cosine":
            self.embedding.weight.data = F.normalize(self.embedding.weight.data, dim=1)
        if config.ema is not None or config.revive is not None:
            self.register_buffer("ema_size", torch.ones(config.codes))
        if config.ema is not None:
            self.embedding.weight.requires_grad_(False)
            self.register_buffer("ema_sum", self.embedding.weight.detach().clone())
        if config.kmeans_start:
            self.register_buffer("started", torch.tensor(False))

    @property
    def codebook(self) -> Tensor:
        """The vectors that codes stand for, [K, D] float32, of length 1 with the cosine metric."""
        return self._book

    @property
    def _book(self) -> Tensor:
        """Every vector there is, to round to."""
        return self._unit(self.embedding.weight.detach().float())

    def forward(self, z: Tensor) -> Quantized:
        """Round z; in training mode the codebook's moving averages, revival and k-means start go on as configured.

        z: [B, D, h, w], any float dtype; the latent comes back in the same one.
        Returns the latent, exactly the codes' vectors with a gradient to z; indices [B, h, w]; the loss, [] float32.
        Raises: ShapeError when D is not the codebook's.
        """
        with torch.autocast(z.device.type, enabled=False):
            flat = self._unit(to_rows(z, self.config.dim))
            if self.training:
                self._prepare(flat.detach())
            indices = nearest(flat.detach(), self._book)
            rounded = self._vectors(indices)
            loss = self._loss(flat, rounded)
            if self.training:
                self._follow(flat.detach(), indices)
            latent = GRADIENTS[self.config.gradient](flat, rounded)
        return Quantized(latent=to_latent(latent, z), indices=to_map(indices, z), loss=loss)

    def lookup(self, indices: Tensor) -> Tensor:
        """The vectors of codes: int64 [B, h, w] -> [B, D, h, w] in the dtype of the weights.

        Raises: ShapeError for another shape or a code that the codebook does not have.
        """
        check_indices(indices, self.config.codes)
        with torch.autocast(indices.device.type, enabled=False):
            return self._vectors(indices).permute(0, 3, 1, 2).contiguous().to(self.embedding.weight.dtype)

    def _vectors(self, indices: Tensor) -> Tensor:
        """Float32 vectors of codes, gradient to the codebook: only the rows in use are converted and scaled."""
        return self._unit(F.embedding(indices, self.embedding.weight).float())

    def _unit(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.config.metric == "cosine" else vectors

    def _loss(self, flat: Tensor, rounded: Tensor) -> Tensor:
        codebook, commitment = (self.config.beta, 1.0) if self.config.legacy else (1.0, self.config.beta)
        loss = commitment * F.mse_loss(flat, rounded.detach())
        return loss if self.config.ema is not None else loss + codebook * F.mse_loss(rounded, flat.detach())

    @torch.no_grad()
    def _prepare(self, flat: Tensor) -> None:
        """Before the search: the k-means start, once, and new vectors for dead codes."""
        if self.config.kmeans_start and not self.started:
            sphere = self.config.metric == "cosine"
            centres = kmeans(flat, self.config.codes, sphere=sphere)
            self._set(torch.ones(len(centres), dtype=torch.bool, device=flat.device), centres, 1.0)
            self.started.fill_(True)
        elif self.config.revive is not None:
            dead = self.ema_size < self.config.revive
            if count := int(dead.sum()):
                self._set(dead, draw(flat, count), 2 * self.config.revive)

    def _set(self, mask: Tensor, vectors: Tensor, size: float) -> None:
        """Give the codes of `mask` [K] new vectors, as if `size` vectors a batch had chosen each of them so far."""
        self.embedding.weight.data[mask] = vectors.to(self.embedding.weight.dtype)
        if self.config.ema is not None or self.config.revive is not None:
            self.ema_size[mask] = size
        if self.config.ema is not None:
            self.ema_sum[mask] = vectors * size

    @torch.no_grad()
    def _follow(self, flat: Tensor, indices: Tensor) -> None:
        """N_k <- d N_k + (1 - d) n_k,  m_k <- d m_k + (1 - d) sum of z,  e_k = m_k / N_k with Laplace's smoothing."""
        if self.config.ema is None and self.config.revive is None:
            return
        decay = self.config.ema or DECAY
        sums, counts = totals(flat, indices, self.config.codes)
        self.ema_size.lerp_(counts, 1 - decay)
        if self.config.ema is not None:
            self.ema_sum.lerp_(sums, 1 - decay)
            total = self.ema_size.sum()
            size = (self.ema_size + EPSILON) / (total + self.config.codes * EPSILON) * total
            self.embedding.weight.data.copy_(self._unit(self.ema_sum / size[:, None]))
