"""Writing codes one after the other: a generator that yields after each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..errors import ConfigError, ShapeError
from .conditions import CoordinateConfig, PictureConfig
from .prior import Prior

Choose = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(scores [B, K], codes [B], which are new [B]) -> codes [B]."""


@dataclass(frozen=True)
class Drawing:
    """Codes so far.

    done, total: places decided, those that were kept included.
    codes: [B, h, w] int64; where nothing is decided yet, what was given or 0.
    """

    done: int
    total: int
    codes: Tensor


def sample(
    prior: Prior,
    size: tuple[int, int],
    seeds: Sequence[int],
    *,
    condition: Tensor | None = None,
    codes: Tensor | None = None,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Iterator[Drawing]:
    """Draw the codes of pictures, each from what stands before it.

    Where all fits into the transformer's block, keys and values of earlier codes are kept; a larger picture is written
    through a window as large as the block that moves with the place, as the public models are used on large pictures.

    size: (h, w) in codes. seeds: one a picture; picture i is drawn by its own generator.
    condition: as `Prior.tokens` takes it.
    codes: [B or 1, h, w] int64, what is there already. mask: [B or 1, h, w] bool, true where new codes are drawn.
    temperature: scores are divided by it; 0 takes the best code each time.
    top_k: only so many of the best codes, 0 for all. top_p: only the best codes that together have this probability.
    Raises: ConfigError for settings out of range, ShapeError for codes or a mask of another size.
    Source: Esser et al. 2021, section 3.2 and appendix; Fan et al. 2018 (top-k), Holtzman et al. 2020 (top-p).
    """
    _check_settings(temperature, top_k, top_p)
    batch, (height, width) = len(seeds), size
    known, new = _given(codes, mask, batch, size, prior)
    told = prior.tokens(condition, batch, size)
    generators = [Generator().manual_seed(seed % 2**63) for seed in seeds]
    limit = _codes(prior)

    def choose(scores: Tensor, old: Tensor, new: Tensor) -> Tensor:
        """What stands at a place, [B]: the old code, or a drawn one where `new`; only then a generator goes on."""
        rows, chosen = new.nonzero()[:, 0].tolist(), old.clone()
        if rows:
            wanted = scores[rows, :limit].float().cpu()
            chosen[rows] = draw(wanted, [generators[i] for i in rows], temperature, top_k, top_p).to(old.device)
        return chosen

    whole = told.shape[1] + height * width - 1 <= prior.config.transformer.block
    steps = _cached(prior, told, known, new, choose) if whole else _windowed(prior, told, known, new, size, choose)
    for done, filled in enumerate(steps, 1):
        yield Drawing(done, height * width, prior.rows(filled).view(batch, height, width))


def draw(
    scores: Tensor, generators: Sequence[Generator], temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """One code for each row of scores [B, K], row i by generator i; int64 [B]."""
    if temperature == 0:
        return scores.argmax(dim=1)
    kept = probabilities(scores, temperature, top_k, top_p)
    rows = zip(kept, generators, strict=True)
    return torch.cat([torch.multinomial(row, 1, generator=generator) for row, generator in rows])


def probabilities(scores: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """softmax(scores / temperature) over the codes that top_k and top_p leave: [B, K] -> [B, K]."""
    scores = scores / temperature
    if 0 < top_k < scores.shape[1]:
        least = scores.topk(top_k, dim=1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if top_p < 1:
        ranked, places = scores.softmax(dim=1).sort(dim=1, descending=True)
        cut = ranked.cumsum(dim=1) - ranked >= top_p
        cut[:, 0] = False
        scores = scores.masked_fill(torch.zeros_like(cut).scatter(1, places, cut), -torch.inf)
    return scores.softmax(dim=1)


@torch.no_grad()
def _cached(prior: Prior, told: Tensor, known: Tensor, new: Tensor, choose: Choose) -> Iterator[Tensor]:
    """Place after place in the order of writing, one call each."""
    caches, filled = prior.transformer.caches(), known.clone()
    scores = prior.transformer(told, caches=caches)[:, -1]
    for place in range(known.shape[1]):
        filled[:, place] = choose(scores, filled[:, place], new[:, place])
        yield filled
        if place + 1 < known.shape[1]:
            scores = prior.transformer(filled[:, place : place + 1], caches=caches)[:, -1]


@torch.no_grad()
def _windowed(
    prior: Prior, told: Tensor, known: Tensor, new: Tensor, size: tuple[int, int], choose: Choose
) -> Iterator[Tensor]:
    """Place after place, each seen from a window around it, with the condition of the window.

    A picture that is narrower than the window is written as wide as it, and one that is lower is told as high, the
    condition going on as at its edge: a token's place in the window is its number, which must mean what it has learnt.
    """
    if prior.config.permuted:
        raise ConfigError(f"this prior writes {prior.config.permuted} codes in its own order: other sizes do not fit")
    (height, width), batch = size, len(known)
    spread = isinstance(prior.config.condition, CoordinateConfig | PictureConfig) and told.shape[1] == height * width
    side = prior.window(0 if spread else told.shape[1])
    below, beside = max(side - height, 0) if spread else 0, max(side - width, 0)
    edge = (0, beside, 0, below)
    filled = F.pad(known.view(batch, height, width), edge)
    fresh = F.pad(new.view(batch, height, width), edge, value=True)
    about = F.pad(told.view(batch, height, width).float(), edge, mode="replicate").long() if spread else None
    for row in range(height):
        for column in range(width + beside):
            if fresh[:, row, column].any():
                rows, columns = span(row, side, height + below), span(column, side, width + beside)
                before = told if about is None else about[:, rows, columns].flatten(1)
                seen = filled[:, rows, columns].flatten(1)
                place = (row - rows.start) * (columns.stop - columns.start) + column - columns.start
                scores = prior.transformer(torch.cat([before, seen[:, :place]], dim=1))[:, -1]
                filled[:, row, column] = choose(scores, filled[:, row, column], fresh[:, row, column])
            if column < width:
                yield filled[:, :height, :width].flatten(1)


def span(place: int, side: int, whole: int) -> slice:
    """The part of a row or column, `side` long, in whose middle a place lies, as far as the ends allow.

    >>> span(9, 4, 12)
    slice(7, 11)
    """
    start = min(max(place - side // 2, 0), max(whole - side, 0))
    return slice(start, min(start + side, whole))


def _codes(prior: Prior) -> int:
    """How many codes may be drawn: those of the autoencoder, where it is known."""
    size = None if prior.autoencoder is None else prior.autoencoder.codebook_size
    return min(size or prior.config.transformer.vocab, prior.config.transformer.vocab)


def _given(
    codes: Tensor | None, mask: Tensor | None, batch: int, size: tuple[int, int], prior: Prior
) -> tuple[Tensor, Tensor]:
    """Codes and whether they are drawn anew, [B, N] each, in the order of writing."""
    if codes is None and mask is not None:
        raise ConfigError("a mask says which codes to draw anew, but there are no codes to keep: give them too")
    parts = (torch.zeros(1, *size, dtype=torch.int64) if codes is None else codes, mask)
    known, new = (torch.ones(1, *size, dtype=torch.bool) if part is None else part for part in parts)
    for name, part in (("codes", known), ("mask", new)):
        if tuple(part.shape[1:]) != tuple(size) or len(part) not in (1, batch):
            raise ShapeError(f"the {name} are {tuple(part.shape)}; expected [{batch} or 1, {size[0]}, {size[1]}]")
    flat = (part.expand(batch, -1, -1).flatten(1).to(prior.weight_device) for part in (known, new))
    known, new = (prior.written(part) for part in flat)
    return known, new


def _check_settings(temperature: float, top_k: int, top_p: float) -> None:
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise ConfigError(
            f"temperature {temperature}, top_k {top_k}, top_p {top_p}; expected 0 or more, 0 or more, 0 to 1"
        )
