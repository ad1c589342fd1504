"""The pictures of the example workflows for ComfyUI's template browser: run each, lay out what it saves in a grid.

python recipes/make_examples.py                     all of them
python recipes/make_examples.py inpaint enlarge     these alone
"""

import argparse
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from vitrail.headless.run import run_workflow

FOLDER = Path(__file__).resolve().parent.parent / "example_workflows"
COLUMNS = {
    "picture-to-codes": 2,
    "prompt-to-picture": 4,
    "enlarge": 2,
    "inpaint": 2,
    "edit-codes": 3,
    "interpolation": 5,
    "style-grid": 4,
    "compare-solvers": 5,
}
"""Pictures side by side; a workflow that is not here gets about as many rows as columns."""

LEFT_OUT = ("codebook-neighbours",)
"""Beginnings of the names of pictures that say little when they are small."""

LARGEST, MARGIN = 256, 4


def grid(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures in rows on white, large ones reduced."""
    for picture in pictures:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    wide, high = (max(sides) + MARGIN for sides in zip(*(picture.size for picture in pictures), strict=True))
    page = Image.new("RGB", (wide * columns + MARGIN, high * ceil(len(pictures) / columns) + MARGIN), "white")
    for place, picture in enumerate(pictures):
        page.paste(picture, (MARGIN + place % columns * wide, MARGIN + place // columns * high))
    return page


def pictures_of(workflow: Path) -> list[Image.Image]:
    """What a workflow saves, in order of writing."""
    with TemporaryDirectory() as folder:
        written = run_workflow(workflow, output=Path(folder), inputs=[FOLDER])
        chosen = [path for path in written if path.suffix == ".png" and not path.name.startswith(LEFT_OUT)]
        return [Image.open(path).convert("RGB") for path in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="workflows, without .json; by default all")
    args = parser.parse_args()
    for name in args.names or sorted(path.stem for path in FOLDER.glob("*.json")):
        pictures = pictures_of(FOLDER / f"{name}.json")
        page = grid(pictures, COLUMNS.get(name) or ceil(len(pictures) ** 0.5))
        page.save(FOLDER / f"{name}.jpg", quality=90, optimize=True)
        print(f"{name}: {len(pictures)} pictures, {page.width} x {page.height}")


if __name__ == "__main__":
    main()
