"""A prior over codes: a transformer, the autoencoder whose codes it writes, and what it is told before."""

from dataclasses import dataclass, field
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..autoencoders.autoencoder import Autoencoder
from ..autoencoders.config import AutoencoderConfig
from ..errors import ConfigError, ShapeError
from ..nn.channels import GREY, full_range
from ..types import Condition
from .conditions import (
    ConditionConfig,
    CoordinateConfig,
    LabelConfig,
    PictureConfig,
    StartConfig,
    TokensConfig,
    coordinate_tokens,
    places,
)
from .gpt import GPT, GPTConfig


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """A prior.

    transformer: its sizes. autoencoder: that in the same file; None where there is none.
    condition: what it is told before the codes. condition_size: pixels along each side of a condition that is a picture
    (or places), which is made that size first, by the nearest pixels; None leaves it as it is.
    permuted: number of codes whose order the file stores; 0 for row by row.
    class_names: of the classes in order, as far as they are known.
    """

    transformer: GPTConfig
    autoencoder: AutoencoderConfig | None = None
    condition: ConditionConfig = field(default_factory=StartConfig)
    permuted: int = 0
    class_names: tuple[str, ...] = ()
    condition_size: int | None = None

    def __post_init__(self) -> None:
        if self.condition_size is not None and self.condition_size < 1:
            raise ConfigError(f"condition_size is {self.condition_size}; expected at least 1 pixel, or none")


