"""The nodes of codes with every kind of codebook."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from bottleneck_cases import WITH_CODES
from torch import Tensor

from vitrail.core.autoencoders.autoencoder import Autoencoder
from vitrail.core.errors import ShapeError
from vitrail.nodes.codes import CodebookInspect, CodesToLatent, LatentToCodes, VQDecode, VQEncode

Pictures = Callable[..., Tensor]
Build = Callable[..., Autoencoder]
every_name = pytest.mark.parametrize("name", WITH_CODES)


@every_name
def test_pictures_go_to_codes_and_latents_and_back(name: str, with_bottleneck: Build, pictures: Pictures) -> None:
    model, image = with_bottleneck(WITH_CODES[name]), pictures(3, 30, 21)
    codes, latent = VQEncode().execute(image=image, vq_model=model, tile_size=0)
    assert codes.indices.shape[:3] == (3, 8, 6) and codes.image_size == (30, 21)
    by_codes = VQDecode().execute(vq_model=model, codes=codes, quantize=True, tile_size=0)[0]
    assert by_codes.shape == (3, 30, 21, 3)
    by_latent = VQDecode().execute(vq_model=model, latent=latent, quantize=True, tile_size=0)[0]
    torch.testing.assert_close(by_latent[:, :30, :21], by_codes)
    (vectors,) = CodesToLatent().execute(vq_model=model, codes=codes)
    unrounded = VQDecode().execute(vq_model=model, latent=vectors, quantize=False, tile_size=0)[0]
    torch.testing.assert_close(unrounded[:, :30, :21], by_codes)
    (again,) = LatentToCodes().execute(vq_model=model, latent=latent)
    assert torch.equal(again.indices, codes.indices)
    if name != "residual":
        (again,) = LatentToCodes().execute(vq_model=model, latent=vectors)
        assert torch.equal(again.indices, codes.indices)


@every_name
def test_inspect_counts_codes_and_levels(name: str, with_bottleneck: Build, pictures: Pictures) -> None:
    model = with_bottleneck(WITH_CODES[name])
    found = CodebookInspect().execute(vq_model=model, view="usage", code=0, image=pictures(2))["result"]
    said = json.loads(found[1])
    assert said["codes"] == WITH_CODES[name].codes and said["tokens"] == 2 * 8 * 8 and found[3] == said["used"] > 1
    assert ("levels" in said) == (name == "residual")
    if name == "residual":
        assert len(said["levels"]) == 3 and said["levels"][0]["used"] == said["used"]


def test_codes_of_another_number_of_levels_are_refused(with_bottleneck: Build, pictures: Pictures) -> None:
    plain, residual = with_bottleneck(WITH_CODES["vq"]), with_bottleneck(WITH_CODES["residual"])
    codes = VQEncode().execute(image=pictures(1), vq_model=residual, tile_size=0)[0]
    with pytest.raises(ShapeError, match="3 codebooks of 16 codes.*this autoencoder has a codebook of 16 codes"):
        VQDecode().execute(vq_model=plain, codes=codes, quantize=True, tile_size=0)
