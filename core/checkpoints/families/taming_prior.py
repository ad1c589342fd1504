"""Priors of taming-transformers: a GPT alone, or with the first stage and what conditions it in one file.

    transformer.   the GPT           first_stage_model.   the autoencoder whose codes it writes
    permuter.      their order       cond_stage_model.    the autoencoder of a condition that is a picture

Source: github.com/CompVis/taming-transformers, taming/models/cond_transformer.py.
"""

from ...errors import CheckpointError
from ...priors.conditions import (
    ConditionConfig,
    CoordinateConfig,
    LabelConfig,
    PictureConfig,
    StartConfig,
    TokensConfig,
)
from ...priors.gpt import GPTConfig
from ...priors.prior import Prior, PriorConfig
from ..family import Family, Sidecar, has_all, has_none
from ..header import Header
from ..keymap import KeyMap
from . import compvis

FIRST, COND, ORDER = "first_stage_model.", "cond_stage_model.", "permuter.forward_shuffle_idx"
HEADS, UNSAID = (16, "as taming's public priors have it"), (8, "as taming's GPT has it where its config does not say")
CLASSES = 1000


def infer_gpt(header: Header, params: Sidecar) -> GPTConfig:
    """The sizes of a transformer; its number of heads comes from the config (`n_head`).

    Raises: CheckpointError where no config says it and the usual number does not divide the width.
    """
    _, block, width = header.shape("pos_emb")
    usual, why = UNSAID if params else HEADS
    heads = int(params.at("n_head", usual, f"{usual}, {why}"))
    if params.get("n_head") is None and width % heads:
        raise CheckpointError(
            f"{header.path.name}: nothing says how many heads its transformer has, and {heads}, {why}, do not "
            f"divide its width {width}: put its config beside it, with n_head"
        )
    return GPTConfig(
        vocab=header.shape("tok_emb.weight")[0],
        block=block,
        width=width,
        depth=1 + max(compvis.indices(header, r"blocks\.(\d+)\..*")),
        heads=heads,
        unmasked=_unmasked(header, params),
    )


def _unmasked(header: Header, params: Sidecar) -> int:
    """How many tokens at the start see each other: the first row of the mask in the file is true for them."""
    if "blocks.0.attn.mask" not in header:
        return int(params.at("n_unmasked", 0))
    seen = int(header.value("blocks.0.attn.mask")[0, 0, 0].count_nonzero())
    return seen if seen > 1 else 0


def infer_alone(header: Header, sidecar: Sidecar) -> PriorConfig:
    """The config of a GPT in a file of its own."""
    inside = sidecar.part("model.params.transformer_config.params")
    return PriorConfig(transformer=infer_gpt(header, inside or sidecar))


def infer(header: Header, sidecar: Sidecar) -> PriorConfig:
    """The config of a Net2NetTransformer."""
    params = sidecar.part("model.params")
    first = params.holding({"model": params.part("first_stage_config")}, "first stage: ")
    return PriorConfig(
        transformer=infer_gpt(header.under("transformer."), params.part("transformer_config.params")),
        autoencoder=compvis.infer_any(header.under(FIRST), first),
        condition=_condition(header, params),
        permuted=header.shape(ORDER)[0] if ORDER in header else 0,
        condition_size=size if (size := int(params.at("downsample_cond_size", -1))) >= 0 else None,
    )


def _condition(header: Header, params: Sidecar) -> ConditionConfig:
    """What the transformer is told first: by its weights where it has any, else by the config."""
    inner, said = header.under(COND), params.get("cond_stage_config")
    if said == "__is_first_stage__":
        return PictureConfig()
    if inner.tensors:
        told = params.holding({"model": params.part("cond_stage_config")}, "condition: ")
        return PictureConfig(autoencoder=compvis.infer_any(inner, told))
    target = str(params.part("cond_stage_config").at("target", said or ""))
    options = params.part("cond_stage_config.params")
    if params.at("unconditional", False) or target in ("", "__is_unconditional__"):
        return StartConfig(token=int(params.at("sos_token", 0, "0, for a prior that is told nothing")))
    if target.endswith("SOSProvider"):
        return StartConfig(token=int(options.at("sos_token", 0)))
    if target.endswith("DummyCondStage"):
        return TokensConfig()
    if target.endswith("CoordStage"):
        return CoordinateConfig(codes=int(options.at("n_embed")), factor=int(options.at("down_factor")))
    if target.endswith("Labelator"):
        return LabelConfig(classes=int(options.at("n_classes", CLASSES, f"{CLASSES}, the classes of ImageNet")))
    raise CheckpointError(f"{header.path.name} is told by {target}, which is no condition known here")


def keys(config: PriorConfig) -> KeyMap:
    """`transformer.` and the autoencoders by their own names, without masks and what training leaves."""
    table: dict[str, str | None] = {"transformer.blocks.{}.attn.mask": None, "transformer.{*}": "transformer.{*}"}
    told = config.condition.autoencoder if isinstance(config.condition, PictureConfig) else None
    table |= compvis.keys_behind(FIRST, "autoencoder.", config.autoencoder)
    return table | compvis.keys_behind(COND, "told.", told) | {ORDER: "order", "permuter.{*}": None}


FAMILIES = (
    Family(
        name="taming-prior",
        kind="prior",
        detect=has_all("transformer.tok_emb.weight", f"{FIRST}encoder.conv_in.weight"),
        infer=infer,
        keys=keys,
        build=Prior,
        parts=lambda prior: prior.stored,
    ),
    Family(
        name="taming-gpt",
        kind="prior",
        detect=has_all("tok_emb.weight", "pos_emb", "blocks.0.attn.key.weight") & has_none("transformer.*"),
        infer=infer_alone,
        keys=lambda _: {"blocks.{}.attn.mask": None, "{*}": "transformer.{*}"},
        build=Prior,
        parts=lambda prior: prior.stored,
    ),
)
