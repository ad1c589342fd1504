"""Vitrail's own files: safetensors that carry their config.

    metadata  {"format": "vitrail", "vitrail": JSON {"kind", "version", "config", ...}}

Where another program writes the file and its metadata (a stock node of ComfyUI that saves our model), the same JSON
is a tensor of bytes, `vitrail.notes`. A diffusion file, or a prior's, has no autoencoder in it but the bare name of the
autoencoder's file, in the same folder or shipped.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import Tensor, nn

from ...autoencoders.autoencoder import Autoencoder
from ...autoencoders.config import AutoencoderConfig
from ...bottlenecks import RemapConfig, ResidualConfig, VQConfig
from ...config_io import from_dict, to_dict
from ...diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from ...errors import CheckpointError, ConfigError, UnsafeFile
from ...priors.prior import Prior, PriorConfig
from ...refine.codeformer import CodeFormer, CodeFormerConfig
from ...refine.refiner import Refiner, RefinerParts
from ...refine.vqfr import VQFR, VQFRConfig
from ..family import Family, Rule, Sidecar, has_all, metadata_is
from ..header import Header
from ..shipped import ASSETS
from .text_encoders import give_tokenizer

FORMAT, VERSION = "vitrail", 1
NOTES = "vitrail.notes"
OURS = metadata_is("format", FORMAT) | has_all(NOTES)
OTHERS = {name: None for name in (NOTES, "v_pred", "ztsnr", "edm_vpred.{*}")}
"""What ComfyUI's savers add to the weights."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of model that such a file can hold.

    name: what the file calls it; model: the class, by name (a process can hold two copies of this package).
    holds: what it is, one of `family.KINDS`, where its name is not one.
    config: the class of its config; describe: the config of a model as it goes into a file.
    parts: the modules in the file, by the beginning of their keys.
    skip: patterns (with `*`) of the keys that stay out of the file.
    """

    name: str
    model: str
    config: type
    build: Callable[[Any], nn.Module]
    describe: Callable[[Any], Any] = lambda model: model.config
    holds: str | None = None
    skip: tuple[str, ...] = ()
    parts: Callable[[Any], Mapping[str, nn.Module]] = lambda model: {"": model}
    finish: Callable[[nn.Module, Header, Callable[[Path], nn.Module]], None] | None = None


def notes(header: Header) -> dict[str, Any]:
    """What the file says about itself. Raises: CheckpointError where that is no JSON, or of a later version."""
    try:
        inside = NOTES in header and "vitrail" not in header.metadata
        text = bytes(header.value(NOTES).flatten().byte().tolist()) if inside else header.metadata.get("vitrail", "")
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{header.path.name}: its metadata is not the JSON of a Vitrail file ({error})") from None
    if not isinstance(said, dict) or not isinstance(said.get("version"), int):
        raise CheckpointError(f"{header.path.name}: its metadata names no version; expected a file that Vitrail wrote")
    if said["version"] > VERSION:
        raise CheckpointError(
            f"{header.path.name} is of version {said['version']}, this Vitrail reads up to {VERSION}: update Vitrail"
        )
    return said


def metadata_of(kind: Kind, model: nn.Module, extra: Mapping[str, Any]) -> dict[str, str]:
    """The metadata that makes a file of this model readable again."""
    said = {"kind": kind.name, "version": VERSION, "config": to_dict(kind.describe(model))}
    if clash := sorted(set(said) & set(extra)):
        raise ConfigError(f"the notes {', '.join(clash)} of a file are set by what is saved; give others")
    return {"format": FORMAT, "vitrail": json.dumps(said | dict(extra), ensure_ascii=False)}


def notes_tensor(model: nn.Module, **extra: Any) -> Tensor:
    """The notes on a model as bytes, for a file that another program writes. extra: as in `save_model`."""
    said = metadata_of(kind_of(model), model, extra)["vitrail"]
    return torch.tensor(list(said.encode()), dtype=torch.uint8)


def kind_of(model: nn.Module) -> Kind:
    """Which of KINDS a model is. Raises: ConfigError for none of them."""
    ancestors = {cls.__name__ for cls in type(model).__mro__}
    kind = next((kind for kind in KINDS if kind.model in ancestors), None)
    if kind is None:
        raise ConfigError(f"a {type(model).__name__} cannot be saved; expected one of {[k.model for k in KINDS]}")
    return kind


def _family(kind: Kind) -> Family:
    def infer(header: Header, _: Sidecar) -> Any:
        try:
            return from_dict(kind.config, notes(header).get("config", {}))
        except ConfigError as error:
            raise CheckpointError(f"{header.path.name}: its config cannot be used: {error}") from error

    return Family(
        name=f"vitrail-{kind.name}",
        kind=kind.holds or kind.name,
        detect=OURS & Rule(lambda header: notes(header).get("kind") == kind.name),
        infer=infer,
        keys=lambda _: {**OTHERS, "{*}": "{*}"},
        build=kind.build,
        parts=kind.parts,
        finish=kind.finish,
        sidecar=False,
    )


def _without_training(model: Autoencoder) -> AutoencoderConfig:
    bottleneck = model.config.bottleneck
    fixed = bottleneck.fixed() if isinstance(bottleneck, VQConfig | ResidualConfig | RemapConfig) else bottleneck
    return replace(model.config, bottleneck=fixed)


def _build_refiner(parts: RefinerParts) -> Refiner:
    return Refiner(parts.generator, parts.discriminator)


def _attach_autoencoder(model: Any, header: Header, load: Callable[[Path], nn.Module]) -> None:
    give_tokenizer(model.conditioner, header)
    name = notes(header).get("autoencoder")
    if name is None or model.autoencoder is not None:
        return
    if not isinstance(name, str) or not _bare(name):
        raise UnsafeFile(f"{header.path.name} names {name!r} as its autoencoder; expected a file name without a folder")
    found = next((folder / name for folder in (header.path.parent, ASSETS) if (folder / name).exists()), None)
    if found is None:
        raise CheckpointError(f"{header.path.name} needs its autoencoder {name} in the same folder: put it there")
    autoencoder = load(found)
    if not isinstance(autoencoder, Autoencoder):
        raise CheckpointError(f"{header.path.name} names {name} as its autoencoder, which holds none")
    model.autoencoder, model.autoencoder_file = autoencoder, name


def _bare(name: str) -> bool:
    return name not in ("", ".", "..") and PurePosixPath(name).name == name and PureWindowsPath(name).name == name


KINDS = (
    Kind(
        name="autoencoder",
        model="Autoencoder",
        config=AutoencoderConfig,
        build=Autoencoder,
        describe=_without_training,
        skip=("quantize.*ema_*", "quantize.*started"),
    ),
    Kind(
        name="diffusion",
        model="LatentDiffusion",
        config=LatentDiffusionConfig,
        build=LatentDiffusion,
        parts=lambda model: model.stored,
        finish=_attach_autoencoder,
    ),
    Kind(
        name="refiner",
        model="Refiner",
        config=RefinerParts,
        build=_build_refiner,
        describe=lambda model: model.parts,
    ),
    Kind(name="codeformer", model="CodeFormer", config=CodeFormerConfig, build=CodeFormer, holds="refiner"),
    Kind(name="vqfr", model="VQFR", config=VQFRConfig, build=VQFR, holds="refiner"),
    Kind(
        name="prior",
        model="Prior",
        config=PriorConfig,
        build=Prior,
        parts=lambda model: model.stored,
        finish=_attach_autoencoder,
    ),
)

FAMILIES = tuple(_family(kind) for kind in KINDS)
