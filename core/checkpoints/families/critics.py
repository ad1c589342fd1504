"""Critics and LPIPS as files of their own, and inside the training files of taming's autoencoders.

Source: github.com/CompVis/taming-transformers, taming/modules/{discriminator/model.py,losses/lpips.py};
github.com/junyanz/pytorch-CycleGAN-and-pix2pix, models/networks.py; github.com/TencentARC/VQFR,
vqfr/archs/patch_disc_arch.py; github.com/XPixelGroup/BasicSR, basicsr/archs/discriminator_arch.py;
github.com/richzhang/PerceptualSimilarity.
"""

import re
from typing import Any

import torch

from ...autoencoders.autoencoder import Autoencoder
from ...errors import CheckpointError
from ...losses.patchgan import PatchGAN, PatchGANConfig
from ...losses.perceptual import PerceptualConfig, PerceptualLoss
from ...losses.unet_critic import UNetCritic, UNetCriticConfig
from ..family import Family, Rule, Sidecar, has_all, has_none, metadata_is
from ..fill import build, fill
from ..header import Header

SPECTRAL = {
    "{*}.weight_orig": "{*}.parametrizations.weight.original",
    "{*}.weight_u": "{*}.parametrizations.weight.0._u",
    "{*}.weight_v": "{*}.parametrizations.weight.0._v",
    "{*}": "{*}",
}
"""Spectral norm as torch named its parts before it had parametrizations."""

WRAPPED = {
    "{*}.module.weight_bar": "{*}.parametrizations.weight.original",
    "{*}.module.weight_u": "{*}.parametrizations.weight.0._u",
    "{*}.module.weight_v": "{*}.parametrizations.weight.0._v",
    "{*}.module.bias": "{*}.bias",
}
"""Spectral norm as a module around a layer, as VQFR's critic has it. Its own code takes another step of power
iteration whenever it runs; here the vectors are taken as they are."""

INSIDE_DISCRIMINATOR, INSIDE_PERCEPTUAL = "loss.discriminator.", "loss.perceptual_loss."


def infer_patchgan(header: Header, _: Sidecar) -> PatchGANConfig:
    """The config of a PatchGAN from the shapes of its convolutions and the names of its norms."""
    convolutions = {
        int(found[1]): info.shape
        for name, info in header.tensors.items()
        if (found := _CONVOLUTION.fullmatch(name)) and len(info.shape) == 4
    }
    ndf, in_channels = convolutions[0][:2]
    norms = [norm for norm, mark in _NORMS.items() if any(mark.fullmatch(name) for name in header.tensors)]
    norm = "spectral_batch" if norms == ["batch", "spectral"] else next(iter(norms), None)
    if norm is None:  # a norm without weights still has its place in the row
        between = "instance" if "main.2.bias" in header else "identity"
        norm = between if sorted(convolutions)[1:3] == [2, 5] else "none"
    return PatchGANConfig(in_channels=in_channels, ndf=ndf, n_layers=len(convolutions) - 2, norm=norm)


_CONVOLUTION = re.compile(r"main\.(\d+)\.(?:weight|weight_orig|module\.weight_bar|parametrizations\.weight\.original)")
_NORMS = {
    "act": re.compile(r"main\.\d+\.loc"),
    "batch": re.compile(r"main\.\d+\.running_mean"),
    "spectral": re.compile(r".*(\.weight_u|\._u)"),
}


def infer_unet(header: Header, sidecar: Sidecar) -> UNetCriticConfig:
    """The config of a U-Net critic; skip_connection comes from Real-ESRGAN's options or is its default."""
    num_feat, in_channels = header.shape("conv0.weight")[:2]
    skip = sidecar.first(("network_d.skip_connection", "skip_connection"), True, "true, as Real-ESRGAN trains it")
    return UNetCriticConfig(in_channels=in_channels, num_feat=num_feat, skip_connection=bool(skip))


def infer_lpips(header: Header, _: Sidecar) -> PerceptualConfig:
    """The widths of VGG16's blocks."""
    return PerceptualConfig(widths=_linear(header))


def _linear(header: Header) -> tuple[int, ...]:
    """The numbers of channels that the linear layers weight, those of the first layer first."""
    found = {
        int(match[1]): info.shape[1]
        for name, info in header.tensors.items()
        if (match := re.fullmatch(r"lin(\d+)\.model\.[01]\.weight", name))
    }
    return tuple(found[level] for level in sorted(found))


