"""Text encoders: CLIP as transformers and OpenCLIP save it, and diffusers' LDMBert; alone, or as a part of a model.

Source: github.com/huggingface/transformers, models/clip/modeling_clip.py; github.com/mlfoundations/open_clip,
src/open_clip/transformer.py; github.com/huggingface/diffusers, pipelines/latent_diffusion/pipeline_latent_diffusion.py.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import CheckpointError
from ...text.bert import BertConfig, BertEncoder, frame_tokens
from ...text.clip import ClipTextConfig, ClipTextEncoder
from ...text.vocabulary import find_padding, find_tokenizer
from ..derive import Recipe, cut, derived
from ..family import Family, Sidecar, has_all
from ..folder import pipeline_of
from ..header import Header
from ..keymap import KeyMap
from .diffusers_vae import indices

HEAD_WIDTH = 64
"""Channels a head of every published CLIP text encoder."""

OLD_END = 2
"""The end token in configs that transformers wrote before 2023, whatever the vocabulary."""

NO_PAD = 1
"""What transformers writes for pad_token_id where nobody chose it; no tokenizer of CLIP pads with it."""

SMALL_HEADS = 4
"""Heads of an encoder that is narrower than one such head."""

CLIP = has_all("text_model.embeddings.token_embedding.weight") | has_all("embeddings.token_embedding.weight")
OPEN_CLIP = has_all("token_embedding.weight", "transformer.resblocks.0.attn.in_proj_weight", "ln_final.weight")
LDM_BERT = has_all("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layer_norm.weight")


def infer_clip(header: Header, sidecar: Sidecar) -> ClipTextConfig:
    """The config of a CLIP text encoder in transformers' layout."""
    vocab, width = header.shape("text_model.embeddings.token_embedding.weight")
    layers = indices(header, r"text_model\.encoder\.layers\.(\d+)\..*")
    inner = header.shape("text_model.encoder.layers.0.mlp.fc1.weight")[0] if layers else 4 * width
    activation: Any = str(sidecar.at("hidden_act", "quick_gelu", "quick_gelu, as OpenAI's weights have it"))
    if activation not in ("quick_gelu", "gelu"):
        raise CheckpointError(f"{header.path.name}: the text encoder's hidden_act is {activation!r}, not known here")
    return ClipTextConfig(
        vocab=vocab,
        length=header.shape("text_model.embeddings.position_embedding.weight")[0],
        width=width,
        inner=inner,
        depth=1 + max(layers, default=-1),
        heads=_heads(sidecar, "num_attention_heads", width),
        activation=activation,
        **_tokens(vocab, sidecar, activation),
        eps=float(sidecar.at("layer_norm_eps", 1e-5)),
    )


def infer_clip_part(header: Header, sidecar: Sidecar) -> ClipTextConfig:
    """The same for one of a pipeline, or alone: its tokenizer, where it is there, says what follows a text."""
    config = infer_clip(header, sidecar.part("text_config") or sidecar)
    found = find_padding(_places(header))
    if found is None or not 0 <= found < config.vocab:
        return config
    sidecar.found["pad_token_id"] = "the tokenizer's config"
    return replace(config, pad=found)


def _places(header: Header) -> list[Path]:
    """Folders where the vocabulary of a text encoder may lie."""
    own, pipeline = header.path if header.path.is_dir() else header.path.parent, pipeline_of(header.path)
    return [own] if pipeline in (None, own) else [own, pipeline]


def infer_open_clip(header: Header, sidecar: Sidecar, skip: int = 0) -> ClipTextConfig:
    """The config of a CLIP text encoder in OpenCLIP's layout; `skip` layers at the end do not count."""
    vocab, width = header.shape("text_model.embeddings.token_embedding.weight")
    layers = indices(header, r"text_model\.encoder\.layers\.(\d+)\..*")
    return ClipTextConfig(
        vocab=vocab,
        length=header.shape("text_model.embeddings.position_embedding.weight")[0],
        width=width,
        inner=header.shape("text_model.encoder.layers.0.mlp.fc1.weight")[0],
        depth=1 + max(layers),
        heads=_heads(sidecar, "heads", width),
        activation="gelu",
        start=int(sidecar.at("bos_token_id", vocab - 2)),
        end=int(sidecar.at("eos_token_id", vocab - 1)),
        pad=int(sidecar.at("pad_token_id", 0)),
        skip=skip,
        eps=float(sidecar.at("layer_norm_eps", 1e-5)),
    )


def _heads(sidecar: Sidecar, name: str, width: int) -> int:
    published = width // HEAD_WIDTH if width >= HEAD_WIDTH else SMALL_HEADS
    return int(sidecar.at(name, published, f"{published}: {HEAD_WIDTH} channels a head, as every published CLIP has"))


def _tokens(vocab: int, sidecar: Sidecar, activation: str) -> dict[str, int]:
    """The tokens around a text: CLIP's are the last two of its vocabulary, which configs of before 2023 get wrong."""
    start, end = int(sidecar.at("bos_token_id", vocab - 2)), int(sidecar.at("eos_token_id", vocab - 1))
    if end == OLD_END and vocab > OLD_END + 1:
        return {"start": vocab - 2, "end": vocab - 1, "pad": 0 if activation == "gelu" else vocab - 1}
    pad = int(sidecar.at("pad_token_id", end))
    return {"start": start, "end": end, "pad": pad if pad != NO_PAD else 0 if activation == "gelu" else end}


