"""The running average of a network's weights, which is what samples best and what ships."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """average <- average + (1 - d) (weights - average), d = min(decay, (1 + step) / (10 + step)).

    Buffers and integers are copied as they are. Source: Karras et al. 2024 (EDM2), section 3, for why; the warm-up is
    that of the TensorFlow documentation of ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self._trained = {name for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, step: int) -> None:
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        state = self.model.state_dict()
        names = [name for name in state if name in self._trained]
        torch._foreach_lerp_([self.average[n] for n in names], [state[n] for n in names], weight)  # pyright: ignore
        for name in state.keys() - self._trained:
            self.average[name].copy_(state[name])

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The model with the averaged weights and in eval mode, for as long as the block lasts."""
        kept = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        was_training = self.model.training
        self.model.load_state_dict(self.average)
        self.model.eval()
        try:
            yield self.model
        finally:
            self.model.load_state_dict(kept)
            self.model.train(was_training)

    def state_dict(self) -> dict[str, Tensor]:
        return self.average

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            self.average[name].copy_(value)
