"""Training a prior: a transformer that tells each code of a picture from those before it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import log
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..autoencoders.autoencoder import Autoencoder
from ..checkpoints import save_model
from ..errors import ConfigError
from ..priors import Prior, PriorConfig, sample
from ..priors.conditions import LabelConfig, StartConfig
from ..priors.gpt import GPT, GPTConfig
from .data import Example, Pictures, order, spread
from .loop import Schedule, Task

BATCH = 64
HELD_OUT = 1024
"""At most so many held-out pictures make the figures."""


@dataclass(frozen=True, kw_only=True)
class PriorRecipe:
    """Everything that, with the data and an autoencoder with a codebook, makes a prior.

    width, depth, heads: of the transformer; its vocabulary and its block follow from codes, classes and size.
    size: pixels of a picture's side.
    condition: what the prior is told, a picture's "style" or its "text" (the label); each that occurs is a class.
    pkeep: share of the codes before that the transformer sees as they are; the others are random ones, so that it
    learns to go on from its own mistakes. mirrored: share of the pictures that it sees mirrored.
    Raises: ConfigError for shares out of range or another condition.
    """

    schedule: Schedule = field(default_factory=lambda: Schedule(steps=5000, batch_size=32, learning_rate=6e-4))
    width: int = 256
    depth: int = 6
    heads: int = 8
    size: int = 64
    condition: Literal["style", "text"] | None = None
    pkeep: float = 1.0
    mirrored: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.pkeep <= 1 or not 0 <= self.mirrored <= 1:
            raise ConfigError(f"pkeep is {self.pkeep}, mirrored {self.mirrored}; expected above 0 to 1, and 0 to 1")
        if self.condition not in (None, "style", "text"):
            raise ConfigError(f'condition is {self.condition!r}; expected "style", "text" or none')


class PriorTask(Task):
    """loss = -log p(codes | condition), the mean over the codes.

    Source: Esser et al. 2021, section 3.2; optimiser and pkeep of taming/models/cond_transformer.py.
    """

    averaged = "prior"

    def __init__(
        self,
        recipe: PriorRecipe,
        examples: Sequence[Example],
        autoencoder: Autoencoder,
        model: Prior | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(recipe.schedule, device)
        torch.manual_seed(recipe.schedule.seed)
        self.recipe, self.autoencoder = recipe, autoencoder.float().eval().requires_grad_(False).to(device)
        self.codebook_size, self.side = _codes(autoencoder), _side(autoencoder, recipe.size)
        self.examples = [example for example in examples if example.split == "train"]
        self.names = tuple(sorted({self._class(example) for example in self.examples})) if recipe.condition else ()
        unseen = [e for e in examples if e.split != "train" and (not self.names or self._class(e) in self.names)]
        self.held_out = [unseen[i] for i in spread(len(unseen), HELD_OUT)]
        self.model = self._prior(model).float().requires_grad_(True).to(device)
        self.networks = {"prior": self.model}
        self.optimizers = {"prior": self.adam(self.model, betas=(0.9, 0.95), matrices_only=True)}
        self.codes = self._encode(self.examples, (False, True) if recipe.mirrored else (False,))
        self.unseen_codes = self._encode(self.held_out)[0]
        self.model.train()

    def _class(self, example: Example) -> str:
        name = getattr(example, str(self.recipe.condition))
        if not name:
            raise ConfigError(
                f'{example.path} has no {self.recipe.condition}: give it one, or train a prior with "condition": null'
            )
        return name

    def _prior(self, model: Prior | None) -> Prior:
        """A new prior, or the given one beside the autoencoder of this run."""
        recipe, count = self.recipe, len(self.names)
        sizes = GPTConfig(
            vocab=max(self.codebook_size, count),
            block=self.side**2,
            width=recipe.width,
            depth=recipe.depth,
            heads=recipe.heads,
        )
        told = LabelConfig(classes=count) if count else StartConfig()
        config = PriorConfig(transformer=sizes, condition=told, class_names=self.names)
        if model is None:
            made = Prior(config, self.autoencoder)
            start(made.transformer)
            return made
        _check_start(model, config, self.autoencoder)
        made = Prior(replace(model.config, autoencoder=None, class_names=self.names), self.autoencoder)
        made.load_state_dict(model.state_dict())
        return made

    @torch.no_grad()
    def _encode(self, examples: Sequence[Example], mirrored: Sequence[bool] = (False,)) -> Tensor:
        """Codes in the order of writing, as they are and mirrored, [1 or 2, pictures, N], 16 bits each where they fit.

        In full precision: these are the codes that VQ Encode makes.
        """
        pictures, small = Pictures(examples, self.recipe.size), self.codebook_size <= 2**15
        made = [torch.empty(len(mirrored), 0, self.side**2, dtype=torch.int16 if small else torch.int32)]
        for part in torch.arange(len(pictures)).split(BATCH) if examples else ():
            x = self.autoencoder.from_rgb(pictures.batch(part).to(self.device))
            both = [self.model.codes(x.flip(3) if flip else x) for flip in mirrored]
            made.append(torch.stack(both).to(made[0]))
        return torch.cat(made, dim=1)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The codes of a step in the order of writing, int64 [B, N], and the tokens that tell of each, [B, 1]."""
        start, count = self.share(step)
        chosen = order(len(self.examples), self.schedule.seed, start, count)
        flipped = (torch.rand(count) < self.recipe.mirrored).long()
        return self.codes[flipped, chosen].long().to(self.device), self._told([self.examples[i] for i in chosen])

    def _labels(self, examples: Sequence[Example]) -> Tensor | None:
        """The numbers of the examples' classes, [B]; None for a prior that is told nothing."""
        return torch.tensor([self.names.index(self._class(e)) for e in examples]) if self.names else None

    def _told(self, examples: Sequence[Example]) -> Tensor:
        return self.model.tokens(self._labels(examples), len(examples), (self.side, self.side))

    def update(self, step: int) -> dict[str, float]:
        codes, told = self.batch(step)
        with self.autocast():
            scores = self.model(self._corrupted(codes), told)
        loss = F.cross_entropy(scores.float().flatten(0, 1), codes.flatten())
        self.apply("prior", loss)
        return {"bits": float(loss.detach()) / log(2)}

    def _corrupted(self, codes: Tensor) -> Tensor:
        """The codes, `1 - pkeep` of them replaced by random ones."""
        if self.recipe.pkeep == 1:
            return codes
        kept = torch.rand(codes.shape) < self.recipe.pkeep
        return torch.where(kept.to(codes.device), codes, torch.randint_like(codes, self.codebook_size))

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Bits that a held-out code takes by the prior, and by how often it occurs in the training data (plus one)."""
        if not self.held_out:
            return {}
        pairs = zip(self.unseen_codes.long().split(BATCH), _parts(self.held_out), strict=True)
        losses = [self._nats(codes.to(self.device), self._told(part)).cpu() for codes, part in pairs]
        counts = torch.bincount(self.codes.flatten().int(), minlength=self.codebook_size).double() + 1
        alone = -(counts / counts.sum()).log()[self.unseen_codes.long()]
        values = {"held_out_bits": torch.cat(losses), "unigram_bits": alone}
        return {name: round(float(nats.double().mean()) / log(2), 4) for name, nats in values.items()}

    def _nats(self, codes: Tensor, told: Tensor) -> Tensor:
        """-log p of each code, [B, N]."""
        return F.cross_entropy(self.model(codes, told).float().transpose(1, 2), codes, reduction="none")

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Held-out pictures, each with what its codes decode to, its lower half written anew, and one written whole."""
        shown = self.held_out or self.examples
        shown = [shown[i] for i in spread(len(shown), 9)]
        truth = Pictures(shown, self.recipe.size).batch(range(len(shown)))
        size, seeds, told = (self.side, self.side), range(len(shown)), self._labels(shown)
        cells = self.model.rows(self._encode(shown)[0].long().to(self.device)).unflatten(1, size).cpu()
        lower = (torch.arange(self.side) >= self.side // 2).view(1, -1, 1).expand(1, *size)
        *_, half = sample(self.model, size, seeds, condition=told, codes=cells, mask=lower, top_k=100)
        *_, whole = sample(self.model, size, seeds, condition=told, top_k=100)
        rows = [truth, *(self._picture(made) for made in (cells, half.codes, whole.codes))]
        return torch.stack(rows, 1).flatten(0, 1)

    def _picture(self, cells: Tensor) -> Tensor:
        latent = self.autoencoder.lookup(cells.to(self.device))
        return self.autoencoder.to_rgb(self.autoencoder.decode(latent)).clamp(-1, 1).cpu()

    def export(self, path: Path) -> None:
        """Write the prior in half precision with its figures, and beside it the autoencoder that the file names."""
        beside = path.with_name("autoencoder.safetensors")
        save_model(self.autoencoder, beside, dtype=torch.float16)
        save_model(self.model, path, dtype=torch.float16, autoencoder=beside.name, **self.figures())


@torch.no_grad()
def start(transformer: GPT) -> None:
    """Weights to learn from: N(0, 0.02^2), what is added to the stream smaller by sqrt(2 depth), biases 0.

    Source: Radford et al. 2019, section 2.3 (GPT-2).
    """
    for name, layer in transformer.named_modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            added = name.endswith(("attn.proj", "mlp.2"))
            nn.init.normal_(layer.weight, std=0.02 / ((2 * transformer.config.depth) ** 0.5 if added else 1))
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    nn.init.normal_(transformer.pos_emb, std=0.02)


def _codes(autoencoder: Autoencoder) -> int:
    """How many codes a prior has to know. Raises: ConfigError where there are none, or several in a cell."""
    if autoencoder.codebook_size is None or autoencoder.levels > 1:
        found = "no codebook" if autoencoder.codebook_size is None else f"{autoencoder.levels} codes in each cell"
        raise ConfigError(f"this autoencoder has {found}; a prior writes one code a cell: give a VQ autoencoder")
    return autoencoder.codebook_size


def _side(autoencoder: Autoencoder, size: int) -> int:
    """Codes along each side of a picture."""
    if size < 1 or size % autoencoder.factor:
        raise ConfigError(f"size is {size}; expected a multiple of {autoencoder.factor}, the pixels of one code")
    return size // autoencoder.factor


def _check_start(model: Prior, wanted: PriorConfig, autoencoder: Autoencoder) -> None:
    """Raises: ConfigError for a prior that cannot go on with these codes and classes."""
    found, sizes = model.config, wanted.transformer
    if found.transformer.vocab < sizes.vocab or found.transformer.block < sizes.block:
        raise ConfigError(
            f"the prior to start from knows {found.transformer.vocab} tokens and sees {found.transformer.block} at "
            f"once; this run needs {sizes.vocab} and {sizes.block}"
        )
    nothing = isinstance(found.condition, StartConfig) and isinstance(wanted.condition, StartConfig)
    told = nothing or found.condition == wanted.condition
    if not told or (found.class_names or wanted.class_names) != wanted.class_names:
        raise ConfigError(
            f"the prior to start from is told {found.condition} {list(found.class_names)}, this run's "
            f"{wanted.condition} {list(wanted.class_names)}: take the condition and the data that it was trained on"
        )
    own = None if model.autoencoder is None else model.autoencoder.codebook
    if own is not None and not torch.equal(own.cpu(), autoencoder.codebook.cpu()):  # pyright: ignore
        raise ConfigError("the prior to start from writes the codes of another autoencoder: name it by --autoencoder")


def _parts(examples: Sequence[Example]) -> list[Sequence[Example]]:
    return [examples[i : i + BATCH] for i in range(0, len(examples), BATCH)]
