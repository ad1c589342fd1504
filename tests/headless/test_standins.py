"""The stand-ins for stock nodes: the same ids, inputs, defaults and numbers as the host's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vitrail.core.errors import WorkflowError
from vitrail.core.types import Condition, Quantized
from vitrail.headless.files import Files
from vitrail.headless.inputs import inputs_of
from vitrail.headless.standins import STANDINS
from vitrail.headless.standins.resize import bislerp, cut_to_ratio, resize


def call(name: str, **inputs: Any) -> Any:
    node = STANDINS[name]
    return getattr(node(), node.FUNCTION)(**inputs)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(output=tmp_path / "out", inputs=[tmp_path])


@pytest.fixture
def picture() -> Tensor:
    return torch.rand(2, 12, 20, 3, generator=torch.Generator().manual_seed(1))


HOST = {
    "LoadImage": "image",
    "LoadImageMask": "image channel",
    "SaveImage": "images filename_prefix",
    "PreviewImage": "images",
    "ImageScale": "image upscale_method width height crop",
    "ImageScaleBy": "image upscale_method scale_by",
    "ImageBatch": "image1 image2",
    "VAEEncode": "pixels vae",
    "VAEDecode": "samples vae",
    "VAEEncodeForInpaint": "pixels vae mask grow_mask_by",
    "CLIPTextEncode": "text clip",
    "EmptyLatentImage": "width height batch_size",
    "LatentUpscale": "samples upscale_method width height crop",
    "RepeatLatentBatch": "samples amount",
    "SetLatentNoiseMask": "samples mask",
    "LatentUpscaleBy": "samples upscale_method scale_by",
    "LatentBlend": "samples1 samples2 blend_factor",
    "LatentInterpolate": "samples1 samples2 ratio",
    "LatentBatch": "samples1 samples2",
    "LatentFromBatch": "samples batch_index length",
    "PrimitiveInt": "value",
    "PrimitiveFloat": "value",
    "PrimitiveString": "value",
    "PrimitiveStringMultiline": "value",
    "PrimitiveBoolean": "value",
    "PreviewAny": "source",
}


@pytest.mark.parametrize("name", STANDINS)
def test_inputs_stand_in_the_hosts_order(name: str) -> None:
    assert " ".join(inputs_of(STANDINS[name])) == HOST[name]
    assert callable(getattr(STANDINS[name], STANDINS[name].FUNCTION))
    assert all(isinstance(kind, str) for kind in STANDINS[name].RETURN_TYPES)


# Pictures and files


def test_a_saved_picture_loads_as_it_was(files: Files, picture: Tensor) -> None:
    call(
        "SaveImage",
        images=picture,
        filename_prefix="cat",
        prompt={"1": {}},
        extra_pnginfo={"workflow": {"n": 1}},
        files=files,
    )
    names = [path.name for path in files.written]
    assert names == ["cat_00001_.png", "cat_00002_.png"]
    with Image.open(files.written[0]) as made:
        assert {name: json.loads(made.info[name]) for name in ("prompt", "workflow")} == {
            "prompt": {"1": {}},
            "workflow": {"n": 1},
        }
    image, mask = call("LoadImage", image="cat_00002_.png [output]", files=files)
    assert torch.equal(image[0], (picture[1] * 255).floor() / 255)
    assert mask.shape == (1, 64, 64) and not mask.any()


def test_alpha_survives_and_comes_back_as_a_mask(files: Files) -> None:
    image = torch.tensor([[[[1.0, 0, 0, 1], [0, 1, 0, 0]]]])
    call("SaveImage", images=image, filename_prefix="a", files=files)
    loaded, mask = call("LoadImage", image="a_00001_.png [output]", files=files)
    assert loaded.tolist() == [[[[1, 0, 0], [0, 1, 0]]]]
    assert mask.tolist() == [[[0, 1]]]


@pytest.mark.parametrize(
    ("mode", "want"), [("L", 200 / 255), ("1", 1.0), ("P", 200 / 255), ("I;16", 200 / 255), ("I", 200 / 255)]
)
def test_every_kind_of_picture_loads(files: Files, tmp_path: Path, mode: str, want: float) -> None:
    grey = Image.new("L", (3, 2), 200)
    deep = np.full((2, 3), 200 * 255 + 100)
    made = {"I;16": Image.fromarray(deep.astype(np.uint16)), "I": Image.fromarray(deep.astype(np.int32))}
    name = "x.tiff" if mode == "I" else "x.png"
    (made[mode] if mode in made else grey.convert(mode, dither=Image.Dither.NONE)).save(tmp_path / name)
    image, _ = call("LoadImage", image=name, files=files)
    assert image.shape == (1, 2, 3, 3)
    assert image.flatten().tolist() == pytest.approx([want] * 18, abs=1e-6)


def test_frames_become_a_batch(files: Files, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    image, mask = call("LoadImage", image="x.gif", files=files)
    assert image[:, 0, 0].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]] and mask.shape[0] == 3


def test_a_turned_photograph_is_set_upright(files: Files, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "x.jpg", exif=exif)
    assert call("LoadImage", image="x.jpg", files=files)[0].shape == (1, 8, 4, 3)


@pytest.mark.parametrize(
    ("channel", "want"), [("alpha", 1 - 51 / 255), ("red", 1.0), ("green", 0.0), ("blue", 102 / 255)]
)
def test_one_channel_as_a_mask(files: Files, tmp_path: Path, channel: str, want: float) -> None:
    Image.new("RGBA", (3, 2), (255, 0, 102, 51)).save(tmp_path / "x.png")
    (mask,) = call("LoadImageMask", image="x.png", channel=channel, files=files)
    assert mask.shape == (1, 2, 3) and mask.flatten().tolist() == pytest.approx([want] * 6)


@pytest.mark.parametrize("name", ["LoadImage", "LoadImageMask"])
def test_a_missing_picture_is_found_out_beforehand(files: Files, tmp_path: Path, name: str) -> None:
    verdict = STANDINS[name].VALIDATE_INPUTS(image="none.png", files=files)
    assert "none.png" in verdict and str(tmp_path) in verdict
    (tmp_path / "none.png").touch()
    assert STANDINS[name].VALIDATE_INPUTS(image="none.png", files=files) is True


def test_previews_are_files_too(files: Files, picture: Tensor) -> None:
    call("PreviewImage", images=picture[:1], prompt=None, extra_pnginfo=None, files=files)
    assert [path.name for path in files.written] == ["preview_00001_.png"]


# Sizes


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"])
def test_pictures_are_scaled(picture: Tensor, method: str) -> None:
    (scaled,) = call("ImageScale", image=picture, upscale_method=method, width=7, height=9, crop="disabled")
    assert scaled.shape == (2, 9, 7, 3)
    assert scaled.mean() == pytest.approx(picture.mean().item(), abs=0.05)


@pytest.mark.parametrize(
    ("width", "height", "want"), [(0, 0, (12, 20)), (10, 0, (6, 10)), (0, 6, (6, 10)), (1, 0, (1, 1))]
)
def test_a_side_of_nought_keeps_the_ratio(picture: Tensor, width: int, height: int, want: tuple[int, int]) -> None:
    (scaled,) = call("ImageScale", image=picture, upscale_method="area", width=width, height=height, crop="disabled")
    assert scaled.shape[1:3] == want


def test_scaling_by_a_factor(picture: Tensor) -> None:
    assert call("ImageScaleBy", image=picture, upscale_method="bilinear", scale_by=1.5)[0].shape == (2, 18, 30, 3)


def test_cropping_keeps_the_middle() -> None:
    x = torch.arange(20.0).reshape(1, 1, 1, 20).expand(1, 1, 4, 20)
    assert cut_to_ratio(x, 1.0)[0, 0, 0].tolist() == [8, 9, 10, 11]
    assert cut_to_ratio(x.mT, 1.0).shape == (1, 1, 4, 4)
    assert resize(x, 4, 4, "nearest-exact", "center")[0, 0, 0].tolist() == [8, 9, 10, 11]


def test_batching_brings_the_second_to_the_first(picture: Tensor) -> None:
    alpha = torch.rand(1, 6, 6, 4)
    (both,) = call("ImageBatch", image1=picture, image2=alpha)
    assert (
        both.shape == (3, 12, 20, 4) and torch.equal(both[:2, ..., :3], picture) and bool((both[:2, ..., 3] == 1).all())
    )


def test_bislerp_turns_between_directions() -> None:
    """Between (1, 0) and (0, 2) a quarter of the way: direction 22.5 degrees, length 1.25."""
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).T.reshape(1, 2, 1, 2)
    half = bislerp(x, 4, 1)[0, :, 0]
    assert half[:, 0].tolist() == pytest.approx([1, 0], abs=1e-6) and half[:, 3].tolist() == pytest.approx(
        [0, 2], abs=1e-6
    )
    assert half[:, 1].norm() == pytest.approx(1.25)
    assert torch.atan2(half[1, 1], half[0, 1]).rad2deg() == pytest.approx(22.5, abs=1e-3)


def test_bislerp_of_equal_opposite_and_empty_vectors_is_finite() -> None:
    x = torch.tensor([[1.0, 1.0, -1.0, 0.0, 0.0]]).reshape(1, 1, 1, 5).repeat(1, 3, 1, 1)
    scaled = bislerp(x, 15, 2)
    assert scaled.isfinite().all() and scaled[0, 0, 0, 4] == pytest.approx(1.0)


# Latents


@pytest.mark.parametrize(
    ("width", "height", "want"), [(128, 64, (8, 16)), (0, 0, (12, 20)), (0, 96, (12, 20)), (8, 8, (8, 8))]
)
def test_latents_are_scaled(width: int, height: int, want: tuple[int, int]) -> None:
    latent = {"samples": torch.rand(1, 3, 12, 20), "batch_index": [4]}
    (scaled,) = call(
        "LatentUpscale", samples=latent, upscale_method="bislerp", width=width, height=height, crop="disabled"
    )
    assert scaled["samples"].shape == (1, 3, *want) and scaled["batch_index"] == [4]


def test_repeating_a_latent_gives_each_copy_its_own_noise() -> None:
    latent = {"samples": torch.rand(2, 3, 4, 4), "noise_mask": torch.rand(2, 1, 4, 4), "batch_index": [3, 5]}
    (repeated,) = call("RepeatLatentBatch", samples=latent, amount=3)
    assert repeated["samples"].shape == (6, 3, 4, 4) and repeated["noise_mask"].shape == (6, 1, 4, 4)
    assert repeated["batch_index"] == [3, 5, 6, 8, 9, 11]
    assert "batch_index" not in call("RepeatLatentBatch", samples={"samples": torch.zeros(1, 3, 4, 4)}, amount=2)[0]


def test_scaling_a_latent_by_a_factor() -> None:
    latent = {"samples": torch.rand(1, 3, 5, 7), "batch_index": [4]}
    (scaled,) = call("LatentUpscaleBy", samples=latent, upscale_method="nearest-exact", scale_by=1.5)
    assert scaled["samples"].shape == (1, 3, 8, 10) and scaled["batch_index"] == [4]


def test_blending_is_a_weighted_sum_at_the_first_ones_size() -> None:
    one, two = {"samples": torch.full((2, 3, 4, 4), 8.0), "batch_index": [4, 5]}, {"samples": torch.zeros(1, 3, 6, 8)}
    (mixed,) = call("LatentBlend", samples1=one, samples2=two, blend_factor=0.25)
    assert mixed["samples"].shape == (2, 3, 4, 4) and mixed["samples"].unique().tolist() == [2]
    assert mixed["batch_index"] == [4, 5]


def test_interpolating_goes_between_directions_and_lengths() -> None:
    """From (2, 0) to (0, 4): half way the direction is 45 degrees, the length 3; cells of length 0 stay 0."""
    one, two = torch.zeros(3, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    one[:, 0, 0, 0], two[:, 1, 0, 0] = 2, 4
    (mixed,) = call("LatentInterpolate", samples1={"samples": one}, samples2={"samples": two}, ratio=0.5)
    assert mixed["samples"][2, :, 0, 0].tolist() == pytest.approx([3 / 2**0.5] * 2)
    assert not mixed["samples"][..., 1].any()
    for ratio, want in ((1.0, one), (0.0, two.repeat(3, 1, 1, 1))):
        (end,) = call("LatentInterpolate", samples1={"samples": one}, samples2={"samples": two}, ratio=ratio)
        torch.testing.assert_close(end["samples"], want)


def test_batches_join_and_part_with_their_places() -> None:
    one = {"samples": torch.rand(2, 3, 4, 4), "batch_index": [7, 9], "noise_mask": torch.rand(2, 1, 4, 4)}
    two = {"samples": torch.rand(3, 3, 4, 4)}
    (both,) = call("LatentBatch", samples1=one, samples2=two)
    assert both["samples"].shape == (5, 3, 4, 4) and both["batch_index"] == [7, 9, 0, 1, 2]
    (part,) = call("LatentFromBatch", samples=both, batch_index=1, length=2)
    assert torch.equal(part["samples"][0], one["samples"][1]) and part["batch_index"] == [9, 0]
    assert torch.equal(part["noise_mask"], one["noise_mask"][[1, 0]])
    (last,) = call("LatentFromBatch", samples=two, batch_index=9, length=9)
    assert len(last["samples"]) == 1 and last["batch_index"] == [2] and "noise_mask" not in last


@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6)])
def test_masks_of_both_shapes(shape: tuple[int, ...]) -> None:
    (masked,) = call("SetLatentNoiseMask", samples={"samples": torch.zeros(1, 3, 4, 4)}, mask=torch.ones(shape))
    assert masked["noise_mask"].shape == (1 if len(shape) == 2 else 2, 1, 5, 6)


def test_an_empty_latent() -> None:
    (latent,) = call("EmptyLatentImage", width=64, height=32, batch_size=2)
    assert latent["samples"].shape == (2, 4, 4, 8) and not latent["samples"].any()


class Halver(nn.Module):
    """An autoencoder of factor 4 that averages, with a codebook of one step."""

    def __init__(self, codebook: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.factor, self.codebook = 4, codebook

    def encode(self, x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, 4)

    def from_rgb(self, x: Tensor) -> Tensor:
        return x

    def to_rgb(self, decoded: Tensor) -> Tensor:
        return decoded

    def quantize(self, z: Tensor) -> Quantized:
        return Quantized(latent=z.round(), indices=None, loss=z.sum())

    def decode(self, z: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(z, scale_factor=4.0)


def test_pictures_to_latents_and_back() -> None:
    image = torch.full((1, 8, 12, 3), 0.75)
    (latent,) = call("VAEEncode", pixels=image, vae=Halver(None))
    assert latent["samples"].shape == (1, 3, 2, 3) and latent["samples"].unique().tolist() == [0.5]
    assert torch.equal(call("VAEDecode", samples=latent, vae=Halver(None))[0], image)


def test_decoding_goes_through_the_codebook_and_stays_in_range() -> None:
    latent = {"samples": torch.tensor([0.6, -0.2, 7.0]).reshape(1, 3, 1, 1)}
    (image,) = call("VAEDecode", samples=latent, vae=Halver(torch.zeros(1)))
    assert image[0, 0, 0].tolist() == [1.0, 0.5, 1.0]


def test_encoding_drops_alpha_and_the_rim_beyond_the_factor() -> None:
    image = torch.zeros(1, 10, 11, 4)
    image[:, 1:9, 1:9] = 1
    (latent,) = call("VAEEncode", pixels=image, vae=Halver(None))
    assert latent["samples"].shape == (1, 3, 2, 2) and latent["samples"].unique().tolist() == [1.0]


def test_inpainting_greys_what_is_masked_and_grows_the_mask() -> None:
    mask = torch.zeros(1, 8, 8)
    mask[:, 4, 4] = 1
    (latent,) = call("VAEEncodeForInpaint", pixels=torch.ones(1, 8, 8, 3), vae=Halver(None), mask=mask, grow_mask_by=3)
    assert latent["noise_mask"][0, 0, 3:6, 3:6].all() and latent["noise_mask"].sum() == 9
    assert latent["samples"][0, 0].tolist() == [[1, 1], [1, 1 - 1 / 16]]


def test_text_becomes_the_hosts_conditioning() -> None:
    condition = Condition(context=torch.rand(1, 5, 8), vector=torch.rand(1, 6))

    class Encoder(nn.Linear):
        def encode(self, texts: list[str]) -> Condition | None:
            return condition if texts == ["a cat"] else None

        def notes(self, text: str) -> list[str]:
            return [f"{text}: noted"]

    made = call("CLIPTextEncode", text="a cat", clip=Encoder(1, 1))
    assert made["ui"] == {"text": ["a cat: noted"]}
    (((context, extra),),) = made["result"]
    assert torch.equal(context, condition.context) and torch.equal(extra["pooled_output"], condition.vector)


@pytest.mark.parametrize(
    ("name", "inputs"), [("VAEDecode", {"samples": {}, "vae": None}), ("CLIPTextEncode", {"text": "", "clip": None})]
)
def test_an_empty_socket_is_said_to_be_empty(name: str, inputs: dict[str, Any]) -> None:
    with pytest.raises(WorkflowError, match="input is empty"):
        call(name, **inputs)


# Values


@pytest.mark.parametrize(
    ("value", "want"),
    [("text", "text"), (3, "3"), (True, "True"), ({"a": [1]}, '{"a": [1]}'), (None, "None"), ([{1}], "[{1}]")],
)
def test_any_value_as_text(value: Any, want: str) -> None:
    assert call("PreviewAny", source=value) == {"ui": {"text": (want,)}}


@pytest.mark.parametrize(
    ("kind", "value"), [("Int", 5), ("Float", 0.5), ("String", "a"), ("StringMultiline", "a\nb"), ("Boolean", True)]
)
def test_primitives_hand_on(kind: str, value: Any) -> None:
    assert call(f"Primitive{kind}", value=value) == (value,)
