"""Transformers over codes: the reference's numbers, sampling that repeats itself, conditions, windows."""

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_cases import case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import VQConfig
from vitrail.core.checkpoints import load
from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.priors import Prior, PriorConfig, sample
from vitrail.core.priors.conditions import (
    CoordinateConfig,
    LabelConfig,
    PictureConfig,
    StartConfig,
    coordinate_tokens,
    places,
)
from vitrail.core.priors.gpt import GPT, GPTConfig
from vitrail.core.priors.sample import draw, probabilities, span

writing = sys.modules[draw.__module__]
TINY = GPTConfig(vocab=24, block=20, width=16, depth=2, heads=2)
CODES = AutoencoderConfig(
    ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), attn_type="none", z_channels=4, embed_dim=4,
    bottleneck=VQConfig(codes=20, dim=4),
)  # fmt: skip


def prior(**changes: Any) -> Prior:
    torch.manual_seed(0)
    model = Prior(PriorConfig(transformer=TINY, autoencoder=CODES) if not changes else PriorConfig(**changes)).eval()
    with torch.no_grad():
        model.transformer.pos_emb.normal_()
        model.transformer.head.weight.normal_()
    return model


def finished(*arguments: Any, **options: Any) -> Tensor:
    *_, last = sample(*arguments, **options)
    assert last.done == last.total
    return last.codes


