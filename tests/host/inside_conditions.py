"""Pictures and classes as conditions, and files of codes, inside the host."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from inside_parts import STEPS, Parts, differs, same


def variant(parts: Parts, unet: dict[str, Any], **changes: Any) -> tuple[Any, Any]:
    """A tiny model with other inputs, as the core's object and as a MODEL."""
    from tiny import DIFFUSION, LatentDiffusion, randomise

    diffusion = randomise(LatentDiffusion(replace(DIFFUSION, unet=replace(DIFFUSION.unet, **unet), **changes)), 3)
    diffusion.autoencoder = parts.autoencoder
    return diffusion, parts.host.wrap_model(diffusion)


def picture_and_mask(batch: int = 1) -> tuple[Any, Any]:
    import torch

    image = torch.rand(batch, 4, 4, 3, generator=torch.Generator().manual_seed(0)).repeat_interleave(8, 1)
    mask = torch.zeros(1, 32, 32)
    mask[:, :, 16:] = 1
    return image.repeat_interleave(8, 2), mask


def core_run(parts: Parts, diffusion: Any, positive: Any, negative: Any, picture: Any) -> Any:
    """The same run by the core alone."""
    import torch

    from vitrail.core.diffusion.guidance import guided
    from vitrail.core.diffusion.noise import seeded
    from vitrail.core.diffusion.schedules import make_sigmas
    from vitrail.core.samplers.run import sample

    like = torch.zeros(1, 4, 8, 8)
    stacked = diffusion.stacked(picture, like)
    conds = [None if cond is None else replace(cond, concat=stacked) for cond in (positive, negative)]
    sigmas, noise = make_sigmas("karras", diffusion.table, STEPS), seeded(like, 7)
    denoise = guided(diffusion.denoise, *conds, 3.0)
    *_, last = sample(denoise, like, sigmas, sampler="euler", noise=noise, sigma_max=diffusion.table.sigma_max)
    return parts.autoencoder.unscale(last.x)


def seen(parts: Parts, image: Any, mask: Any) -> Any:
    from vitrail.core.diffusion.concat import Picture

    x, keep, encode = image.movedim(-1, 1) * 2 - 1, 1 - mask[:, None], parts.autoencoder.encode
    return Picture(latent=encode(x * keep), dark=encode((x + 1) * keep - 1), image=x, mask=mask[:, None])


def conditioned(parts: Parts, image: Any, mask: Any, conditioning: Any = None) -> Any:
    from vitrail.nodes.condition import ConcatCondition

    return ConcatCondition().execute(vae=parts.vae, image=image, mask=mask, conditioning=conditioning)[0]


def an_inpainting_model_with_text_equals_the_core(parts: Parts) -> float:
    """By stock KSampler, by our sampler, and with stock InpaintModelConditioning in place of our node."""
    diffusion, model = variant(parts, {"in_channels": 9})
    image, mask = picture_and_mask()
    encode = diffusion.conditioner.encode
    clip = parts.host.wrap_clip(diffusion.conditioner)
    texts = [parts.nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("red cat style:pixel", "")]
    positive, negative = (conditioned(parts, image, mask, cond) for cond in texts)
    conds = encode(["red cat"], ["pixel"]), encode([""])
    expected = core_run(parts, diffusion, *conds, seen(parts, image, mask))
    inpaint = parts.nodes.InpaintModelConditioning()
    stock_positive, stock_negative, _ = inpaint.encode(*texts, image, parts.vae, mask, noise_mask=False)
    found = (
        parts.nodes.common_ksampler(model, 7, STEPS, 3.0, "euler", "karras", positive, negative, parts.latent)[0][
            "samples"
        ],
        parts.ours(model, positive=positive, negative=negative),
        parts.ours(model, positive=positive, negative=None),
        parts.ours(model, positive=stock_positive, negative=stock_negative),
    )
    return max(same(latent, expected) for latent in found)


def an_inpainting_model_without_text_equals_the_core(parts: Parts) -> float:
    diffusion, model = variant(parts, {"in_channels": 9, "context_dim": None, "vector_dim": None}, text=None)
    from vitrail.core.types import Condition

    image, mask = picture_and_mask()
    expected = core_run(parts, diffusion, Condition(), None, seen(parts, image, mask))
    return same(parts.ours(model, positive=conditioned(parts, image, mask), negative=None), expected)


