"""Every stock node that a person would plausibly wire to ours, and the way in which it is tried."""

from __future__ import annotations

from functools import partial

import stock_forms as forms
from host_parts import STEPS, Parts
from host_rig import LORA, Host
from stock_forms import Form, Inputs, decoded, nothing, start
from stock_inputs import (
    apple,
    combined,
    fixed,
    half,
    half_condition,
    masked_pair,
    on_clip,
    on_condition,
    on_latent,
    on_levels,
    on_mask,
    on_model,
    on_picture,
    pair,
    second_clip,
    two_latents,
    two_models,
    two_pictures,
)

Row = tuple[str, Form, Inputs]

SAMPLERS: list[Row] = [
    (
        "KSampler",
        forms.sampler,
        lambda p: {
            "model": p.model,
            "latent_image": p.latent,
            "seed": 7,
            "steps": STEPS,
            "cfg": 3.0,
            "sampler_name": "euler",
            "scheduler": "normal",
        },
    ),
    (
        "KSamplerAdvanced",
        forms.sampler,
        lambda p: {
            "model": p.model,
            "latent_image": p.latent,
            "noise_seed": 7,
            "cfg": 3.0,
            "steps": STEPS,
            "sampler_name": "euler",
            "scheduler": "normal",
        },
    ),
    (
        "SamplerCustom",
        forms.sampler,
        lambda p: {
            "model": p.model,
            "latent_image": p.latent,
            "noise_seed": 7,
            "cfg": 3.0,
            "sigmas": p.sigmas(),
            "sampler": p.graph.add("VitrailSolver", sampler="euler")[0],
        },
    ),
    (
        "CFGGuider, SamplerCustomAdvanced",
        partial(forms.guider, cfg=3.0),
        lambda p: {"positive": p.positive, "negative": p.negative, "cfg": 3.0},
    ),
    ("BasicGuider", partial(forms.guider, cfg=1.0), lambda p: {"conditioning": p.positive}),
    (
        "DualCFGGuider",
        forms.guider,
        lambda p: {
            "cond1": p.positive,
            "cond2": apple(p),
            "negative": p.negative,
            "cfg_conds": 2.0,
            "cfg_cond2_negative": 3.0,
        },
    ),
    (
        "PerpNegGuider",
        forms.guider,
        lambda p: {"positive": p.positive, "negative": apple(p), "cfg": 3.0, "empty_conditioning": p.negative},
    ),
    ("RandomNoise", forms.noise, fixed(noise_seed=11)),
    ("DisableNoise", forms.noise, nothing),
    (
        "AddNoise",
        forms.latent,
        lambda p: {
            "model": p.model,
            "noise": p.graph.add("RandomNoise", noise_seed=3)[0],
            "sigmas": p.sigmas(),
            "latent_image": start(p),
        },
    ),
]

SIGMAS: list[Row] = [
    ("BasicScheduler", forms.sigmas, on_model(scheduler="karras", steps=STEPS)),
    ("BetaSamplingScheduler", forms.sigmas, on_model(steps=STEPS)),
    ("SDTurboScheduler", forms.sigmas, on_model(steps=4)),
    *(
        (f"{name}Scheduler", forms.sigmas, fixed(steps=STEPS))
        for name in ("Karras", "Exponential", "Polyexponential", "Laplace", "VP", "AlignYourSteps", "GITS")
    ),
    ("SplitSigmas (high)", forms.sigmas, on_levels(step=3)),
    ("SplitSigmas (low)", partial(forms.sigmas, output=1), on_levels(step=3)),
    ("SplitSigmasDenoise", partial(forms.sigmas, output=1), on_levels(denoise=0.5)),
    ("FlipSigmas", forms.sigmas, lambda p: {"sigmas": p.graph.add("FlipSigmas", sigmas=p.sigmas())[0]}),
    ("SetFirstSigma", forms.sigmas, on_levels(sigma=10.0)),
    ("ExtendIntermediateSigmas", forms.sigmas, on_levels(steps=2)),
]

