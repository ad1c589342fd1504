"""Numbered classes by their names."""

from collections.abc import Sequence
from difflib import get_close_matches

from ..errors import ConfigError


def class_number(label: str, classes: int, names: Sequence[str] = ()) -> int:
    """The number of a class by its number or name; empty or "none" is the last class, which means "no class".

    names: of the classes in order, as far as they are known; compared without case.
    Raises: ConfigError for a number out of range or an unknown name, with the nearest known ones.
    """
    wanted = label.strip().lower()
    if wanted in ("", "none"):
        return classes - 1
    known = [name.lower() for name in names]
    if wanted in known:
        return known.index(wanted)
    if not (wanted.isascii() and wanted.isdecimal()):
        near = ", ".join(_near(wanted, names)) if names else "the model's file names none, so give a number"
        raise ConfigError(f'there is no class "{label}"; {f"near: {near}" if names else near}')
    if len(wanted) > 9 or int(wanted) >= classes:
        raise ConfigError(f"there is no class {label}; this model has {classes}, 0 to {classes - 1}")
    return int(wanted)


def _near(name: str, names: Sequence[str]) -> list[str]:
    by_case = {known.lower(): known for known in names}
    return [by_case[match] for match in get_close_matches(name, by_case, n=3, cutoff=0)]
