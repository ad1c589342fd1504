"""IMAGE [B, H, W, C] in 0..1 to the core's x [B, 3, H, W] in -1..1 and back, and quick pictures of latents."""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import ShapeError
from .host_env import IN_HOST

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..core.autoencoders.autoencoder import Autoencoder

SMALLEST = 128
"""Previews are made at least so many pixels high and wide."""

COLOURS = "_vitrail_colours"


def split_alpha(image: Tensor) -> tuple[Tensor, Tensor | None]:
    """Pictures as the networks take them, transparent ones on white, and their alpha.

    image: [B, H, W, C] in 0..1; C is 1 (grey), 3, or 4 (with alpha).
    Returns x [B, 3, H, W] float32 in -1..1, and alpha [B, H, W] or None.
    Raises: ShapeError for another shape.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        raise ShapeError(f"the image is {tuple(image.shape)}; expected [batch, height, width, 1, 3 or 4 channels]")
    colours, alpha = image[..., :3].float(), image[..., 3].float() if image.shape[-1] == 4 else None
    if alpha is not None:
        colours = colours * alpha[..., None] + (1 - alpha[..., None])
    x = colours.movedim(-1, 1) * 2 - 1
    return x.expand(-1, 3, -1, -1).contiguous(), alpha


def to_image(x: Tensor, alpha: Tensor | None = None) -> Tensor:
    """x [B, 3, H, W], cut to -1..1, as IMAGE [B, H, W, 3] float32 on the CPU; with alpha [B, H, W], 4 channels."""
    image = ((x.detach().float().cpu() + 1) / 2).clamp(0, 1).movedim(1, -1)
    return image if alpha is None else torch.cat([image, alpha.float().cpu()[..., None]], dim=-1)


def preview_image(autoencoder: "Autoencoder", latent: Tensor) -> "Image":
    """A quick picture of the first of some latents, without its decoder.

    latent: [B, c, h, w] as in the graph, unscaled.
    """
    return scaled_preview(autoencoder, autoencoder.scale(latent[:1].float()))


def scaled_preview(autoencoder: "Autoencoder", scaled: Tensor) -> "Image":
    """The same of latents in the space that diffusion works in."""
    from PIL import Image

    factors, bias = colours(autoencoder)
    rgb = scaled[0].detach().float().cpu().movedim(0, -1) @ factors + bias
    pixels = ((rgb.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    times = -(-SMALLEST // min(pixels.shape[:2]))
    return Image.fromarray(pixels).resize((pixels.shape[1] * times, pixels.shape[0] * times), Image.Resampling.NEAREST)


def colours(autoencoder: "Autoencoder") -> tuple[Tensor, Tensor]:
    """Weights [c, 3] and bias [3] that take a cell of a scaled latent to its colour, about -1..1.

    Least squares on what the decoder makes of random cells, found once for an autoencoder and kept on it.
    """
    if not hasattr(autoencoder, COLOURS):
        object.__setattr__(autoencoder, COLOURS, _fitted(autoencoder))
    return getattr(autoencoder, COLOURS)


@torch.no_grad()
def _fitted(autoencoder: "Autoencoder") -> tuple[Tensor, Tensor]:
    z = _random_cells(autoencoder)
    weight = autoencoder.decoder.conv_out.weight
    shown = autoencoder.to_rgb(autoencoder.decode(z.to(weight)).float().cpu()).clamp(-1, 1)
    target = F.avg_pool2d(shown, autoencoder.factor)
    cells = autoencoder.scale(z.float().cpu()).movedim(1, -1).flatten(0, 2)
    cells = torch.cat([cells, torch.ones(len(cells), 1)], dim=1)
    square = cells.T @ cells + 1e-3 * len(cells) * torch.eye(cells.shape[1])
    solved = torch.linalg.solve(square, cells.T @ target.movedim(1, -1).flatten(0, 2))
    return solved[:-1], solved[-1]


def _random_cells(autoencoder: "Autoencoder") -> Tensor:
    """A latent [1, c, h, w] of random codes, or random numbers where there are none, each over 2 x 2 cells."""
    generator = torch.Generator().manual_seed(0)
    side = max(8, 64 // autoencoder.factor)
    if autoencoder.codebook is not None:
        codes = torch.randint(len(autoencoder.codebook), (1, side, side), generator=generator)
        z = autoencoder.lookup(codes.to(autoencoder.codebook.device)).float().cpu()
    else:
        shape = (1, autoencoder.config.embed_dim, side, side)
        z = autoencoder.unscale(torch.randn(shape, generator=generator))
    return z.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def preview_ui(images: Tensor) -> dict[str, Any]:
    """What a node returns as `ui` to show IMAGE [B, H, W, C] under itself; nothing outside the host."""
    if not IN_HOST:
        return {}
    import os

    import folder_paths
    from PIL import Image

    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    entries = []
    for image in images:
        name = f"vitrail-{os.urandom(8).hex()}.png"
        pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        Image.fromarray(pixels).save(os.path.join(folder, name), compress_level=1)
        entries.append({"filename": name, "subfolder": "", "type": "temp"})
    return {"images": entries}
