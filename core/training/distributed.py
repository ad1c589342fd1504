"""Several processes on one run: each takes its share of the batch, gradients are averaged.

Start with `torchrun --nproc-per-node N -m vitrail train ...`; without it everything here is the single process.
"""

import os
from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn

from ..errors import ConfigError


def start() -> None:
    """Join the group that torchrun has set up, if it has."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def device(name: str) -> str:
    """The device of this process: of several on one machine, each takes a GPU of its own when told "cuda".

    Raises: ConfigError where there is no such GPU.
    """
    if not name.startswith("cuda"):
        return name
    chosen = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" else name
    if int(chosen.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise ConfigError(f"there is no {chosen} here, but {torch.cuda.device_count()} GPUs; try --device cpu")
    return chosen


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor, in place, by its mean over the processes."""
    if world() == 1:
        return
    parts = list(tensors)
    flat = torch.cat([part.detach().flatten() for part in parts])
    distributed.all_reduce(flat)
    flat /= world()
    for part, mean in zip(parts, flat.split([part.numel() for part in parts]), strict=True):
        part.copy_(mean.view_as(part))


def anyone(flag: bool) -> bool:
    """Whether any process says so; all have to ask at the same step."""
    vote = torch.tensor([float(flag)])
    average([vote])
    return bool(vote > 0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the mean gradient; a parameter without one counts as zero."""
    if world() == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    average(p.grad for p in trained if p.grad is not None)
