"""The critic's part in training a network that makes pictures."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..losses.adversarial import GAMES, LogitAverages, lecam, r1
from ..losses.critics import Critic
from ..losses.reconstruction import feature_matching
from ..nn.actnorm import ActNorm
from . import distributed


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What critic and generator play for.

    game: "hinge", "vanilla" or "relativistic" (`losses.GAMES`).
    lecam_weight: of LeCam's regularisation, for little data (Tseng et al. 2021 take 0.3 down to 0.0001).
    r1_weight: of the penalty on the critic's slope at true pictures; r1_every: steps between those that pay it, with
    as many times its weight (Karras et al. 2020).
    Raises: ConfigError for another game, or numbers out of range.
    """

    game: str = "hinge"
    lecam_weight: float = 0.0
    r1_weight: float = 0.0
    r1_every: int = 16

    def __post_init__(self) -> None:
        if self.game not in GAMES:
            raise ConfigError(f'game is "{self.game}"; expected one of {", ".join(GAMES)}')
        if min(self.lecam_weight, self.r1_weight) < 0 or self.r1_every < 1:
            raise ConfigError(
                f"lecam_weight ({self.lecam_weight}) and r1_weight ({self.r1_weight}) must be 0 or more, r1_every "
                f"({self.r1_every}) at least 1"
            )


class Adversary:
    """A critic under some rules: what the generator owes it, and what it has to learn itself.

    networks: what has to be saved for it beside the critic, by name.
    autocast: makes the context of the forward passes.
    """

    def __init__(
        self, critic: Critic, rules: Rules, autocast: Callable[[], AbstractContextManager[Any]], device: str
    ) -> None:
        self.critic, self.rules, self.game, self.autocast = critic, rules, GAMES[rules.game], autocast
        self.averages = LogitAverages().to(device)
        self.networks: dict[str, nn.Module] = {"averages": self.averages} if rules.lecam_weight else {}

    def criticise(self, made: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """The generator's two terms: "fooling" the critic, and "features" like those of the truth."""
        self._start(truth)
        self.critic.requires_grad_(False)
        with self.autocast():
            fake, felt = self.critic.features(made)
            real, wanted = self.critic.features(truth)
        self.critic.requires_grad_(True)
        return {
            "fooling": self.game.generator(fake.float(), real.float()),
            "features": feature_matching(felt, wanted),
        }

    def loss(self, made: Tensor, truth: Tensor, step: int) -> Tensor:
        """The critic's own, [] float32; made: without a graph."""
        with self.autocast():
            real, fake = self.critic(truth), self.critic(made)
        real, fake = real.float(), fake.float()
        loss = self.game.critic(real, fake)
        if self.rules.lecam_weight:
            self.averages.update(real, fake)
            distributed.average([self.averages.real, self.averages.fake])
            loss = loss + self.rules.lecam_weight * lecam(real, fake, self.averages.real, self.averages.fake)
        if self.rules.r1_weight and step % self.rules.r1_every == 0:
            x = truth.float().requires_grad_()
            loss = loss + self.rules.r1_weight * self.rules.r1_every * r1(self.critic(x), x)
        return loss

    @torch.no_grad()
    def _start(self, truth: Tensor) -> None:
        """Have every ActNorm start from the pictures of all processes."""
        norms = [module for module in self.critic.modules() if isinstance(module, ActNorm) and not module.initialized]
        if norms:
            self.critic(truth)
            distributed.average([part.data for norm in norms for part in (norm.loc, norm.scale)])