@torch.no_grad()
def test_gpt_has_the_references_numbers() -> None:
    golden = case("gpt_small")
    model = load(golden.path / "gpt.ckpt", config=golden.config).transformer
    ids = golden.tensors["in.idx"]
    scores = model(ids)
    golden.check("out.logits", scores)
    golden.check("out.logits_with_embeddings", model(ids, golden.tensors["in.embeddings"]))
    caches = model.caches()
    steps = [model(ids[:, i : i + 1], caches=caches) for i in range(ids.shape[1])]
    golden.check("out.logits_incremental", torch.cat(steps, dim=1))
    golden.check("out.loss", F.cross_entropy(scores.flatten(0, 1), golden.tensors["in.targets"].flatten()))
    golden.check("out.topk_probs", probabilities(scores[:, -1], 0.8, max(2, golden.config["vocab_size"] // 10)))
    longer = ids[:, :4]
    while longer.shape[1] < golden.tensors["out.greedy"].shape[1]:
        longer = torch.cat([longer, model(longer)[:, -1:].argmax(-1)], dim=1)
    golden.check("out.greedy", longer)


@torch.no_grad()
def test_net2net_has_the_references_numbers() -> None:
    golden = case("net2net_coord")
    model, given_places = load(golden.path / "model.ckpt"), golden.tensors["in.c"]
    codes = model.codes(golden.tensors["in.x"])
    golden.check("out.z_indices", codes)
    golden.check("out.targets", codes)
    condition = model.tokens(given_places, 2, (8, 8))
    golden.check("out.c_indices", condition)
    scores = model(codes, condition)
    golden.check("out.logits", scores)
    golden.check("out.loss", F.cross_entropy(scores.flatten(0, 1), codes.flatten()))
    golden.check("out.recon_image", model.picture(codes))
    drawn = finished(model, (8, 8), [0, 1], condition=given_places, temperature=0)
    golden.check("out.greedy_indices", drawn.flatten(1))
    golden.check("out.greedy_image", model.picture(drawn.flatten(1)))
    mask = torch.arange(64).view(1, 8, 8) >= 32
    half = finished(model, (8, 8), [0, 1], condition=given_places, temperature=0, codes=codes.view(2, 8, 8), mask=mask)
    golden.check("out.half_completed", half.flatten(1))


@torch.no_grad()
@pytest.mark.parametrize("unmasked", [0, 5])
def test_the_cache_changes_nothing(unmasked: int) -> None:
    torch.manual_seed(0)
    model = GPT(replace(TINY, unmasked=unmasked)).eval()
    model.pos_emb.normal_()
    ids = torch.randint(24, (2, 12))
    caches = model.caches()
    parts = [model(part, caches=caches) for part in ids.split([5, 1, 4, 2], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), atol=1e-5, rtol=1e-5)
    other = ids.clone()
    other[:, 4] = (other[:, 4] + 1) % 24
    reaches_back = not torch.equal(model(other)[:, :4], model(ids)[:, :4])
    assert reaches_back == (unmasked > 4)


def test_each_picture_of_a_batch_equals_its_own_run() -> None:
    model = prior()
    together = finished(model, (3, 4), [5, 6, 7], top_k=9, temperature=1.3)
    for i, seed in enumerate((5, 6, 7)):
        assert torch.equal(finished(model, (3, 4), [seed], top_k=9, temperature=1.3)[0], together[i])
    assert len({tuple(row.flatten().tolist()) for row in together}) == 3
    assert int(together.max()) < 20, "only codes that the autoencoder has"


@pytest.mark.parametrize("size", [(3, 4), (7, 9)], ids=["whole", "through a window"])
def test_only_the_mask_is_written_anew(size: tuple[int, int]) -> None:
    model = prior()
    codes, mask = torch.randint(20, (2, *size)), torch.zeros(2, *size, dtype=torch.bool)
    mask[0, 1:, 1:3], mask[1, -1] = True, True
    drawn = finished(model, size, [1, 2], codes=codes, mask=mask)
    assert torch.equal(drawn[~mask], codes[~mask]) and not torch.equal(drawn[mask], codes[mask])
    for i in range(2):
        alone = finished(model, size, [1 + i], codes=codes[i : i + 1], mask=mask[i : i + 1])
        assert torch.equal(alone[0], drawn[i])


def test_a_window_sees_what_the_whole_would() -> None:
    """A picture as large as the window is written through it as it is with the cache."""
    model = prior()
    told, known, new = torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 16, dtype=torch.int64), torch.ones(2, 16)

    def best(scores: Tensor, old: Tensor, new: Tensor) -> Tensor:
        return scores.argmax(1)

    *_, cached = writing._cached(model, told, known, new.bool(), best)
    *_, through = writing._windowed(model, told, known, new.bool(), (4, 4), best)
    assert model.window(1) == 4 and torch.equal(cached, through) and len(cached.unique()) > 1


@given(st.integers(0, 40), st.integers(1, 20), st.integers(1, 41))
def test_a_window_holds_its_place_and_lies_inside(place: int, side: int, whole: int) -> None:
    place %= whole
    found = span(place, side, whole)
    assert 0 <= found.start <= place < found.stop <= whole and found.stop - found.start == min(side, whole)


@settings(deadline=None)
@given(st.integers(0, 30), st.floats(0.05, 1), st.floats(0.1, 5), st.integers(0, 99))
def test_probabilities_keep_the_best(top_k: int, top_p: float, temperature: float, seed: int) -> None:
    scores = torch.randn(3, 24, generator=Generator().manual_seed(seed))
    kept = probabilities(scores, temperature, top_k, top_p)
    torch.testing.assert_close(kept.sum(1), torch.ones(3))
    count = (kept > 0).sum(1)
    assert (count >= 1).all() and (not top_k or (count <= top_k).all())
    for row, score in zip(kept, scores, strict=True):
        assert score[row > 0].min() >= score[row == 0].max() if (row == 0).any() else True
    nearly = probabilities(scores, temperature, top_k, 1.0).sort(1, descending=True).values
    smaller = torch.stack([row[: max(n - 1, 0)].sum() for row, n in zip(nearly, count, strict=True)])
    assert (smaller < top_p + 1e-4).all(), "one code less would not have had the probability"


def test_draws_follow_the_probabilities() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0]])
    generator = Generator().manual_seed(0)
    counts = torch.bincount(torch.cat([draw(scores, [generator]) for _ in range(3000)]), minlength=3) / 3000
    torch.testing.assert_close(counts, scores.softmax(1)[0], atol=0.04, rtol=0)
    assert draw(scores, [generator], temperature=0).item() == 2


def test_coordinates_of_a_whole_picture_rise() -> None:
    config = CoordinateConfig(codes=24, factor=2)
    tokens = coordinate_tokens(places(4, 6, 2), config)
    assert tokens.shape == (1, 4, 6) and tokens.flatten()[0] == 2 and tokens.flatten()[-1] == 22
    assert (tokens[0, :, 1:] >= tokens[0, :, :-1]).all() and (tokens[0, 1:] > tokens[0, :-1]).all()
    with pytest.raises(ShapeError, match="0..1"):
        coordinate_tokens(torch.full((1, 1, 4, 4), 2.0), config)


