"""A latent diffusion model: network, text encoder and noise levels as one function, (x, sigma, cond) -> denoised."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..autoencoders.autoencoder import Autoencoder
from ..autoencoders.config import AutoencoderConfig
from ..errors import ConfigError
from ..text.conditioners import (
    ClassEmbedder,
    ConditionerConfig,
    PictureEncoder,
    SpatialRescaler,
    build_conditioner,
)
from ..text.encoder import StyleTextEncoder, TextConfig
from ..types import Condition
from .concat import CONCATS, Picture, concat, kind_of, shrunk
from .guidance import Guidance
from .prediction import PREDICTIONS, Denoiser
from .schedules import FlowTable, LogTable, NoiseTable, Table
from .unet import UNet, UNetConfig

TABLES: dict[str, tuple[Callable[..., Table], dict[str, str]]] = {  # what makes it, and what it calls our settings
    "linear": (NoiseTable.linear, {"start": "start", "end": "end"}),
    "scaled_linear": (NoiseTable.scaled_linear, {"start": "start", "end": "end"}),
    "sqrt": (NoiseTable.sqrt, {"start": "start", "end": "end"}),
    "sigmoid": (NoiseTable.sigmoid, {"start": "start", "end": "end"}),
    "cosine": (NoiseTable.cosine, {"end": "end", "s": "s"}),
    "betas": (NoiseTable.listed, {"betas": "betas"}),
    "log": (LogTable, {"start": "low", "end": "high"}),
    "flow": (FlowTable, {"shift": "shift"}),
}


MOST_LEVELS = 1_000_000
"""Of noise: public models have a thousand."""


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """The noise levels that a network was trained on.

    kind: a key of TABLES; timesteps: number of levels, 2 to a million.
    start, end: first and last beta (linear, scaled_linear, sqrt); end of the cosine (cosine); least and greatest
    sigma (log). s: offset (cosine). shift: towards noise (flow). None leaves the table's own default.
    betas: all of them, `timesteps` many (betas), for those of no other kind.
    zero_snr: see NoiseTable.zero_terminal; not for log and flow.
    Raises: ConfigError on a setting that the kind does not have; `build` on values out of range.
    """

    kind: Literal["linear", "scaled_linear", "sqrt", "sigmoid", "cosine", "log", "flow", "betas"] = "scaled_linear"
    timesteps: int = 1000
    start: float | None = None
    end: float | None = None
    s: float | None = None
    shift: float | None = None
    zero_snr: bool = False
    betas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in TABLES:
            raise ConfigError(f"no table of noise levels is named {self.kind!r}; there are {', '.join(TABLES)}")
        if self.timesteps > MOST_LEVELS:
            raise ConfigError(f"timesteps is {self.timesteps}; expected at most {MOST_LEVELS}")
        if (self.kind == "betas") != (self.betas is not None) or len(self.betas or ()) not in (0, self.timesteps):
            raise ConfigError(f"a {self.kind} table of {self.timesteps} levels with {len(self.betas or ())} betas")
        if self.zero_snr and self.kind in ("log", "flow"):
            raise ConfigError(f"a {self.kind} table of noise levels has no zero_snr")
        if strange := set(self._given) - set(TABLES[self.kind][1]):
            raise ConfigError(f"a {self.kind} table of noise levels has no {', '.join(sorted(strange))}")

    def build(self) -> Table:
        """The table. Raises: ConfigError when values are out of range."""
        make, names = TABLES[self.kind]
        table = make(timesteps=self.timesteps, **{names[name]: value for name, value in self._given.items()})
        return table.zero_terminal() if self.zero_snr and isinstance(table, NoiseTable) else table

    @property
    def _given(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in ("start", "end", "s", "shift", "betas")}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class LatentDiffusionConfig:
    """A network, its noise levels, what it predicts (a key of PREDICTIONS) and what comes with it in its file.

    text: Vitrail's own text encoder. conditioner: that of a public model; at most one of the two.
    sigma_data: standard deviation of the scaled latents.
    autoencoder: None where it has a file of its own. latent_scale: of the latents that the network was trained on,
        where no autoencoder is there to tell.
    concat: what the network sees stacked on the latent, a key of CONCATS; None is what its channels speak for.
    class_names: of the classes in order, as far as they are known.
    Raises: ConfigError when the parts do not fit each other.
    """

    unet: UNetConfig
    table: TableConfig = field(default_factory=TableConfig)
    prediction: str = "eps"
    text: TextConfig | None = None
    sigma_data: float = 1.0
    conditioner: ConditionerConfig | None = None
    autoencoder: AutoencoderConfig | None = None
    concat: str | None = None
    class_names: tuple[str, ...] = ()
    latent_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.latent_scale < inf:
            raise ConfigError(f"latent_scale is {self.latent_scale}; expected a number above 0")
        if self.prediction not in PREDICTIONS:
            raise ConfigError(f"no prediction is named {self.prediction!r}; there are {', '.join(PREDICTIONS)}")
        if (self.prediction == "flow") != (self.table.kind == "flow"):
            raise ConfigError(f"prediction {self.prediction!r} does not go with a {self.table.kind} table")
        if self.concat is not None and self.concat not in CONCATS:
            raise ConfigError(f"nothing to stack on latents is named {self.concat!r}; there are {list(CONCATS)}")
        if self.text is not None and self.conditioner is not None:
            raise ConfigError("text and conditioner both say what reads the prompts; give one of them")
        for name in ("context_dim", "vector_dim") if self.text or self.conditioner else ():
            made, taken = getattr(self.text or self.conditioner, name), getattr(self.unet, name)
            if made != taken and not (made is None and self.text is None):
                raise ConfigError(f"the text encoder's {name} is {made}, the network's {taken}; they must be equal")


class LatentDiffusion(nn.Module):
    """`denoise(x, sigma, cond)` in the scaled latent space; encoding and decoding are the autoencoder's.

    network: UNet. conditioner: what makes conditions (see text/conditioners.py), or None. table: noise levels.
    autoencoder: kept beside the model, not in it: it has its own file, device and precision, and is in neither
    `parameters()` nor `state_dict()`. autoencoder_file: the name of that file, where the model came from one.
    guidance: how samplers shall temper guidance, if at all.
    """

    autoencoder: Autoencoder | None
    autoencoder_file: str | None = None
    guidance: Guidance | None = None

    def __init__(self, config: LatentDiffusionConfig, autoencoder: Autoencoder | None = None) -> None:
        super().__init__()
        self.config = config
        with torch.device("cpu"):  # levels are numbers, also where the weights are built without memory
            self.table = config.table.build()
        self.network = UNet(config.unet)
        self.conditioner = _conditioner(config)
        inside = None if config.autoencoder is None else Autoencoder(config.autoencoder)
        self.autoencoder = autoencoder or inside

    @property
    def stored(self) -> dict[str, nn.Module]:
        """The modules in this model's file, by the beginning of their keys there."""
        inside = self.config.autoencoder is not None and self.autoencoder is not None
        return {"": self} | ({"autoencoder.": self.autoencoder} if inside else {})  # pyright: ignore[reportReturnType]

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep the autoencoder an ordinary attribute, not a child module."""
        if name == "autoencoder":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def schedule(self) -> Table:
        """The noise levels, as `table`."""
        return self.table

    @property
    def prediction(self) -> str:
        return self.config.prediction

    @property
    def denoiser(self) -> Denoiser:
        """The network as (x, sigma, cond) -> denoised, with what training needs beside."""
        return Denoiser(self._answer, self.table, self.config.prediction, self.config.sigma_data)

    def with_guidance(self, guidance: Guidance) -> "LatentDiffusion":
        """The same model, weights shared, for samplers that temper guidance."""
        other = copy(self)
        other.guidance = guidance
        return other

    def denoise(self, x: Tensor, sigma: Tensor, cond: Condition | None = None) -> Tensor:
        """The clean latent that the network sees in a noisy one.

        x: [B, C, h, w], scaled latent. sigma: [] or [B], > 0. cond: of batch B; None for a network that takes none.
        Returns the shape and dtype of x.
        Raises: ShapeError when x or the condition does not fit the network.
        """
        return self.denoiser(x, sigma, cond)

    def null(self, batch: int) -> Condition | None:
        """The condition that says nothing, for guidance: the empty text, the last class; None where there is none."""
        if (labels := self.config.unet.num_classes) is not None:
            return Condition(vector=torch.full((batch,), labels - 1))
        return None if self.conditioner is None else self.conditioner.null(batch)

    @property
    def classes(self) -> int | None:
        """How many numbered classes the model knows, the last one meaning "no class"; None where it takes none."""
        embedder = isinstance(self.conditioner, ClassEmbedder)
        return self.conditioner.config.classes if embedder else self.config.unet.num_classes

    def of_class(self, labels: Tensor) -> Condition:
        """The condition of numbered classes. labels: [B] int64. Raises: ConfigError where the model takes none."""
        if isinstance(self.conditioner, ClassEmbedder):
            return self.conditioner.condition(labels.to(self.conditioner.embedding.weight.device))
        if self.classes is None:
            raise ConfigError("this model takes no numbered classes: tell it in words what to paint")
        return Condition(vector=labels)

    def stacked(self, picture: Picture, like: Tensor) -> Tensor | None:
        """What the network sees stacked on a latent; None where it takes no picture.

        like: [B, c, h, w], scaled. Returns [B, extra, h, w].
        Raises: ConfigError where the picture lacks what is needed; ShapeError where it has other channels.
        """
        if isinstance(self.conditioner, SpatialRescaler):
            return shrunk(self.conditioner, self.conditioner.config.in_channels, picture, like)
        if isinstance(self.conditioner, PictureEncoder):
            inner = self.conditioner.inner
            return shrunk(self.conditioner, inner.config.in_channels, picture, like, inner.palette)
        kind = self.config.concat or kind_of(self.config.unet)
        return None if kind is None else concat(kind, picture, like, self.scale)

    def scale(self, z: Tensor) -> Tensor:
        """From the autoencoder's own space, [B, c, h, w], to that of the network."""
        return z * self.config.latent_scale if self.autoencoder is None else self.autoencoder.scale(z)

    def unscale(self, z: Tensor) -> Tensor:
        """Undoes `scale`."""
        return z / self.config.latent_scale if self.autoencoder is None else self.autoencoder.unscale(z)

    def _answer(self, x: Tensor, timesteps: Tensor, cond: Condition | None) -> Tensor:
        """The network's raw output, [B, out_channels, h, w]."""
        if self.config.unet.n_embed is not None:
            raise ConfigError(
                "this network scores the codes of its first stage instead of predicting a latent: ask the network "
                "itself, and look its best codes up"
            )
        cond = cond or Condition()
        return self.network(x, timesteps, cond.context, cond.vector, concat=cond.concat)


def _conditioner(config: LatentDiffusionConfig) -> Any:
    if config.text is not None:
        return StyleTextEncoder(config.text)
    return None if config.conditioner is None else build_conditioner(config.conditioner)
