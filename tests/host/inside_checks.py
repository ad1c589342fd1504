"""Stock node classes on our MODEL, CLIP and VAE, and ours on theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inside_parts import SAME, STEPS, Parts, differs, same, worst

TABLES = {"eps": "scaled_linear", "v": "cosine", "x0": "linear", "edm": "log", "flow": "flow"}


def every_solver_equals_stock(parts: Parts) -> float:
    """On the same noise levels; KSampler itself leaves one out for some."""
    from comfy.samplers import SAMPLER_NAMES, sampler_object
    from host_parts import LOOSE, OTHER_NOISE, relative

    from vitrail.core.samplers import SAMPLERS

    names = [name for name in SAMPLERS if name in SAMPLER_NAMES and name not in OTHER_NOISE]
    found = {name: relative(parts.ours(solver=sampler_object(name)), parts.ours(sampler=name)) for name in names}
    assert len(found) > 20 and all(value <= LOOSE.get(name, SAME) for name, value in found.items()), found
    return max(found.values())


def every_prediction_equals_headless(parts: Parts) -> float:
    """The host's scalings and ours, for each prediction on a fitting table."""
    import torch
    from tiny import DIFFUSION, LatentDiffusion, LatentDiffusionConfig, TableConfig, randomise

    figures = []
    for prediction, kind in TABLES.items():
        config = LatentDiffusionConfig(
            unet=DIFFUSION.unet, text=DIFFUSION.text, table=TableConfig(kind=kind, timesteps=300),
            prediction=prediction, sigma_data=0.7 if prediction == "edm" else 1.0,
        )  # fmt: skip
        diffusion = randomise(LatentDiffusion(config), 2)
        model = parts.host.wrap_model(diffusion)
        x, sigma = torch.randn(2, 4, 8, 8), model.get_model_object("model_sampling").sigmas[[120, 250]]
        cond = diffusion.null(2)
        found = model.model.apply_model(x, sigma, c_crossattn=cond.context, y=cond.vector)
        figures.append(same(found, diffusion.denoise(x, sigma, cond)))
    return max(figures)


def percents_cover_a_short_table(parts: Parts) -> float:
    from tiny import DIFFUSION, LatentDiffusion, LatentDiffusionConfig, TableConfig

    config = LatentDiffusionConfig(unet=DIFFUSION.unet, text=DIFFUSION.text, table=TableConfig(timesteps=100))
    model = parts.host.wrap_model(LatentDiffusion(config))
    sampling, table = model.get_model_object("model_sampling"), parts.host.table(model)
    assert sampling.percent_to_sigma(0.0) > 1e8 and sampling.percent_to_sigma(1.0) == 0
    assert table.sigma_max * 0.9 < sampling.percent_to_sigma(0.001) < table.sigma_max
    return sampling.percent_to_sigma(0.5)


def lora_of(parts: Parts) -> dict[str, Any]:
    """A made-up LoRA of rank 2 for every self-attention, under the host's names for them (those of diffusers)."""
    import comfy.lora
    import torch

    keys = comfy.lora.model_lora_keys_unet(parts.model.model, {})
    layers = [key for key in keys if key.startswith(("lora_unet_down_", "lora_unet_mid_", "lora_unet_up_"))]
    layers = [key for key in layers if key.endswith("attn1_to_q") and "blocks_0" in key]
    attentions = [name for name, _ in parts.diffusion.network.named_modules() if name.endswith("attn1.to_q")]
    assert {keys[key] for key in layers} == {f"diffusion_model.{name}.weight" for name in attentions}, layers
    generator, lora = torch.Generator().manual_seed(4), {}
    for key in layers:
        rows, columns = parts.model.model.get_parameter(keys[key]).shape
        lora[f"{key}.lora_down.weight"] = torch.randn(2, columns, generator=generator)
        lora[f"{key}.lora_up.weight"] = torch.randn(rows, 2, generator=generator)
        lora[f"{key}.alpha"] = torch.tensor(1.0)
    return lora


