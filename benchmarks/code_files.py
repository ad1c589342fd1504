"""File size and quality of codes beside PNG, WebP and JPEG: the tables of docs/codes.md.

    python benchmarks/code_files.py .data/emoji

Pictures: those of the data that were held out of training, at 64 x 64 pixels, and the example picture that comes with
the workflows, as it is. Each file is counted whole, header and all; PSNR is the mean over the pictures.
"""

import argparse
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitrail.core.checkpoints import load, shipped_path
from vitrail.core.code_files import bits_of, load_codes, save_codes
from vitrail.core.nn.pad import crop, pad_to
from vitrail.core.training.data import Pictures, on_white, read_examples
from vitrail.core.training.evaluation import psnr
from vitrail.core.types import Codes

EXAMPLE = Path(__file__).resolve().parent.parent / "example_workflows" / "example.png"
FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {"format": "PNG", "optimize": True},
    "WebP, lossless": {"format": "WEBP", "lossless": True, "quality": 100, "method": 6},
    **{f"WebP, quality {q}": {"format": "WEBP", "quality": q, "method": 6} for q in (1, 10, 30, 50, 75, 90)},
    **{f"JPEG, quality {q}": {"format": "JPEG", "quality": q, "optimize": True} for q in (1, 10, 30, 50, 75, 90)},
}
Row = tuple[str, float, float]
"""Name, bytes a picture, PSNR in dB."""


def stored(pixels: Tensor, options: dict[str, Any]) -> tuple[int, Tensor]:
    """Bytes of a picture [3, H, W] uint8 in a format, and what comes back."""
    file = BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, **options)
    with Image.open(file) as opened:
        back = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
    return len(file.getvalue()), back


def quality(back: Tensor, pixels: Tensor) -> float:
    """PSNR in dB of pictures [B, 3, H, W] of bytes, the mean over them."""
    return float(psnr(as_x(back), as_x(pixels)).mean())


def as_x(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


@torch.no_grad()
def code_rows(model: Any, pixels: Tensor) -> list[Row]:
    """Codes of pictures [B, 3, H, W], each in its own file and all of them in one; decoded from the file."""
    x, size = pad_to(as_x(pixels), model.factor)
    indices = torch.cat([model.quantize(model.encode(part)).indices for part in x.split(32)])
    codes = Codes(indices=indices, codebook_size=len(model.codebook), factor=model.factor, image_size=size)
    one = Codes(**{**vars(codes), "indices": indices[:1]})
    with TemporaryDirectory() as folder:
        single, together = Path(folder, "one.safetensors"), Path(folder, "all.safetensors")
        save_codes(one, single)
        save_codes(codes, together)
        found = load_codes(together).indices
        sizes = single.stat().st_size, together.stat().st_size / len(found)
    x = torch.cat([model.decode(model.lookup(part)) for part in found.split(32)])
    back = ((crop(x, size).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    bits, psnr_db = bits_of(codes.codebook_size), quality(back, pixels)
    rows = [(f"codes, {bits} bits each, without the header", indices[0].numel() * bits / 8, psnr_db)]
    rows += [("codes, a file a picture", sizes[0], psnr_db)]
    return [*rows, ("codes, all in one file", sizes[1], psnr_db)] if len(found) > 1 else rows


def format_rows(pixels: Tensor) -> list[Row]:
    rows = []
    for name, options in FORMATS.items():
        lengths, back = zip(*(stored(picture, options) for picture in pixels), strict=True)
        rows.append((name, sum(lengths) / len(lengths), quality(torch.stack(back), pixels)))
    return rows


def table(rows: Sequence[Row]) -> str:
    lines = ["| kept as | bytes a picture | PSNR, dB |", "|---|---|---|"]
    return "\n".join(lines + [f"| {name} | {size:.0f} | {shown(db)} |" for name, size, db in rows])


def shown(db: float) -> str:
    """In words where nothing was lost: `psnr` cuts the error off there."""
    return "exact" if db > 79 else f"{db:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that recipes/build_data.py made")
    parser.add_argument("--name", default="vitrail-1", help="shipped weights, or a file")
    args = parser.parse_args()
    model: Any = load(shipped_path(args.name, "autoencoder") or args.name)
    held_out = [example for example in read_examples(args.data) if example.split != "train"]
    pictures = Pictures(held_out, 64)
    with Image.open(EXAMPLE) as opened:
        example = torch.from_numpy(np.array(on_white(opened))).permute(2, 0, 1)[None]
    for title, pixels in (
        (f"{len(held_out)} held-out pictures of 64 x 64 pixels", torch.stack(list(pictures))),
        (f"The example picture, {example.shape[3]} x {example.shape[2]} pixels", example),
    ):
        print(f"### {title}\n\n{table([*code_rows(model, pixels), *format_rows(pixels)])}\n")


if __name__ == "__main__":
    main()
