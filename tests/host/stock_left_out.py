"""Stock nodes that are not tried with ours, by the reason."""

from __future__ import annotations

from typing import Any

from stock_pairs import PAIRS

LEFT_OUT: dict[str, tuple[str, ...]] = {
    "for models of video, sound, 3D or another architecture than a UNet": (
        "Ace",
        "Chroma",
        "Cosmos",
        "Flux",
        "HiDream",
        "Hunyuan",
        "LTXV",
        "Lotus",
        "Lumina",
        "Mochi",
        "Wan",
        "WAN",
        "SVD_",
        "SV3D_",
        "StableZero123",
        "Load3D",
        "USOStyle",
        "Qwen",
        "PixArt",
        "SD3",
        "StableCascade",
        "SkipLayerGuidanceDiT",
        "SDXL",
        "T5Tokenizer",
        "TrimVideo",
        "Video",
        "OptimalSteps",
        "SD_4XUpscale",
        "ModelMergeSD2",
        "ModelMergeAuraflow",
        "InstructPix",
        "CreateVideo",
        "SaveWEBM",
        "ImageOnly",
    ),
    "loads files of other models, nothing of ours goes in": (
        "CheckpointLoader",
        "VAELoader",
        "CLIPLoader",
        "UNETLoader",
        "DiffusersLoader",
        "UpscaleModelLoader",
        "unCLIP",
        "LoadImageOutput",
        "LoadImageSet",
        "LoadImageTextSet",
    ),
    "needs a file made for the very network, of which there is none": (
        "ControlNet",
        "Hypernetwork",
        "CLIPVision",
        "StyleModel",
        "GLIGEN",
        "PhotoMaker",
    ),
    "trains or compiles layers of the host's own classes": ("TrainLora", "TorchCompile", "LoraSave", "LoraModelLoader"),
    "gives a number": ("SamplingPercentToSigma", "GetImageSize"),
    "takes pictures from a camera": ("WebcamCapture",),
    "only reads a file that SaveLatent wrote": ("LoadLatent",),
}
"""Beginnings or parts of names of stock nodes that are not tried, by the reason."""


TRIED = frozenset(
    part.strip() for rows in PAIRS.values() for name, _, _ in rows for part in name.split(" (")[0].split(",")
)
SOCKETS = frozenset(
    (
        "MODEL",
        "CLIP",
        "VAE",
        "LATENT",
        "IMAGE",
        "MASK",
        "CONDITIONING",
        "SIGMAS",
        "SAMPLER",
        "NOISE",
        "GUIDER",
        "UPSCALE_MODEL",
    )
)


def untried(info: dict[str, Any]) -> list[str]:
    """Stock nodes with a socket of ours that are neither tried nor left out."""
    return sorted(
        kind
        for kind, node in info.items()
        if node["python_module"].startswith(("nodes", "comfy_extras."))
        and SOCKETS & sockets(node)
        and kind not in TRIED
        and not any(word in kind for words in LEFT_OUT.values() for word in words)
    )


def sockets(node: dict[str, Any]) -> set[str]:
    specs = [spec for group in ("required", "optional") for spec in node["input"].get(group, {}).values()]
    return {spec[0] for spec in specs if isinstance(spec[0], str)} | {str(kind) for kind in node["output"]}
