"""The loop that every trainer shares: learning rate, averaging, checkpoints, resuming.

All chance is a function of (seed, step, process): the data order is counted, and the global generator is seeded anew
before each step. A run that is stopped and resumed therefore goes on exactly where it stopped.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ..checkpoints.replacing import replacing
from ..errors import CheckpointError, ConfigError
from ..types import TrainStep
from . import distributed
from .ema import Ema


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train.

    steps: optimiser steps in all; batch_size: pictures a step, over all processes.
    learning_rate: of AdamW, reached after `warmup` steps, falling linearly to 2 % from `decay_from` (0..1) on.
    ema: decay of the averaged weights; clip: largest norm of the gradient; precision: "bf16" or "fp32".
    save_every: minutes between checkpoints.
    """

    steps: int = 10_000
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup: int = 100
    decay_from: float = 0.5
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 1.0
    precision: str = "bf16"
    save_every: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ConfigError(f"steps ({self.steps}) and batch_size ({self.batch_size}) must be at least 1")
        if self.precision not in ("bf16", "fp32"):
            raise ConfigError(f'precision is "{self.precision}"; expected "bf16" or "fp32"')

    def rate(self, step: int) -> float:
        """Share of the full learning rate at `step`, counted from 0."""
        done = step / self.steps
        decay = 1.0 if done < self.decay_from else max(0.02, (1 - done) / (1 - self.decay_from))
        return min(1.0, (step + 1) / max(1, self.warmup)) * decay


class Task(ABC):
    """What is trained: networks, their optimisers, and one update.

    networks: saved and resumed, by name; averaged: the name of the one that ships; optimizers: by name;
    ema: set by `train`.
    """

    networks: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    averaged: str
    ema: Ema

    def __init__(self, schedule: Schedule, device: str = "cpu") -> None:
        self.schedule, self.device = schedule, device
        distributed.start()

    @abstractmethod
    def update(self, step: int) -> dict[str, float]:
        """One optimiser step, `step` counted from 0; returns losses by name."""

    @abstractmethod
    def export(self, path: Path) -> None:
        """Write the network, as it is now, to `path` in the form that users load."""

    @abstractmethod
    def samples(self) -> Tensor:
        """Pictures to look at, [B, 3, H, W] in -1..1."""

    def figures(self) -> dict[str, float]:
        """What to tell of the network as it is now, by name, such as how well it does on held-out pictures."""
        return {}

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.schedule.precision == "bf16")

    def share(self, step: int) -> tuple[int, int]:
        """Number of the first picture of this step for this process, and how many it takes."""
        each = max(1, self.schedule.batch_size // distributed.world())
        return step * each * distributed.world() + distributed.rank() * each, each

    def adam(
        self,
        *modules: nn.Module,
        rate: float | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
        matrices_only: bool = False,
    ) -> AdamW:
        """Fused AdamW over what is to be trained in `modules`; its rate is scaled by the schedule.

        matrices_only: the weights of linear layers decay, and nothing else.
        """
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": parameters}]
        if matrices_only:
            layers = (layer for module in modules for layer in module.modules())
            matrices = {layer.weight for layer in layers if isinstance(layer, nn.Linear)}
            kept = [p for p in parameters if p not in matrices]
            groups = [{"params": [p for p in parameters if p in matrices]}, {"params": kept, "weight_decay": 0.0}]
        rate = rate or self.schedule.learning_rate
        optimizer = AdamW(groups, rate, betas=betas, weight_decay=self.schedule.weight_decay, fused=True)
        for group in optimizer.param_groups:
            group["full_rate"] = rate
        return optimizer

    def apply(self, name: str, loss: Tensor) -> None:
        """Backward, average over processes, clip, step."""
        optimizer = self.optimizers[name]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        distributed.average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, self.schedule.clip)
        optimizer.step()


def train(task: Task, folder: Path, *, resume: bool = False) -> Iterator[TrainStep]:
    """Run `task` to the end of its schedule, yielding after each step; `task` exports to `folder` when it ends.

    folder: gets `state.pt` every few minutes (written aside, then renamed) and `model.safetensors`.
    Closing the generator saves where it stands. Between steps the caller may look at `task.samples()`, best with
    `task.ema.applied()`.
    Raises: CheckpointError where there is a state that `resume` does not allow to overwrite, or one that does not fit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state, schedule = folder / "state.pt", task.schedule
    if state.exists() and not resume:
        raise CheckpointError(f"{state} is of an earlier run: go on with --resume, or choose another folder")
    task.ema = Ema(task.networks[task.averaged], schedule.ema)
    first = restore(task, state) if state.exists() else 0
    saved, step = time.monotonic(), first
    try:
        for step in range(first, schedule.steps):
            losses = _one(task, step)
            if time.monotonic() - saved > schedule.save_every * 60:
                save(task, state, step + 1)
                saved = time.monotonic()
            yield TrainStep(step=step + 1, total=schedule.steps, losses=losses)
    except GeneratorExit:
        save(task, state, step + 1)
        raise
    save(task, state, max(first, schedule.steps))
    if distributed.rank() == 0:
        with task.ema.applied():
            task.export(folder / "model.safetensors")


def _one(task: Task, step: int) -> dict[str, float]:
    torch.manual_seed(((task.schedule.seed * 1_000_003 + step) * 64 + distributed.rank()) % 2**63)
    for optimizer in task.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["full_rate"] * task.schedule.rate(step)
    losses = task.update(step)
    task.ema.update(step)
    return losses


def save(task: Task, path: Path, step: int) -> None:
    """Write everything that a resumed run needs, aside and then renamed; only the first process writes."""
    if distributed.rank() != 0:
        return
    state = {
        "step": step,
        "networks": {name: network.state_dict() for name, network in task.networks.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in task.optimizers.items()},
        "ema": task.ema.state_dict(),
    }
    with replacing(path) as aside:
        torch.save(state, aside)


def restore(task: Task, path: Path) -> int:
    """Put the state of `path` into the task; returns the number of steps that were done."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, network in task.networks.items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in task.optimizers.items():
            full_rates = [group["full_rate"] for group in optimizer.param_groups]
            optimizer.load_state_dict(state["optimizers"][name])
            for group, rate in zip(optimizer.param_groups, full_rates, strict=True):
                group["full_rate"] = rate
        task.ema.load_state_dict(state["ema"])
    except (KeyError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise CheckpointError(f"{path} is broken, or of another model or recipe than this one: {error}") from error
    return int(state["step"])
