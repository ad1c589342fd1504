"""The part of YAML that configs of models are written in; the rest is refused by name: no text can be more than data.

Read are blocks of keys and of dashes, flow lists and mappings, quoted and plain scalars, comments. Refused are anchors,
aliases and merges (which can grow without bound), tags (which can name code), literal blocks and several documents.
Source: YAML 1.2.2, yaml.org/spec/1.2.2; numbers such as 1e-6 are numbers, as OmegaConf reads them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError

LIMIT, WIDEST, LONGEST, DEEPEST = 200_000, 10_000, 500, 40
"""Characters of a config and of a line, lines of a value, levels of nesting: no text takes long to read."""

REFUSED = {
    "&": "an anchor",
    "*": "an alias",
    "!": "a tag",
    "|": "a literal block",
    ">": "a folded block",
    "%": "a directive",
    "@": "a reserved sign",
    "`": "a reserved sign",
    "?": "a complex key",
}
WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "yes": True, "on": True}
WORDS |= {"false": False, "no": False, "off": False}
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", '"': '"', "\\": "\\", "/": "/", " ": " ", "e": "\x1b"}

_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\"")
_KEY = re.compile(rf"({_QUOTED.pattern}|[^\s'\"\[\]{{}}#,&*!|>%@`-][^#]*?|-[^\s#][^#]*?):(?:\s+(.*)|)", re.DOTALL)
_SIGNS = re.compile(r"\\.|['\"\[\]{}]")
_PLAIN_IN_FLOW = re.compile(r"(?:[^,\[\]{}:]|:(?=[^\s,\[\]{}]))+")


def parse(text: str) -> Any:
    """The data that a config says: mappings, lists, text, numbers, true and false, null.

    Raises: ConfigError, with the line, for what is no YAML or lies outside the part that is read.
    """
    if len(text) > LIMIT:
        raise ConfigError(f"{len(text)} characters; a config has at most {LIMIT}")
    lines = [line for number, raw in enumerate(text.splitlines(), 1) if (line := _line(number, raw))]
    if lines and lines[0].text == "---":
        lines = lines[1:]
    if not lines:
        return None
    reader = _Blocks(lines)
    value = reader.block(lines[0].indent, 0)
    if reader.at < len(lines):
        raise _wrong(lines[reader.at], "is indented otherwise than what stands above it")
    return value


@dataclass(frozen=True)
class _Line:
    number: int
    indent: int
    text: str


def _line(number: int, raw: str) -> _Line | None:
    """A line without its comment; None where nothing is left."""
    if len(raw) > WIDEST:
        raise ConfigError(f"line {number}: {len(raw)} characters; a line of a config has at most {WIDEST}")
    bare = raw.lstrip(" ")
    text = _uncommented(bare).rstrip()
    if text.startswith("\t"):
        raise ConfigError(f"line {number}: indented by a tab; YAML takes spaces")
    return _Line(number, len(raw) - len(bare), text) if text else None


def _uncommented(text: str) -> str:
    if "#" not in text:
        return text
    quoted = list(_quoted_spans(text))
    for found in re.finditer(r"(?:^|(?<=\s))#", text):
        if not any(start < found.start() < end for start, end in quoted):
            return text[: found.start()]
    return text


def _quoted_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where quoted scalars stand. A quote that nothing closes is plain, and so are all of its kind after it."""
    end, plain = 0, ""
    for quote in re.finditer("['\"]", text):
        if quote.start() < end or quote[0] in plain:
            continue
        if found := _QUOTED.match(text, quote.start()):
            end = found.end()
            yield found.span()
        else:
            plain += quote[0]


def _wrong(line: _Line, what: str) -> ConfigError:
    shown = line.text if len(line.text) <= 40 else f"{line.text[:40]}..."
    return ConfigError(f"line {line.number}: {shown!r} {what}")


