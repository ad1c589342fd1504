"""A sheet of 64 prompts, 16 subjects in 4 styles, with fixed seeds: what the shipped model draws.

    python benchmarks/prompt_sheet.py docs/prompt-sheet.png [--refined]
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from vitrail.core.checkpoints import load, shipped_path
from vitrail.core.training.evaluation import Settings, draw

SUBJECTS = (
    "red apple", "pizza", "hamburger", "strawberry", "cat face", "dog", "lion", "octopus",
    "butterfly", "evergreen tree", "sunflower", "mushroom", "rocket", "house", "sailboat", "guitar",
)  # fmt: skip
STYLES = ("noto", "3d", "flat", "pixel")
MARGIN, LABEL = 4, 14


def sheet(pictures: torch.Tensor) -> Image.Image:
    """Subjects across, styles down; pictures: [64, 3, size, size] in -1..1, row by row."""
    size = pictures.shape[-1]
    step = size + MARGIN
    page = Image.new("RGB", (len(SUBJECTS) * step + 44, len(STYLES) * step + LABEL), "white")
    pen = ImageDraw.Draw(page)
    for row, style in enumerate(STYLES):
        pen.text((2, LABEL + row * step + size // 2 - 6), style, fill="black")
        for column, subject in enumerate(SUBJECTS):
            left, top = 44 + column * step, LABEL + row * step
            if row == 0:
                pen.text((left, 1), subject[: size // 6], fill="black")
            picture = ((pictures[row * len(SUBJECTS) + column] + 1) * 127.5).round().byte()
            page.paste(Image.fromarray(picture.permute(1, 2, 0).numpy()), (left, top))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", default="vitrail-1")
    parser.add_argument("--refined", action="store_true", help="double the size with the shipped refiner")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--cfg", type=float, default=Settings.cfg)
    parser.add_argument("--sampler", default=Settings.sampler)
    parser.add_argument("--scheduler", default=Settings.scheduler)
    args = parser.parse_args()
    settings = Settings(steps=args.steps, cfg=args.cfg, sampler=args.sampler, scheduler=args.scheduler)
    model: Any = load(shipped_path(args.name, "diffusion") or args.name)
    texts = list(SUBJECTS) * len(STYLES)
    styles = [style for style in STYLES for _ in SUBJECTS]
    pictures = draw(model, texts, styles, 64, settings)
    refiner_path = shipped_path(args.name, "refiner")
    if args.refined and refiner_path:
        refiner: Any = load(refiner_path)
        pictures = refiner.refine((pictures + 1) / 2) * 2 - 1
    sheet(pictures.clamp(-1, 1)).save(args.out)


if __name__ == "__main__":
    main()
