"""Losses, and the critics that learn some of them."""

from .adversarial import (
    hinge_discriminator,
    hinge_generator,
    lecam,
    r1,
    relativistic_discriminator,
    relativistic_generator,
    vanilla_discriminator,
    vanilla_generator,
)
from .reconstruction import feature_matching, gradient_l1, l1, mse

LOSSES = {
    "l1": l1,
    "mse": mse,
    "gradient_l1": gradient_l1,
    "feature_matching": feature_matching,
    "hinge_discriminator": hinge_discriminator,
    "hinge_generator": hinge_generator,
    "vanilla_discriminator": vanilla_discriminator,
    "vanilla_generator": vanilla_generator,
    "relativistic_discriminator": relativistic_discriminator,
    "relativistic_generator": relativistic_generator,
    "r1": r1,
    "lecam": lecam,
}