class _Blocks:
    """Reads lines by their indents."""

    def __init__(self, lines: list[_Line]) -> None:
        self.lines, self.at = lines, 0

    @property
    def line(self) -> _Line | None:
        return self.lines[self.at] if self.at < len(self.lines) else None

    def block(self, indent: int, depth: int) -> Any:
        line = self.lines[self.at]
        if depth > DEEPEST:
            raise _wrong(line, f"lies deeper than {DEEPEST} levels")
        if _is_item(line.text):
            return self._list(indent, depth)
        return self._mapping(indent, depth) if _KEY.fullmatch(line.text) else self._scalar(line.text, indent - 1, depth)

    def _list(self, indent: int, depth: int) -> list[Any]:
        items = []
        while (line := self.line) and line.indent == indent and _is_item(line.text):
            rest = line.text[1:].lstrip(" ")
            if not rest:
                self.at += 1
                items.append(self._below(indent, depth))
                continue
            inner = indent + len(line.text) - len(rest)
            self.lines[self.at] = _Line(line.number, inner, rest)
            items.append(self.block(inner, depth + 1))
        return items

    def _mapping(self, indent: int, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        while (line := self.line) and line.indent == indent and not _is_item(line.text):
            found = _KEY.fullmatch(line.text)
            if not found:
                raise _wrong(line, "is no `key: value`")
            key, rest = str(_unquoted(found[1].strip(), line)), (found[2] or "").strip()
            if key in made or key == "<<":
                raise _wrong(line, "says a key again" if key in made else "is a merge, which is not read")
            if rest:
                made[key] = self._scalar(rest, indent, depth)
            else:
                self.at += 1
                made[key] = self._below(indent, depth, dashes=True)
        return made

    def _below(self, indent: int, depth: int, dashes: bool = False) -> Any:
        """What stands deeper than `indent`, or dashes just below a key; None where nothing does."""
        line = self.line
        if line is None or line.indent < indent or (line.indent == indent and not (dashes and _is_item(line.text))):
            return None
        return self.block(line.indent, depth + 1)

    def _scalar(self, text: str, indent: int, depth: int) -> Any:
        """A value that starts on this line and goes on over deeper ones."""
        first = self.lines[self.at]
        parts, left = [text], _Left(text)
        self.at += 1
        while (line := self.line) and line.indent > indent and (left.open or not _KEY.fullmatch(line.text)):
            parts.append(line.text)
            left.read(line.text)
            self.at += 1
            if len(parts) > LONGEST:
                raise _wrong(first, f"goes on over more than {LONGEST} lines")
        return _Flow(" ".join(parts), first, depth).value()


class _Left:
    """Whether a value that begins with a quote or a bracket has left one open, after the lines read so far."""

    def __init__(self, text: str) -> None:
        self.quote, self.depth, self.plain = "", 0, text[0] not in "'\"[{"
        self.read(text)

    @property
    def open(self) -> bool:
        return not self.plain and (bool(self.quote) or self.depth > 0)

    def read(self, text: str) -> None:
        """One more line; quotes and brackets count outside of quoted text only."""
        for sign in () if self.plain else _SIGNS.findall(text):
            sign = sign if self.quote == '"' else sign[-1]  # a backslash means nothing elsewhere
            if self.quote:
                self.quote = "" if sign == self.quote else self.quote
            elif sign in "'\"":
                self.quote = sign
            else:
                self.depth += {"[": 1, "{": 1}.get(sign, 0) - {"]": 1, "}": 1}.get(sign, 0)


def _is_item(text: str) -> bool:
    return text == "-" or text.startswith("- ")


def _unquoted(text: str, line: _Line) -> Any:
    if text.startswith("'"):
        return text[1:-1].replace("''", "'")
    if text.startswith('"'):
        return re.sub(r"\\(x..|u.{4}|.)", lambda found: _escape(found[1], line), text[1:-1], flags=re.DOTALL)
    return text


def _escape(code: str, line: _Line) -> str:
    if code[0] in "xu" and len(code) > 1:
        try:
            return chr(int(code[1:], 16))
        except ValueError:
            raise _wrong(line, f"has the escape \\{code}, which is no character") from None
    if code not in ESCAPES:
        raise _wrong(line, f"has the escape \\{code}, which is not read")
    return ESCAPES[code]


class _Flow:
    """Reads one value: a list in brackets, a mapping in braces, a quoted or a plain scalar."""

    def __init__(self, text: str, line: _Line, depth: int) -> None:
        self.text, self.line, self.depth, self.at = text, line, depth, 0

    def value(self) -> Any:
        if self.text[0] not in "'\"[{":
            return self._plain(self.text)
        value = self._inner(self.depth)
        if self.text[self.at :].strip():
            raise _wrong(self.line, f"goes on after its value: {self.text[self.at :].strip()[:20]!r}")
        return value

    def _inner(self, depth: int) -> Any:
        if depth > DEEPEST:
            raise _wrong(self.line, f"lies deeper than {DEEPEST} levels")
        sign = self._sign()
        if sign == "[":
            return self._many("]", lambda: self._inner(depth + 1))
        if sign == "{":
            return self._pairs(depth)
        if found := _QUOTED.match(self.text, self.at):
            self.at = found.end()
            return _unquoted(found[0], self.line)
        found = _PLAIN_IN_FLOW.match(self.text, self.at)
        if not found or sign in "'\"":
            raise _wrong(self.line, "is not closed or lacks a value")
        self.at = found.end()
        return self._plain(found[0].strip())

    def _pairs(self, depth: int) -> dict[str, Any]:
        pairs = self._many("}", lambda: self._pair(depth))
        if len(made := dict(pairs)) < len(pairs):
            raise _wrong(self.line, "says a key again")
        return made

    def _pair(self, depth: int) -> tuple[str, Any]:
        key = self._inner(depth + 1)
        if isinstance(key, dict | list) or key == "<<":
            raise _wrong(self.line, "has a key that is not read")
        if self._sign() != ":":
            return str(key), None
        self.at += 1
        return str(key), None if self._sign() in ",}" else self._inner(depth + 1)

    def _many(self, end: str, one: Any) -> list[Any]:
        self.at += 1
        items = []
        while self._sign() != end:
            items.append(one())
            if (sign := self._sign()) == ",":
                self.at += 1
            elif sign != end:
                raise _wrong(self.line, f"lacks a {end!r}")
        self.at += 1
        return items

    def _sign(self) -> str:
        """The next character that is no space; "" at the end."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def _plain(self, text: str) -> Any:
        if text and (what := REFUSED.get(text[0])):
            raise _wrong(self.line, f"holds {what}, which is not read in a config")
        if text.lower() in WORDS:
            return WORDS[text.lower()]
        if len(text) < 400 and _INT.fullmatch(text):
            return int(text.replace("_", ""))
        if len(text) < 400 and _FLOAT.fullmatch(text):
            return float(re.sub(r"\.(?=inf|nan)", "", text.replace("_", ""), flags=re.IGNORECASE))
        return text
