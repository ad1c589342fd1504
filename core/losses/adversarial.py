"""What critic and generator play for."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """(mean max(0, 1 - real) + mean max(0, 1 + fake)) / 2 of logits of any shape; [] float. Source: Lim & Ye 2017."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def vanilla_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """(mean softplus(-real) + mean softplus(fake)) / 2 of logits; [] float. Source: Goodfellow et al. 2014, eq. 1."""
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def hinge_generator(fake: Tensor) -> Tensor:
    """-mean fake, the generator's side of the hinge loss (and of VQGAN's, whatever the critic's); [] float."""
    return -fake.mean()


def vanilla_generator(fake: Tensor) -> Tensor:
    """mean softplus(-fake), the side that does not saturate; [] float. Source: Goodfellow et al. 2014, section 3."""
    return F.softplus(-fake).mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: nn.Parameter) -> Tensor:
    """|grad reconstruction| / (|grad adversarial| + 1e-4) at the generator's last layer, clamped to 0..1e4, detached.

    reconstruction, adversarial: [] losses whose graphs are kept. Source: Esser et al. 2021, eq. 7.
    """
    norms = [torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)]
    return (norms[0] / (norms[1] + 1e-4)).clamp(0.0, 1e4).detach()
