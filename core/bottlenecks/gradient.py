"""Ways for the gradient of a rounded vector to reach the vector that was rounded."""

import torch
from torch import Tensor


def straight_through(z: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, with dL/dz = dL/d rounded.

    z, rounded: [..., D]; `rounded` gets no gradient.
    Source: van den Oord et al. 2017, section 3.2.
    """
    return rounded.detach() + (z - z.detach())


def rotation(z: Tensor, rounded: Tensor) -> Tensor:
    """`rounded` = c R z with c = |rounded| / |z| and R the rotation that turns z there; dL/dz = c R^T dL/d rounded.

    R = I - 2 r r^T + 2 q e^T  with unit vectors e of z, q of rounded, r of e + q; R and c count as constants.
    z, rounded: [..., D]; `rounded` gets no gradient. Vectors too short to have a direction go straight through.
    Source: Fifty et al. 2024, section 4.2.
    """
    fixed, target = z.detach(), rounded.detach()
    long, short = target.norm(dim=-1, keepdim=True), fixed.norm(dim=-1, keepdim=True)
    usable = (short > 1e-6) & (long > 1e-6)
    e, q = fixed / short.clamp_min(1e-6), target / long.clamp_min(1e-6)
    r = torch.nn.functional.normalize(e + q, dim=-1)
    along = z - z.detach()
    turned = along - 2 * (along * r).sum(-1, keepdim=True) * r + 2 * (along * e).sum(-1, keepdim=True) * q
    return target + torch.where(usable, turned * (long / short.clamp_min(1e-6)), along)


GRADIENTS = {"straight_through": straight_through, "rotation": rotation}
