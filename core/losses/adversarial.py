"""What critic and generator play for."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """(mean max(0, 1 - real) + mean max(0, 1 + fake)) / 2 of logits of any shape; [] float32. Source: Lim & Ye 2017."""
    return (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()) / 2


def vanilla_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """(mean softplus(-real) + mean softplus(fake)) / 2 of logits; [] float32. Source: Goodfellow et al. 2014, eq. 1."""
    return (F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()) / 2


def hinge_generator(fake: Tensor) -> Tensor:
    """-mean fake, the generator's side of the hinge loss (and of VQGAN's, whatever the critic's); [] float32."""
    return -fake.float().mean()


def vanilla_generator(fake: Tensor) -> Tensor:
    """mean softplus(-fake), the side that does not saturate; [] float32. Source: Goodfellow et al. 2014, section 3."""
    return F.softplus(-fake.float()).mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: nn.Parameter) -> Tensor:
    """|grad reconstruction| / (|grad adversarial| + 1e-4) at the generator's last layer, clamped to 0..1e4, detached.

    reconstruction, adversarial: [] losses whose graphs are kept. Source: Esser et al. 2021, eq. 7.
    """
    wanted, played = (
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float().norm()
        for loss in (reconstruction, adversarial)
    )
    return (wanted / (played + 1e-4)).clamp(0.0, 1e4)


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """(mean softplus(-(real - mean fake)) + mean softplus(fake - mean real)) / 2 of logits; [] float32.

    Source: Wang et al. 2018 (ESRGAN), eq. 1, the mean of its two terms; Jolicoeur-Martineau 2018.
    """
    real, fake = real.float(), fake.float()
    return (F.softplus(fake.mean() - real).mean() + F.softplus(fake - real.mean()).mean()) / 2


def relativistic_generator(fake: Tensor, real: Tensor) -> Tensor:
    """The same with the roles exchanged: what was made should look more real than the average truth; [] float32.

    Source: Wang et al. 2018 (ESRGAN), eq. 2, the mean of its two terms.
    """
    return relativistic_discriminator(fake, real)


def r1(logits: Tensor, x: Tensor) -> Tensor:
    """mean over pictures of |d logits / dx|^2 / 2, of the mean logit of each picture; [] float32.

    logits: [B, ...], made from `x`; x: [B, ...], real pictures, requires grad. The penalty can be differentiated.
    Source: Mescheder et al. 2018, eq. 9, without its weight.
    """
    means = logits.float().view(len(logits), -1).mean(1)
    slope = torch.autograd.grad(means.sum(), x, create_graph=True)[0]
    return slope.float().square().flatten(1).sum(1).mean() / 2


def lecam(real: Tensor, fake: Tensor, mean_real: Tensor, mean_fake: Tensor) -> Tensor:
    """mean (real - mean_fake)^2 + mean (fake - mean_real)^2 of logits; [] float32.

    mean_real, mean_fake: [] moving averages of the logits (`LogitAverages`); no gradient goes there.
    Source: Tseng et al. 2021, eq. 5.
    """
    far_real, far_fake = real.float() - mean_fake.detach(), fake.float() - mean_real.detach()
    return far_real.square().mean() + far_fake.square().mean()


class LogitAverages(nn.Module):
    """Moving averages of a critic's mean logits, for `lecam`.

    decay: of the averages; the first update sets them.
    """

    real: Tensor
    fake: Tensor
    started: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        for name in ("real", "fake"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("started", torch.tensor(False))

    @torch.no_grad()
    def update(self, real: Tensor, fake: Tensor) -> None:
        """Take in the logits of one batch."""
        weight = 1 - self.decay if self.started else 1.0
        self.real.lerp_(real.float().mean(), weight)
        self.fake.lerp_(fake.float().mean(), weight)
        self.started.fill_(True)


@dataclass(frozen=True)
class Game:
    """What the two sides minimise: critic(real, fake) and generator(fake, real), both of logits, each [] float32."""

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]


GAMES = {
    "hinge": Game(hinge_discriminator, lambda fake, real: hinge_generator(fake)),
    "vanilla": Game(vanilla_discriminator, lambda fake, real: vanilla_generator(fake)),
    "relativistic": Game(relativistic_discriminator, relativistic_generator),
}
