"""Training an autoencoder: reconstruction, edges at three scales, the codebook, and a critic towards the end."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..autoencoders.autoencoder import Autoencoder
from ..autoencoders.config import AutoencoderConfig
from ..checkpoints import save_model
from ..losses.adversarial import hinge_discriminator, hinge_generator
from ..losses.patchgan import PatchGAN, PatchGANConfig
from ..losses.reconstruction import feature_matching, gradient_l1, l1, mse
from ..types import Quantized
from . import distributed
from .data import Example, Pictures, order, spread
from .loop import Schedule, Task


@dataclass(frozen=True, kw_only=True)
class AutoencoderRecipe:
    """Everything that, with the data, makes an autoencoder.

    size: pixels of a picture's side; pictures are read at twice that, so that crops show finer detail.
    crops, recolours: share of steps with random crops at that finer scale, or with permuted channels.
    critic_from: share of the run (0..1) after which the critic joins in; critic_weight, feature_weight: its two terms.
    decoder_only: keep encoder and codebook as they are (to go on while a diffusion network learns their latents).
    """

    schedule: Schedule = field(default_factory=Schedule)
    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    critic: PatchGANConfig = field(default_factory=lambda: PatchGANConfig(ndf=32, n_layers=2, norm="spectral"))
    size: int = 64
    crops: float = 0.2
    recolours: float = 0.2
    critic_from: float = 0.8
    critic_weight: float = 0.01
    feature_weight: float = 0.1
    decoder_only: bool = False


class AutoencoderTask(Task):
    """loss = L1 + 0.5 MSE + 0.5 gradient L1 + bottleneck + critic; Source: Esser et al. 2021, eq. 5, without LPIPS."""

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
        self.critic = PatchGAN(recipe.critic).to(device)
        self.networks = {"autoencoder": self.model, "critic": self.critic}
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
        with self.autocast():
            y, quantized = self._forward(x)
        y = y.float()
        terms = {"l1": l1(y, x), "mse": mse(y, x), "edges": gradient_l1(y, x), "bottleneck": quantized.loss}
        loss = terms["l1"] + 0.5 * terms["mse"] + 0.5 * terms["edges"] + terms["bottleneck"]
        if step >= self.recipe.critic_from * self.schedule.steps:
            terms |= self._criticise(y, x)
            loss = loss + self.recipe.critic_weight * terms["fooling"] + self.recipe.feature_weight * terms["features"]
        self.apply("autoencoder", loss)
        distributed.average(self._codebook_state())
        if "fooling" in terms:
            terms["critic"] = self._train_critic(y.detach(), x)
        return {name: float(term.detach()) for name, term in terms.items()}

    def _codebook_state(self) -> list[Tensor]:
        """What a codebook learns without gradients, and so has to be averaged over processes by itself."""
        buffers = [buffer for buffer in self.model.quantize.buffers() if buffer.is_floating_point()]
        return [*buffers, *(p.data for p in self.model.quantize.parameters() if not p.requires_grad)]

    def _forward(self, x: Tensor) -> tuple[Tensor, Quantized]:
        if not self.recipe.decoder_only:
            return self.model(x)
        with torch.no_grad():
            quantized = self.model.quantize(self.model.encode(x).float())
        return self.model.decode(quantized.latent), replace(quantized, loss=torch.zeros((), device=x.device))

    def _criticise(self, y: Tensor, x: Tensor) -> dict[str, Tensor]:
        self.critic.requires_grad_(False)
        with self.autocast():
            logits, fake = self.critic.features(y)
            real = self.critic.features(x)[1]
        self.critic.requires_grad_(True)
        return {"fooling": hinge_generator(logits.float()), "features": feature_matching(fake, real)}

    def _train_critic(self, y: Tensor, x: Tensor) -> Tensor:
        with self.autocast():
            real, fake = self.critic(x), self.critic(y)
        loss = hinge_discriminator(real.float(), fake.float())
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