def loras_equal_merged_weights_and_leave_again(parts: Parts) -> float:
    import comfy.lora
    import comfy.sd
    from tiny import DIFFUSION, LatentDiffusion

    lora, strength = lora_of(parts), 0.7
    merged = LatentDiffusion(DIFFUSION)
    merged.load_state_dict(parts.diffusion.state_dict())
    merged.autoencoder = parts.autoencoder
    keys = comfy.lora.model_lora_keys_unet(parts.model.model, {})
    for key in [name.removesuffix(".alpha") for name in lora if name.endswith(".alpha")]:
        weight = merged.network.get_parameter(keys[key].removeprefix("diffusion_model."))
        change = lora[f"{key}.lora_up.weight"] @ lora[f"{key}.lora_down.weight"]
        weight.copy_(weight + strength * (1.0 / 2) * change)
    before = parts.ours()
    patched, _ = comfy.sd.load_lora_for_models(parts.model, parts.clip, lora, strength, strength)
    with_lora = parts.ours(patched)
    same(with_lora, parts.ours(parts.host.wrap_model(merged)))
    same(parts.ours(), before)
    return differs(with_lora, before)


def saved_models_open_again(parts: Parts) -> str:
    """CheckpointSave and ModelSave write files that Load Latent Diffusion opens: the same model, a LoRA merged in."""
    import tempfile
    from pathlib import Path

    import comfy.sd
    import folder_paths
    from comfy_extras.nodes_model_merging import CheckpointSave, ModelSave

    from vitrail.core.checkpoints import load

    patched, _ = comfy.sd.load_lora_for_models(parts.model, parts.clip, lora_of(parts), 0.7, 0.7)
    plain, with_lora = parts.ours(), parts.ours(patched)
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.set_output_directory(folder)
        for node, parts_too in ((CheckpointSave, (parts.clip, parts.vae)), (ModelSave, ())):
            saver = node()
            saver.output_dir = folder
            saver.save(patched, *parts_too, filename_prefix=node.__name__)
            opened = load(next(Path(folder).glob(f"{node.__name__}*")))
            opened.autoencoder = parts.autoencoder
            same(parts.ours(parts.host.wrap_model(opened)), with_lora)
            clip = parts.host.wrap_clip(opened.conditioner)
            same(parts.nodes.CLIPTextEncode().encode(clip, "red cat style:pixel")[0][0][0], parts.positive[0][0])
    same(parts.ours(), plain)
    return f"with a LoRA merged, {differs(with_lora, plain):.1f} from the model without"


def conditions_of_every_kind_run(parts: Parts) -> float:
    import torch

    n, positive, negative = parts.nodes, parts.positive, parts.negative
    plain = parts.stock()
    kinds = {
        "area": n.ConditioningSetArea().append(positive, 16, 32, 0, 0, 1.0)[0] + negative,
        "mask": n.ConditioningSetMask().append(positive, torch.eye(32)[None], "default", 1.0)[0] + negative,
        "range": n.ConditioningSetTimestepRange().set_range(positive, 0.5, 1.0)[0] + negative,
        "average": n.ConditioningAverage().addWeighted(positive, negative, 0.3)[0],
        "concat": n.ConditioningConcat().concat(positive, negative)[0],
        "zero": n.ConditioningZeroOut().zero_out(positive)[0],
        "no pooled": [[positive[0][0], {}]],
    }
    return min(differs(parts.stock(positive=cond), plain) for cond in kinds.values())


def missing_conditions_are_the_null(parts: Parts) -> float:
    return same(parts.ours(negative=None), parts.ours())


def foreign_inputs_are_refused_in_words(parts: Parts) -> str:
    import torch

    said = []
    text = [[torch.ones(1, 77, 99), {"pooled_output": torch.ones(1, 99)}]]
    for foreign in ({"latent": {"samples": torch.ones(1, 16, 4, 4)}}, {"positive": text}):
        try:
            parts.ours(**foreign)
        except ValueError as error:
            said.append(str(error))
    assert "16" in said[0] and "99" in said[1], said
    return " / ".join(said)


def stock_patches_work(parts: Parts) -> float:
    from comfy_extras.nodes_model_advanced import RescaleCFG
    from comfy_extras.nodes_model_merging import ModelMergeSimple
    from tiny import DIFFUSION, LatentDiffusion, randomise

    other = randomise(LatentDiffusion(DIFFUSION), 5)
    other.autoencoder = parts.autoencoder
    merged = ModelMergeSimple().merge(parts.model, parts.host.wrap_model(other), 0.5)[0]
    plain = parts.ours()
    return min(differs(parts.ours(model), plain) for model in (merged, RescaleCFG().patch(parts.model, 0.7)[0]))


