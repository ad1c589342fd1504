"""The part of YAML that configs are written in, and the refusal of the rest."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.core.checkpoints.yaml_subset import parse
from vitrail.core.errors import ConfigError

CONFIG = """
model:
  base_learning_rate: 4.5e-06   # as published
  target: ldm.models.autoencoder.AutoencoderKL
  params:
    ddconfig: {double_z: True, ch_mult: [1, 2,
        4], attn_resolutions: [ ]}
    scale: .5
    rate: 1e-6
    "first: key": 'it''s # no comment'
    wide: "a\\tb\\u00e9"
    nothing:
    also: ~
    long: two
      lines
data:
- a
- b: 1
  c: [x y, "z,"]
-
  - -3
  - 0.0
"""


def test_a_config_reads_as_its_publisher_means_it() -> None:
    model = {
        "base_learning_rate": 4.5e-06,
        "target": "ldm.models.autoencoder.AutoencoderKL",
        "params": {
            "ddconfig": {"double_z": True, "ch_mult": [1, 2, 4], "attn_resolutions": []},
            "scale": 0.5,
            "rate": 1e-6,
            "first: key": "it's # no comment",
            "wide": "a\tbé",
            "nothing": None,
            "also": None,
            "long": "two lines",
        },
    }
    assert parse(CONFIG) == {"model": model, "data": ["a", {"b": 1, "c": ["x y", "z,"]}, [-3, 0.0]]}


@pytest.mark.parametrize(
    ("text", "value"),
    [("", None), ("---\na: 1", {"a": 1}), ("[1, a]", [1, "a"]), ("word", "word"), ("# only\n", None)]
    + [("- 1\n- 2", [1, 2]), ("{}", {}), ("a:\n- 1", {"a": [1]}), ("a: -.inf", {"a": float("-inf")})],
)  # fmt: skip
def test_small_texts(text: str, value: Any) -> None:
    assert parse(text) == value


LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "an anchor"),
        ("a: *b", "an alias"),
        ("a: !!python/object/apply:os.system [touch ran]", "a tag"),
        ("!!python/name:os.system", "a tag"),
        ("a:\n  <<: {b: 1}", "a merge"),
        ("a: |\n  x", "a literal block"),
        ("%YAML 1.2", "a directive"),
        ("a: [1, 2", "not closed|lacks"),
        ("a: 'x", "not closed"),
        ("a: [1] 2", "goes on"),
        ("a: 1\na: 2", "again"),
        ("{a: 1, a: 2}", "again"),
        ("a:\n\t b: 1", "tab"),
        ("a: 1\n   b: 2\nc", "indented otherwise"),
        ("a: 1\nb", "key: value"),
        ("[" * 100, "deeper"),
        ("\n".join(" " * i + f"k{i}:" for i in range(100)), "deeper"),
        ("- " * 1000 + "x", "deeper"),
        ("x" * 2_000_000, "at most"),
        ("a:" + " " * 9_990_000 + "b", "at most"),
        ("a" + " " * 150_000 + "b", "at most"),
        ("a: [" + "[\n" * 9_000, "not closed"),
        ("a: '" + "b: c\n  " * 9_000, "lines"),
        ('a: "\\q"', "escape"),
        ("? a", "complex"),
        ('a: "' + ('\\"' * 4900 + "\n  ") * 19, "not closed"),  # quotes without end, which are all escaped
        ("a: [" + ("'\"" * 4900 + "\n  ") * 19, "not closed|lacks"),
    ],
)
def test_what_is_no_config_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


scalars = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | st.text(max_size=9)
data = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
)


@settings(max_examples=150, deadline=None)
@given(data.filter(lambda value: isinstance(value, list | dict)))
def test_json_is_yaml(value: Any) -> None:
    text = json.dumps(value)
    try:
        read = parse(text)
    except ConfigError as error:  # JSON writes characters beyond 16 bits in two halves, and infinity as a word
        assert "escape" in str(error)
        return
    assert read == json.loads(text) or "\\ud" in text or "Infinity" in text


def block(value: Any, indent: int = 0) -> str:
    """The block style that PyYAML writes."""
    pad = " " * indent
    if isinstance(value, dict) and value:
        return "".join(f"{pad}{json.dumps(key)}:{_after(item, indent)}" for key, item in value.items())
    if isinstance(value, list) and value:
        return "".join(f"{pad}-{_after(item, indent)}" for item in value)
    return f"{pad}{json.dumps(value)}\n"


def _after(item: Any, indent: int) -> str:
    if isinstance(item, dict | list) and item:
        return "\n" + block(item, indent + 2)
    return f" {json.dumps(item)}\n"


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text("ab :#'\",[]{}-\n", max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab :#", max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(plain)
def test_blocks_read_as_what_was_written(value: Any) -> None:
    assert parse(block(value)) == value


@settings(max_examples=300, deadline=None)
@given(st.text("ab:-# \n\t[]{},'\"&*!|>?%1.\\", max_size=60))
def test_any_text_is_data_or_our_error(text: str) -> None:
    with suppress(ConfigError):
        parse(text)
