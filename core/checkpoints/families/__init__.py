"""Every family of checkpoints that can be opened: one file a publisher, one line here."""

from ..family import Family
from . import compvis, critics, ldm, vitrail

_MODULES = (
    vitrail,
    compvis,
    ldm,
    critics,
)

FAMILIES: dict[str, Family] = {family.name: family for module in _MODULES for family in module.FAMILIES}
