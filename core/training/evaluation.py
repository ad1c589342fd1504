"""Figures of the shipped models on captioned pictures, most of them on pairs that training never saw."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autoencoders.autoencoder import Autoencoder
from ..codebook import level_usage
from ..diffusion.guidance import guided
from ..diffusion.latent_diffusion import LatentDiffusion
from ..diffusion.noise import seeded
from ..diffusion.schedules import make_sigmas
from ..refine.refiner import Refiner
from ..samplers.run import sample
from .data import Example, Pictures
from .data import spread as evenly


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How pictures are drawn from prompts; the defaults are those of the shipped workflow."""

    steps: int = 20
    cfg: float = 3.0
    sampler: str = "dpmpp_2m"
    scheduler: str = "karras"
    seed: int = 1
    batch: int = 48


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """10 log10(4 / mse) in dB of each pair of pictures [B, 3, H, W] in -1..1; returns [B]."""
    return 10 * torch.log10(4 / (a - b).square().flatten(1).mean(1).clamp_min(1e-8))


@torch.no_grad()
def autoencoder_figures(model: Autoencoder, examples: Sequence[Example], size: int) -> dict[str, float]:
    """PSNR in dB on the held-out pictures; share of the codes that all pictures, and the held-out ones, use."""
    held_out = [example for example in examples if example.split != "train"]
    made = [(x, *model(x)) for x in _batches(Pictures(held_out, size), 64)]
    quality = torch.cat([psnr(y.clamp(-1, 1), x) for x, y, _ in made])
    pictures = _batches(Pictures(examples, size), 64) if model.codebook_size else ()
    every = [model.quantize(model.encode(x)).indices for x in pictures]
    return {
        "pictures": len(held_out),
        "psnr_db": float(quality.mean()),
        "codes_used_percent": _used_percent(every, model.codebook_size),
        "codes_used_held_out_percent": _used_percent([q.indices for *_, q in made], model.codebook_size),
    }


def _used_percent(indices: Sequence[Tensor | None], codes: int | None) -> float:
    """How many of the codes of all levels occur, in percent; 0 for a continuous latent."""
    found = [part for part in indices if part is not None]
    return 100 * float((level_usage(torch.cat(found), codes) > 0).double().mean()) if found and codes else 0.0


@torch.no_grad()
def draw(
    model: LatentDiffusion, texts: Sequence[str], styles: Sequence[str | None], size: int, settings: Settings
) -> Tensor:
    """One picture a prompt, [B, 3, size, size] in -1..1; picture i has the noise of seed + i."""
    assert model.autoencoder is not None and model.conditioner is not None
    cells = size // model.autoencoder.factor
    pictures = []
    for start in range(0, len(texts), settings.batch):
        part = slice(start, start + settings.batch)
        cond = model.conditioner.encode(list(texts[part]), list(styles[part]))
        empty = torch.zeros(len(texts[part]), model.config.unet.out_channels, cells, cells)
        denoise = guided(model.denoise, cond, model.null(len(empty)), settings.cfg)
        sigmas = make_sigmas(settings.scheduler, model.table, settings.steps)
        noise = seeded(empty, settings.seed + start)
        top = model.table.sigma_max
        *_, last = sample(denoise, empty, sigmas, sampler=settings.sampler, noise=noise, sigma_max=top)
        latent = model.autoencoder.unscale(last.x)
        pictures.append(model.autoencoder.decode(model.autoencoder.rounded(latent)).clamp(-1, 1))
    return torch.cat(pictures)


@torch.no_grad()
def retrieval_figures(
    model: LatentDiffusion,
    examples: Sequence[Example],
    chosen: Sequence[int],
    size: int,
    settings: Settings,
    texts: Sequence[str] | None = None,
) -> dict[str, float]:
    """Draw each chosen example from its label and style; how near is the truth, among all pictures of its style?

    Distance is between 16 x 16 RGB reductions; top1, top5: share in percent of truths of rank 1, at most 5.
    texts: other prompts than the labels (shuffled ones, for chance).
    """
    features = torch.cat([_reduce(x) for x in _batches(Pictures(examples, size), 64)])
    prompts = texts or [examples[i].text for i in chosen]
    made = _reduce(draw(model, prompts, [examples[i].style for i in chosen], size, settings))
    ranks = []
    for feature, i in zip(made, chosen, strict=True):
        same = torch.tensor([other.style == examples[i].style for other in examples])
        distance = (features - feature).square().sum(1)
        ranks.append(1 + int((distance[same] < distance[i]).sum()))
    rank = torch.tensor(ranks)
    return {
        "prompts": len(chosen),
        "top1_percent": 100 * float((rank == 1).float().mean()),
        "top5_percent": 100 * float((rank <= 5).float().mean()),
        "median_rank": float(rank.median()),
    }


@torch.no_grad()
def refiner_figures(
    refiner: Refiner, autoencoder: Autoencoder, examples: Sequence[Example], size: int
) -> dict[str, float]:
    """dB gained over bicubic on the held-out pictures, from clean input and from the autoencoder's output."""
    held_out = [example for example in examples if example.split != "train"]
    gains: dict[str, list[Tensor]] = {"clean": [], "decoded": []}
    for large in _batches(Pictures(held_out, size * refiner.scale), 32):
        clean = F.avg_pool2d(large, refiner.scale)
        for name, small in (("clean", clean), ("decoded", autoencoder(clean)[0].clamp(-1, 1))):
            bicubic = F.interpolate(small, scale_factor=float(refiner.scale), mode="bicubic").clamp(-1, 1)
            refined = refiner.refine((small + 1) / 2).clamp(0, 1) * 2 - 1
            gains[name].append(psnr(refined, large) - psnr(bicubic, large))
    return {f"{name}_gain_db": float(torch.cat(parts).mean()) for name, parts in gains.items()}


@torch.no_grad()
def seconds_a_picture(model: LatentDiffusion, size: int, settings: Settings) -> float:
    """Median of three: seconds to draw one picture on one thread, after a first to warm up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = []
        for _ in range(4):
            start = time.perf_counter()
            draw(model, ["red apple"], [None], size, settings)
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return sorted(times[1:])[1]


def spread(examples: Sequence[Example], count: int, *, held_out: bool) -> list[int]:
    """Places of `count` examples (or as many as there are) spread evenly over the held-out or the trained ones."""
    places = [i for i, example in enumerate(examples) if (example.split != "train") == held_out]
    return [places[i] for i in evenly(len(places), count)]


def _batches(pictures: Pictures, size: int) -> Iterator[Tensor]:
    for part in torch.arange(len(pictures)).split(size):
        yield pictures.batch(part)


def _reduce(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 16).flatten(1)