def refuse_lpips(header: Header, _: Sidecar) -> Any:
    """Raises: CheckpointError, since the weights of channels are no use without the features, or not on VGG16's."""
    widths = _linear(header)
    if widths in TRUNKS or has_all("net.*")(header):
        raise CheckpointError(
            f"{header.path.name} holds LPIPS on {TRUNKS.get(widths, 'an unknown network')} (channels "
            f"{', '.join(map(str, widths))}); expected LPIPS on VGG16 with its features: net.slice1.0.weight, "
            "lin0.model.1.weight and so on"
        )
    raise CheckpointError(
        f"{header.path.name} holds LPIPS's five linear layers without VGG16. Take a file with both "
        "(net.slice1.0.weight, lin0.model.1.weight and so on), such as a training checkpoint of taming-transformers"
    )


TRUNKS = {
    (64, 192, 384, 256, 256): "AlexNet",
    (64, 128, 256, 384, 384, 512, 512): "SqueezeNet",
}

_OTHERS = ~metadata_is("format", "vitrail")

PLACES = ("main.", "model.", "discriminator.main.", "loss.discriminator.main.")
"""What the layers of a PatchGAN are called: by taming, by pix2pix, and as parts of taming's loss."""


def _place(header: Header) -> str | None:
    """Which of PLACES all names of a file begin with."""
    return next((place for place in PLACES if all(name.startswith(place) for name in header.tensors)), None)


def _is_patchgan(header: Header) -> bool:
    place = _place(header)
    if place is None or not (has_all(f"{place}0.*", f"{place}2.*") & has_none(f"{place}1.*"))(header):
        return False
    first = [info.shape for name, info in header.tensors.items() if re.match(re.escape(place) + r"0\..*weight", name)]
    return place == "main." or any(shape[2:] == (4, 4) for shape in first)


def _as_main(header: Header) -> Header:
    place = _place(header) or ""
    return header.renamed({name: f"main.{name[len(place) :]}" for name in header.tensors})


PATCHGAN = Family(
    name="patchgan",
    kind="discriminator",
    detect=_OTHERS & Rule(_is_patchgan),
    prepare=_as_main,
    infer=infer_patchgan,
    keys=lambda _: WRAPPED | SPECTRAL,
    build=PatchGAN,
)

_LINEAR = (has_all("lin0.model.1.weight") | has_all("lin0.model.0.weight")) & has_all("lin4.model.*")
_VGG = has_all("net.slice1.0.weight", "net.slice5.28.weight")

LPIPS = Family(
    name="lpips",
    kind="perceptual",
    detect=_OTHERS & _LINEAR & _VGG,
    infer=infer_lpips,
    keys=lambda _: {"lins.{*}": None, "lin{}.model.0.weight": "lin{}.model.1.weight", "{*}": "{*}"},
    build=PerceptualLoss,
)
FAMILIES = (
    PATCHGAN,
    Family(
        name="real-esrgan-unet-discriminator",
        kind="discriminator",
        detect=_OTHERS & has_all("conv0.weight", "conv1.*", "conv8.*", "conv9.weight") & has_none("conv_first.*"),
        infer=infer_unet,
        keys=lambda _: SPECTRAL,
        build=UNetCritic,
    ),
    LPIPS,
    Family(
        name="lpips-linear",
        kind="perceptual",
        detect=_OTHERS & _LINEAR & ~_VGG,
        infer=refuse_lpips,
        keys=lambda _: {},
        build=PerceptualLoss,
    ),
)


def part_inside(header: Header, prefix: str, family: Family, dtype: torch.dtype) -> Any:
    """The model of `family` whose weights lie under a prefix in another's file, in eval mode; None for none such.

    Raises: CheckpointError where the weights do not fit, as `load`.
    """
    inner = header.under(prefix)
    if not inner.tensors or not family.detect(inner):
        return None
    inner = family.prepare(inner)
    settings = family.infer(inner, Sidecar())
    model = build(family, settings, inner)
    fill(model, family, settings, inner, dtype)
    return model.eval()


def attach_discriminator(module: Any, header: Header, _: object) -> None:
    """Give an autoencoder the critic that its training file holds; one that is broken is left out."""
    assert isinstance(module, Autoencoder)
    dtype = next(module.encoder.parameters()).dtype
    try:
        module.discriminator = part_inside(header, INSIDE_DISCRIMINATOR, PATCHGAN, dtype)
    except (CheckpointError, ValueError, LookupError):
        module.discriminator = None