def pictures_of_any_size_and_tiles(parts: Parts) -> float:
    """VAEEncode cuts to whole cells as stock does; the tiled nodes, in exact strips, agree with the whole."""
    import torch

    from vitrail.headless.standins.latents import decode, encode

    image = torch.rand(2, 67, 70, 3)
    whole = parts.nodes.VAEEncode().encode(parts.vae, image)[0]
    same(whole["samples"], encode(parts.autoencoder, image))
    figure = same(parts.nodes.VAEDecode().decode(parts.vae, whole)[0], decode(parts.autoencoder, whole["samples"]))
    picture = parts.nodes.VAEDecode().decode(parts.vae, whole)[0]
    tiled = same(parts.nodes.VAEDecodeTiled().decode(parts.vae, whole, 64, 16)[0], picture)
    strips = same(parts.nodes.VAEEncodeTiled().encode(parts.vae, image, 64, 16)[0]["samples"], whole["samples"])
    return max(figure, tiled, strips)


def tiled_nodes_are_cancelled_in_mid_picture(parts: Parts) -> str:
    import comfy.utils
    import torch

    seen: list[tuple[int, int]] = []

    def hook(done: int, total: int, *_: Any, **__: Any) -> None:
        seen.append((done, total))
        if 2 * done > total:
            raise InterruptedError

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        parts.nodes.VAEDecodeTiled().decode(parts.vae, {"samples": torch.randn(1, 4, 32, 8)}, 64, 16)
    except InterruptedError:
        done, total = seen[-1]
        assert [count for count, _ in seen] == list(range(1, total // 2 + 2)), seen
        return f"cancelled after strip {done} of {total}"
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    raise AssertionError(f"nobody could cancel: {seen}")


def half_precision_chooses_the_same_codes(parts: Parts) -> float:
    import copy

    import torch

    half = copy.deepcopy(parts.autoencoder).to(torch.bfloat16)
    half.quantize.to(torch.float32)
    half.quantize.load_state_dict(parts.autoencoder.quantize.state_dict())
    z = {"samples": torch.randn(1, 4, 8, 8)}
    exact, rough = (parts.nodes.VAEDecode().decode(vae, z)[0] for vae in (parts.vae, parts.host.wrap_vae(half)))
    assert (found := worst(exact, rough)) < 0.1, found
    return found


def stock_previews_work(parts: Parts) -> str:
    import torch
    from latent_preview import get_previewer

    shown = get_previewer(torch.device("cpu"), parts.model.model.latent_format)
    picture = shown.decode_latent_to_preview(torch.randn(1, 4, 8, 8))
    assert picture.size == (8, 8)
    return f"{picture.size}"


def our_solvers_drive_a_stock_network(parts: Parts) -> float:
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    layout = {
        "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
        "transformer_depth": [0, 1], "transformer_depth_output": [0, 0, 1, 1], "transformer_depth_middle": 1,
        "context_dim": 16, "use_spatial_transformer": True, "legacy": False, "image_size": 32, "dtype": torch.float32,
    }  # fmt: skip
    config = comfy.supported_models.SD15(layout)
    config.unet_config |= {"num_heads": 1, "num_head_channels": -1}
    network = comfy.model_base.BaseModel(config)
    for weight in network.diffusion_model.parameters():
        weight.copy_(torch.randn_like(weight) * 0.05)
    model = comfy.model_patcher.ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))
    assert parts.host.unwrap_model(model) is None
    text = {"positive": [[torch.randn(1, 77, 16), {}]], "negative": [[torch.randn(1, 77, 16), {}]]}
    latent = parts.host.empty_latent(model, None, 64, 64, 1)
    stock = parts.nodes.common_ksampler(model, 7, STEPS, 3.0, "euler", "karras", *text.values(), latent)[0]["samples"]
    return same(parts.ours(model, latent=latent, **text), stock)


CHECKS: tuple[Callable[[Parts], Any], ...] = (
    every_solver_equals_stock,
    every_prediction_equals_headless,
    percents_cover_a_short_table,
    loras_equal_merged_weights_and_leave_again,
    saved_models_open_again,
    conditions_of_every_kind_run,
    missing_conditions_are_the_null,
    foreign_inputs_are_refused_in_words,
    stock_patches_work,
    pictures_of_any_size_and_tiles,
    tiled_nodes_are_cancelled_in_mid_picture,
    half_precision_chooses_the_same_codes,
    stock_previews_work,
    our_solvers_drive_a_stock_network,
)
