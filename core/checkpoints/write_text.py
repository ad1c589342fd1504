"""Text encoders and their tokenizers as parts of a folder of diffusers."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..text.bert import BertConfig
from ..text.byte_pairs import BytePairTokenizer
from ..text.clip import ClipTextConfig
from ..text.word_pieces import WordPieceTokenizer
from .families.text_encoders import ldm_bert_keys
from .keymap import KeyMap, translate

Files = dict[str, dict[str, Any]]


def turned(keys: KeyMap, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names that a table of ours translates from."""
    back = {new: old for old, new in keys.items() if new is not None}
    return {new: state[old] for old, new in translate(back, state).items()}


def text_parts(config: ClipTextConfig | BertConfig, encoder: Any) -> dict[str, Files]:
    """A text encoder and its tokenizer as folders of a pipeline."""
    if isinstance(config, BertConfig):
        settings = {
            "model_type": "ldmbert",
            "architectures": ["LDMBertModel"],
            "vocab_size": config.vocab,
            "max_position_embeddings": config.length,
            "encoder_layers": config.depth,
            "encoder_ffn_dim": 4 * config.width,
            "encoder_attention_heads": config.heads,
            "head_dim": config.head_width,
            "d_model": config.width,
            "activation_function": "gelu",
        }
        tensors = turned(ldm_bert_keys(config), encoder.state_dict())
        files = {"config.json": settings, "model.safetensors": tensors}
        return {"bert": files} | _vocabulary(encoder.tokenizer, config)
    depth = config.depth - config.skip
    settings = {
        "model_type": "clip_text_model",
        "architectures": ["CLIPTextModel"],
        "vocab_size": config.vocab,
        "hidden_size": config.width,
        "intermediate_size": config.inner,
        "num_hidden_layers": depth,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.length,
        "hidden_act": config.activation,
        "bos_token_id": config.start,
        "eos_token_id": config.end,
        "pad_token_id": config.pad,
        "layer_norm_eps": config.eps,
    }
    skipped = tuple(f"text_model.encoder.layers.{layer}." for layer in range(depth, config.depth)) or ("\0",)
    tensors = {name: value for name, value in encoder.state_dict().items() if not name.startswith(skipped)}
    return {"text_encoder": {"config.json": settings, "model.safetensors": tensors}} | _vocabulary(
        encoder.tokenizer, config
    )


def _vocabulary(tokenizer: Any, config: ClipTextConfig | BertConfig) -> dict[str, Files]:
    """The vocabulary of a tokenizer and what stands around its texts."""
    if not (files := vocabulary(tokenizer)):
        return {}
    settings: dict[str, Any] = {"model_max_length": config.length, "tokenizer_class": "BertTokenizer"}
    if isinstance(config, BertConfig):
        return {"tokenizer": {"tokenizer_config.json": settings, **files}}
    names = {number: token for token, number in tokenizer.vocab.items()}
    around = {"bos_token": config.start, "eos_token": config.end, "unk_token": config.end, "pad_token": config.pad}
    settings |= {"tokenizer_class": "CLIPTokenizer"}
    settings |= {name: names[number] for name, number in around.items() if number in names}
    return {"tokenizer": {"tokenizer_config.json": settings, **files}}


def vocabulary(tokenizer: Any) -> Files:
    """The files of a tokenizer's vocabulary, by their names; none where it has none."""
    if isinstance(tokenizer, WordPieceTokenizer):
        names = {number: token for token, number in tokenizer.vocab.items()}
        return {"vocab.txt": {"lines": [names.get(number, "") for number in range(max(names) + 1)]}}
    if not isinstance(tokenizer, BytePairTokenizer):
        return {}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in tokenizer.ranks)]
    return {"vocab.json": tokenizer.vocab, "merges.txt": {"lines": lines}}
