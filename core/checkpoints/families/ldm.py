"""Latent diffusion in one file, as CompVis's trainers save it: network, first stage, what makes the condition.

    model.diffusion_model.   the network               model_ema.           its average (see ema.py)
    first_stage_model.       the autoencoder           cond_stage_model.    text encoder, classes, rescaler
    betas, alphas_cumprod, ...                         scale_factor         the latent's, where it was measured

Source: github.com/CompVis/latent-diffusion, ldm/models/diffusion/ddpm.py.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ...diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, TableConfig
from ...diffusion.tables import NoiseTable
from ...errors import CheckpointError, ConfigError
from ...text.bert import BertConfig, frame_tokens
from ...text.conditioners import ClassConfig, ConditionerConfig, EncodedConfig, RescalerConfig
from ..family import Family, Rule, Sidecar, has_all, has_none, metadata_is
from ..header import Header
from ..keymap import KeyMap
from . import compvis
from .text_encoders import give_tokenizer
from .unet import infer_unet, place_of, placed

FIRST, COND = "first_stage_model.", "cond_stage_model."

CONTEXT = "*.attn2.to_k.weight"
"""Keys of a network that listens to a text."""

START, END, STEPS = 1e-4, 2e-2, 1000
"""What DDPM's constructor takes for a config that does not say."""

KINDS: dict[str, Any] = {"linear": "scaled_linear", "sqrt_linear": "linear", "sqrt": "sqrt", "cosine": "cosine"}
"""CompVis's names of noise schedules, and ours."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One kind of condition that such a file can hold.

    name: of the family. detect: by the keys behind `cond_stage_model.`, whole.
    infer: (header, params of the model) -> config of what makes the condition, or None where nothing is built.
    keys: config -> names behind the prefix to names of the conditioner's weights.
    scale, heads: of the latent and of the attention, as the public models of that kind have them, where no config says.
    """

    name: str
    detect: Rule
    infer: Callable[[Header, Sidecar], ConditionerConfig | None]
    keys: Callable[[Any], KeyMap] = lambda _: {"{*}": "{*}"}
    scale: float = 1.0
    heads: Mapping[str, int] = field(default_factory=dict)


def infer(header: Header, sidecar: Sidecar, stage: Stage) -> LatentDiffusionConfig:
    """The config of the whole file."""
    params = sidecar.part("model.params")
    unet = infer_unet(header, sidecar, stage.heads)
    conditioner = stage.infer(header, params)
    stacked = unet.in_channels - unet.out_channels
    if isinstance(conditioner, RescalerConfig) and conditioner.out_channels is None and stacked > 0:
        conditioner = replace(conditioner, in_channels=stacked)
    return LatentDiffusionConfig(
        unet=unet,
        table=infer_table(header, params),
        prediction=str(params.at("parameterization", "eps")),
        conditioner=conditioner,
        **infer_latent(header, params, stage.scale),
    )


def infer_latent(header: Header, params: Sidecar, scale: float = 1.0) -> dict[str, Any]:
    """The autoencoder in the file with the latent's scale, or that scale alone for a network without one.

    scale: where neither the file nor the config says it.
    """
    inner, scale = header.under(FIRST), _scale(header, params, scale)
    if not inner.tensors:
        return {"latent_scale": scale}
    stage = params.holding({"model": params.part("first_stage_config")}, "first stage: ")
    return {"autoencoder": replace(compvis.infer_any(inner, stage), latent_scale=(scale,))}


def _scale(header: Header, params: Sidecar, default: float) -> float:
    if "scale_factor" in header:
        params.found["scale_factor"] = "the tensor in the file"
        return float(header.value("scale_factor"))
    if is_whole(params):
        return float(params.at("scale_factor", 1.0, "1, as the trainer has it"))
    return float(params.at("scale_factor", default, f"{default:g}, as public models of this kind have it"))


def is_whole(params: Sidecar) -> bool:
    """Whether a config is the trainer's own, in which what is not said is the trainer's default."""
    return params.at("unet_config") is not None


