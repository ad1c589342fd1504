"""Pictures of a codebook and of codes. Every view is [B, H, W, 3] float32 in 0..1."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log2
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from .autoencoders.autoencoder import Autoencoder
from .codebook import level_usage, neighbours, perplexity, project
from .drawing import ACCENT, BACKGROUND, FAINT, PANEL, Canvas, heat, palette, to_bytes
from .errors import ConfigError
from .types import Codes

MARGIN, HEAD, RULER, GAP = 16, 60, 52, 2
WIDTH, MIN_WIDTH = 960, 640
SMOOTH = 3
"""Dots are drawn this many times as large, then shrunk."""

CONTEXT = 3
"""A code is decoded in the middle of a square of copies of itself, as many a side, so that no border shows."""

LARGE = 4096
"""Codebooks with more codes than this are decoded without that surround."""

MOST = 1 << 16
"""Views that decode every code refuse larger codebooks than this."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What there is to look at: an autoencoder with a codebook, codes made with it (or None), one code of interest.

    Of a residual codebook the views show the first level, which every other one refines.
    """

    model: Autoencoder
    codes: Codes | None = None
    code: int = 0

    @property
    def codebook(self) -> Tensor:
        """[K, D]. Raises: ConfigError for an autoencoder without a codebook."""
        if (codebook := self.model.codebook) is None:
            raise ConfigError("this autoencoder has no codebook: its latent is continuous (KL)")
        return codebook.cpu()

    @property
    def counts(self) -> Tensor | None:
        return None if self.codes is None else level_usage(self.codes.indices.cpu(), len(self.codebook))[0]

    @property
    def levels(self) -> dict[str, Any]:
        """Codes used and perplexity of every level, for a report; empty without codes, or where there is one level."""
        if self.codes is None or self.model.levels == 1:
            return {}
        every = level_usage(self.codes.indices.cpu(), len(self.codebook))
        return {"levels": [{"used": int((n > 0).sum()), "perplexity": round(perplexity(n), 3)} for n in every]}

    def summary(self) -> str:
        """One line on the use of the codebook."""
        codebook, counts = self.codebook, self.counts
        size = f"{len(codebook)} codes of {codebook.shape[1]} numbers"
        size += f", the first of {self.model.levels} levels" if self.model.levels > 1 else ""
        if counts is None:
            return size
        used = int((counts > 0).sum())
        return (
            f"{size}   used {used} ({100 * used / len(counts):.1f} %)   "
            f"perplexity {perplexity(counts):.1f}   tokens {int(counts.sum())}"
        )


def decode_all(look: Look, context: int) -> Tensor:
    """`decode_patches` of every code. Raises: ConfigError for a codebook too large to draw."""
    if (count := len(look.codebook)) > MOST:
        raise ConfigError(
            f"this view draws at most {MOST} codes, and the codebook has {count}: choose the token map, usage or "
            "neighbours"
        )
    return decode_patches(look.model, torch.arange(count), context=context)


@torch.no_grad()
def decode_patches(model: Autoencoder, codes: Tensor, *, context: int = CONTEXT, batch: int = 128) -> Tensor:
    """Each code as the decoder paints it: int64 [N] -> [N, factor, factor, 3] in 0..1, on the CPU.

    context: odd number of copies of the code a side; only the middle one is kept.
    """
    parameter = next(model.decoder.parameters())
    factor, start = model.config.factor, (context // 2) * model.config.factor
    patches = []
    for part in codes.to(parameter.device).split(batch):
        latent = model.lookup(part[:, None, None].expand(-1, context, context)).to(parameter.dtype)
        whole = model.decode(latent)[..., start : start + factor, start : start + factor]
        shown = whole if model.palette is None else model.to_rgb(whole)
        patches.append(as_rgb((shown.float() + 1) / 2).cpu())
    return torch.cat(patches).permute(0, 2, 3, 1).clamp(0, 1)


def as_rgb(x: Tensor) -> Tensor:
    """Pictures of any number of channels as [B, 3, H, W]: grey repeated, alpha left out, classes by their colours."""
    channels = x.shape[1]
    if channels == 1:
        return x.expand(-1, 3, -1, -1)
    if channels in (3, 4):
        return x[:, :3]
    return palette(channels).to(x.device)[x.argmax(1)].permute(0, 3, 1, 2)


def atlas(look: Look) -> Tensor:
    """Every code as a patch, in the order of the codes."""
    count = len(look.codebook)
    return _grid(decode_all(look, CONTEXT if count <= LARGE else 1), "Atlas", look.summary())


def usage_map(look: Look) -> Tensor:
    """How often each code occurs, laid out as the atlas, and below it all codes from the most to the least frequent.

    Without codes: the length of each code's vector instead.
    """
    counts = look.counts
    if counts is None:
        values, title, note = look.codebook.norm(dim=1), "Length of each code", "no codes given   "
    else:
        values, title, note = counts.float(), "Usage", "log scale, unused black   "
    scaled = values / values.max().clamp_min(1e-12) if counts is None else _log_share(values)
    colours = heat(scaled)
    if counts is not None:
        colours[counts == 0] = 0.0
    grid = _grid(colours[:, None, None], title, note + look.summary())[0]
    ranked = _ranked(values, grid.shape[1], "length" if counts is None else "count")
    return torch.cat([grid, ranked])[None]


def token_map(look: Look) -> Tensor:
    """Each picture as its codes, every code in a colour that is always its own, at the size of the picture.

    Raises: ConfigError without codes.
    """
    codes = look.codes
    if codes is None:
        raise ConfigError("a token map needs codes or an image: wire one of the two")
    indices = codes.indices if codes.indices.ndim == 3 else codes.indices[..., 0]
    cells = palette(codes.codebook_size)[indices.cpu()]
    pixels = cells.repeat_interleave(codes.factor, 1).repeat_interleave(codes.factor, 2)
    return pixels[:, : codes.image_size[0], : codes.image_size[1]].contiguous()


def neighbour_map(look: Look) -> Tensor:
    """One code as a patch, and the codes nearest to it in order of distance."""
    order, distances = neighbours(look.codebook, look.code)
    patches = decode_patches(look.model, torch.cat([torch.tensor([look.code]), order]))
    side, columns, large = 96, 6, 192
    rows = max(1, ceil(len(order) / columns))
    width = 3 * MARGIN + large + columns * (side + MARGIN)
    canvas = Canvas(width, HEAD + MARGIN + max(large + 40, rows * (side + 44)))
    _title(canvas, f"Neighbours of code {look.code}", look.summary())
    canvas.paste(_resized(patches[0], large), (MARGIN, HEAD))
    canvas.text((MARGIN, HEAD + large + 8), f"code {look.code}", 18, ACCENT)
    for i, (code, distance, patch) in enumerate(zip(order.tolist(), distances.tolist(), patches[1:], strict=True)):
        x = 2 * MARGIN + large + i % columns * (side + MARGIN)
        y = HEAD + i // columns * (side + 44)
        canvas.paste(_resized(patch, side), (x, y))
        canvas.text((x, y + side + 4), f"{code}", 15)
        canvas.text((x + side, y + side + 5), f"{distance:.3g}", 13, FAINT, "ra")
    return canvas.tensor()[None]


def projection(look: Look) -> Tensor:
    """The codes along their two widest directions, in the colours of their patches; larger the more often they occur.

    Codes that do not occur are hollow.
    """
    found, counts = project(look.codebook), look.counts
    colours = to_bytes(decode_all(look, context=1).mean((1, 2)))
    sizes = torch.full((len(colours),), 0.2) if counts is None else _log_share(counts.float())
    middle = (found.points.amax(0) + found.points.amin(0)) / 2
    reach = float((found.points - middle).abs().max().clamp_min(1e-12)) * 1.05
    side = WIDTH - 2 * MARGIN
    places = ((found.points - middle) / reach * torch.tensor([0.5, -0.5]) + 0.5) * side
    plane = Canvas(side * SMOOTH, side * SMOOTH, PANEL)
    for i in sizes.argsort(descending=True, stable=True).tolist():
        x, y = (places[i] * SMOOTH).tolist()
        _dot(plane, x, y, SMOOTH * (2.5 + 7 * float(sizes[i])), tuple(map(int, colours[i])), float(sizes[i]) > 0)
    canvas = Canvas(WIDTH, HEAD + side + 2 * MARGIN + 8)
    _title(canvas, "Projection", look.summary())
    canvas.image.paste(plane.image.resize((side, side), Image.Resampling.LANCZOS), (MARGIN, HEAD))
    first, second = (f"{100 * share:.0f} % of the variance" for share in found.shares)
    canvas.text((WIDTH - MARGIN, HEAD + side + 6), f"across: {first}    up: {second}", 14, FAINT, "ra")
    canvas.text((MARGIN, HEAD + side + 6), "hollow: not used" if counts is not None else "no codes given", 14, FAINT)
    return canvas.tensor()[None]


VIEWS: dict[str, Callable[[Look], Tensor]] = {
    "atlas": atlas,
    "usage": usage_map,
    "token map": token_map,
    "neighbours": neighbour_map,
    "projection": projection,
}


def _dot(canvas: Canvas, x: float, y: float, radius: float, colour: tuple[int, ...], filled: bool) -> None:
    box = (x - radius, y - radius, x + radius, y + radius)
    if filled:
        canvas.draw.ellipse(box, fill=colour, outline=BACKGROUND, width=1)
    else:
        canvas.draw.ellipse(box, outline=colour, width=SMOOTH)


def _title(canvas: Canvas, title: str, note: str) -> None:
    canvas.text((MARGIN, 10), title, 22)
    canvas.text((MARGIN, 36), note, 14, FAINT)


def _log_share(counts: Tensor) -> Tensor:
    """log(1 + n) as a share of its largest, 0..1."""
    logs = counts.float().log1p()
    return logs / logs.max().clamp_min(1e-12)


def _resized(patch: Tensor, side: int) -> Tensor:
    """A square patch [p, p, 3] with its pixels repeated (or left out) to `side`."""
    places = torch.arange(side) * patch.shape[0] // side
    return patch[places][:, places]


def columns_for(count: int) -> int:
    """Columns of a sheet of `count` cells: a power of two, about as wide as high: codes are easy to count out."""
    return 2 ** ceil(log2(count) / 2) if count > 1 else 1


def _grid(cells: Tensor, title: str, note: str) -> Tensor:
    """Cells [K, p, p, 3] in rows, numbered: the code is the number of its row plus that of its column."""
    count, columns = len(cells), columns_for(len(cells))
    rows = ceil(count / columns)
    scale = max(1, ((WIDTH - RULER) // columns - GAP) // cells.shape[1])
    inner = scale * cells.shape[1]
    pitch = inner + GAP
    width = max(MARGIN * 2 + RULER + columns * pitch, MIN_WIDTH)
    canvas = Canvas(width, HEAD + 20 + rows * pitch + MARGIN)
    _title(canvas, title, note)
    left, top = MARGIN + RULER, HEAD + 20
    sheet = (torch.tensor(BACKGROUND) / 255).repeat(rows * columns, pitch, pitch, 1)
    sheet[:count, :inner, :inner] = cells.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    canvas.paste(rearrange(sheet, "(r c) y x rgb -> (r y) (c x) rgb", c=columns), (left, top))
    for row in range(0, rows, max(1, ceil(16 / pitch))):
        canvas.text((left - 8, top + row * pitch + inner / 2), f"{row * columns}", 13, FAINT, "rm")
    for column in range(0, columns, max(1, ceil(34 / pitch))):
        canvas.text((left + column * pitch + inner / 2, top - 10), f"+{column}", 13, FAINT, "mm")
    return canvas.tensor()[None]


def _ranked(values: Tensor, width: int, what: str) -> Tensor:
    """Bars of all values, the largest first, [H, width, 3]."""
    high, left = 160, MARGIN + RULER
    canvas, span = Canvas(width, high + 48), width - left - MARGIN
    order = values.float().sort(descending=True).values
    top = float(order[0].clamp_min(1e-12))
    canvas.draw.rectangle((left, 4, left + span, 4 + high), fill=PANEL)
    heights = order[torch.arange(span) * len(order) // span] / top
    for x, (share, colour) in enumerate(zip(heights.tolist(), to_bytes(heat(heights)).tolist(), strict=True)):
        canvas.draw.line((left + x, 4 + high - share * high, left + x, 4 + high), fill=tuple(colour))
    canvas.text((left - 8, 4), f"{top:.4g}", 13, FAINT, "ra")
    canvas.text((left - 8, 4 + high), "0", 13, FAINT, "rs")
    canvas.text((left, high + 12), f"{what} of each of the {len(order)} codes, largest first", 14, FAINT)
    return canvas.tensor()
