"""CLIP: a text encoder behind the host's CLIP, so that the stock text nodes, hooks and LoRA loaders take it.

Text encoders: StyleTextEncoder (Vitrail's own), ClipTextEncoder (Stable Diffusion), BertEncoder (latent diffusion).
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .host_condition import Conditioning, conditioning
from .host_env import IN_HOST
from .host_memory import loaded, patcher_of

if TYPE_CHECKING:
    from ..core.text.bert import BertEncoder
    from ..core.text.clip import ClipTextEncoder
    from ..core.text.encoder import StyleTextEncoder

    TextEncoder = StyleTextEncoder | ClipTextEncoder | BertEncoder

log = logging.getLogger(__name__)

Tokens = dict[str, str]


def wrap_clip(conditioner: "TextEncoder") -> Any:
    """The CLIP of a text encoder: itself headless, the host's CLIP around it in the host."""
    if not IN_HOST:
        return conditioner
    from comfy import hooks, model_management
    from comfy.sd import CLIP

    _give_vocabulary(conditioner)
    stage = (ClipStage if hasattr(conditioner, "text_model") else TextStage)(conditioner).eval()
    devices = model_management.text_encoder_device(), model_management.text_encoder_offload_device()
    clip = CLIP(no_init=True)
    clip.cond_stage_model, clip.tokenizer = stage, Tokenizer(conditioner)
    clip.patcher = patcher_of(conditioner, stage, devices)
    clip.patcher.hook_mode = hooks.EnumHookMode.MinVram
    clip.patcher.is_clip = True
    clip.layer_idx, clip.use_clip_schedule, clip.apply_hooks_to_conds = None, False, None
    clip.tokenizer_options = {}
    return clip


def unwrap_clip(clip: Any) -> "TextEncoder | None":
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


def _tell(encoder: "TextEncoder", text: str) -> None:
    if notes := encoder.notes(text):
        log.warning('in the text "%s": %s', text.strip(), "; ".join(notes))


def _give_vocabulary(encoder: Any) -> None:
    """CLIP's vocabulary comes with the host; it is taken where the weights came without one and it fits them."""
    if not hasattr(encoder, "text_model") or encoder.tokenizer is not None:
        return
    from comfy import sd1_clip

    from ..core.text.vocabulary import read_tokenizer

    found = read_tokenizer(Path(sd1_clip.__file__).parent / "sd1_tokenizer", "clip")
    if found is not None and len(found.vocab) <= encoder.config.vocab:
        encoder.tokenizer = found


class Tokenizer:
    """The host's first half: a text stays a text, and what a person should know about it is logged."""

    def __init__(self, encoder: "TextEncoder") -> None:
        self.encoder = encoder

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> Tokens:
        _tell(self.encoder, text)
        return {"text": text}

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class TextStage(nn.Module):
    """The host's second half: texts to a context and a pooled vector."""

    def __init__(self, encoder: "TextEncoder") -> None:
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


class ClipStage(TextStage):
    """A CLIP text encoder where the host's LoRA loader looks for one: `clip_l.transformer.text_model...`, or `clip_h`
    for OpenCLIP's.
    """

    def __init__(self, encoder: "ClipTextEncoder") -> None:
        nn.Module.__init__(self)
        object.__setattr__(self, "encoder", encoder)
        name = "clip_l" if encoder.config.activation == "quick_gelu" else "clip_h"
        self.add_module(name, nn.ModuleDict({"transformer": encoder}))
        self.skip: int | None = None

    def encode_token_weights(self, tokens: Tokens) -> tuple[Tensor | None, Tensor | None]:
        cond = self.encoder.encode([tokens["text"]], [tokens.get("style")], skip=self.skip)
        return conditioning(cond)[0][0], None

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """`layer`: the layer to stop at, -1 the last, as CLIP Set Last Layer gives it."""
        layer, depth = options.get("layer"), self.encoder.config.depth
        if layer is not None:
            skip = -1 - layer if layer < 0 else depth - 1 - layer
            self.skip = skip if 0 <= skip < depth else 0

    def reset_clip_options(self) -> None:
        self.skip = None