class Prior(nn.Module):
    """Codes of a picture, in the order in which they are written, behind the tokens of its condition.

    p(codes | condition) = prod_i p(code_i | condition, code_1 .. code_(i-1))

    autoencoder: kept beside the model, as in LatentDiffusion. autoencoder_file: the name of its own file, where it has
    one.
    told: the autoencoder of a condition that is a picture, where it is not the same; kept beside the model too.
    conditioner: always None: classes and pictures need no encoder of text.
    Source: Esser et al. 2021, eq. 9.
    """

    autoencoder: Autoencoder | None
    autoencoder_file: str | None = None
    told: Autoencoder | None
    conditioner = None
    order: Tensor

    def __init__(self, config: PriorConfig, autoencoder: Autoencoder | None = None) -> None:
        super().__init__()
        self.config = config
        self.transformer = GPT(config.transformer)
        inside = None if config.autoencoder is None else Autoencoder(config.autoencoder)
        self.autoencoder = autoencoder or inside
        condition = config.condition
        own = isinstance(condition, PictureConfig) and condition.autoencoder is not None
        self.told = Autoencoder(condition.autoencoder) if own else None  # pyright: ignore
        self.register_buffer("order", torch.arange(config.permuted) if config.permuted else None)

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep the autoencoders ordinary attributes, not child modules."""
        if name in ("autoencoder", "told"):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def stored(self) -> dict[str, nn.Module]:
        """The modules in this model's file, by the beginning of their keys there."""
        inside = None if self.config.autoencoder is None else self.autoencoder
        parts = {"": self, "autoencoder.": inside, "told.": self.told}
        return {prefix: part for prefix, part in parts.items() if part is not None}

    @property
    def classes(self) -> int | None:
        """How many numbered classes the prior knows; None where it is told none."""
        return self.config.condition.classes if isinstance(self.config.condition, LabelConfig) else None

    def of_class(self, labels: Tensor) -> Condition:
        """The condition of numbered classes, int64 [B]. Raises: ConfigError where the prior is told none."""
        if self.classes is None:
            raise ConfigError("this prior is told no class")
        return Condition(vector=labels)

    def forward(self, codes: Tensor, condition: Tensor) -> Tensor:
        """The scores of every code from the condition and the codes before it.

        codes: int64 [B, N] in the order of writing. condition: int64 [B, M] tokens.
        Returns [B, N, vocab].
        """
        together = torch.cat([condition, codes], dim=1)[:, :-1]
        return self.transformer(together)[:, condition.shape[1] - 1 :]

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """A picture's codes in the order of writing: [B, C, H, W] in -1..1 -> int64 [B, N]."""
        autoencoder = self.own_autoencoder()
        indices = autoencoder.quantize(autoencoder.encode(x)).indices
        return self.written(indices.flatten(1))

    @torch.no_grad()
    def picture(self, codes: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """The picture of codes int64 [B, N] in the order of writing; size: (h, w) in codes, by default a square."""
        autoencoder, flat = self.own_autoencoder(), self.rows(codes)
        h, w = size or (isqrt(flat.shape[1]), -1)
        return autoencoder.decode(autoencoder.lookup(flat.view(len(flat), h, w)))

    @torch.no_grad()
    def tokens(self, given: Tensor | None, batch: int, size: tuple[int, int]) -> Tensor:
        """The tokens of a condition.

        given: int64 [B] or [B, 1] labels; [B, 1, H, W] in 0..1 coordinates, None for a whole picture's; a picture
        [B, C, H, W] as `condition_autoencoder` encodes it, or its codes, int64 [B, h', w']; int64 [B, M] tokens; None
        where nothing has to be told.
        size: (h, w) of the codes to be written.
        Returns int64 [batch, M]; one condition is told to all of a batch.
        Raises: ConfigError where something has to be told and is not, ShapeError for something else than expected.
        """
        tokens = self._tokens(given, batch, size)
        if len(tokens) not in (1, batch):
            raise ShapeError(f"{len(tokens)} conditions for {batch} pictures; expected one for each, or one for all")
        return tokens.expand(batch, -1)

    @property
    def condition_autoencoder(self) -> Autoencoder:
        """What encodes the picture that the prior is told. Raises: ConfigError where it is told none."""
        self._picture()
        return self.told or self.own_autoencoder()

    def as_told(self, x: Tensor) -> Tensor:
        """A picture as `condition_autoencoder` encodes it for this prior.

        Labels become channels (`nn.channels`). One channel is stretched to its full range, as maps of depth are.
        x: [B, 3, H, W] in -1..1. Returns [B, C, H, W], or of the size that the prior learnt to be told.
        Source: taming/data/imagenet.py (depth), taming/models/cond_transformer.py (`downsample_cond_size`).
        """
        encoder = self.condition_autoencoder
        x = encoder.from_rgb(x)
        return self._sized(full_range(x) if encoder.config.in_channels == GREY else x)

    def _picture(self) -> PictureConfig:
        condition = self.config.condition
        if not isinstance(condition, PictureConfig):
            known = {
                LabelConfig: "a class: take Class Condition",
                CoordinateConfig: "where each code lies, which follows from the size: leave the conditioning empty",
                TokensConfig: "tokens made elsewhere, such as boxes around objects",
            }
            told = known.get(type(condition), "nothing: leave the conditioning empty")
            raise ConfigError(f"no picture can be told to this prior. It is told {told}")
        return condition

    def _tokens(self, given: Tensor | None, batch: int, size: tuple[int, int]) -> Tensor:
        condition = self.config.condition
        if isinstance(condition, StartConfig):
            return torch.full((batch, 1), condition.token, device=self.weight_device)
        if isinstance(condition, LabelConfig):
            return self._labels(given, condition)
        if isinstance(condition, CoordinateConfig):
            where = places(*size, condition.factor).expand(batch, -1, -1, -1) if given is None else given
            return coordinate_tokens(self._sized(where.to(self.weight_device)), condition).flatten(1)
        if isinstance(condition, TokensConfig):
            return self._given_tokens(given)
        if given is None:
            raise ConfigError(
                "this prior paints over another picture (segments or depth): give it that picture by Prior Condition"
            )
        codes = self._encoded(given) if given.is_floating_point() else given
        self._check_place(codes, size)
        return codes.flatten(1).to(self.weight_device)

    def _encoded(self, x: Tensor) -> Tensor:
        encoder = self.condition_autoencoder
        codes = encoder.quantize(encoder.encode(self._sized(x.to(next(encoder.parameters()))))).indices
        if codes is None:
            raise ConfigError("the autoencoder of this prior's condition has no codebook, so there is nothing to tell")
        return codes

    def _check_place(self, told: Tensor, size: tuple[int, int]) -> None:
        """Raises: ShapeError for codes of a condition, [B, h', w'], that do not cover the picture to be written.

        Unless both together are as long as the transformer's block, to a token: then it learnt them of these sizes.
        """
        if self.config.condition_size or self.autoencoder is None or told.ndim != 3:
            return
        covered, wanted = (
            tuple(side * model.factor for side in sides)
            for sides, model in ((told.shape[1:], self.condition_autoencoder), (size, self.autoencoder))
        )
        together = told[0].numel() + size[0] * size[1]
        if covered != wanted and together - self.config.transformer.block not in (0, 1):
            raise ShapeError(
                f"the condition covers {covered[1]} x {covered[0]} pixels, the picture to be written has {wanted[1]} x "
                f"{wanted[0]}: resize one of them"
            )

    def window(self, condition: int) -> int:
        """The largest side of a square of codes that the transformer sees at once, behind so many condition tokens.

        condition: tokens, or 0 for as many as codes. Raises: ShapeError where they leave no place for a code.
        """
        block = self.config.transformer.block
        if condition > block:
            raise ShapeError(f"{condition} tokens of the condition; this prior takes {block} tokens, codes included")
        return isqrt(block + 1 - condition) if condition else isqrt((block + 1) // 2)

    def written(self, codes: Tensor) -> Tensor:
        """Codes row by row, [B, N], in the order of writing."""
        return codes if self.order is None else codes[:, self._order(codes)]

    def rows(self, codes: Tensor) -> Tensor:
        """Codes in the order of writing, [B, N], row by row."""
        return codes if self.order is None else codes[:, self._order(codes).argsort()]

    def own_autoencoder(self) -> Autoencoder:
        """The autoencoder whose codes these are. Raises: ConfigError where the file had none."""
        if self.autoencoder is None:
            raise ConfigError("this prior came without its autoencoder: give codes, or decode them with another's")
        return self.autoencoder

    @property
    def weight_device(self) -> torch.device:
        """Where the weights are; ComfyUI keeps a note of its own named `device` on every model."""
        return self.transformer.pos_emb.device

    def _order(self, codes: Tensor) -> Tensor:
        if codes.shape[1] != len(self.order):
            raise ShapeError(f"{codes.shape[1]} codes; this prior writes exactly {len(self.order)} in its own order")
        return self.order

    def _sized(self, picture: Tensor) -> Tensor:
        size = self.config.condition_size
        return picture if size is None else F.interpolate(picture, size=(size, size))

    def _given_tokens(self, given: Tensor | None) -> Tensor:
        if given is None or given.ndim != 2 or given.is_floating_point():
            raise ConfigError("this prior is told tokens (boxes of objects): give them as int64 [batch, tokens]")
        return given.long().to(self.weight_device)

    def _labels(self, given: Tensor | None, condition: LabelConfig) -> Tensor:
        if given is None:
            raise ConfigError(f"this prior is told a class, 0 to {condition.classes - 1}: give it one")
        labels = given.long().reshape(len(given), -1)[:, :1].to(self.weight_device)
        if not 0 <= int(labels.min()) <= int(labels.max()) < condition.classes:
            raise ShapeError(f"classes {labels.flatten().tolist()}; this prior knows 0 to {condition.classes - 1}")
        return labels
