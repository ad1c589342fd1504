"""Parts that a training file holds beside its model, opened on their own."""

import os

import torch

from ..errors import UnknownFamily
from ..losses.perceptual import PerceptualLoss
from .families.critics import INSIDE_PERCEPTUAL, LPIPS, part_inside
from .read import read_header


def load_perceptual(path: str | os.PathLike[str]) -> PerceptualLoss:
    """LPIPS from a file of its own, or from a training file of taming's that holds it; float32, in eval mode.

    Raises: CheckpointError and its kinds, as `load`; UnknownFamily where there is none in the file.
    """
    header = read_header(path)
    for prefix in ("", INSIDE_PERCEPTUAL):
        if (found := part_inside(header, prefix, LPIPS, torch.float32)) is not None:
            return found
    raise UnknownFamily(
        f"{header.path.name} holds no LPIPS: expected net.slice1.0.weight, lin0.model.1.weight and so on, by "
        f"themselves or after {INSIDE_PERCEPTUAL}"
    )
