"""Building a model without memory for its weights, and giving it those of a file, every key and number checked."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import CheckpointError, KeyMismatch, ShapeError
from .cast import cast, finite
from .family import Family
from .header import Header
from .keymap import KeyMap, origins, translate

LISTED, LONGEST_NAME, NAMED = 8000, 200, 400
"""Characters that a message gives to a list of names, and to one name; names that it may have room for."""

PIECES, SMALL = 8, 1 << 26
"""Pieces that a file is read in, and the bytes below which it is not cut further."""

MOST, EACH = 10_000, 40
"""Operations that building a model may take, and as many more for each tensor of its file: public models take a few
thousand, 4 to 14 a tensor (36 with spectral norm). More would be layers that the file does not fill, and seconds."""


def build(family: Family, settings: Any, header: Header) -> nn.Module:
    """The model of a config on the meta device: shapes without memory.

    Raises: CheckpointError where torch refuses the sizes, or there are more layers than any model has.
    """
    try:
        with torch.device("meta"), Counted(MOST + EACH * len(header.tensors)):
            return family.build(settings)
    except (RuntimeError, MemoryError, ValueError, TypeError, ArithmeticError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{header.path.name}: the model of its config cannot be built: {reason}") from error


class Counted(TorchFunctionMode):
    """Stops a build that goes on and on, as a config with a billion layers would make it, and starts no weights.

    They have no memory to start in, and the first normal_ of a meta tensor makes torch import its compiler: a second.
    """

    def __init__(self, most: int = 20 * MOST) -> None:
        super().__init__()
        self.calls, self.most = 0, most
        self.gradients = torch.is_grad_enabled()

    def __exit__(self, *raised: Any) -> None:
        """Turns gradients on again where a build was stopped inside of torch's own no_grad."""
        super().__exit__(*raised)
        torch.set_grad_enabled(self.gradients)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if self.calls > self.most:
            raise ValueError("it has far more layers than its file fills")
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            tensor = kwargs.get("tensor", args[0] if args else None)
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


def fill(model: nn.Module, family: Family, settings: Any, header: Header, dtype: torch.dtype) -> None:
    """Give a model on the meta device the weights of a file; those that keep their dtype stay mapped from it.

    Raises: KeyMismatch with every key that does not fit; CheckpointError for weights that are not numbers, or that
    a part cannot use.
    """
    table = family.keys(settings)
    names = translate(table, header.tensors)
    check_keys(header, names, expected_keys(family, model), table)
    placed, parts = {new: old for old, new in names.items()}, family.parts(model)
    weights: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in parts}
    owned = {prefix: {name: placed[prefix + name] for name in part.state_dict()} for prefix, part in parts.items()}
    dtypes = {prefix: stored_dtypes(part, dtype) for prefix, part in parts.items()}
    broken: list[str] = []
    for piece in pieces(header, list(names), dtype):
        tensors = header.read(piece)
        for prefix, own in owned.items():
            for name, old in own.items():
                if old in tensors:
                    weights[prefix][name], sound = cast(tensors[old], dtypes[prefix](name))
                    broken += [] if sound else [old]
        del tensors  # what was mapped and cast goes before the next piece comes
    refuse_broken(header, broken)
    for prefix, part in parts.items():
        try:
            part.load_state_dict(weights[prefix], assign=True)
        except ShapeError as error:
            raise CheckpointError(f"{header.path.name}: {error}") from error


def pieces(header: Header, names: list[str], dtype: torch.dtype) -> Iterator[list[str]]:
    """The names by runs that hold an eighth each of the bytes to cast, so that no cast holds all of a file twice."""
    infos = [header.tensors[name] for name in names]
    sizes = [0 if info.dtype == dtype else info.numbers * info.dtype.itemsize for info in infos]
    most = max(SMALL, sum(sizes) // PIECES)
    piece: list[str] = []
    held = 0
    for name, size in zip(names, sizes, strict=True):
        if piece and held + size > most and header.mapped:
            yield piece
            piece, held = [], 0
        piece.append(name)
        held += size
    yield piece


def converted(model: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """A model's weights in a dtype, as `stored_dtypes` has it; None leaves all as they are."""
    tensors = model.state_dict()
    if dtype is None:
        return tensors
    wanted = stored_dtypes(model, dtype)
    return {n: t.to(wanted(n)) if t.is_floating_point() else t for n, t in tensors.items()}


def stored_dtypes(model: nn.Module, dtype: torch.dtype) -> Callable[[str], torch.dtype]:
    """The dtype of a weight by its name: float32 in modules that compute in it, else the one that is asked for."""
    kept = tuple(f"{name}." for name, module in model.named_modules() if getattr(module, "keep_float32", False))
    return lambda name: torch.float32 if name.startswith(kept) else dtype


def expected_keys(family: Family, model: nn.Module) -> dict[str, Tensor]:
    """The tensors that a file must fill, by their names over all parts."""
    return {
        prefix + name: tensor
        for prefix, part in family.parts(model).items()
        for name, tensor in part.state_dict().items()
    }


def check_keys(
    header: Header, names: Mapping[str, str], expected: Mapping[str, Tensor], table: KeyMap | None = None
) -> None:
    """KeyMismatch with every key, by the file's own name, that is missing, left over or of another shape or kind.

    names: of the file's tensors -> of the model's, as the table has it.
    """
    found = {new: header.tensors[old] for old, new in names.items()}
    own = {new: old for old, new in names.items()}
    shared = [(own[name], tensor, found[name]) for name, tensor in expected.items() if name in found]
    wrong = [f"{n} {i.shape} instead of {tuple(t.shape)}" for n, t, i in shared if i.shape != tuple(t.shape)]
    odd = [f"{n} {i.dtype} instead of {t.dtype}" for n, t, i in shared if not _holds(i.dtype, t.dtype)]
    missing = [name for name in expected if name not in found]
    missing = [*origins(table or {}, names, missing[:NAMED]), *missing[NAMED:]]
    extra = [old for old, new in names.items() if new not in expected]
    lists = {"missing": missing, "left over": extra, "of another shape": wrong, "of another kind": odd}
    if report := "; ".join(listed(f"keys {what}", keys) for what, keys in lists.items() if keys):
        raise KeyMismatch(
            f"{header.path.name} does not fit the model that its shapes and config say: {report}. "
            "Is the file whole, and the config beside it, if there is one, its own?"
        )


def _holds(found: torch.dtype, expected: torch.dtype) -> bool:
    """Whether numbers of one kind can stand for another: weights are no whole numbers, and nothing is complex."""
    return found.is_floating_point or not (found.is_complex or expected.is_floating_point)


def check_finite(header: Header, tensors: Mapping[str, Tensor]) -> None:
    """CheckpointError where weights are NaN or infinite."""
    refuse_broken(header, [name for name, tensor in tensors.items() if not finite(tensor)])


def refuse_broken(header: Header, broken: list[str]) -> None:
    """CheckpointError where there are tensors that are not finite."""
    if broken:
        raise CheckpointError(
            f"{header.path.name} holds weights that are no numbers (NaN or infinite): {listed('tensors', broken)}. "
            "The file is damaged or its training went wrong: fetch or train it again"
        )


def listed(what: str, names: Iterable[str]) -> str:
    """ "2 keys missing: a, b", all of them as far as a message holds; nothing where there are none."""
    names = [name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..." for name in names]
    lengths = accumulate(len(name) + 2 for name in names)
    shown = max(1, sum(1 for length in lengths if length <= LISTED))
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} {what}: {', '.join(names[:shown])}{more}" if names else ""
