"""Public kinds of models inside the host: tiny ones with random weights, their text encoders behind stock nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from inside_parts import Parts, differs, same


class Public:
    """The file opened by Load Latent Diffusion's own steps, with two conditions and an empty latent."""

    def __init__(self, parts: Parts, folder: str) -> None:
        from public_files import stable_diffusion

        from vitrail.core.checkpoints import load

        self.host, self.nodes = parts.host, parts.nodes
        self.core = load(stable_diffusion(Path(folder) / "sd.safetensors"))
        self.model, self.clip = self.host.wrap_model(self.core), self.host.wrap_clip(self.core.conditioner)
        self.positive, self.negative = self.read("a (red:1.3) cat"), self.read("")
        self.latent = self.host.empty_latent(self.model, None, 64, 64, 1)

    def read(self, text: str, clip: Any = None) -> Any:
        return self.nodes.CLIPTextEncode().encode(clip or self.clip, text)[0]

    stock, ours = Parts.stock, Parts.ours


def opened(check: Any) -> Any:
    def run(parts: Parts) -> float:
        with TemporaryDirectory() as folder:
            return check(Public(parts, folder))

    run.__name__ = check.__name__
    return run


@opened
def stable_diffusion_gives_one_latent_in_stock_ksampler_and_in_ours(public: Public) -> float:
    stock = public.stock()
    assert same(stock, public.ours()) < 1e-3 * float(stock.abs().max())
    return same(stock, public.ours())


@opened
def stable_diffusion_reads_prompts_as_the_hosts_own_encoder(public: Public) -> float:
    """Weights, long texts and vocabulary: the host's own CLIP with the same weights gives the same states."""
    from comfy import sd1_clip

    config = dict(
        num_attention_heads=1, hidden_size=64, intermediate_size=128, num_hidden_layers=2, hidden_act="quick_gelu",
        max_position_embeddings=77, vocab_size=49408, layer_norm_eps=1e-5, eos_token_id=49407,
        model_type="clip_text_model",
    )  # fmt: skip
    peer = sd1_clip.SDClipModel(textmodel_json_config=config, device="cpu", layer="last")
    missing, extra = peer.transformer.load_state_dict(public.core.conditioner.state_dict(), strict=False)
    assert not extra and missing == ["text_projection.weight"], (missing, extra)
    tokenizer = sd1_clip.SDTokenizer()
    texts = ("a red cat", "a (red:1.3) cat, ((blue)) [x] \\(y\\)", "café 12's " * 60, "(one two three:0.5) " * 40, "")
    worst = 0.0
    for text in texts:
        expected = peer.encode_token_weights(tokenizer.tokenize_with_weights(text))[0]
        worst = max(worst, same(public.read(text)[0][0], expected))
    return worst


@opened
def clip_set_last_layer_stops_at_a_layer(public: Public) -> float:
    clip = public.nodes.CLIPSetLastLayer().set_last_layer(public.clip, -2)[0]
    ids = public.core.conditioner.tokenizer
    expected = public.core.conditioner.encode(["a red cat"], skip=1).context
    assert ids is not None and same(public.read("a red cat", clip)[0][0], expected) < 1e-4
    return differs(public.read("a red cat", clip)[0][0], public.read("a red cat")[0][0])


@opened
def loras_reach_the_text_encoder_of_stable_diffusion(public: Public) -> float:
    import comfy.sd
    import torch

    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    lora = {f"{name}.lora_up.weight": torch.randn(128, 2), f"{name}.lora_down.weight": torch.randn(2, 64)}
    _, clip = comfy.sd.load_lora_for_models(None, public.clip, lora, 0.0, 1.0)
    changed = differs(public.read("a red cat", clip)[0][0], public.read("a red cat")[0][0])
    same(public.read("a red cat")[0][0], public.core.conditioner.encode(["a red cat"]).context)
    return changed


def a_bert_text_encoder_drives_stock_ksampler_and_ours_to_one_latent(parts: Parts) -> float:
    from tiny import DIFFUSION, LatentDiffusion, randomise

    from vitrail.core.text.bert import BertConfig
    from vitrail.core.text.word_pieces import WordPieceTokenizer

    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "cat", "##s")
    text = BertConfig(vocab=7, length=8, width=24, depth=2, heads=2, head_width=8, start=2, end=3, pad=0)
    unet = replace(DIFFUSION.unet, context_dim=24, vector_dim=None)
    diffusion = randomise(LatentDiffusion(replace(DIFFUSION, unet=unet, text=None, conditioner=text)), 8)
    diffusion.conditioner.tokenizer = WordPieceTokenizer({piece: i for i, piece in enumerate(pieces)})
    diffusion.autoencoder = parts.autoencoder
    model, clip = parts.host.wrap_model(diffusion), parts.host.wrap_clip(diffusion.conditioner)
    encode = parts.nodes.CLIPTextEncode().encode
    told = Parts.__new__(Parts)
    told.__dict__ |= parts.__dict__ | {"positive": encode(clip, "red (cats:1.2)")[0], "negative": encode(clip, "")[0]}
    differs(told.stock(model), told.stock(model, told.negative))
    return same(told.stock(model), told.ours(model))


CHECKS = (
    stable_diffusion_gives_one_latent_in_stock_ksampler_and_in_ours,
    stable_diffusion_reads_prompts_as_the_hosts_own_encoder,
    clip_set_last_layer_stops_at_a_layer,
    loras_reach_the_text_encoder_of_stable_diffusion,
    a_bert_text_encoder_drives_stock_ksampler_and_ours_to_one_latent,
)
