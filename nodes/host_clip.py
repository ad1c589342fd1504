"""CLIP: the text encoder behind the host's CLIP, so that the stock text nodes, hooks and LoRA loaders take it."""

import logging
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .host_condition import Conditioning, conditioning
from .host_env import IN_HOST
from .host_memory import loaded, patcher_of

if TYPE_CHECKING:
    from ..core.text.encoder import StyleTextEncoder

log = logging.getLogger(__name__)

Tokens = dict[str, str]


def wrap_clip(conditioner: "StyleTextEncoder") -> Any:
    """The CLIP of a text encoder: itself headless, the host's CLIP around it in the host."""
    if not IN_HOST:
        return conditioner
    from comfy import hooks, model_management
    from comfy.sd import CLIP

    stage = TextStage(conditioner).eval()
    devices = model_management.text_encoder_device(), model_management.text_encoder_offload_device()
    clip = CLIP(no_init=True)
    clip.cond_stage_model, clip.tokenizer = stage, Tokenizer(conditioner)
    clip.patcher = patcher_of(conditioner, stage, devices)
    clip.patcher.hook_mode = hooks.EnumHookMode.MinVram
    clip.patcher.is_clip = True
    clip.layer_idx, clip.use_clip_schedule, clip.apply_hooks_to_conds = None, False, None
    clip.tokenizer_options = {}
    return clip


def unwrap_clip(clip: Any) -> "StyleTextEncoder | None":
    """The text encoder in a CLIP, or None in a stock one."""
    return getattr(clip.cond_stage_model, "encoder", None) if hasattr(clip, "cond_stage_model") else clip


def encode_text(clip: Any, text: str, style: str = "") -> Conditioning:
    """The CONDITIONING of a text, what a person should know about it logged.

    clip: any CLIP; in the host it encodes itself, so that LoRAs and hooks on it count.
    style: a name, "" or "none" for any; only for text encoders of ours.
    Raises: ConfigError on an unknown style, with those known.
    """
    encoder = unwrap_clip(clip)
    if encoder is clip:
        _tell(encoder, text)
        with loaded(encoder):
            return conditioning(encoder.encode([text], [style]))
    tokens = clip.tokenize(text)
    return clip.encode_from_tokens_scheduled(tokens if encoder is None else {**tokens, "style": style})


def _tell(encoder: "StyleTextEncoder", text: str) -> None:
    if notes := encoder.notes(text):
        log.warning('in the text "%s": %s', text.strip(), "; ".join(notes))


class Tokenizer:
    """The host's first half: a text stays a text, and what a person should know about it is logged."""

    def __init__(self, encoder: "StyleTextEncoder") -> None:
        self.encoder = encoder

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> Tokens:
        _tell(self.encoder, text)
        return {"text": text}

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class TextStage(nn.Module):
    """The host's second half: texts to a context and a pooled vector."""

    def __init__(self, encoder: "StyleTextEncoder") -> None:
        super().__init__()
        self.encoder = encoder

    def encode_token_weights(self, tokens: Tokens) -> tuple[Tensor | None, Tensor | None]:
        [[context, extra]] = conditioning(self.encoder.encode([tokens["text"]], [tokens.get("style")]))
        return context, extra.get("pooled_output")

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Layers to stop at, projections: this encoder has none."""

    def reset_clip_options(self) -> None:
        """See set_clip_options."""

    def load_sd(self, state: dict[str, Tensor]) -> Any:
        return self.load_state_dict(state, strict=False)