def infer_table(header: Header, params: Sidecar) -> TableConfig:
    """The noise levels, from the config, else from the `betas` in the file."""
    if params.at("linear_start") is None and params.at("beta_schedule") is None and "betas" in header:
        params.found["noise levels"] = "the betas in the file"
        return _recognised(header)
    kind = KINDS.get(str(params.at("beta_schedule", "linear")))
    if kind is None:
        raise CheckpointError(f"its beta_schedule is {params.get('beta_schedule')!r}; known are {', '.join(KINDS)}")
    steps = int(params.at("timesteps", STEPS))
    if kind == "cosine":
        return TableConfig(kind=kind, timesteps=steps, s=float(params.at("cosine_s", 8e-3)))
    start, end = (float(params.at(name, default)) for name, default in (("linear_start", START), ("linear_end", END)))
    return TableConfig(kind=kind, timesteps=steps, start=start, end=end)


def _recognised(header: Header) -> TableConfig:
    """The kind of table that makes the betas in the file, or these betas themselves."""
    betas = header.value("betas").double()
    steps, first, last = len(betas), float(betas[0]), float(betas[-1])
    rounding = 1e-5 if header.tensors["betas"].dtype.itemsize >= 4 else 1e-3
    candidates = (
        TableConfig(kind="scaled_linear", timesteps=steps, start=first, end=last),
        TableConfig(kind="linear", timesteps=steps, start=first, end=last),
        TableConfig(kind="sqrt", timesteps=steps, start=first**2, end=last**2),
        TableConfig(kind="cosine", timesteps=steps),
    )
    return next((each for each in candidates if _makes(each, betas, rounding)), listed_table(betas.tolist()))


def _makes(config: TableConfig, betas: torch.Tensor, rounding: float) -> bool:
    with suppress(ConfigError):
        table = config.build()
        return isinstance(table, NoiseTable) and torch.allclose(table.betas, betas, rtol=rounding, atol=1e-7)
    return False


def listed_table(betas: Sequence[float], zero_snr: bool = False) -> TableConfig:
    """Noise levels of no known kind, one by one."""
    return TableConfig(kind="betas", timesteps=len(betas), betas=tuple(map(float, betas)), zero_snr=zero_snr)


def _keys(config: LatentDiffusionConfig, stage: Stage) -> KeyMap:
    cond: dict[str, str | None] = {COND + "{*}": None}
    if config.conditioner is not None:
        table = stage.keys(config.conditioner)
        cond = {COND + old: None if new is None else f"conditioner.{new}" for old, new in table.items()}
    first = compvis.keys_behind(FIRST, "autoencoder.", config.autoencoder)
    return {"model.diffusion_model.{*}": "network.{*}", **cond, **first, **LEFTOVERS}