def test_conditions_become_tokens() -> None:
    start = prior(transformer=TINY, condition=StartConfig(token=3))
    assert start.tokens(None, 2, (2, 2)).tolist() == [[3], [3]]
    label = prior(transformer=TINY, condition=LabelConfig(classes=7))
    assert label.tokens(torch.tensor([4, 6]), 2, (2, 2)).tolist() == [[4], [6]]
    assert label.classes == 7 and label.of_class(torch.tensor([1])).vector.tolist() == [1]
    for wrong, error in ((None, ConfigError), (torch.tensor([7]), ShapeError)):
        with pytest.raises(error, match="7|class"):
            label.tokens(wrong, 1, (2, 2))
    told = replace(CODES, in_channels=1, out_channels=1)
    picture = prior(transformer=TINY, autoencoder=CODES, condition=PictureConfig(autoencoder=told))
    depth = torch.rand(2, 1, 4, 6) * 2 - 1
    tokens = picture.tokens(depth, 2, (2, 3))
    codes = picture.told.quantize(picture.told.encode(depth)).indices
    assert tokens.shape == (2, 6) and torch.equal(tokens, picture.tokens(codes, 2, (2, 3)))
    assert finished(picture, (2, 3), [0, 1], condition=depth).shape == (2, 2, 3)
    assert finished(picture, (6, 7), [0], condition=torch.rand(1, 1, 12, 14)).shape == (1, 6, 7)
    with pytest.raises(ConfigError, match="segments or depth"):
        finished(picture, (2, 3), [0])


def told_a_picture(channels: int, size: int | None = None) -> Prior:
    """A prior that is told a picture of so many channels, whose codes do not all look alike."""
    sizes = replace(TINY, block=31)
    encoder = replace(CODES, in_channels=channels, out_channels=channels, palette=channels > 4)
    condition = PictureConfig(autoencoder=encoder)
    model = prior(transformer=sizes, autoencoder=CODES, condition=condition, condition_size=size)
    model.told.quantize.embedding.weight.data.normal_()
    return model


def test_a_map_of_labels_is_told_a_channel_a_label() -> None:
    model, labels = told_a_picture(6), torch.randint(6, (3, 6, 8), generator=Generator().manual_seed(1))
    x = (labels / 255 * 2 - 1)[:, None].expand(-1, 3, -1, -1)
    told = model.as_told(x)
    assert torch.equal(told, F.one_hot(labels, 6).movedim(-1, 1).float())
    codes = model.told.quantize(model.told.encode(told)).indices
    assert len(codes.unique()) > 1 and torch.equal(model.tokens(codes, 3, (3, 4)), model.tokens(told, 3, (3, 4)))
    drawn = finished(model, (3, 4), [0, 1, 2], condition=codes, temperature=0)
    assert torch.equal(finished(model, (3, 4), [0, 1, 2], condition=told, temperature=0), drawn)
    assert not torch.equal(drawn, finished(model, (3, 4), [0, 1, 2], condition=codes.flip(2), temperature=0))


def test_depth_is_told_over_its_full_range() -> None:
    model, depth = told_a_picture(1), torch.rand(2, 1, 6, 8, generator=Generator().manual_seed(1)) * 0.2 + 0.3
    told = model.as_told(depth.expand(-1, 3, -1, -1))
    assert told.shape == (2, 1, 6, 8) and told.amin((1, 2, 3)).tolist() == [-1, -1]
    torch.testing.assert_close(told.amax((1, 2, 3)), torch.ones(2))
    torch.testing.assert_close(model.as_told(told.expand(-1, 3, -1, -1)), told)


