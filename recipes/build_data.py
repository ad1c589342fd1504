"""Build the training data of the shipped models: captioned emoji of six styles, 128 x 128 pixels.

    pip install "vitrail[data]"            (adds resvg-py, which draws the SVGs)
    python recipes/build_data.py OUT_DIR   (needs npm; about three minutes, 120 MB)

Art and words come from npm packages whose licences allow training and shipping weights (SOURCES below).
OUT_DIR gets `STYLE/HEXCODE.png` and `captions.jsonl`, a line a picture:
`{"file", "text", "keywords", "group", "style", "split"}`. Left out: people, flags, symbols, skin tones.
A (subject, style) pair is held out of all training when sha256("HEXCODE|STYLE")[0] < 10.
"""

import argparse
import hashlib
import io
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

SOURCES = {  # package: version, licence of the part that is used
    "@iconify-json/noto": ("1.2.9", "Apache-2.0"),
    "@twemoji/svg": ("15.0.0", "CC-BY-4.0 (art), by Twitter and the jdecked/twemoji contributors"),
    "@lobehub/fluent-emoji-3d": ("1.1.0", "MIT"),
    "@iconify-json/fluent-emoji-flat": ("1.2.6", "MIT"),
    "@iconify-json/fluent-emoji-high-contrast": ("1.2.6", "MIT"),
    "emojibase-data": ("17.0.0", "MIT"),
    "emojilib": ("4.0.3", "MIT"),
}
STYLES = ("noto", "twemoji", "3d", "flat", "mono", "pixel")
GROUPS = ("smileys & emotion", "animals & nature", "food & drink", "travel & places", "activities", "objects")
SIZE = 128

Draw = Callable[[str], Image.Image | None]


def fetch(folder: Path) -> Path:
    """Install the packages, without their scripts, below `folder`; returns its node_modules."""
    packages = [f"{name}@{version}" for name, (version, _) in SOURCES.items()]
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), *packages]
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    return folder / "node_modules"


def canonical(code: str) -> str:
    """A hex code in lower case without variation selectors: how the packages' file names agree."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def words(text: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", text.lower().replace("’", "").replace("'", "")) if word]


def draw_svg(svg: str) -> Image.Image:
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=256, height=256))
    return Image.open(io.BytesIO(png)).convert("RGBA")


def iconify(folder: Path) -> Draw:
    """Icons of an Iconify package, by the emoji they stand for."""
    icons = json.loads((folder / "icons.json").read_text())
    names = {canonical(code): name for code, name in json.loads((folder / "chars.json").read_text()).items()}

    def draw(code: str) -> Image.Image | None:
        name = names.get(code)
        while name in icons.get("aliases", {}):
            name = icons["aliases"][name]["parent"]
        if name not in icons["icons"]:
            return None
        icon = icons["icons"][name]
        width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        body = icon["body"].replace("currentColor", "#222222")
        space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return draw_svg(f'<svg {space} viewBox="{box}" width="256" height="256">{body}</svg>')

    return draw


def files(folder: Path, suffix: str, read: Callable[[Path], Image.Image]) -> Draw:
    paths = {canonical(path.stem): path for path in folder.glob(f"*{suffix}")}
    return lambda code: read(paths[code]) if code in paths else None


def centred(picture: Image.Image) -> Image.Image | None:
    """Crop to what is drawn and centre it in a square with a margin of 4 %."""
    alpha = np.asarray(picture)[..., 3]
    rows, columns = np.where(alpha > 8)
    if len(rows) < 20:
        return None
    picture = picture.crop((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    side = int(max(picture.size) * 1.08) + 1
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def on_white(picture: Image.Image, size: int) -> Image.Image:
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture)
    return ground.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)


def pixel_art(picture: Image.Image) -> Image.Image:
    """16 x 16 cells in 12 colours."""
    cells = on_white(picture, 16).quantize(12, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return cells.convert("RGB").resize((SIZE, SIZE), Image.Resampling.NEAREST)


def subjects(modules: Path) -> Iterator[dict[str, Any]]:
    base = modules / "emojibase-data" / "en"
    groups = {g["order"]: g["message"] for g in json.loads((base / "messages.json").read_text())["groups"]}
    library = json.loads((modules / "emojilib" / "dist" / "emoji-en-US.json").read_text())
    for entry in json.loads((base / "data.json").read_text()):
        group = groups.get(entry.get("group"))
        if group not in GROUPS:
            continue
        label = words(entry["label"])
        tags = [*entry.get("tags", []), *(tag.replace("_", " ") for tag in library.get(entry["emoji"], [])[:8])]
        keywords = sorted({word for tag in tags for word in words(tag) if len(word) > 1} - set(label))
        yield {"hexcode": entry["hexcode"], "text": " ".join(label), "keywords": keywords, "group": group}


def held_out(hexcode: str, style: str) -> bool:
    return hashlib.sha256(f"{hexcode}|{style}".encode()).digest()[0] < 10


def pictures(draw: dict[str, Draw], hexcode: str) -> Iterator[tuple[str, Image.Image]]:
    code = canonical(hexcode)
    for style, function in draw.items():
        drawn = function(code)
        square = drawn and centred(drawn)
        if square:
            yield style, on_white(square, SIZE)
            if style == "twemoji":
                yield "pixel", pixel_art(square)


def build(modules: Path, out: Path) -> int:
    draw = {
        "noto": iconify(modules / "@iconify-json" / "noto"),
        "twemoji": files(modules / "@twemoji" / "svg", ".svg", lambda path: draw_svg(path.read_text())),
        "3d": files(
            modules / "@lobehub" / "fluent-emoji-3d" / "assets", ".webp", lambda path: Image.open(path).convert("RGBA")
        ),
        "flat": iconify(modules / "@iconify-json" / "fluent-emoji-flat"),
        "mono": iconify(modules / "@iconify-json" / "fluent-emoji-high-contrast"),
    }
    lines = []
    for subject in subjects(modules):
        hexcode = subject.pop("hexcode")
        for style, picture in pictures(draw, hexcode):
            path = out / style / f"{hexcode}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
            split = "held-out" if held_out(hexcode, style) else "train"
            lines.append({"file": f"{style}/{hexcode}.png", **subject, "style": style, "split": split})
    (out / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return len(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--modules", type=Path, help="a node_modules folder that has the packages already")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        count = build(args.modules or fetch(Path(scratch)), args.out)
    print(f"{count} pictures in {args.out}")


if __name__ == "__main__":
    main()
