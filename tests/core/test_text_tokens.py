"""CLIP's byte pairs and BERT's word pieces, from every layout of vocabulary files; where libraries are, they agree."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.core.errors import ConfigError
from vitrail.core.text.byte_pairs import BytePairTokenizer, byte_alphabet, merge, vocabulary_of
from vitrail.core.text.vocabulary import find_tokenizer, read_tokenizer
from vitrail.core.text.word_pieces import WordPieceTokenizer

MERGES = [
    ("r", "e"), ("re", "d</w>"), ("a", "p"), ("p", "le</w>"), ("l", "e</w>"), ("ap", "p"), ("app", "le</w>"),
    ("o", "f</w>"), ("'", "s</w>"), ("1", "2"), ("Ã", "©</w>"), ("t", "h"), ("th", "e</w>"), ("!", "!"),
    ("!!", "!</w>"),
]  # fmt: skip
VOCAB = vocabulary_of(MERGES)
PIECES = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "apple", "un", "##like", "##ly", "like", "a", "##s", ",", "!", "##e"),
    *("caf", "##é", "cafe", "水", "1", "##2"),
)
LETTERS = st.sampled_from("aple rdof'sth12é!,.(水\n\tÉ_²½") | st.characters(exclude_categories=("Cs", "Cn"))
TEXTS = st.text(LETTERS, max_size=30)


@pytest.fixture
def clip() -> BytePairTokenizer:
    return BytePairTokenizer(VOCAB, MERGES)


def write_clip(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(VOCAB))
    lines = [" ".join(pair) for pair in MERGES]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")
    return folder


def test_the_alphabet_has_one_visible_letter_for_each_byte() -> None:
    letters = byte_alphabet()
    assert len(set(letters)) == 256 and all(letter.isprintable() and letter != " " for letter in letters)
    assert letters[ord("a")] == "a" and letters[ord(" ")] == "Ġ"


def test_the_vocabulary_of_merges_is_in_clips_order() -> None:
    assert VOCAB["!"] == 0 and VOCAB["!</w>"] == 256 and VOCAB["re"] == 512
    assert (VOCAB["<|startoftext|>"], VOCAB["<|endoftext|>"]) == (len(VOCAB) - 2, len(VOCAB) - 1)


def test_pairs_are_joined_in_the_order_of_their_ranks() -> None:
    ranks = {pair: rank for rank, pair in enumerate(MERGES)}
    assert merge(list("appl") + ["e</w>"], ranks) == ["ap", "ple</w>"]
    assert merge(["x"], ranks) == ["x"] and merge([], ranks) == []
    assert merge(list("aaa"), {("a", "a"): 0}) == ["aa", "a"]


def test_words_are_cut_as_clip_cuts_them(clip: BytePairTokenizer) -> None:
    def tokens(text: str) -> list[str]:
        names = {number: token for token, number in VOCAB.items()}
        return [names[number] for number in clip.ids(text)]

    assert tokens("  RED\n the ") == ["red</w>", "the</w>"]
    assert tokens("red's 12!!!") == ["red</w>", "'s</w>", "1</w>", "2</w>", "!!!</w>"]
    assert tokens("é") == ["Ã©</w>"] == tokens("e\u0301"), "letters and accents are composed first"
    assert tokens("of<|endoftext|>") == ["of</w>", "<|endoftext|>"]
    assert tokens("") == []


def test_every_layout_of_vocabulary_files_gives_the_same_tokens(clip: BytePairTokenizer, tmp_path: Path) -> None:
    text = "The red apple of café's 12 (水)!"
    files = write_clip(tmp_path / "a")
    assert read_tokenizer(files, "clip").ids(text) == clip.ids(text)
    for i, merges in enumerate(([" ".join(pair) for pair in MERGES], [list(pair) for pair in MERGES])):
        place = tmp_path / f"json{i}"
        place.mkdir()
        model = {"type": "BPE", "vocab": VOCAB, "merges": merges}
        (place / "tokenizer.json").write_text(json.dumps({"model": model}))
        assert read_tokenizer(place, "clip").ids(text) == clip.ids(text)
    write_clip(tmp_path / "model" / "tokenizer")
    assert find_tokenizer([tmp_path / "nowhere", tmp_path / "model"], "clip").ids(text) == clip.ids(text)
    assert read_tokenizer(tmp_path, "clip") is None


def test_a_vocabulary_that_transformers_has_fetched_before_is_found(
    clip: BytePairTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    write_clip(tmp_path / "hub" / "models--openai--clip-vit-large-patch14" / "snapshots" / "0a1b")
    assert find_tokenizer([], "clip").ids("red apple") == clip.ids("red apple")
    assert find_tokenizer([], "bert") is None


def test_word_pieces_are_the_longest_that_fit(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES), encoding="utf-8")
    bert = read_tokenizer(tmp_path, "bert")
    names = dict(enumerate(PIECES))

    def tokens(text: str) -> list[str]:
        return [names[number] for number in bert.ids(text)]

    assert tokens("RED apples, unlikely!") == ["red", "apple", "##s", ",", "un", "##like", "##ly", "!"]
    assert tokens("Café 水水 xylo") == ["cafe", "水", "水", "[UNK]"]
    assert tokens("a" * 101) == ["[UNK]"] and bert.unknown("xylo red xylo") == ["xylo"]
    model = {"type": "WordPiece", "vocab": {piece: i for i, piece in enumerate(PIECES)}}
    other = tmp_path / "json"
    other.mkdir()
    (other / "tokenizer.json").write_text(json.dumps({"model": model}))
    assert read_tokenizer(other, "bert").ids("red apples") == bert.ids("red apples")


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("vocab.json", "{", "clip"),
        ("vocab.json", "[]", "clip"),
        ("vocab.json", '{"a": 0}', "clip"),
        ("vocab.json", '{"a": null}', "clip"),
        ("vocab.json", '{"a": 1e999}', "clip"),
        ("vocab.json", "[" * 100_000, "clip"),
        ("vocab.txt", "red\napple", "bert"),
        ("tokenizer.json", '{"model": {"type": "Unigram"}}', "bert"),
        ("tokenizer.json", "{}", "bert"),
    ],
)
def test_a_broken_vocabulary_is_a_clear_error(name: str, content: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "merges.txt").write_text("a b")
    with pytest.raises(ConfigError, match="vocabulary in"):
        read_tokenizer(tmp_path, kind)


@settings(max_examples=50)
@given(TEXTS)
def test_any_text_is_read_by_both(text: str) -> None:
    assert all(0 <= number < len(VOCAB) for number in BytePairTokenizer(VOCAB, MERGES).ids(text))
    vocab = {piece: i for i, piece in enumerate(PIECES)}
    assert all(0 <= number < len(PIECES) for number in WordPieceTokenizer(vocab).ids(text))


def test_transformers_reads_clips_vocabulary_the_same(clip: BytePairTokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    peer = transformers.CLIPTokenizer(vocab=VOCAB, merges=MERGES)

    @settings(max_examples=100, deadline=None)
    @given(TEXTS)
    def agree(text: str) -> None:
        assert clip.ids(text) == peer(text)["input_ids"][1:-1]

    agree()


def test_tokenizers_reads_berts_vocabulary_the_same() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    vocab = {piece: i for i, piece in enumerate(PIECES)}
    peer = tokenizers.BertWordPieceTokenizer(vocab, lowercase=True)
    ours = WordPieceTokenizer(vocab)

    @settings(max_examples=100, deadline=None)
    @given(TEXTS.filter(lambda text: not re.search(r"[\U0002B820-\U0002B91F]|\[(CLS|SEP|PAD|UNK)\]", text)))
    def agree(text: str) -> None:
        """All but 256 ideographs, words to BERT's own code and not to this library, and BERT's tokens spelt out."""
        assert ours.ids(text) == peer.encode(text, add_special_tokens=False).ids

    agree()


def test_tokens_around_a_text_are_known_inside_of_it(clip: BytePairTokenizer) -> None:
    assert clip.ids("!<|endoftext|>red") == [VOCAB["!</w>"], VOCAB["<|endoftext|>"], VOCAB["red</w>"]]
    bert = WordPieceTokenizer({piece: number for number, piece in enumerate(PIECES)})
    assert bert.ids("red[SEP]like[sep]") == [4, 3, 9, *bert.ids("[ sep ]")]


def test_letters_become_lower_case_one_by_one_and_new_signs_are_unknown_words() -> None:
    """As in transformers: Python would write another sigma at the end of a word; no control sign is U+1FAE8."""
    vocab = {piece: number for number, piece in enumerate((*PIECES, "σ", "##σ", "α"))}
    assert WordPieceTokenizer(vocab).ids("ΑΣ") == [vocab["α"], vocab["##σ"]]
    assert WordPieceTokenizer(vocab).ids("\U000e0fff red\x07") == [vocab["[UNK]"], vocab["red"]]
    clip = BytePairTokenizer(VOCAB, MERGES)
    assert clip.ids("ΑΣ") == clip.ids("ασ") != clip.ids("ας")