def each_picture_of_a_batch_is_seen_by_its_own(parts: Parts) -> float:
    _, model = variant(parts, {"in_channels": 9, "context_dim": None, "vector_dim": None}, text=None)
    image, mask = picture_and_mask(3)
    whole = parts.ours(
        model,
        positive=conditioned(parts, image, mask),
        negative=None,
        latent=parts.host.empty_latent(model, None, 32, 32, 3),
    )
    alone = parts.ours(model, positive=conditioned(parts, image[2:], mask), negative=None, seed=9)
    differs(whole[:1], whole[2:])
    return same(whole[2:], alone)


def a_picture_that_is_missing_is_named(parts: Parts) -> str:
    _, model = variant(parts, {"in_channels": 9})
    try:
        parts.stock(model)
    except ValueError as error:
        assert "Concat Condition" in str(error)
        return str(error)
    raise AssertionError("it ran without its picture")


def classes_equal_the_core(parts: Parts) -> float:
    """By label and by token, through our sampler and stock KSampler; the negative is the last class."""
    import torch

    from vitrail.core.diffusion.concat import Picture
    from vitrail.core.text.conditioners import ClassConfig
    from vitrail.nodes.condition import ClassCondition

    figures = []
    by_label = {"context_dim": None, "vector_dim": None, "num_classes": 5, "use_scale_shift_norm": True}
    for unet, conditioner in ((by_label, None), ({"vector_dim": None}, ClassConfig(classes=5, width=32))):
        diffusion, model = variant(parts, unet, text=None, conditioner=conditioner)
        positive, negative = (ClassCondition().execute(model=model, label=label)[0] for label in ("2", "none"))
        conds = (diffusion.of_class(torch.tensor([number])) for number in (2, 4))
        expected = core_run(parts, diffusion, *conds, Picture())
        stock = parts.nodes.common_ksampler(model, 7, STEPS, 3.0, "euler", "karras", positive, negative, parts.latent)
        figures += [same(stock[0]["samples"], expected)]
        figures += [same(parts.ours(model, positive=positive, negative=None), expected)]
    return max(figures)


def codes_go_to_the_output_folder_and_come_back(parts: Parts) -> str:
    import folder_paths
    import torch

    from vitrail.core.types import Codes
    from vitrail.nodes.code_tools import LoadCodes, SaveCodes

    before = folder_paths.get_output_directory(), folder_paths.get_input_directory()
    codes = Codes(indices=torch.arange(64).reshape(1, 8, 8), codebook_size=64, factor=4, image_size=(31, 32))
    try:
        with TemporaryDirectory() as folder:
            for name, place in (("out", folder_paths.set_output_directory), ("in", folder_paths.set_input_directory)):
                (Path(folder) / name).mkdir()
                place(str(Path(folder) / name))
            entries = [SaveCodes().execute(codes, "sub/x")["ui"]["codes"][0] for _ in range(2)]
            assert [entry["filename"] for entry in entries] == ["x_00001_.safetensors", "x_00002_.safetensors"], entries
            (Path(folder) / "out" / "sub" / "x_00001_.safetensors").rename(Path(folder) / "in" / "mine.safetensors")
            (names, _) = LoadCodes.INPUT_TYPES()["required"]["name"]
            assert names == ["mine.safetensors", "sub/x_00002_.safetensors [output]"], names
            for name in names:
                assert LoadCodes.VALIDATE_INPUTS(name=name) is True and LoadCodes.IS_CHANGED(name=name)
                assert torch.equal(LoadCodes().execute(name=name)[0].indices, codes.indices)
            verdict = LoadCodes.VALIDATE_INPUTS(name="../out/sub/x_00002_.safetensors")
            assert verdict is not True, "a name led out of the input folder"
            return f"{names}; {verdict}"
    finally:
        folder_paths.set_output_directory(before[0])
        folder_paths.set_input_directory(before[1])


CHECKS = (
    an_inpainting_model_with_text_equals_the_core,
    an_inpainting_model_without_text_equals_the_core,
    each_picture_of_a_batch_is_seen_by_its_own,
    a_picture_that_is_missing_is_named,
    classes_equal_the_core,
    codes_go_to_the_output_folder_and_come_back,
)
