"""Parts of a CompVis checkpoint, for tests of single networks."""

from golden_cases import Case
from torch import Tensor

from vitrail.core.checkpoints.read import read_header, read_tensors


def part_of(case: Case, prefix: str) -> dict[str, Tensor]:
    """The float32 tensors of the case's `model.*` file whose names start with a prefix, without it."""
    tensors = read_tensors(read_header(next(case.path.glob("model.*"))))
    return {key.removeprefix(prefix): value.float() for key, value in tensors.items() if key.startswith(prefix)}


def unet_of(case: Case) -> dict[str, Tensor]:
    """The weights of the diffusion network."""
    return part_of(case, "model.diffusion_model.")
