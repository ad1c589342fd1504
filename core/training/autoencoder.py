"""Training an autoencoder: reconstruction, edges at three scales, the codebook, and a critic towards the end."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..autoencoders.autoencoder import Autoencoder
from ..autoencoders.config import AutoencoderConfig
from ..bottlenecks import GumbelQuantizer
from ..checkpoints import load_perceptual, save_model
from ..losses.critics import CriticConfig, build_critic
from ..losses.patchgan import PatchGANConfig
from ..losses.reconstruction import gradient_l1, l1, mse
from ..types import Quantized
from . import distributed
from .adversary import Adversary, Rules
from .data import Example, Pictures, order, spread
from .loop import Schedule, Task


@dataclass(frozen=True, kw_only=True)
class AutoencoderRecipe:
    """Everything that, with the data, makes an autoencoder.

    size: pixels of a picture's side; pictures are read at twice that, so that crops show finer detail.
    crops, recolours: share of steps with random crops at that finer scale, or with permuted channels.
    critic_from: share of the run (0..1) after which the critic joins in; critic_weight, feature_weight: its two terms.
    decoder_only: keep encoder and codebook as they are (to go on while a diffusion network learns their latents).
    rules: what the critic plays for.
    perceptual: a file with LPIPS (`load_perceptual`) whose distance joins the loss; perceptual_weight: its weight.
    """

    schedule: Schedule = field(default_factory=Schedule)
    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    critic: CriticConfig = field(default_factory=lambda: PatchGANConfig(ndf=32, n_layers=2, norm="spectral"))
    size: int = 64
    crops: float = 0.2
    recolours: float = 0.2
    critic_from: float = 0.8
    critic_weight: float = 0.01
    feature_weight: float = 0.1
    decoder_only: bool = False
    rules: Rules = field(default_factory=Rules)
    perceptual: str | None = None
    perceptual_weight: float = 1.0


class AutoencoderTask(Task):
    """loss = L1 + 0.5 MSE + 0.5 gradient L1 + bottleneck + critic, + LPIPS where it is given.

    Source: Esser et al. 2021, eq. 5.
    """

    averaged = "autoencoder"

    def __init__(
        self,
        recipe: AutoencoderRecipe,
        examples: Sequence[Example],
        model: Autoencoder | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(recipe.schedule, device)
        torch.manual_seed(recipe.schedule.seed)
        self.recipe = recipe
        self.model = (model or Autoencoder(recipe.model)).float().to(device)
        self.critic = build_critic(recipe.critic).to(device)
        self.adversary = Adversary(self.critic, recipe.rules, self.autocast, device)
        self.perceptual = load_perceptual(recipe.perceptual).to(device) if recipe.perceptual else None
        self.networks = {"autoencoder": self.model, "critic": self.critic, **self.adversary.networks}
        if recipe.decoder_only:
            self.model.requires_grad_(False)
            self.model.decoder.requires_grad_(True)
            self.model.post_quant_conv.requires_grad_(True)
        self.optimizers = {
            "autoencoder": self.adam(self.model),
            "critic": self.adam(self.critic, rate=2e-4, betas=(0.5, 0.9)),
        }
        seen = [example for example in examples if example.split == "train"]
        self.pictures = Pictures(seen, 2 * recipe.size)
        self.held_out = Pictures([e for e in examples if e.split != "train"] or seen[:64], recipe.size)
        self.model.train()
        if recipe.decoder_only:
            self.model.quantize.eval()

    def batch(self, step: int) -> Tensor:
        """The pictures of a step, [B, 3, size, size] in -1..1: flipped at random, some cropped, some recoloured."""
        start, count = self.share(step)
        x = self.pictures.batch(order(len(self.pictures), self.schedule.seed, start, count)).to(self.device)
        size = self.recipe.size
        if torch.rand(()) < self.recipe.crops:
            top, left = torch.randint(size + 1, (2,)).tolist()
            x = x[..., top : top + size, left : left + size]
        else:
            x = torch.nn.functional.avg_pool2d(x, 2)
        if torch.rand(()) < self.recipe.recolours:
            x = x[:, torch.randperm(3)]
        return torch.where(torch.rand(count, 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)

    def update(self, step: int) -> dict[str, float]:
        x = self.batch(step)
        if isinstance(self.model.quantize, GumbelQuantizer):
            self.model.quantize.anneal(step / self.schedule.steps)
        with self.autocast():
            y, quantized = self._forward(x)
        y = y.float()
        terms = {"l1": l1(y, x), "mse": mse(y, x), "edges": gradient_l1(y, x), "bottleneck": quantized.loss}
        loss = terms["l1"] + 0.5 * terms["mse"] + 0.5 * terms["edges"] + terms["bottleneck"]
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(y, x)
            loss = loss + self.recipe.perceptual_weight * terms["perceptual"]
        if step >= self.recipe.critic_from * self.schedule.steps:
            terms |= self.adversary.criticise(y, x)
            loss = loss + self.recipe.critic_weight * terms["fooling"] + self.recipe.feature_weight * terms["features"]
        self.apply("autoencoder", loss)
        distributed.average(self._codebook_state())
        if "fooling" in terms:
            terms["critic"] = self._train_critic(y.detach(), x, step)
        return {name: float(term.detach()) for name, term in terms.items()}

    def _codebook_state(self) -> list[Tensor]:
        """What a codebook learns without gradients, and so has to be averaged over processes by itself."""
        buffers = [buffer for buffer in self.model.quantize.buffers() if buffer.is_floating_point()]
        return [*buffers, *(p.data for p in self.model.quantize.parameters() if not p.requires_grad)]

    def _forward(self, x: Tensor) -> tuple[Tensor, Quantized]:
        if not self.recipe.decoder_only:
            return self.model(x)
        with torch.no_grad():
            latent = self.model.rounded(self.model.encode(x).float())
        unchanged = Quantized(latent=latent, indices=None, loss=torch.zeros((), device=x.device))
        return self.model.decode(latent), unchanged

    def _train_critic(self, y: Tensor, x: Tensor, step: int) -> Tensor:
        loss = self.adversary.loss(y, x, step)
        self.apply("critic", loss)
        return loss

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Held-out pictures, each followed by its reconstruction."""
        x = self.held_out.batch(spread(len(self.held_out), 24)).to(self.device)
        was_training = self.model.training
        self.model.eval()
        y = self.model(x)[0].clamp(-1, 1)
        self.model.train(was_training)
        return torch.stack([x, y], 1).flatten(0, 1).cpu()

    @torch.no_grad()
    def export(self, path: Path) -> None:
        """Write the autoencoder in half precision, with the shift and scale that give its latent unit variance."""
        if not self.recipe.decoder_only:
            shift, scale = latent_statistics(self.model, self.pictures, self.recipe.size)
            self.model.config = replace(self.model.config, latent_shift=shift, latent_scale=scale)
        save_model(self.model, path, dtype=torch.float16)


def latent_statistics(
    model: Autoencoder, pictures: Pictures, size: int, count: int = 2048
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean, and one over the standard deviation, of each channel of the latents of `count` pictures spread evenly."""
    chosen = torch.tensor(spread(len(pictures), count))
    reduce = pictures.size // size
    device = model.encoder.conv_in.weight.device
    batches = (torch.nn.functional.avg_pool2d(pictures.batch(part), reduce) for part in chosen.split(64))
    z = torch.cat([model.encode(x.to(device)) for x in batches]).double()
    mean, deviation = z.mean((0, 2, 3)), z.std((0, 2, 3))
    return tuple(mean.tolist()), tuple((1 / deviation).tolist())
