"""Finding a tokenizer's vocabulary: beside the weights, else among the files that `transformers`, `open_clip` or `clip`
have on this disk. No network, and nothing of theirs is imported.
"""

import gzip
import json
import os
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError
from .byte_pairs import BytePairTokenizer, vocabulary_of
from .prompts import Tokenizer
from .word_pieces import WordPieceTokenizer

Kind = Literal["clip", "bert"]

LARGEST = 16_000_000
"""Bytes of a vocabulary file; CLIP's and BERT's have about one million."""

MERGES = 49152 - 256 - 2
"""Merges that CLIP took from its list."""

SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
"""Where the token that a text is padded with is said."""

HUB = {"clip": "openai/clip-vit-large-patch14", "bert": "bert-base-uncased"}
"""Where the hub keeps the vocabularies; only a copy that is in its cache on this disk is read."""


def find_tokenizer(folders: Iterable[Path], kind: Kind) -> Tokenizer | None:
    """The tokenizer of the first vocabulary found: in the folders, in a `tokenizer` folder in them, in libraries.

    Raises: ConfigError for a vocabulary that cannot be read.
    """
    found = (tokenizer for place in _within(folders) if (tokenizer := read_tokenizer(place, kind)) is not None)
    return next(found, None) or _installed(kind)


def find_padding(folders: Iterable[Path]) -> int | None:
    """The number of the token that the config of a CLIP tokenizer in one of the folders pads with, else None.

    Raises: ConfigError for files that cannot be read.
    """
    return next((pad for place in _within(folders) if (pad := _padding(place)) is not None), None)


def _within(folders: Iterable[Path]) -> list[Path]:
    return [place for folder in folders for place in (folder / "tokenizer", folder)]


def _padding(folder: Path) -> int | None:
    try:
        configs = (json.loads(_read(folder / name)) for name in SETTINGS if (folder / name).is_file())
        given = next((token for config in configs if (token := config.get("pad_token")) is not None), None)
        token = given.get("content") if isinstance(given, dict) else given
        return None if token is None else _token_numbers(folder).get(token)
    except (OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"the tokenizer's config in {folder} cannot be read: {error}") from error


def _token_numbers(folder: Path) -> dict[str, int]:
    if (folder / "vocab.json").is_file():
        return json.loads(_read(folder / "vocab.json"))
    return _model(folder, "BPE")["vocab"] if (folder / "tokenizer.json").is_file() else {}


def read_tokenizer(folder: Path, kind: Kind) -> Tokenizer | None:
    """The tokenizer of the vocabulary files in a folder; None where there are none.

    Raises: ConfigError for files that are no vocabulary of that kind.
    """
    reader = next((read for names, read in READERS[kind] if all((folder / name).is_file() for name in names)), None)
    if reader is None:
        return None
    try:
        return reader(folder)
    except ConfigError as error:
        raise ConfigError(f"the vocabulary in {folder}: {error}") from error
    except (OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"the vocabulary in {folder} cannot be read: {error}") from error


def _read(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise ConfigError(f"{path.name} has {path.stat().st_size} bytes; a vocabulary has at most {LARGEST}")
    return path.read_text(encoding="utf-8")


def _pairs(lines: Iterable[str]) -> list[tuple[str, str]]:
    """The merges of a list, one a line; the first line may be a title."""
    split = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    return [(pair[0], pair[1]) for pair in split if len(pair) == 2]


def _byte_pairs(folder: Path) -> Tokenizer:
    return BytePairTokenizer(
        _numbers(json.loads(_read(folder / "vocab.json"))), _pairs(_read(folder / "merges.txt").splitlines())
    )


def _word_pieces(folder: Path) -> Tokenizer:
    lines = _read(folder / "vocab.txt").split("\n")
    return WordPieceTokenizer({line.rstrip("\r"): number for number, line in enumerate(lines) if line.strip()})


def _model(folder: Path, kind: str) -> Any:
    """The model of a tokenizer.json of the library `tokenizers`."""
    model = json.loads(_read(folder / "tokenizer.json"))["model"]
    if model.get("type", kind) != kind:
        raise ConfigError(f"tokenizer.json is of the type {model['type']}; expected {kind}")
    return model


def _json_byte_pairs(folder: Path) -> Tokenizer:
    model = _model(folder, "BPE")
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    return BytePairTokenizer(_numbers(model["vocab"]), [(pair[0], pair[1]) for pair in merges])


def _json_word_pieces(folder: Path) -> Tokenizer:
    return WordPieceTokenizer(_numbers(_model(folder, "WordPiece")["vocab"]))


def _numbers(vocab: dict[str, Any]) -> dict[str, int]:
    return {token: int(number) for token, number in vocab.items()}


READERS: dict[str, tuple[tuple[tuple[str, ...], Callable[[Path], Tokenizer]], ...]] = {
    "clip": ((("vocab.json", "merges.txt"), _byte_pairs), (("tokenizer.json",), _json_byte_pairs)),
    "bert": ((("vocab.txt",), _word_pieces), (("tokenizer.json",), _json_word_pieces)),
}
"""Files that must be there together, and what reads them."""


def _installed(kind: Kind) -> Tokenizer | None:
    """From the hub's cache, or, for CLIP, the list of merges that comes with open_clip and clip."""
    if (folder := _cached(HUB[kind])) and (found := read_tokenizer(folder, kind)):
        return found
    for library in ("open_clip", "clip") if kind == "clip" else ():
        spec = find_spec(library)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(place) / "bpe_simple_vocab_16e6.txt.gz").is_file():
                lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : MERGES + 1]
                return BytePairTokenizer(vocabulary_of(merges := _pairs(lines)), merges)
    return None


def _cached(repository: str) -> Path | None:
    """A repository's newest copy in the cache that `transformers` keeps on this disk."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    copies = (cache / f"models--{repository.replace('/', '--')}" / "snapshots").glob("*/")
    return max(copies, key=lambda copy: copy.stat().st_mtime, default=None)
