"""Configs to plain dictionaries, as JSON can hold them, and back."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import ConfigError

T = TypeVar("T")
KIND = "kind"
UNNAMED = "may_be_unnamed"
"""A class attribute: what names no kind is of this one, since files did not name it while it was the only one."""


def to_dict(config: Any) -> dict[str, Any]:
    """A config and the configs in it as dictionaries, tuples as lists; one of several kinds of config says which.

    >>> to_dict(AutoencoderConfig())["bottleneck"]
    {"kind": "vq", "codes": 1024, ...}
    """
    hints = get_type_hints(type(config))
    return {f.name: _plain(getattr(config, f.name), hints[f.name]) for f in fields(config)}


def from_dict(cls: type[T], data: Mapping[str, Any]) -> T:
    """The config that `to_dict` made into `data`; keys that are not there take their defaults.

    Raises: ConfigError for a key that the config does not have, one that it needs, or a value of another type.
    """
    return _config(cls, data, cls.__name__)


def kind_of(cls: type) -> str:
    """What a file calls this kind of config: VQConfig is "vq"."""
    return cls.__name__.removesuffix("Config").lower()


def _plain(value: Any, hint: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        kind = {KIND: kind_of(type(value))} if len(_configs_in(hint)) > 1 else {}
        return kind | to_dict(value)
    if isinstance(value, tuple | list):
        inner = get_args(hint)[0] if get_args(hint) else Any
        return [_plain(item, inner) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, Any) for key, item in value.items()}
    return value


def _configs_in(hint: Any) -> list[type]:
    """The dataclasses among the members of a union (or the hint itself)."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [member for member in members if isinstance(member, type) and is_dataclass(member)]


def _config(cls: type[T], data: Any, where: str) -> T:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} is {data!r}; expected a mapping with the settings of {cls.__name__}")
    known: dict[str, Field[Any]] = {f.name: f for f in fields(cls)}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(set(map(str, data)) - set(known)):
        raise ConfigError(f"{where} has unknown settings {', '.join(unknown)}; known are {', '.join(known)}")
    if missing := [name for name, f in known.items() if name not in data and _needed(f)]:
        raise ConfigError(f"{where} lacks the settings {', '.join(missing)}")
    hints = get_type_hints(cls)
    return cls(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in data.items()})


def _needed(f: Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type that the hint names; ConfigError where it is another."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _member(hint, value, where)
    if isinstance(hint, type) and is_dataclass(hint):
        return _config(hint, value, where)
    if reader := _READERS.get(origin or hint):
        return reader(hint, value, where)
    raise ConfigError(f"{where}: settings of type {hint} cannot be read from a file")


def _member(hint: Any, value: Any, where: str) -> Any:
    """The first member of a union that fits; among several configs the one that `kind` names."""
    configs = {kind_of(cls): cls for cls in _configs_in(hint)}
    if isinstance(value, Mapping) and len(configs) > 1:
        kind = value.get(KIND) or next((name for name, cls in configs.items() if getattr(cls, UNNAMED, False)), None)
        if kind not in configs:
            raise ConfigError(f"{where} is of kind {kind!r}; expected one of {', '.join(configs)}")
        return _config(configs[kind], {key: item for key, item in value.items() if key != KIND}, where)
    if isinstance(value, Mapping) and configs:
        return _config(next(iter(configs.values())), value, where)
    for member in get_args(hint):
        with suppress(ConfigError):
            return _value(member, value, where)
    raise _wrong(hint, value, where)


def _tuple(hint: Any, value: Any, where: str) -> tuple[Any, ...]:
    members = get_args(hint)
    if not isinstance(value, list | tuple):
        raise _wrong(hint, value, where)
    if members and members[-1] is not Ellipsis:
        if len(members) != len(value):
            raise _wrong(hint, value, where)
        return tuple(_value(m, v, f"{where}[{i}]") for i, (m, v) in enumerate(zip(members, value, strict=True)))
    inner = members[0] if members else Any
    return tuple(_value(inner, item, f"{where}[{i}]") for i, item in enumerate(value))


def _mapping(hint: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(hint, value, where)
    inner = (get_args(hint) or (str, Any))[1]
    return {str(key): _value(inner, item, f"{where}[{key!r}]") for key, item in value.items()}


def _number(hint: Any, value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(hint, value, where)
    return float(value)


def _exactly(hint: Any, value: Any, where: str) -> Any:
    if type(value) is not hint:
        raise _wrong(hint, value, where)
    return value


def _literal(hint: Any, value: Any, where: str) -> Any:
    if value not in get_args(hint):
        raise _wrong(hint, value, where)
    return value


def _wrong(hint: Any, value: Any, where: str) -> ConfigError:
    return ConfigError(f"{where} is {value!r}; expected {getattr(hint, '__name__', hint)}")


_READERS: dict[Any, Callable[[Any, Any, str], Any]] = {
    tuple: _tuple,
    dict: _mapping,
    float: _number,
    int: _exactly,
    bool: _exactly,
    str: _exactly,
    NoneType: _exactly,
    Literal: _literal,
}
