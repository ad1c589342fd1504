"""What critic and generator play for."""

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
