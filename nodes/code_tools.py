"""Nodes that change codes, and keep them in files."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..core.types import Codes
from . import host
from .spec import InputTypes, Node, choice, given, integer, number, seed, socket, text

OPERATIONS = ("fill", "swap", "blend", "randomise", "shift")
SUFFIX = ".safetensors"
NO_CODES = "wire codes from VQ Encode, Latent to Codes or Load Codes"
LAST = 2**31 - 1


class EditCodes(Node):
    """Change pictures by their codes."""

    ID, TITLE, CATEGORY = "VitrailEditCodes", "Edit Codes", "Vitrail/codes"
    DESCRIPTION = (
        "Changes codes: fills them, swaps two, takes some from another picture, mixes them up, moves the grid, or "
        "paints single cells. With a mask, only inside of it."
    )
    SEARCH_ALIASES = ["paint codes", "replace token", "swap codes", "blend codes", "code interpolation", "edit tokens"]
    RETURN_TYPES, RETURN_NAMES = ("VQ_CODES",), ("edited",)
    OUTPUT_TOOLTIPS = ("The changed codes, for VQ Decode.",)

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "codes": socket("VQ_CODES", "The codes to change, from VQ Encode or any node that makes codes."),
                "operation": choice(
                    OPERATIONS,
                    "fill: every cell becomes code. swap: code and to_code change places. blend: a share of the cells "
                    "comes from other. randomise: a share of the cells gets codes of cells drawn from the same picture "
                    "(from other, if it is wired). shift: the grid moves right and down and comes round again.",
                    default="fill",
                ),
                "code": integer(
                    0, 0, LAST, "The code to fill with, or the first to swap. Codebook Inspect shows them."
                ),
                "to_code": integer(0, 0, LAST, "The code that swap exchanges with code."),
                "amount": number(
                    0.5,
                    0.0,
                    1.0,
                    "blend, randomise: the share of the cells (of the mask's, if there is one). shift: how far, as a "
                    "share of each side: 0.5 brings the corners to the middle.",
                ),
                "seed": seed(
                    "Which cells blend and randomise choose, and what randomise draws: image i uses seed + i."
                ),
                "strokes": text(
                    "",
                    'Painted cells, last and anywhere: a list such as [{"code": 5, "cells": [[0, 0], [0, 1]]}], each '
                    "cell as [row, column] from the top left.",
                    multiline=True,
                    placeholder='[{"code": 5, "cells": [[0, 0], [0, 1]]}]',
                ),
            },
            "optional": {
                "mask": socket("MASK", "Where to change: cells at whose centre it is 0.5 or more. Of any size."),
                "other": socket("VQ_CODES", "Codes to take from, of the same autoencoder and size (blend, randomise)."),
            },
        }

    def execute(
        self,
        codes: Codes,
        operation: str,
        code: int,
        to_code: int,
        amount: float,
        seed: int,
        strokes: str,
        mask: Tensor | None = None,
        other: Codes | None = None,
    ) -> tuple[Codes]:
        from ..core.code_edits import Edit, edit_codes

        edit = Edit(code=code, to_code=to_code, amount=amount, seed=seed, other=other)
        return (edit_codes(given(codes, "codes", NO_CODES), operation, edit, mask=mask, strokes=strokes),)


class SaveCodes(Node):
    """Keep codes in a file."""

    ID, TITLE, CATEGORY = "VitrailSaveCodes", "Save Codes", "Vitrail/codes"
    DESCRIPTION = (
        "Writes codes to a file in the output folder, as few bits each as they need: 10 for a codebook of 1024. "
        "A picture of 64 x 64 pixels with the shipped autoencoder takes 320 bytes and a short header."
    )
    SEARCH_ALIASES = ["export codes", "save tokens", "compress image", "write codes"]
    RETURN_TYPES, RETURN_NAMES = (), ()
    OUTPUT_TOOLTIPS = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        return {
            "required": {
                "codes": socket("VQ_CODES", "The codes to write; a batch goes into one file."),
                "filename_prefix": text(
                    "codes/vitrail", "Folder and beginning of the file's name; a number follows it, as for pictures."
                ),
            },
            "hidden": {"files": host.FILES},
        }

    def execute(self, codes: Codes, filename_prefix: str, files: Any = None) -> dict[str, Any]:
        from ..core.code_files import save_codes

        codes = given(codes, "codes", NO_CODES)
        height, width = codes.image_size
        entry = host.save_data(filename_prefix, SUFFIX, (width, height), lambda path: save_codes(codes, path), files)
        return {"ui": {"codes": [entry]}, "result": ()}


class LoadCodes(Node):
    """Codes from a file."""

    ID, TITLE, CATEGORY = "VitrailLoadCodes", "Load Codes", "Vitrail/codes"
    DESCRIPTION = "Reads codes that Save Codes wrote. Decode them with the autoencoder that made them."
    SEARCH_ALIASES = ["import codes", "load tokens", "open codes", "read codes"]
    RETURN_TYPES, RETURN_NAMES = ("VQ_CODES",), ("codes",)
    OUTPUT_TOOLTIPS = ("The codes as they were saved, all pictures of the batch.",)

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        tip = "A file that Save Codes wrote: those of the input folder, then those of the output folder."
        return {"required": {"name": choice(host.data_names(SUFFIX), tip)}, "hidden": {"files": host.FILES}}

    @classmethod
    def IS_CHANGED(cls, name: str | None = None, **_: Any) -> str:
        return host.data_changed(name)

    @classmethod
    def VALIDATE_INPUTS(cls, name: str | None = None, files: Any = None) -> bool | str:
        """True, or what is missing; a name that comes by wire (None) is looked at when the node runs."""
        from ..core.errors import VitrailError

        try:
            return name is None or bool(host.find_data(name, files))
        except VitrailError as error:
            return str(error)

    def execute(self, name: str, files: Any = None) -> tuple[Codes]:
        from ..core.code_files import load_codes

        return (load_codes(host.find_data(name, files)),)


NODES = (EditCodes, SaveCodes, LoadCodes)
