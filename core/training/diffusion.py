"""Training a text + style latent diffusion network on the latents of a finished autoencoder."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autoencoders.autoencoder import Autoencoder
from ..checkpoints import save_model
from ..diffusion.guidance import guided
from ..diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ..diffusion.noise import seeded
from ..diffusion.schedules import make_sigmas
from ..errors import ConfigError
from ..samplers.run import sample
from ..text.encoder import TextConfig
from ..types import Condition
from .captions import caption, colour_of, vocabulary
from .data import Example, Pictures, order, spread
from .loop import Schedule, Task

PERMUTATIONS = tuple(p for p in itertools.permutations(range(3)) if p != (0, 1, 2))


@dataclass(frozen=True, kw_only=True)
class DiffusionRecipe:
    """Everything that, with the data and an autoencoder, makes a diffusion network.

    model: its text part may leave `vocab` and `styles` empty: both are then read off the data.
    size: pixels of a training picture's side.
    drop: share of captions and styles replaced by nothing (for guidance); drop_style: of styles alone.
    tags_only: share of captions without the label; recolour: share of pictures with permuted channels and the word for
    the colour that they then have.
    noisier: times are drawn as T u^(1 / noisier), u uniform in 0..1: above 1, more of them are near pure noise, where
    text and style decide what there is to see.
    sketch_weight: of the mean square error of the network's first guess, where it makes one (see Sketch).
    sketch_steps: so many steps at the start train the guess and the text encoder alone, which is quick.
    """

    schedule: Schedule = field(default_factory=Schedule)
    model: LatentDiffusionConfig
    size: int = 64
    drop: float = 0.1
    drop_style: float = 0.05
    tags_only: float = 0.3
    recolour: float = 0.1
    noisier: float = 1.0
    sketch_weight: float = 0.5
    sketch_steps: int = 0

    def __post_init__(self) -> None:
        if self.sketch_steps and self.model.unet.sketch_size is None:
            raise ConfigError("sketch_steps is for a network that makes a sketch: give its unet a sketch_size")


class DiffusionTask(Task):
    """loss = |network(c_in x, t, cond) - target|^2 at a random time, + sketch_weight |sketch(vector) - x0|^2.

    Source: Rombach et al. 2022, eq. 2.
    """

    averaged = "diffusion"

    def __init__(
        self,
        recipe: DiffusionRecipe,
        examples: Sequence[Example],
        autoencoder: Autoencoder,
        model: LatentDiffusion | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(recipe.schedule, device)
        torch.manual_seed(recipe.schedule.seed)
        self.recipe, self.autoencoder = recipe, autoencoder.float().eval().requires_grad_(False).to(device)
        self.examples = [example for example in examples if example.split == "train"]
        unseen = [example for example in examples if example.split != "train"] or self.examples
        self.held_out = [unseen[i] for i in spread(len(unseen), 24)]
        config = replace(recipe.model, text=self._described(examples))
        self.model = (model or LatentDiffusion(config)).float().requires_grad_(True).to(device)
        if self.model.conditioner is None:
            raise ConfigError("a text + style network needs a text part in its recipe")
        self.conditioner = self.model.conditioner
        self.networks = {"diffusion": self.model}
        self.optimizers = {"diffusion": self.adam(self.model)}
        self.latents, self.recoloured, self.colours = self._encode_all()
        self.model.train()

    def _described(self, examples: Sequence[Example]) -> TextConfig:
        text = self.recipe.model.text
        if text is None:
            raise ConfigError("a text + style network needs a text part in its recipe")
        styles = text.styles or tuple(dict.fromkeys(e.style for e in examples if e.style))
        return replace(text, vocab=text.vocab or vocabulary(self.examples), styles=styles)

    @torch.no_grad()
    def _encode_all(self) -> tuple[Tensor, Tensor, list[str | None]]:
        """Scaled latents of every picture, the same with permuted channels, and the latter's colour words."""
        pictures = Pictures(self.examples, self.recipe.size)
        plain, permuted, colours = [], [], []
        for part in torch.arange(len(pictures)).split(64):
            x = pictures.batch(part).to(self.device)
            y = torch.stack([one[list(PERMUTATIONS[int(i) % 5])] for i, one in zip(part, x, strict=True)])
            colours += [colour_of(one) for one in y]
            with self.autocast():
                plain.append(self.autoencoder.encode(x).float())
                permuted.append(self.autoencoder.encode(y).float())
        return self.autoencoder.scale(torch.cat(plain)), self.autoencoder.scale(torch.cat(permuted)), colours

    def update(self, step: int) -> dict[str, float]:
        start, count = self.share(step)
        chosen = order(len(self.examples), self.schedule.seed, start, count)
        x0, texts, styles = self._batch(chosen, random.Random(int(torch.randint(2**31, ()))))
        with self.autocast():
            cond = self.conditioner(*self._tokens(texts, styles))
        losses = self._sketched(x0, cond) | ({} if step < self.recipe.sketch_steps else self._denoised(x0, cond))
        weights = {"sketch": self.recipe.sketch_weight, "loss": 1.0}
        self.apply("diffusion", torch.stack([weights[name] * loss for name, loss in losses.items()]).sum())
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _sketched(self, x0: Tensor, cond: Condition) -> dict[str, Tensor]:
        """How far the guess from the vector alone is from the picture; nothing for a network that makes none."""
        unet = self.recipe.model.unet
        if unet.sketch_size is None or cond.vector is None:
            return {}
        truth = F.adaptive_avg_pool2d(F.pixel_unshuffle(x0, unet.patch_size), unet.sketch_size)
        with self.autocast():
            guess = self.model.network.sketch(cond.vector)
        return {"sketch": (guess.float() - truth).square().mean()}

    def _denoised(self, x0: Tensor, cond: Condition) -> dict[str, Tensor]:
        table, denoiser = self.model.table, self.model.denoiser
        places = (torch.rand(len(x0)) ** (1 / self.recipe.noisier) * len(table.sigmas)).long()
        sigma = table.sigmas[places.clamp_max(len(table.sigmas) - 1)].to(x0.device)
        noise = torch.randn_like(x0)
        x, time = denoiser.inputs(denoiser.noised(x0, noise, sigma), sigma)
        with self.autocast():
            answer = self.model.network(x, time, context=cond.context, y=cond.vector)
        return {"loss": (answer.float() - denoiser.target(x0, noise, sigma)).square().mean()}

    def _batch(self, chosen: Sequence[int], chance: random.Random) -> tuple[Tensor, list[str], list[str | None]]:
        recipe, latents, texts, styles = self.recipe, [], [], []
        for i in chosen:
            example, fate = self.examples[i], chance.random()
            colour = self.colours[i] if chance.random() < recipe.recolour else None
            latents.append(self.recoloured[i] if colour else self.latents[i])
            texts.append("" if fate < recipe.drop else caption(example, chance, colour, recipe.tags_only))
            styles.append(None if fate < recipe.drop + recipe.drop_style else example.style)
        return torch.stack(latents), texts, styles

    def _tokens(self, texts: Sequence[str], styles: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        ids = torch.stack([self.conditioner.tokenizer.ids(text) for text in texts])
        chosen = torch.tensor([self.conditioner.style_index(style) for style in styles])
        return ids.to(self.device), chosen.to(self.device)

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Held-out pictures, each followed by a sample for its label and style (20 steps, guidance 2.5)."""
        truth = Pictures(self.held_out, self.recipe.size).batch(range(len(self.held_out)))
        was_training = self.model.training
        self.model.eval()
        made = self.draw([e.text for e in self.held_out], [e.style for e in self.held_out])
        self.model.train(was_training)
        return torch.stack([truth, made.cpu()], 1).flatten(0, 1)

    @torch.no_grad()
    def draw(self, texts: Sequence[str], styles: Sequence[str | None], steps: int = 20, cfg: float = 2.5) -> Tensor:
        """Pictures for captions, [B, 3, size, size] in -1..1, with the noise of seed 0."""
        cond = self.conditioner(*self._tokens(texts, styles))
        denoise = guided(self.model.denoise, cond, self.conditioner.null(len(texts)), cfg)
        start = torch.zeros(len(texts), *self.latents.shape[1:], device=self.device)
        sigmas = make_sigmas("normal", self.model.table, steps)
        top = self.model.table.sigma_max
        *_, last = sample(denoise, start, sigmas, sampler="ddim", noise=seeded(start, 0), sigma_max=top)
        latent = self.autoencoder.unscale(last.x)
        return self.autoencoder.decode(self.autoencoder.rounded(latent)).clamp(-1, 1)

    def export(self, path: Path) -> None:
        """Write network and text encoder in half precision, and beside them the autoencoder that the file names."""
        beside = path.with_name("autoencoder.safetensors")
        save_model(self.autoencoder, beside, dtype=torch.float16)
        save_model(self.model, path, dtype=torch.float16, autoencoder=beside.name)
