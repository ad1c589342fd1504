"""Pickles read opcode by opcode before anything is built of them: what they name, and how much they claim to hold.

Nothing is looked up, called or made: a stack of plain values follows what a loader would do. So every class and
function is known by its name, whatever the protocol, and a few bytes that would unfold to a huge or endless object are
refused before a loader meets them.
Source: the opcodes' meaning is that of Python's `pickletools`; the tuple that stands for a storage is torch.save's.
"""

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

from ..errors import CheckpointError, UnsafeFile

MOST = 500_000
"""Opcodes that a pickle may have, each use of a tuple again counted as all that it unfolds to; models take 100,000."""

AGAIN = "fetch the file again"
TRUST = "Ask its author for safetensors, or convert it yourself where you trust it"
"""What to do."""

ENCODINGS = ("latin1", "latin-1", "ascii", "utf-8")
"""How pickles write bytes as text; others, such as punycode, take long."""

SIZES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1,
    "Bool": 1, "ComplexDouble": 16, "ComplexFloat": 8, "QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1,
    "QUInt2x4": 1, "Untyped": 1,
}  # fmt: skip
"""Bytes of a number in torch's storages."""


class Name(str):
    """The dotted name of a class or function."""


class Items:
    """A tuple that a pickle makes. weight: parts that it unfolds to, which hashing it would visit one by one."""

    __slots__ = ("parts", "weight")

    def __init__(self, parts: list[Any]) -> None:
        self.parts, self.weight = parts, 1
        for part in parts:
            self.weight += part.weight if type(part) is Items else 1


@dataclass
class Scan:
    """What one pickle holds.

    value: what it is itself, where that is a number or a text. protocol: its highest.
    storages: bytes that each of torch's storages claims, by its key. texts, names: every text and dotted name in it.
    """

    value: Any = None
    protocol: int = 0
    storages: dict[str, int] = field(default_factory=dict)
    texts: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)


def scan(stream: IO[bytes], known: Callable[[str], bool]) -> Scan:
    """Read one pickle from a stream, up to its end. known: whether a dotted name may stand in it.

    Raises: UnsafeFile for a name that is not known, or for an object far larger than its file; CheckpointError for
    what is no whole pickle; both say it as what the file does.
    """
    reader = _Reader(known)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            reader.left -= 1
            _STEPS[opcode.code](reader, argument)
            if reader.left < 0:
                raise UnsafeFile(f"holds a pickle that unfolds to more than {MOST} parts, far more than weights take")
        reader.found.value = reader.stack[-1]
    except (LookupError, ValueError, TypeError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"is cut short or broken, its pickle cannot be read ({reason}): {AGAIN}") from None
    return reader.found


class _Reader:
    """Follows the stack. Of objects only texts, numbers, names and tuples are kept; all others are None."""

    def __init__(self, known: Callable[[str], bool]) -> None:
        self.known = known
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.left = MOST
        self.found = Scan()

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("it takes more than it made")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def above_mark(self) -> list[Any]:
        return self.pop(len(self.stack) - self.marks.pop())

    def push(self, parts: list[Any]) -> None:
        """A tuple, or what is made of the parts and may unfold as they do."""
        self.stack.append(Items(parts))

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise UnsafeFile(f"holds a pickle that names a class by something other than text. {TRUST}")
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        if not self.known(full := f"{module}.{name}"):
            raise UnsafeFile(
                f"names {full[:200]}, which is not among the known training classes, so it was not opened: loading it "
                f"could run code. {TRUST}"
            )
        self.found.names.add(full)
        self.stack.append(Name(full))

    def call(self, function: Any, parts: list[Any]) -> None:
        if not isinstance(function, Name):
            raise UnsafeFile(f"holds a pickle that calls something that has no name. {TRUST}")
        arguments = parts[-1].parts if parts and isinstance(parts[-1], Items) else parts
        if function == "_codecs.encode" and not (len(arguments) == 2 and arguments[1] in ENCODINGS):
            raise UnsafeFile(f"holds a pickle that encodes text in an unusual way. {TRUST}")
        self.push(parts)

    def storage(self, claim: Any) -> None:
        """A storage of torch's: ("storage", its class, key, device, numbers, ...)."""
        parts = claim.parts if isinstance(claim, Items) else []
        if len(parts) < 5 or parts[0] != "storage":
            raise UnsafeFile(f"holds a pickle that refers to something other than weights. {TRUST}")
        kind, key, numbers = parts[1], parts[2], parts[4]
        size = SIZES.get(kind.rpartition(".")[2].removesuffix("Storage")) if isinstance(kind, Name) else None
        if size is None or type(key) is not str or type(numbers) is not int or numbers < 0:
            raise UnsafeFile(
                f"holds weights of a kind that torch does not have ({kind}, {numbers!s:.40} numbers). {TRUST}"
            )
        self.found.storages[key] = max(self.found.storages.get(key, 0), numbers * size)
        self.stack.append(None)