SOLVERS: list[Row] = [
    ("KSamplerSelect", forms.solver, fixed(sampler_name="dpmpp_2m")),
    *(
        (name, forms.solver, nothing)
        for name in (
            "SamplerEulerAncestral",
            "SamplerEulerAncestralCFGPP",
            "SamplerEulerCFGpp",
            "SamplerLMS",
            "SamplerDPMPP_3M_SDE",
            "SamplerDPMPP_2M_SDE",
            "SamplerDPMPP_SDE",
            "SamplerDPMPP_2S_Ancestral",
            "SamplerDPMAdaptative",
            "SamplerER_SDE",
        )
    ),
    ("SamplerLCMUpscale", forms.solver_without_seed, nothing),
    ("SamplerSASolver", forms.solver, on_model()),
]

MODELS: list[Row] = [
    ("LoraLoader", forms.model_patch, lambda p: {"model": p.model, "clip": p.clip, "lora_name": LORA}),
    ("LoraLoaderModelOnly", forms.model_patch, fixed(lora_name=LORA)),
    ("FreeU", forms.model_patch_for_wider_layers, nothing),
    ("FreeU_V2", forms.model_patch_for_wider_layers, nothing),
    ("PerturbedAttentionGuidance", forms.model_patch, nothing),
    ("SelfAttentionGuidance", forms.model_patch, nothing),
    ("HyperTile", partial(forms.model_patch, side=256), fixed(tile_size=32, max_depth=2)),
    ("TomePatchModel", forms.model_patch_without_effect, nothing),
    ("PatchModelAddDownscale", forms.model_patch, fixed(block_number=1)),
    ("UNetSelfAttentionMultiply", forms.model_patch, fixed(q=1.5)),
    ("UNetCrossAttentionMultiply", forms.model_patch, fixed(v=0.5)),
    ("UNetTemporalAttentionMultiply", forms.model_patch_without_effect, fixed(cross_temporal=0.5)),
    ("RescaleCFG", forms.model_patch, nothing),
    ("Epsilon Scaling", forms.model_patch, fixed(scaling_factor=1.05)),
    ("Mahiro", forms.model_patch, nothing),
    ("APG", forms.model_patch, fixed(norm_threshold=1.0)),
    ("TCFG", forms.model_patch, nothing),
    ("CFGZeroStar", forms.model_patch, nothing),
    ("CFGNorm", forms.model_patch, fixed(strength=0.5)),
    ("RenormCFG", forms.model_patch, fixed(renorm_cfg=0.5)),
    ("FreSca", forms.model_patch, fixed(freq_cutoff=3)),
    ("PerpNeg", forms.model_patch, lambda p: {"empty_conditioning": apple(p)}),
    ("EasyCache", forms.model_patch, fixed(reuse_threshold=3.0, start_percent=0.0, end_percent=1.0)),
    ("LazyCache", forms.model_patch, fixed(reuse_threshold=3.0, start_percent=0.0, end_percent=1.0)),
    ("DifferentialDiffusion", forms.model_patch_without_effect, nothing),
    ("ContextWindowsManual", forms.model_patch_without_effect, nothing),
    ("VideoLinearCFGGuidance", forms.model_patch_without_effect, fixed(min_cfg=3.0)),
    ("VideoTriangleCFGGuidance", forms.model_patch_without_effect, fixed(min_cfg=3.0)),
    ("ModelSamplingDiscrete", forms.model_patch, fixed(sampling="v_prediction", zsnr=True)),
    ("ModelSamplingDiscrete (lcm)", forms.model_patch, fixed(sampling="lcm")),
    *(
        (name, forms.model_patch_warned_of, nothing)
        for name in (
            "ModelSamplingContinuousEDM",
            "ModelSamplingContinuousV",
            "ModelSamplingStableCascade",
            "ModelSamplingSD3",
            "ModelSamplingAuraFlow",
            "ModelSamplingFlux",
            "ModelSamplingLTXV",
        )
    ),
    ("ModelComputeDtype", forms.model_patch_warned_of, fixed(dtype="bf16")),
    ("SkipLayerGuidanceDiTSimple", forms.model_patch_warned_of, fixed(double_layers="7")),
    ("LatentApplyOperationCFG", forms.latent_operation, on_model()),
    ("ModelMergeSimple", forms.model_patch, two_models(ratio=0.3)),
    ("ModelMergeBlocks", forms.model_patch, two_models(input=0.3, middle=0.5, out=0.0)),
    ("ModelMergeAdd", forms.model_patch, two_models()),
    ("ModelMergeSubtract", forms.model_patch, two_models(multiplier=0.1)),
    ("ModelMergeSD1", forms.model_patch, two_models(**{"input_blocks.3.": 0.3})),
]