def test_a_condition_is_resized_where_the_prior_learnt_it_so() -> None:
    model = told_a_picture(3, size=4)
    x = torch.rand(1, 3, 8, 12, generator=Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(model.as_told(x), F.interpolate(x, size=(4, 4)))
    assert finished(model, (4, 6), [0], condition=model.as_told(x)).shape == (1, 4, 6)
    assert finished(model, (8, 10), [0], condition=model.as_told(x)).shape == (1, 8, 10)


def test_every_window_is_told_its_own_part_of_the_condition() -> None:
    """Without a cache, as sample_conditional.py goes over large pictures: place by place, the best code each time."""
    model, (high, wide) = told_a_picture(6), (6, 7)
    codes, written = (
        torch.randint(20, (2, high, wide), generator=Generator().manual_seed(2)),
        torch.zeros(2, 6, 7).long(),
    )
    assert (side := model.window(0)) == 4
    for row in range(high):
        for column in range(wide):
            top, left = (min(max(p - side // 2, 0), n - side) for p, n in ((row, high), (column, wide)))
            parts = [x[:, top : top + side, left : left + side].flatten(1) for x in (codes, written)]
            scores = model.transformer(torch.cat(parts, 1)[:, :-1])[:, side**2 - 1 :].view(2, side, side, -1)
            written[:, row, column] = scores[:, row - top, column - left, :20].argmax(-1)
    assert torch.equal(finished(model, (high, wide), [0, 1], condition=codes, temperature=0), written)


@pytest.mark.parametrize("size", [(3, 9), (9, 3), (2, 15)])
def test_a_picture_smaller_than_the_window_is_part_of_one_that_is_not(size: tuple[int, int]) -> None:
    """So that places in the window mean what they meant in training."""
    model, (high, wide) = told_a_picture(6), size
    codes = torch.randint(20, (2, *size), generator=Generator().manual_seed(2))
    below, beside = max(4 - high, 0), max(4 - wide, 0)
    larger = torch.cat([codes, codes[:, -1:].expand(-1, below, -1)], dim=1)
    larger = torch.cat([larger, larger[:, :, -1:].expand(-1, -1, beside)], dim=2)
    found = finished(model, size, [0, 1], condition=codes, top_k=3)
    whole = finished(model, tuple(larger.shape[1:]), [0, 1], condition=larger, top_k=3)
    assert torch.equal(found[:, :, :wide], whole[:, :high, :wide])
    kept = finished(model, size, [0, 1], condition=codes, codes=found, mask=torch.zeros(1, *size, dtype=torch.bool))
    assert torch.equal(kept, found)


def test_one_condition_is_told_to_all_of_a_batch() -> None:
    model, codes = told_a_picture(6), torch.randint(20, (3, 3, 4), generator=Generator().manual_seed(1))
    all_alike = finished(model, (3, 4), [0, 1], condition=codes[:1], temperature=0)
    assert torch.equal(all_alike[0], all_alike[1])
    with pytest.raises(ShapeError, match="3 conditions for 2 pictures"):
        finished(model, (3, 4), [0, 1], condition=codes)
    with pytest.raises(ShapeError, match="condition covers 8 x 6 pixels, the picture to be written has 10 x 6"):
        finished(model, (3, 5), [0], condition=codes[:1])


@pytest.mark.parametrize(
    ("condition", "advice"),
    [(StartConfig(), "nothing"), (LabelConfig(classes=3), "Class Condition"), (CoordinateConfig(), "leave")],
)
def test_a_prior_that_is_told_no_picture_says_what_instead(condition: Any, advice: str) -> None:
    model = prior(transformer=TINY, autoencoder=CODES, condition=condition)
    with pytest.raises(ConfigError, match=f"no picture can be told.*{advice}"):
        model.as_told(torch.zeros(1, 3, 4, 4))


def test_codes_are_written_in_the_order_of_the_file() -> None:
    model = prior(transformer=TINY, autoencoder=CODES, permuted=6)
    model.order = torch.tensor([5, 3, 1, 0, 2, 4])
    codes = torch.tensor([[10, 11, 12, 13, 14, 15]])
    assert model.written(codes).tolist() == [[15, 13, 11, 10, 12, 14]]
    assert torch.equal(model.rows(model.written(codes)), codes)
    kept = torch.tensor([[[7, 7, 7], [0, 0, 0]]])
    drawn = finished(model, (2, 3), [0], codes=kept, mask=kept == 0)
    assert drawn[0, 0].tolist() == [7, 7, 7]
    with pytest.raises(ShapeError, match="exactly 6"):
        finished(model, (2, 2), [0])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temperature": -1}, "temperature"), ({"top_p": 0}, "top_p"), ({"top_k": -1}, "top_k")]
    + [({"mask": torch.ones(1, 2, 2)}, "no codes"), ({"codes": torch.zeros(1, 3, 2, dtype=torch.int64)}, "expected")],
)
def test_wrong_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ShapeError), match=message):
        finished(prior(), (2, 2), [0], **options)


def test_sizes_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="heads"):
        GPTConfig(width=10, heads=3)
    with pytest.raises(ShapeError, match="at most 20"):
        GPT(TINY)(torch.zeros(1, 21, dtype=torch.int64))
    with pytest.raises(ShapeError, match="0 to 23"):
        GPT(TINY)(torch.full((1, 2), 24))
