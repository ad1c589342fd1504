"""Files as other projects publish them, put into a host's model folders: tiny models with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copy, copytree
from typing import Any

import torch
from host_server import PACK
from safetensors.torch import save_file
from tiny import randomise
from torch import nn

from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import KLConfig
from vitrail.core.checkpoints.write_compvis import compvis_layout
from vitrail.core.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, TableConfig
from vitrail.core.diffusion.unet import UNetConfig
from vitrail.core.text.bert import BertConfig
from vitrail.core.text.clip import ClipTextConfig

GOLDEN = PACK / "tests" / "golden"

AUTOENCODERS = {
    "vae": ("ldm_kl_f4", "ldm_vq_f4"),
    "vq": ("taming_vq_f4_n256", "taming_gumbel_f4", "llamagen_vq16"),
    "diffusers": ("diffusers_vqmodel_oldkeys",),
}
DIFFUSION = {"checkpoints": ("ldm_uncond_vq4",), "diffusers": ("diffusers_unet2d_ddpm",)}
REFINERS = {"upscale_models": ("rrdb_new_x2", "rrdb_new_x4", "rrdb_old_x4", "rrdb_oldest_x4")}
"""Cases of tests/golden by the folder of `models` that such a file goes to."""

UNET = dict(
    in_channels=4, out_channels=4, model_channels=32, num_res_blocks=1, attention_resolutions=(1, 2), num_heads=8,
    channel_mult=(1, 2),
)  # fmt: skip
FIRST = AutoencoderConfig(
    ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(), z_channels=4, embed_dim=4, double_z=True,
    bottleneck=KLConfig(),
)  # fmt: skip
LEVELS = TableConfig(kind="scaled_linear", start=0.00085, end=0.012)
WORDS = ("red", "cat", "##s", "apple", "a")


def put(models: Path, cases: dict[str, tuple[str, ...]]) -> list[str]:
    """Copy cases into the folders of `models`; their names as the loaders list them."""
    return [_put(models, folder, GOLDEN / case) for folder, those in cases.items() for case in those]


def _put(models: Path, folder: str, case: Path) -> str:
    if folder == "diffusers":
        copytree(case, models / folder / case.name)
        return f"{folder}/{case.name}"
    weights = next(file for file in case.iterdir() if file.name.partition(".")[0] in ("model", "vq"))
    place = models / folder / case.name  # a folder of its own: the config lies beside the weights
    place.mkdir(parents=True)
    for file in (weights, *case.glob("*.yaml")):
        copy(file, place)
    return f"{folder}/{case.name}/{weights.name}"


def stable_diffusion(path: Path) -> Path:
    """A tiny file in the layout of Stable Diffusion 1, CLIP's whole vocabulary included."""
    text = ClipTextConfig(width=64, inner=128, depth=2, heads=1)
    return _write(path, LatentDiffusionConfig(unet=UNetConfig(**UNET, context_dim=64), conditioner=text,
                                              autoencoder=FIRST, table=LEVELS))  # fmt: skip


def stable_diffusion_as_the_host_knows_it(path: Path) -> Path:
    """One of Stable Diffusion 1's widths, by which the host tells it, but of one level and one layer of text."""
    unet = UNetConfig(
        in_channels=4, out_channels=4, model_channels=320, num_res_blocks=1, attention_resolutions=(1,), num_heads=8,
        channel_mult=(1,), context_dim=768,
    )  # fmt: skip
    text = ClipTextConfig(width=768, inner=3072, depth=1, heads=12)
    return _write(path, LatentDiffusionConfig(unet=unet, conditioner=text, table=LEVELS))


def _write(path: Path, config: LatentDiffusionConfig) -> Path:
    tensors = compvis_layout(_random(config))[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return path


def _random(config: LatentDiffusionConfig) -> nn.Module:
    model = randomise(LatentDiffusion(config), 5)
    if model.autoencoder is not None:
        randomise(model.autoencoder, 6)
    return model


def text_to_image(folder: Path) -> Path:
    """CompVis's text-to-image model as its trainer leaves it: a .ckpt, its yaml and BERT's vocabulary beside it."""
    text = BertConfig(vocab=120, length=12, width=40, depth=2, heads=8, head_width=64)
    model = _random(LatentDiffusionConfig(unet=UNetConfig(**UNET, context_dim=40), conditioner=text, autoencoder=FIRST,
                                          table=LEVELS))  # fmt: skip
    tensors, settings = compvis_layout(model)
    folder.mkdir(parents=True)
    torch.save({"state_dict": tensors, "global_step": 7}, folder / "model.ckpt")
    (folder / "model.yaml").write_text(json.dumps(settings))
    (folder / "vocab.txt").write_text("\n".join(_vocabulary(text)) + "\n")
    return folder / "model.ckpt"


def _vocabulary(text: Any) -> list[str]:
    pieces = [f"[unused{i}]" for i in range(text.vocab)]
    pieces[text.pad], pieces[text.start], pieces[text.end], pieces[100] = "[PAD]", "[CLS]", "[SEP]", "[UNK]"
    pieces[3 : 3 + len(WORDS)] = WORDS
    return pieces