CLIPS: list[Row] = [
    ("CLIPTextEncode", forms.condition, on_clip(text="red apple")),
    ("CLIPSetLastLayer", forms.clip, on_clip()),
    ("CLIPAttentionMultiply", forms.clip, on_clip(q=1.5)),
    ("CLIPMergeSimple", forms.clip, lambda p: {"clip1": p.clip, "clip2": second_clip(p), "ratio": 0.3}),
    ("CLIPMergeAdd", forms.clip, lambda p: {"clip1": p.clip, "clip2": second_clip(p)}),
    ("CLIPMergeSubtract", forms.clip, lambda p: {"clip1": p.clip, "clip2": second_clip(p), "multiplier": 0.1}),
    ("SetClipHooks", forms.clip, on_clip()),
]

CONDITIONS: list[Row] = [
    ("ConditioningCombine", forms.condition, lambda p: {"conditioning_1": p.positive, "conditioning_2": apple(p)}),
    (
        "ConditioningAverage",
        forms.condition,
        lambda p: {"conditioning_to": p.positive, "conditioning_from": apple(p), "conditioning_to_strength": 0.5},
    ),
    ("ConditioningConcat", forms.condition, lambda p: {"conditioning_to": p.positive, "conditioning_from": apple(p)}),
    (
        "ConditioningSetArea",
        forms.condition,
        lambda p: {"conditioning": combined(p, "ConditioningSetArea", width=64, height=64)},
    ),
    (
        "ConditioningSetAreaPercentage",
        forms.condition,
        lambda p: {"conditioning": combined(p, "ConditioningSetAreaPercentage", width=0.5, height=1.0)},
    ),
    (
        "ConditioningSetMask",
        forms.condition,
        lambda p: {"conditioning": combined(p, "ConditioningSetMask", mask=half(p))},
    ),
    (
        "ConditioningSetAreaStrength",
        forms.condition,
        lambda p: {"conditioning": combined(p, "ConditioningSetAreaStrength", strength=0.3)},
    ),
    (
        "ConditioningSetTimestepRange",
        forms.condition,
        lambda p: {"conditioning": combined(p, "ConditioningSetTimestepRange", start=0.3, end=0.8)},
    ),
    ("ConditioningZeroOut", forms.condition, on_condition()),
    ("ConditioningSetProperties", forms.condition, lambda p: {"cond_NEW": apple(p), "mask": half(p), "strength": 0.8}),
    (
        "ConditioningSetPropertiesAndCombine",
        forms.condition,
        lambda p: {"cond": p.positive, "cond_NEW": apple(p), "mask": half(p)},
    ),
    ("ConditioningSetDefaultCombine", forms.condition, lambda p: {"cond": half_condition(p), "cond_DEFAULT": apple(p)}),
    ("PairConditioningCombine", forms.condition, pair("{}_A", "{}_B")),
    ("PairConditioningSetProperties", forms.condition, masked_pair),
    (
        "PairConditioningSetPropertiesAndCombine",
        forms.condition,
        lambda p: {**pair("{}", "{}_NEW")(p), "mask": half(p)},
    ),
    (
        "PairConditioningSetDefaultCombine",
        forms.condition,
        lambda p: {**pair("", "{}_DEFAULT")(p), "positive": half_condition(p), "negative": p.negative},
    ),
    (
        "CLIPTextEncodeControlnet",
        forms.condition_without_effect,
        lambda p: {"clip": p.clip, "conditioning": p.positive, "text": "red apple"},
    ),
    ("FluxGuidance", forms.condition_without_effect, lambda p: {"conditioning": p.positive}),
    ("ReferenceLatent", forms.condition_without_effect, lambda p: {"conditioning": p.positive, "latent": start(p)}),
]


def bound(row: Row) -> Row:
    """A row whose input is the finished condition, not the node's own: see `combined`."""
    name, _, inputs = row
    return name, lambda host, _kind, _inputs: through(host, inputs), nothing


