"""Training a refiner: small pictures, clean or as an autoencoder gives them back, to their double."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..autoencoders.autoencoder import Autoencoder
from ..checkpoints import save_model
from ..errors import ConfigError
from ..losses.critics import CriticConfig
from ..losses.patchgan import PatchGANConfig
from ..losses.reconstruction import gradient_l1, l1
from ..refine.refiner import Refiner
from ..refine.rrdb import RefinerConfig
from .adversary import Adversary, Rules
from .data import Example, Pictures, order, spread
from .loop import Schedule, Task


@dataclass(frozen=True, kw_only=True)
class RefinerRecipe:
    """Everything that, with the data and an autoencoder, makes a refiner.

    size: pixels of a small picture's side; crop: of the part of it that a step sees.
    decoded: share of each batch that has been through the autoencoder.
    critic_from: share of the run (0..1) after which the critic joins in; critic_weight, feature_weight: its two terms.
    rules: what the critic plays for ("relativistic" is ESRGAN's game).
    """

    schedule: Schedule = field(default_factory=Schedule)
    model: RefinerConfig = field(default_factory=lambda: RefinerConfig(scale=2, base="bicubic"))
    critic: CriticConfig = field(default_factory=lambda: PatchGANConfig(ndf=32, n_layers=2, norm="spectral"))
    size: int = 64
    crop: int = 32
    decoded: float = 0.5
    critic_from: float = 0.6
    critic_weight: float = 0.005
    feature_weight: float = 0.1
    rules: Rules = field(default_factory=Rules)


class RefinerTask(Task):
    """loss = L1 + 0.5 gradient L1 + critic. Source: Wang et al. 2018 (ESRGAN), section 3, with other weights."""

    averaged = "refiner"

    def __init__(
        self,
        recipe: RefinerRecipe,
        examples: Sequence[Example],
        autoencoder: Autoencoder,
        model: Refiner | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(recipe.schedule, device)
        torch.manual_seed(recipe.schedule.seed)
        self.recipe, self.autoencoder = recipe, autoencoder.float().eval().requires_grad_(False).to(device)
        self.model = (model or Refiner(recipe.model, recipe.critic)).float().to(device)
        if self.model.discriminator is None:
            raise ConfigError("a refiner is trained with a critic; give its recipe one")
        self.critic = self.model.discriminator
        self.adversary = Adversary(self.critic, recipe.rules, self.autocast, device)
        self.networks = {"refiner": self.model, **self.adversary.networks}
        self.optimizers = {
            "refiner": self.adam(self.model.generator),
            "critic": self.adam(self.critic, rate=2e-4, betas=(0.5, 0.9)),
        }
        seen = [example for example in examples if example.split == "train"]
        scale = recipe.model.scale
        self.large = Pictures(seen, scale * recipe.size)
        self.held_out = Pictures([e for e in examples if e.split != "train"] or seen[:64], scale * recipe.size)
        self._decoded = lru_cache(maxsize=None)(self._decode)
        self.model.train()

    @torch.no_grad()
    def pair(self, large: Tensor, decoded: int) -> tuple[Tensor, Tensor]:
        """Small pictures, the first `decoded` of them as the autoencoder gives them back, and their large truths."""
        small = torch.nn.functional.avg_pool2d(large, self.recipe.model.scale)
        if decoded:
            with self.autocast():
                seen = self.autoencoder(small[:decoded])[0].float().clamp(-1, 1)
            small = torch.cat([seen, small[decoded:]])
        return small, large

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        start, count = self.share(step)
        chosen = order(len(self.large), self.schedule.seed, start, count)
        large, decoded = self.large.batch(chosen).to(self.device), round(self.recipe.decoded * count)
        mirrored = torch.rand(count, 1, 1, 1, device=self.device) < 0.5
        mirrored[:decoded] = False  # an autoencoder's faults have a left and a right
        small, large = self.pair(torch.where(mirrored, large.flip(3), large), 0)
        if decoded:
            small[:decoded] = torch.stack([self._decoded(index) for index in chosen[:decoded]])
        scale, crop = self.recipe.model.scale, min(self.recipe.crop, self.recipe.size)
        top, left = torch.randint(self.recipe.size - crop + 1, (2,)).tolist()
        part = large[..., scale * top : scale * (top + crop), scale * left : scale * (left + crop)]
        return small[..., top : top + crop, left : left + crop], part

    def _decode(self, index: int) -> Tensor:
        """A small picture as the autoencoder gives it back, [3, size, size] float16: made once, as that is slow."""
        return self.pair(self.large.batch([index]).to(self.device), 1)[0][0].half()

    def update(self, step: int) -> dict[str, float]:
        small, large = self.batch(step)
        with self.autocast():
            made = self.model.generator((small + 1) / 2)
        made = made.float() * 2 - 1
        terms = {"l1": l1(made, large), "edges": gradient_l1(made, large)}
        loss = terms["l1"] + 0.5 * terms["edges"]
        if step >= self.recipe.critic_from * self.schedule.steps:
            terms |= self.adversary.criticise(made, large)
            loss = loss + self.recipe.critic_weight * terms["fooling"] + self.recipe.feature_weight * terms["features"]
        self.apply("refiner", loss)
        if "fooling" in terms:
            terms["critic"] = self._train_critic(made.detach(), large, step)
        return {name: float(term.detach()) for name, term in terms.items()}

    def _train_critic(self, made: Tensor, large: Tensor, step: int) -> Tensor:
        loss = self.adversary.loss(made, large, step)
        self.apply("critic", loss)
        return loss

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Held-out pictures: the truth, bicubic and refined from clean, bicubic and refined from decoded input."""
        truth = self.held_out.batch(spread(len(self.held_out), 8)).to(self.device)
        rows = [truth]
        for decoded in (0, len(truth)):
            small, _ = self.pair(truth, decoded)
            rows.append(torch.nn.functional.interpolate(small, size=truth.shape[-2:], mode="bicubic"))
            rows.append(self.model.refine((small + 1) / 2) * 2 - 1)
        return torch.stack(rows, 1).flatten(0, 1).cpu()

    def export(self, path: Path) -> None:
        """Write refiner and critic in half precision."""
        save_model(self.model, path, dtype=torch.float16)