def _mark(reader: _Reader, _: Any) -> None:
    reader.marks.append(len(reader.stack))


def _pop(reader: _Reader, _: Any) -> None:
    if reader.marks and reader.marks[-1] == len(reader.stack):
        reader.marks.pop()
    else:
        reader.pop(1)


def _stop(reader: _Reader, _: Any) -> None:
    if not reader.stack or reader.marks:
        raise IndexError("it ends in the middle")


def _proto(reader: _Reader, protocol: int) -> None:
    reader.found.protocol = max(reader.found.protocol, protocol)


def _put(reader: _Reader, at: Any) -> None:
    reader.memo[len(reader.memo) if at is None else at] = reader.stack[-1]


def _again(reader: _Reader, value: Any) -> None:
    if type(value) is Items:
        reader.left -= value.weight
    reader.stack.append(value)


def _instance(reader: _Reader, names: str) -> None:
    parts = reader.above_mark()
    reader.name(*names.split(" ", 1))
    reader.call(reader.stack.pop(), parts)


def _object(reader: _Reader, _: Any) -> None:
    function, *parts = reader.above_mark()
    reader.call(function, parts)


def _reduce(reader: _Reader, _: Any) -> None:
    function, *parts = reader.pop(2)
    reader.call(function, parts)


def _new(reader: _Reader, _: Any) -> None:
    function, *parts = reader.pop(3)
    reader.call(function, parts)


def _extension(reader: _Reader, number: int) -> None:
    raise UnsafeFile(f"names a class by the number {number} (an extension of copyreg). {TRUST}")


def _persistent(reader: _Reader, claim: str) -> None:
    raise UnsafeFile(f"holds a pickle that refers to something outside of it: {claim[:80]!r}. {TRUST}")


_SPECIAL: dict[str, Callable[[_Reader, Any], None]] = {
    "MARK": _mark,
    "POP": _pop,
    "STOP": _stop,
    "PROTO": _proto,
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _put,
    "GET": lambda reader, at: _again(reader, reader.memo[at]),
    "BINGET": lambda reader, at: _again(reader, reader.memo[at]),
    "LONG_BINGET": lambda reader, at: _again(reader, reader.memo[at]),
    "GLOBAL": lambda reader, names: reader.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda reader, _: reader.name(*reader.pop(2)),
    "INST": _instance,
    "OBJ": _object,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new,
    "TUPLE": lambda reader, _: reader.push(reader.above_mark()),
    "TUPLE1": lambda reader, _: reader.push(reader.pop(1)),
    "TUPLE2": lambda reader, _: reader.push(reader.pop(2)),
    "TUPLE3": lambda reader, _: reader.push(reader.pop(3)),
    "EMPTY_TUPLE": lambda reader, _: reader.push([]),
    "FROZENSET": lambda reader, _: reader.push(reader.above_mark()),
    "DUP": lambda reader, _: _again(reader, reader.stack[-1]),
    "PERSID": _persistent,
    "BINPERSID": lambda reader, _: reader.storage(reader.pop(1)[0]),
    "EXT1": _extension,
    "EXT2": _extension,
    "EXT4": _extension,
}
"""Opcodes that matter beyond how many things they take and make."""


def _value(reader: _Reader, value: Any) -> None:
    reader.stack.append(value)
    if type(value) is str:
        reader.found.texts.add(value)


def _plain(opcode: pickletools.OpcodeInfo) -> Callable[[_Reader, Any], None]:
    """What any other opcode does: it makes its argument, or takes things off the stack and makes others, all None."""
    if opcode.arg is not None and not opcode.stack_before and opcode.stack_after:
        return _value
    before = [thing for thing in opcode.stack_before if thing not in (pickletools.markobject, pickletools.stackslice)]
    marked = pickletools.markobject in opcode.stack_before
    kept = len(before) if marked and opcode.stack_after == before[:1] else 0  # a list that takes items stays
    pops, pushes = len(before) - kept, [None] * (len(opcode.stack_after) - kept)

    def step(reader: _Reader, _: Any) -> None:
        if marked:
            reader.above_mark()
        if pops:
            reader.pop(pops)
        reader.stack += pushes

    return step


_STEPS = {opcode.code: _SPECIAL.get(opcode.name) or _plain(opcode) for opcode in pickletools.opcodes}