def through(host: Host, inputs: Inputs) -> str:
    parts = Parts.of(host)
    return forms.sampled_both_ways(host, parts, positive=inputs(parts)["conditioning"])


ALONE = (
    "ConditioningSetArea",
    "ConditioningSetAreaPercentage",
    "ConditioningSetMask",
    "ConditioningSetAreaStrength",
    "ConditioningSetTimestepRange",
)
CONDITIONS = [bound(row) if row[0] in ALONE else row for row in CONDITIONS]

LATENTS: list[Row] = [
    ("EmptyLatentImage", forms.latent, fixed(width=128, height=96)),
    ("LatentUpscale", forms.latent, on_latent(width=128, height=128)),
    ("LatentUpscaleBy", forms.latent, on_latent()),
    ("LatentComposite", forms.latent, two_latents("samples_to", "samples_from", x=32, y=16, feather=8)),
    ("LatentCompositeMasked", forms.latent, lambda p: {"destination": start(p), "source": p.ours(), "mask": half(p)}),
    ("LatentBlend", forms.latent, two_latents()),
    ("LatentInterpolate", forms.latent, two_latents(ratio=0.4)),
    ("LatentAdd", forms.latent, two_latents()),
    ("LatentSubtract", forms.latent, two_latents()),
    ("LatentMultiply", forms.latent, on_latent(multiplier=0.5)),
    ("LatentConcat", forms.latent, two_latents(dim="x")),
    ("LatentCut", forms.latent, on_latent(dim="y", index=2, amount=8)),
    ("LatentRotate", forms.latent, on_latent(rotation="90 degrees")),
    ("LatentFlip", forms.latent, on_latent()),
    ("LatentCrop", forms.latent, on_latent(width=64, height=64, x=8)),
    ("LatentBatch", forms.latent, two_latents()),
    ("RepeatLatentBatch", forms.latent, on_latent(amount=3)),
    (
        "LatentFromBatch",
        forms.latent,
        lambda p: {"samples": p.graph.add("LatentBatch", samples1=start(p), samples2=p.ours())[0], "batch_index": 1},
    ),
    ("LatentApplyOperation", forms.latent_operation, on_latent()),
    ("LatentBatchSeedBehavior", forms.latent, on_latent()),
    ("RebatchLatents", forms.latent, on_latent("latents")),
    ("SetLatentNoiseMask", forms.latent, lambda p: {"samples": start(p), "mask": half(p)}),
]

AUTOENCODERS: list[Row] = [
    ("VAEDecode", forms.autoencoder, forms.nothing),
    ("VAEDecodeTiled", forms.autoencoder, lambda p: {"tile_size": 64, "overlap": 32}),
    ("VAEEncode", forms.autoencoder, forms.nothing),
    ("VAEEncodeTiled", forms.autoencoder, lambda p: {"tile_size": 64, "overlap": 16}),
    ("VAEEncodeForInpaint", forms.latent, lambda p: {"pixels": p.picture(), "vae": p.vae, "mask": half(p)}),
    (
        "InpaintModelConditioning",
        partial(forms.latent, output=2),
        lambda p: {
            "positive": p.positive,
            "negative": p.negative,
            "vae": p.vae,
            "pixels": p.picture(),
            "mask": half(p),
        },
    ),
]

