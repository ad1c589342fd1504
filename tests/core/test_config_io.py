"""Configs survive the way through JSON; everything else is refused by name."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.core.autoencoders.config import AutoencoderConfig
from vitrail.core.bottlenecks import KLConfig, VQConfig
from vitrail.core.config_io import from_dict, to_dict
from vitrail.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int | tuple[int, ...] = 1
    mode: Literal["a", "b"] = "a"


@dataclass(frozen=True, kw_only=True)
class Outer:
    width: int
    inner: Inner | None = None
    scale: float = 1.0
    pair: tuple[int, str] = (1, "x")
    nested: tuple[tuple[int, ...], ...] = ((1,), (2, 3))
    table: dict[str, float] = field(default_factory=dict)
    anything: Any = None
    bottleneck: VQConfig | KLConfig = field(default_factory=KLConfig)


finite = st.floats(allow_nan=False, allow_infinity=False)
outers = st.builds(
    Outer,
    width=st.integers(),
    inner=st.none() | st.builds(Inner, depth=st.integers() | st.lists(st.integers()).map(tuple)),
    scale=finite,
    pair=st.tuples(st.integers(), st.text()),
    nested=st.lists(st.lists(st.integers()).map(tuple)).map(tuple),
    table=st.dictionaries(st.text(), finite),
    bottleneck=st.builds(VQConfig, codes=st.integers(1, 99), ema=st.none() | st.just(0.9)) | st.builds(KLConfig),
)


@given(outers)
def test_a_config_survives_json(config: Outer) -> None:
    assert from_dict(Outer, json.loads(json.dumps(to_dict(config)))) == config


def test_the_autoencoder_survives_json() -> None:
    config = AutoencoderConfig(ch_mult=(1, 2), bottleneck=KLConfig(weight=0.5), double_z=True)
    assert from_dict(AutoencoderConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert to_dict(AutoencoderConfig())["bottleneck"]["kind"] == "vq"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"width": 1, "wdth": 2}, "wdth"),
        ({}, "width"),
        ({"width": "8"}, "Outer.width"),
        ({"width": True}, "Outer.width"),
        ({"width": 1.5}, "Outer.width"),
        ({"width": 1, "scale": "x"}, "Outer.scale"),
        ({"width": 1, "pair": [1]}, "Outer.pair"),
        ({"width": 1, "nested": [[1, "a"]]}, r"Outer.nested\[0\]\[1\]"),
        ({"width": 1, "inner": {"deep": 2}}, "deep"),
        ({"width": 1, "inner": {"mode": "c"}}, "mode"),
        ({"width": 1, "inner": 3}, "Outer.inner"),
        ({"width": 1, "table": []}, "Outer.table"),
        ({"width": 1, "bottleneck": {"codes": 4}}, "kind"),
        ({"width": 1, "bottleneck": {"kind": "vq", "codes": 0}}, "at least 1"),
        ([], "mapping"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(data: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        from_dict(Outer, data)
