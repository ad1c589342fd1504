"""Every family of checkpoints that can be opened: one file a publisher, one line here."""

from ..family import Family
from . import (
    codeformer,
    compvis,
    critics,
    diffusers,
    diffusers_vae,
    esrgan,
    ldm,
    llamagen,
    sd,
    taming_prior,
    text_encoders,
    vitrail,
    vqfr,
)

_MODULES = (
    vitrail,
    compvis,
    ldm,
    sd,
    critics,
    llamagen,
    esrgan,
    diffusers_vae,
    diffusers,
    text_encoders,
    taming_prior,
    codeformer,
    vqfr,
)

FAMILIES: dict[str, Family] = {family.name: family for module in _MODULES for family in module.FAMILIES}