PICTURES: list[Row] = [
    ("ImageScale", forms.picture, on_picture(width=96, height=72)),
    ("ImageScaleBy", forms.picture, on_picture(scale_by=1.5)),
    ("ImageScaleToTotalPixels", forms.picture, on_picture(megapixels=0.01)),
    ("ImageScaleToMaxDimension", forms.picture, on_picture(largest_size=96)),
    ("ImageInvert", forms.picture, nothing),
    ("ImageCrop", forms.picture, on_picture(width=40, height=33, x=3)),
    ("ImageFlip", forms.picture, nothing),
    ("ImageRotate", forms.picture, on_picture(rotation="90 degrees")),
    ("ImageBatch", forms.picture, two_pictures("image1", "image2")),
    ("RepeatImageBatch", forms.picture, on_picture(amount=3)),
    ("ImageFromBatch", forms.picture, nothing),
    ("RebatchImages", forms.picture, on_picture("images")),
    ("ImageStitch", forms.picture, two_pictures("image1", "image2")),
    ("ImageBlend", forms.picture, two_pictures("image1", "image2")),
    (
        "ImageCompositeMasked",
        forms.picture,
        lambda p: {"destination": decoded(p), "source": p.picture(), "mask": half(p)},
    ),
    ("ImagePadForOutpaint", forms.picture, on_picture(left=16, feathering=8)),
    ("ResizeAndPadImage", forms.picture, on_picture(target_width=96, target_height=64)),
    ("ImageBlur", forms.picture, nothing),
    ("ImageSharpen", forms.picture, nothing),
    ("ImageQuantize", forms.picture, nothing),
    ("ImageAddNoise", forms.picture, on_picture(strength=0.1)),
    ("Morphology", forms.picture, nothing),
    ("Canny", forms.picture, nothing),
    ("JoinImageWithAlpha", forms.picture, lambda p: {"image": decoded(p), "alpha": half(p)}),
    ("SplitImageWithAlpha", forms.picture, nothing),
    (
        "PorterDuffImageComposite",
        forms.picture,
        lambda p: {
            "source": decoded(p),
            "source_alpha": half(p),
            "destination": p.picture(),
            "destination_alpha": half(p),
        },
    ),
    ("ImageRGBToYUV", forms.picture, nothing),
    ("ImageYUVToRGB", forms.picture, lambda p: dict.fromkeys("YUV", decoded(p))),
    ("EmptyImage", forms.picture, fixed(width=64, height=48)),
    ("LoadImage", forms.picture, fixed(image="vitrail-check.png")),
    ("MaskToImage", forms.picture, on_mask()),
    (
        "ImageUpscaleWithModel",
        forms.picture,
        lambda p: {"image": decoded(p), "upscale_model": p.graph.add("VitrailLoadRefiner", name=p.refiner)[1]},
    ),
]

MASKS: list[Row] = [
    ("SolidMask", forms.mask, fixed(value=1.0, width=64, height=64)),
    ("InvertMask", forms.mask, on_mask()),
    ("CropMask", forms.mask, on_mask(width=48, height=64)),
    (
        "MaskComposite",
        forms.mask,
        lambda p: {"destination": half(p), "source": half(p), "x": 8, "y": 8, "operation": "xor"},
    ),
    ("FeatherMask", forms.mask, on_mask(right=8)),
    ("GrowMask", forms.mask, on_mask(expand=4)),
    ("ThresholdMask", forms.mask, on_mask()),
    ("ImageToMask", forms.mask, lambda p: {"image": p.picture()}),
    ("ImageColorToMask", forms.mask, lambda p: {"image": p.picture(), "color": 0xE63C28}),
    ("LoadImageMask", forms.mask, fixed(image="vitrail-check.png", channel="red")),
]

SAVERS: list[Row] = [
    ("SaveImage", forms.saver, on_picture("images")),
    ("PreviewImage", forms.saver, on_picture("images")),
    ("SaveAnimatedPNG", forms.saver, on_picture("images")),
    ("SaveAnimatedWEBP", forms.saver, on_picture("images")),
    ("MaskPreview", forms.saver, on_mask()),
    ("SaveLatent", forms.saver, on_latent()),
    ("CheckpointSave", forms.saver, lambda p: {"model": p.model, "clip": p.clip, "vae": p.vae}),
    ("ModelSave", forms.saver, on_model()),
    ("CLIPSave", forms.saver, on_clip()),
    ("VAESave", forms.saver, lambda p: {"vae": p.vae}),
]

PAIRS: dict[str, list[Row]] = {
    "Samplers, guiders and noise": SAMPLERS,
    "Noise levels (SIGMAS)": SIGMAS,
    "Solvers (SAMPLER)": SOLVERS,
    "What changes a MODEL": MODELS,
    "Text encoders (CLIP)": CLIPS,
    "Conditions (CONDITIONING)": CONDITIONS,
    "LATENT": LATENTS,
    "Autoencoders (VAE)": AUTOENCODERS,
    "IMAGE": PICTURES,
    "MASK": MASKS,
    "Savers and viewers": SAVERS,
}
