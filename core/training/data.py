"""A folder of pictures with captions.

Captions are a `captions.jsonl` (a line a picture: `file`, and optionally `text`, `keywords`, `style`, `split`), or a
`name.txt` beside `name.png`, or absent. A line whose `split` is not "train" is held out of training.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import ConfigError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
CAPTIONS = "captions.jsonl"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One captioned picture. text: its label; keywords: further words, each true of it; style: a name, or None."""

    path: Path
    text: str = ""
    keywords: tuple[str, ...] = ()
    style: str | None = None
    split: str = "train"


def read_examples(folder: Path | str) -> list[Example]:
    """Every picture of `folder` in a fixed order, with its caption.

    Raises: ConfigError where there are no pictures, a listed picture is missing or a line is no caption.
    """
    folder = Path(folder)
    listed = folder / CAPTIONS
    examples = _listed(listed) if listed.is_file() else _loose(folder)
    if not examples:
        raise ConfigError(f"{folder} has no pictures ({', '.join(sorted(SUFFIXES))}) and no {CAPTIONS}")
    return examples


def _listed(path: Path) -> list[Example]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [_example(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _example(path: Path, number: int, line: str) -> Example:
    try:
        entry: dict[str, Any] = json.loads(line)
        picture = path.parent / entry["file"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f'{path.name}, line {number}: expected a JSON object such as {{"file": "a.png", "text": "red apple", '
            f'"style": "pixel"}}, found {line[:60]!r}'
        ) from error
    if not picture.is_file():
        raise ConfigError(f"{path.name}, line {number}: the picture {entry['file']} is not in {path.parent}")
    return Example(
        path=picture,
        text=str(entry.get("text", "")),
        keywords=tuple(entry.get("keywords", ())),
        style=entry.get("style"),
        split=entry.get("split", "train"),
    )


def _loose(folder: Path) -> list[Example]:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    captions = ((p, p.with_suffix(".txt")) for p in paths)
    return [Example(path=p, text=t.read_text(encoding="utf-8").strip() if t.is_file() else "") for p, t in captions]


class Pictures(Sequence[Tensor]):
    """Pictures of a list of examples, square, read when first asked for and kept as bytes.

    `pictures[i]`: [3, size, size] uint8; `batch(indices)`: [B, 3, size, size] float32 in -1..1.
    Transparent pictures lie on white; the longer side is cropped evenly.
    """

    def __init__(self, examples: Sequence[Example], size: int) -> None:
        self.examples, self.size = examples, size
        self._read = lru_cache(maxsize=None)(self._load)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return self._read(int(index))

    def batch(self, indices: Sequence[int] | Tensor) -> Tensor:
        pictures = torch.stack([self[int(i)] for i in indices])
        return pictures.float().div_(127.5).sub_(1)

    def _load(self, index: int) -> Tensor:
        path = self.examples[index].path
        try:
            with Image.open(path) as opened:
                picture = on_white(opened)
        except (OSError, UnidentifiedImageError) as error:
            raise ConfigError(f"{path} cannot be read as a picture ({error}); remove it from the data") from error
        return torch.from_numpy(np.array(square(picture, self.size))).permute(2, 0, 1).contiguous()


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` places among `count`, evenly spread, the first and the last among them."""
    return torch.linspace(0, count - 1, min(count, wanted)).long().tolist()


def on_white(picture: Image.Image) -> Image.Image:
    """The picture as RGB, what is transparent on white."""
    if picture.mode == "RGB":
        return picture.copy()
    rgba = picture.convert("RGBA")
    ground = Image.new("RGBA", rgba.size, "white")
    ground.alpha_composite(rgba)
    return ground.convert("RGB")


def square(picture: Image.Image, size: int) -> Image.Image:
    """The middle of the picture at size x size; whole-number reductions average, others use Lanczos."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    whole = side % size == 0
    resample = Image.Resampling.BOX if whole else Image.Resampling.LANCZOS
    return picture.resize((size, size), resample, box=(left, top, left + side, top + side))


def order(count: int, seed: int, start: int, size: int) -> list[int]:
    """Indices number start .. start + size - 1 of an endless sequence of shuffled epochs; a function of its arguments.

    count: pictures in an epoch; so a run that resumes sees the pictures that it would have seen.
    """
    wanted = range(start, start + size)
    return [_epoch(count, seed, n // count)[n % count] for n in wanted]


@lru_cache(maxsize=4)
def _epoch(count: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator).tolist()
