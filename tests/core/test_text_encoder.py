"""The text and style encoder."""

from typing import Any

import pytest
import torch

from vitrail.core.config_io import from_dict, to_dict
from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.text.encoder import StyleTextEncoder, TextConfig

CONFIG = TextConfig(
    vocab=("apple", "blue", "red"), styles=("pixel", "3d"), length=5, width=16, heads=2, context_dim=16, vector_dim=12
)


@pytest.fixture
def encoder() -> StyleTextEncoder:
    torch.manual_seed(0)
    return StyleTextEncoder(CONFIG).eval()


@torch.no_grad()
def test_shapes_and_zeroed_padding(encoder: StyleTextEncoder) -> None:
    cond = encoder.encode(["red apple", ""], ["pixel", None])
    assert cond.context is not None and cond.vector is not None
    assert cond.context.shape == (2, 6, 16) and cond.vector.shape == (2, 12)
    used = cond.context.abs().sum(-1) > 0
    assert used.tolist() == [[True, True, True, False, False, False], [True, False, False, False, False, False]]


@torch.no_grad()
def test_a_text_reads_the_same_alone_in_a_batch_and_after_a_round_trip(encoder: StyleTextEncoder) -> None:
    batch = encoder.encode(["red apple", "blue", "apple"], ["3d", "none", "pixel"])
    alone = encoder.encode(["red apple"], ["3D"])
    torch.testing.assert_close(alone.context, batch.context[:1])
    torch.testing.assert_close(alone.vector, batch.vector[:1])
    again = StyleTextEncoder(from_dict(TextConfig, to_dict(CONFIG))).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again.encode(["red apple"], ["3d"]).vector, alone.vector)


@torch.no_grad()
def test_words_their_order_and_the_style_all_matter(encoder: StyleTextEncoder) -> None:
    vectors = encoder.encode(["red apple", "apple red", "blue apple", "red apple"], ["3d", "3d", "3d", "pixel"]).vector
    assert len({tuple(row) for row in vectors.tolist()}) == 4


@torch.no_grad()
def test_null_is_the_empty_text_without_a_style(encoder: StyleTextEncoder) -> None:
    null, empty = encoder.null(2), encoder.encode(["", "unheard"], [None, "none"])
    assert torch.equal(null.vector, empty.vector) and torch.equal(null.context, empty.context)
    assert not torch.equal(null.vector, encoder.encode([""] * 2, ["3d"] * 2).vector)


@torch.no_grad()
def test_a_style_in_the_text_wins(encoder: StyleTextEncoder) -> None:
    inline, given = encoder.encode(["apple style:3d"], ["pixel"]), encoder.encode(["apple"], ["3d"])
    assert torch.equal(inline.vector, given.vector) and torch.equal(inline.context, given.context)


def test_unknown_styles_list_those_known(encoder: StyleTextEncoder) -> None:
    for texts, styles in ((["apple"], ["oil"]), (["apple style:oil"], None)):
        with pytest.raises(ConfigError, match=r'"oil"; known are pixel, 3d, none'):
            encoder.encode(texts, styles)
    with pytest.raises(ConfigError, match="2 texts and 1 styles"):
        encoder.encode(["a", "b"], ["3d"])


def test_a_style_typed_as_a_word_is_pointed_out(encoder: StyleTextEncoder) -> None:
    assert encoder.unknown("pixel apple") == ["pixel"]
    assert any('write "style:pixel"' in note for note in encoder.notes("pixel apple"))


def test_every_parameter_learns_and_padding_stays_zero() -> None:
    encoder = StyleTextEncoder(CONFIG)
    with torch.autocast("cpu", torch.bfloat16):
        cond = encoder.encode(["red apple blue", "apple"], ["3d", None])
    (cond.context.float().square().sum() + cond.vector.float().square().sum()).backward()
    assert not [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not encoder.words.weight.grad[0].any() and not encoder.words.weight[0].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision(dtype: torch.dtype, encoder: StyleTextEncoder) -> None:
    exact, half = encoder.encode(["red apple"]), encoder.to(dtype).encode(["red apple"])
    assert half.vector.dtype == half.context.dtype == dtype
    torch.testing.assert_close(half.vector.float(), exact.vector, atol=0.05, rtol=0.05)


@torch.no_grad()
def test_the_context_can_be_of_another_width_and_its_padding_stays_zero() -> None:
    encoder = StyleTextEncoder(TextConfig(vocab=("red",), width=16, heads=2, context_dim=24, vector_dim=8, length=3))
    context = encoder.encode(["red"]).context
    assert context.shape == (1, 4, 24) and not context[:, 2:].any() and context[:, :2].any()


def test_word_numbers_of_another_length(encoder: StyleTextEncoder) -> None:
    with pytest.raises(ShapeError, match=r"\[batch, 5\]"):
        encoder(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(
    "changes", [{"width": 10, "heads": 3}, {"length": 0}, {"vocab": ("a", "a")}, {"styles": ("none",)}, {"depth": -1}]
)
def test_settings_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TextConfig(**changes)
