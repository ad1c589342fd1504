"""Small pictures with text: a canvas, a colour for each number, a ramp for values."""

import colorsys
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Colour = tuple[int, int, int]

BACKGROUND, PANEL = (22, 24, 29), (34, 37, 44)
TEXT, FAINT, ACCENT = (232, 234, 238), (150, 156, 168), (255, 184, 76)

RAMP = (
    (0.0, (34, 37, 58)),
    (0.25, (52, 82, 140)),
    (0.5, (38, 147, 142)),
    (0.75, (128, 203, 88)),
    (1.0, (253, 231, 76)),
)
"""From dark blue to yellow, lighter all the way, so that it reads without colour too."""

STEPS = (0.8191725133961645, 0.6710436067037893, 0.5497004779019703)
"""1/g, 1/g^2, 1/g^3 with g^4 = g + 1."""


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own face at a size in pixels; its one bitmap face where it has been built without FreeType."""
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow 10.0
        return ImageFont.load_default()


class Canvas:
    """A picture to draw on; positions are (x, y) pixels from the top left."""

    def __init__(self, width: int, height: int, colour: Colour = BACKGROUND) -> None:
        self.image = Image.new("RGB", (width, height), colour)
        self.draw = ImageDraw.Draw(self.image)

    def text(
        self, at: tuple[float, float], words: str, size: int = 14, colour: Colour = TEXT, anchor: str = "la"
    ) -> None:
        """Write words; anchor as Pillow's: "la" top left, "ra" top right, "mm" the middle."""
        self.draw.text(at, words, fill=colour, font=font(size), anchor=anchor)

    def paste(self, picture: Tensor, at: tuple[int, int], scale: int = 1) -> None:
        """Put a picture [H, W, 3] in 0..1 down, each of its pixels `scale` pixels wide."""
        pixels = Image.fromarray(to_bytes(picture))
        if scale != 1:
            pixels = pixels.resize((pixels.width * scale, pixels.height * scale), Image.Resampling.NEAREST)
        self.image.paste(pixels, at)

    def tensor(self) -> Tensor:
        """The picture, [H, W, 3] float32 in 0..1."""
        return torch.from_numpy(np.asarray(self.image, dtype=np.float32) / 255)


def to_bytes(picture: Tensor) -> np.ndarray:
    """[..., 3] in 0..1 -> uint8, rounded."""
    return (picture.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()


def heat(values: Tensor) -> Tensor:
    """Values in 0..1 -> colours of `RAMP`, [..., 3] in 0..1."""
    places = torch.tensor([place for place, _ in RAMP])
    colours = torch.tensor([colour for _, colour in RAMP], dtype=torch.float32) / 255
    values = values.float().cpu().clamp(0, 1)
    high = torch.bucketize(values, places).clamp(1, len(RAMP) - 1)
    share = ((values - places[high - 1]) / (places[high] - places[high - 1]))[..., None]
    return torch.lerp(colours[high - 1], colours[high], share)


def palette(count: int) -> Tensor:
    """A colour for each number below `count`, always the same one, near numbers far apart: [count, 3] in 0..1.

    Hue, lightness (0.38 to 0.75) and saturation (0.5 to 1) follow the additive sequence that fills a cube most evenly.
    Source: Roberts 2018, "The unreasonable effectiveness of quasirandom sequences".
    """
    places = [[(i + 1) * step % 1.0 for step in STEPS] for i in range(count)]
    rows = [colorsys.hls_to_rgb(hue, 0.38 + 0.37 * light, 0.5 + 0.5 * strong) for hue, light, strong in places]
    return torch.tensor(rows, dtype=torch.float32).reshape(count, 3)