def prepare_clip(header: Header) -> Header:
    """transformers 5 leaves `text_model.` out."""
    if "embeddings.token_embedding.weight" not in header:
        return header
    return header.renamed({name: _behind_text_model(name) for name in header.tensors})


def _behind_text_model(name: str) -> str:
    return f"text_model.{name}" if name.startswith(("embeddings.", "encoder.", "final_layer_norm.")) else name


def prepare_open_clip(header: Header) -> Header:
    """OpenCLIP's names and its joined projections as transformers has them."""
    header = header.renamed({name: _renamed(name) for name in header.tensors})
    recipes: dict[str, Recipe] = {}
    for name in header.tensors:
        if found := re.fullmatch(r"(.*\.self_attn)\.in_proj_(weight|bias)", name):
            recipes |= dict(cut(header, name, [f"{found[1]}.{part}_proj.{found[2]}" for part in "qkv"]))
    return derived(header, recipes)


OPEN_NAMES: Mapping[str, str] = {
    "token_embedding.": "text_model.embeddings.token_embedding.",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.": "text_model.final_layer_norm.",
    "transformer.resblocks.": "text_model.encoder.layers.",
}
OPEN_LAYER = {
    "attn": "self_attn", "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip


def _renamed(name: str) -> str:
    for old, new in OPEN_NAMES.items():
        if name.startswith(old):
            name = new + name[len(old) :]
            break
    found = re.fullmatch(r"(text_model\.encoder\.layers\.\d+)\.(attn|ln_[12]|mlp\.c_(?:fc|proj))\.(.*)", name)
    return f"{found[1]}.{OPEN_LAYER[found[2]]}.{found[3]}" if found else name


CLIP_KEYS: KeyMap = {
    "text_model.embeddings.position_ids": None,
    "text_projection.{*}": None,
    "text_projection": None,
    "logit_scale": None,
    "attn_mask": None,
    "visual.{*}": None,
    "vision_model.{*}": None,
    "visual_projection.{*}": None,
    "{*}": "{*}",
}
"""What is left out is a count of places, and what looks at pictures or compares texts with them."""


def infer_ldm_bert(header: Header, sidecar: Sidecar) -> BertConfig:
    """The config of an LDMBert."""
    vocab, width = header.shape("model.embed_tokens.weight")
    inner = header.shape("model.layers.0.self_attn.q_proj.weight")[0]
    head_width = int(sidecar.at("head_dim", HEAD_WIDTH, "64, as txt2img-1p4B has it"))
    if inner % head_width:
        raise CheckpointError(f"{header.path.name}: attention over {inner} channels has no heads of {head_width}")
    return BertConfig(
        vocab=vocab,
        length=header.shape("model.embed_positions.weight")[0],
        width=width,
        depth=1 + max(indices(header, r"model\.layers\.(\d+)\..*")),
        heads=inner // head_width,
        head_width=head_width,
        **frame_tokens(vocab),
    )


LDM_BERT_LAYER = {
    "self_attn.q_proj": "attn.to_q", "self_attn.k_proj": "attn.to_k", "self_attn.v_proj": "attn.to_v",
    "self_attn.out_proj": "attn.to_out.0", "self_attn_layer_norm": "attn_norm", "fc1": "ff.0", "fc2": "ff.2",
    "final_layer_norm": "ff_norm",
}  # fmt: skip


def ldm_bert_keys(_: BertConfig) -> KeyMap:
    """LDMBert's names to ours."""
    return {
        "model.embed_tokens.{*}": "token_emb.{*}",
        "model.embed_positions.{*}": "pos_emb.{*}",
        **{f"model.layers.{{}}.{a}.{{*}}": f"layers.{{}}.{b}.{{*}}" for a, b in LDM_BERT_LAYER.items()},
        "model.layer_norm.{*}": "norm.{*}",
        "to_logits.{*}": None,
    }


def give_tokenizer(encoder: Any, header: Header) -> None:
    """The tokenizer whose vocabulary lies beside the weights, or among the libraries' files; none where none fits."""
    if isinstance(encoder, ClipTextEncoder | BertEncoder):
        found = find_tokenizer(_places(header), "bert" if isinstance(encoder, BertEncoder) else "clip")
        encoder.tokenizer = found if found is not None and len(found.vocab) <= encoder.config.vocab else None


def _finish(model: nn.Module, header: Header, _: Any) -> None:
    give_tokenizer(model, header)


FAMILIES = (
    Family(
        name="clip-text",
        kind="text encoder",
        detect=CLIP,
        infer=infer_clip_part,
        keys=lambda _: CLIP_KEYS,
        build=ClipTextEncoder,
        prepare=prepare_clip,
        finish=_finish,
    ),
    Family(
        name="open-clip-text",
        kind="text encoder",
        detect=OPEN_CLIP,
        infer=infer_open_clip,
        keys=lambda _: CLIP_KEYS,
        build=ClipTextEncoder,
        prepare=prepare_open_clip,
        finish=_finish,
    ),
    Family(
        name="ldm-bert",
        kind="text encoder",
        detect=LDM_BERT,
        infer=infer_ldm_bert,
        keys=ldm_bert_keys,
        build=BertEncoder,
        finish=_finish,
    ),
)