BUFFERS = ("alphas_cumprod", "alphas_cumprod_prev", "betas", "log_one_minus_alphas_cumprod", "logvar", "lvlb_weights")
BUFFERS += ("posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "posterior_variance")
BUFFERS += ("scale_factor", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod")
BUFFERS += ("sqrt_recipm1_alphas_cumprod", "cond_ids")
LEFTOVERS: KeyMap = {**dict.fromkeys(BUFFERS), "low_scale_model.{*}": None, "loss.{*}": None}
"""Numbers that a trainer keeps, and that follow from the table of noise levels."""


def _bert(whole: Header, params: Sidecar) -> BertConfig:
    header = whole.under(COND)
    vocab, width = header.shape("transformer.token_emb.weight")
    layers = compvis.indices(header, r"transformer\.attn_layers\.layers\.(\d+)\..*")
    inner = header.shape("transformer.attn_layers.layers.0.1.to_q.weight")[0]
    heads = int(params.at("cond_stage_config.heads", 8 if inner % 8 == 0 else 1))
    if heads < 1 or inner % heads:
        raise CheckpointError(f"{header.path.name}: attention over {inner} channels has no {heads} heads")
    return BertConfig(
        vocab=vocab,
        length=header.shape("transformer.pos_emb.emb.weight")[0],
        width=width,
        depth=(1 + max(layers)) // 2,
        heads=heads,
        head_width=inner // heads,
        **frame_tokens(vocab),
    )


def bert_keys(config: BertConfig) -> KeyMap:
    """The layers of x-transformers alternate attention (even) and feed-forward (odd), each with its norm."""
    table: dict[str, str | None] = {
        "transformer.token_emb.{*}": "token_emb.{*}",
        "transformer.pos_emb.emb.{*}": "pos_emb.{*}",
        "transformer.norm.{*}": "norm.{*}",
        "transformer.to_logits.{*}": None,
    }
    for i in range(config.depth):
        even, odd = (f"transformer.attn_layers.layers.{2 * i + j}." for j in (0, 1))
        table |= {
            f"{even}0.{{*}}": f"layers.{i}.attn_norm.{{*}}",
            f"{even}1.to_out.{{*}}": f"layers.{i}.attn.to_out.0.{{*}}",
            f"{even}1.{{*}}": f"layers.{i}.attn.{{*}}",
            f"{odd}0.{{*}}": f"layers.{i}.ff_norm.{{*}}",
            f"{odd}1.net.0.0.{{*}}": f"layers.{i}.ff.0.{{*}}",
            f"{odd}1.net.2.{{*}}": f"layers.{i}.ff.2.{{*}}",
        }
    return table


def _classes(header: Header, _: Sidecar) -> ClassConfig:
    classes, width = header.shape(f"{COND}embedding.weight")
    return ClassConfig(classes=classes, width=width)


def _rescaler(header: Header, params: Sidecar) -> RescalerConfig:
    outputs, inputs = header.shape(f"{COND}channel_mapper.weight")[:2]
    stage = params.part("cond_stage_config")
    usual = 1 if stage else 2
    return RescalerConfig(
        in_channels=inputs,
        out_channels=outputs,
        stages=int(stage.at("params.n_stages", usual, "1, its own default" if stage else "2, as semantic synthesis")),
        multiplier=float(stage.at("params.multiplier", 0.5)),
        method=str(stage.at("params.method", "bilinear")),
        bias=f"{COND}channel_mapper.bias" in header,
    )


def _weightless(_: Header, params: Sidecar) -> RescalerConfig | None:
    """A rescaler that mixes no channels has no weights: only the config knows of it. Its channels are the network's."""
    stage = params.part("cond_stage_config")
    if not str(stage.at("target", "")).endswith("SpatialRescaler"):
        return None
    return RescalerConfig(
        stages=int(stage.at("params.n_stages", 1)),
        multiplier=float(stage.at("params.multiplier", 0.5)),
        method=str(stage.at("params.method", "bilinear")),
    )


def _picture(header: Header, params: Sidecar) -> EncodedConfig | None:
    """None where the first stage itself makes the condition (the file holds its weights twice), else an autoencoder."""
    said, own = params.get("cond_stage_config"), header.under(COND)
    if said == "__is_first_stage__" or (not isinstance(said, Mapping) and _same(own, header.under(FIRST))):
        return None
    told = params.holding({"model": params.part("cond_stage_config")}, "condition: ")
    return EncodedConfig(autoencoder=compvis.infer_any(own, told))


def _same(one: Header, other: Header) -> bool:
    """Whether two autoencoders are one, by their names and shapes and the numbers of a layer."""
    if {k: v.shape for k, v in one.tensors.items()} != {k: v.shape for k, v in other.tensors.items()}:
        return False
    return torch.equal(*(part.value("encoder.conv_in.weight") for part in (one, other)))


def _picture_keys(config: EncodedConfig) -> KeyMap:
    return compvis.keys_behind("", "inner.", config.autoencoder)


STAGES = (
    Stage(name="ldm", detect=has_none(f"{COND}*", CONTEXT), infer=_weightless),
    Stage(name="ldm-concat", detect=has_all(f"{COND}encoder.conv_in.weight"), infer=_picture, keys=_picture_keys),
    Stage(name="ldm-class", detect=has_all(f"{COND}embedding.weight"), infer=_classes, heads={"num_heads": 1}),
    Stage(name="ldm-rescaler", detect=has_all(f"{COND}channel_mapper.weight"), infer=_rescaler),
    Stage(
        name="ldm-text",
        detect=has_all(f"{COND}transformer.token_emb.weight"),
        infer=_bert,
        keys=bert_keys,
        scale=0.18215,
        heads={"num_heads": 8},
    ),
)


_LDM = Rule(lambda header: place_of(header) is not None) & ~metadata_is("format", "vitrail")


def family(stage: Stage) -> Family:
    """The family of single files with one kind of condition."""
    return Family(
        name=stage.name,
        kind="diffusion",
        detect=_LDM & stage.detect,
        infer=lambda header, sidecar: infer(header, sidecar, stage),
        keys=lambda config: _keys(config, stage),
        build=LatentDiffusion,
        parts=lambda model: model.stored,
        prepare=placed,
        finish=lambda model, header, _: give_tokenizer(model.conditioner, header),
    )


FAMILIES = tuple(family(stage) for stage in STAGES)
