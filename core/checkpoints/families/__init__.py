"""Every family of checkpoints that can be opened: one file a publisher, one line here."""

from ..family import Family
from . import compvis, critics, esrgan, ldm, llamagen, vitrail

_MODULES = (
    vitrail,
    compvis,
    ldm,
    critics,
    llamagen,
    esrgan,
)

FAMILIES: dict[str, Family] = {family.name: family for module in _MODULES for family in module.FAMILIES}
