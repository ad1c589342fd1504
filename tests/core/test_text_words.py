"""Words to numbers, and what is said about words that are not known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.core.errors import ConfigError
from vitrail.core.text.words import WordTokenizer, split_style, split_words

VOCAB = ("apple", "berry", "blue", "glasses", "knife", "leaf", "peach", "pinata", "red")
WORDS = WordTokenizer(VOCAB, length=4)


def test_known_words_become_their_place_and_padding_is_zero() -> None:
    assert WORDS.ids("Red, APPLE!").tolist() == [9, 1, 0, 0]
    assert WORDS.ids("").tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("plural", "singular"),
    [("apples", "apple"), ("berries", "berry"), ("leaves", "leaf"), ("knives", "knife"), ("peaches", "peach")],
)
def test_plurals_fold_to_a_known_singular(plural: str, singular: str) -> None:
    assert WORDS.known(plural) == singular
    assert WORDS.unknown(plural) == []


def test_a_known_plural_stays_and_an_unknown_stem_stays_unknown() -> None:
    assert WORDS.known("glasses") == "glasses"
    assert WORDS.unknown("tables s es") == ["tables", "s", "es"]


def test_unknown_words_are_reported_once_in_order_without_fillers() -> None:
    text = "a zebra with the red zebra of qqq"
    assert WORDS.unknown(text) == ["zebra", "qqq"]
    assert WORDS.ids(text).tolist() == [9, 0, 0, 0]


def test_a_filler_in_the_vocabulary_is_a_word() -> None:
    assert WordTokenizer(("of",), 2).ids("of a").tolist() == [1, 0]


def test_notes_suggest_neighbours_and_name_what_was_cut() -> None:
    notes = WORDS.notes("aple red blue red apple berry (leaf:1.2)")
    assert '"aple"' in notes[0] and '"apple"' in notes[0]
    assert "4 words" in notes[1] and "leaf" in notes[1] and "berry" in notes[1]
    assert "weights" in notes[2]
    assert WORDS.notes("red apple") == []


def test_accents_case_and_apostrophes() -> None:
    assert split_words("T-rex's Piñata’s") == ["t", "rexs", "pinatas"]
    assert WORDS.unknown("PIÑATA") == []
    assert WordTokenizer(("Ärger", "arger"), 1).ids("ärger").tolist() == [1]


def test_style_in_the_text() -> None:
    assert split_style("red Style: Pixel apple") == ("red   apple", "pixel")
    assert split_style("hairstyle:short") == ("hairstyle:short", None)
    assert WORDS.read("apple style:3d style:3D").style == "3d"
    assert WORDS.ids("style:red apple").tolist() == [1, 0, 0, 0]
    with pytest.raises(ConfigError, match="3d, pixel"):
        WORDS.ids("style:3d style:pixel")


def test_no_room_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        WordTokenizer(VOCAB, 0)


@given(st.text(max_size=60))
def test_any_text_is_read_and_every_word_accounted_for(text: str) -> None:
    try:
        prompt = WORDS.read(text)
    except ConfigError:
        return
    ids = WORDS.ids(text)
    assert ids.shape == (4,) and int(ids.min()) >= 0 and int(ids.max()) <= len(VOCAB)
    assert int((ids > 0).sum()) == len(prompt.words) <= 4
    assert not set(prompt.unknown) & set(VOCAB)


@given(st.lists(st.sampled_from([*VOCAB, "zzz", "qq"]), max_size=9))
def test_every_word_is_used_cut_or_reported(words: list[str]) -> None:
    prompt = WORDS.read(" ".join(words))
    assert list(prompt.words + prompt.cut) == [word for word in words if word in VOCAB]
    assert set(prompt.unknown) == set(words) - set(VOCAB)
