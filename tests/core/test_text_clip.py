"""CLIP's text encoder against transformers' numbers; weights of words; texts of several chunks."""

import math
from dataclasses import replace

import pytest
import torch
from golden_cases import case
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from vitrail.core.errors import ConfigError, ShapeError
from vitrail.core.text.clip import ClipTextConfig, ClipTextEncoder
from vitrail.core.text.prompts import Frame, chunks, weighted

TINY = ClipTextConfig(vocab=60, length=8, width=12, inner=24, depth=3, heads=2, start=58, end=59, pad=59)


class Letters:
    """One token a letter."""

    def ids(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") + 1 for letter in text if letter.isalpha()]


@pytest.fixture
def encoder() -> ClipTextEncoder:
    torch.manual_seed(0)
    return ClipTextEncoder(TINY, Letters()).eval()


@torch.no_grad()
def test_the_encoder_gives_transformers_numbers() -> None:
    golden = case("clip_text_quickgelu")
    config = ClipTextConfig(
        vocab=120, length=16, width=48, inner=192, depth=3, heads=6, start=118, end=119, pad=119
    )  # fmt: skip
    encoder = ClipTextEncoder(config).eval()
    encoder.load_state_dict(load_file(golden.path / "model.safetensors"))
    ids, mask = golden.tensors["in.tokens"], golden.tensors["in.mask"]
    golden.check("out.last_hidden", encoder(ids))
    golden.check("out.masked_last_hidden", encoder(ids, mask))
    golden.check("out.pooled", encoder.pooled(ids))
    for i, states in enumerate(encoder.hidden(ids)[:3]):
        golden.check(f"out.hidden_{i}", states)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@torch.no_grad()
def test_transformers_computes_the_same(activation: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=60, hidden_size=12, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=8, hidden_act=activation, bos_token_id=58, eos_token_id=59, pad_token_id=59,
    )  # fmt: skip
    torch.manual_seed(3)
    peer = transformers.CLIPTextModel(config).eval()
    ours = ClipTextEncoder(replace(TINY, activation=activation)).eval()
    state = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in peer.state_dict().items()}
    ours.load_state_dict({name: tensor for name, tensor in state.items() if "position_ids" not in name})
    ids = torch.randint(0, 59, (3, 8))
    ids[:, 0], ids[:, -1], ids[1, 4] = 58, 59, 59
    torch.testing.assert_close(ours(ids), peer(ids).last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.pooled(ids), peer(ids).pooler_output, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_layers_that_are_passed_over(encoder: ClipTextEncoder) -> None:
    ids, skipping = torch.tensor([[58, 1, 2, 59, 59, 59, 59, 59]]), ClipTextEncoder(replace(TINY, skip=1)).eval()
    skipping.load_state_dict(encoder.state_dict())
    norm = encoder.text_model.final_layer_norm
    assert torch.equal(skipping(ids), norm(encoder.hidden(ids)[2]))
    assert torch.equal(skipping(ids), encoder(ids, skip=1)) and not torch.equal(skipping(ids), encoder(ids))


@torch.no_grad()
def test_a_token_sees_only_those_before_it(encoder: ClipTextEncoder) -> None:
    one, other = encoder(torch.tensor([[58, 1, 2, 3]])), encoder(torch.tensor([[58, 1, 2, 4]]))
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3], other[:, 3])


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a red apple", [("a red apple", 1.0)]),
        ("a (red:1.2) apple", [("a ", 1.0), ("red", 1.2), (" apple", 1.0)]),
        ("(red) ((apple))", [("red", 1.1), (" ", 1.0), ("apple", 1.1**2)]),
        ("(a (b:0.5) c)", [("a ", 1.1), ("b", 0.5), (" c", 1.1)]),
        ("(a (b) c:2)", [("a ", 2.0), ("b", 2.2), (" c", 2.0)]),
        (r"\(red\) (\(x\):1.5)", [("(red) ", 1.0), ("(x)", 1.5)]),
        ("(red apple", [("(red apple", 1.0)]),
        ("red) (apple)", [("red) ", 1.0), ("apple", 1.1)]),
        ("(a:b) (c:-.5) (d:nan)", [("a:b", 1.1), (" ", 1.0), ("c", -0.5), (" ", 1.0), ("d:nan", 1.1)]),
        ("()", []),
    ],
)
def test_weights_as_users_of_comfyui_write_them(text: str, pieces: list[tuple[str, float]]) -> None:
    found = weighted(text)
    assert [piece for piece, _ in found] == [piece for piece, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


@given(st.text("ab(): .12\\", max_size=40))
def test_no_text_is_lost_or_fails(text: str) -> None:
    found = weighted(text)
    assert all(math.isfinite(weight) for _, weight in found)
    letters = [letter for letter in text if letter in "ab"]
    assert [letter for piece, _ in found for letter in piece if letter in "ab"] == letters


def test_a_long_text_goes_on_in_further_chunks() -> None:
    frame = Frame(length=8, start=58, end=59, pad=0)
    ids, weights = chunks("abcdefghi", frame, Letters())
    assert ids.tolist() == [[58, 1, 2, 3, 4, 5, 6, 59], [58, 7, 8, 9, 59, 0, 0, 0]]
    assert (weights == 1).all()
    ids, weights = chunks("abcd(efg:2)", frame, Letters())
    assert ids.tolist() == [[58, 1, 2, 3, 4, 59, 0, 0], [58, 5, 6, 7, 59, 0, 0, 0]], "a short piece stays whole"
    assert weights.tolist() == [[1] * 8, [1, 2, 2, 2, 1, 1, 1, 1]]
    assert chunks("", frame, Letters())[0].tolist() == [[58, 59, 0, 0, 0, 0, 0, 0]]
    assert len(chunks("abcdef", frame, Letters())[0]) == 1


@given(st.text("abc(:2)", max_size=60))
def test_chunks_hold_every_token_in_order(text: str) -> None:
    frame = Frame(length=6, start=58, end=59, pad=0)
    ids, weights = chunks(text, frame, Letters())
    assert ids.shape == weights.shape and (ids[:, 0] == 58).all() and ((ids == 59).sum(1) == 1).all()
    assert [token for token in ids.flatten().tolist() if token not in (0, 58, 59)] == Letters().ids(text)


@torch.no_grad()
def test_a_weight_moves_a_token_away_from_the_empty_text(encoder: ClipTextEncoder) -> None:
    plain, heavy = encoder.encode(["ab"]).context, encoder.encode(["(a:3)b"]).context
    empty = encoder.null(1).context
    torch.testing.assert_close(heavy[0, 1], empty[0, 1] + 3 * (plain[0, 1] - empty[0, 1]))
    torch.testing.assert_close(heavy[0, 2:], plain[0, 2:])
    torch.testing.assert_close(encoder.encode(["(ab:1.0)"]).context, plain)


@torch.no_grad()
def test_texts_of_different_lengths_in_one_batch(encoder: ClipTextEncoder) -> None:
    both = encoder.encode(["abcdefghi", "a"]).context
    assert both.shape == (2, 16, 12)
    torch.testing.assert_close(both[:1], encoder.encode(["abcdefghi"]).context)
    torch.testing.assert_close(both[1:, :8], encoder.encode(["a"]).context)
    torch.testing.assert_close(both[1:, 8:], encoder.null(1).context)
    assert encoder.notes("abcdefghi") == ["the text is longer than 6 tokens and was read in 2 chunks"]
    assert encoder.notes("a") == []


def test_what_this_encoder_does_not_have(encoder: ClipTextEncoder) -> None:
    with pytest.raises(ConfigError, match="knows no styles"):
        encoder.encode(["a"], ["pixel"])
    assert encoder.encode(["a"], ["none"]).vector is None
    encoder.tokenizer = None
    assert encoder.null(2).context.shape == (2, 8, 12), "the empty text needs no vocabulary"
    with pytest.raises(ConfigError, match="vocab.json"):
        encoder.encode(["a"])


@pytest.mark.parametrize("ids", [torch.zeros(1, 9, dtype=torch.int64), torch.zeros(3), torch.full((1, 2), 60)])
def test_token_numbers_that_do_not_fit(encoder: ClipTextEncoder, ids: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match="token numbers"):
        encoder(ids)


@pytest.mark.parametrize(
    "change", [{"heads": 5}, {"width": 0}, {"length": 2}, {"activation": "relu"}, {"skip": 4}, {"pad": 60}]
)
def test_sizes_out_of_range(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(TINY, **change)
