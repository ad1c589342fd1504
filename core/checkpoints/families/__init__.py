"""Every family of checkpoints that can be opened: one file a publisher, one line here."""

from ..family import Family
from . import compvis, ldm, vitrail

FAMILIES: dict[str, Family] = {family.name: family for family in (*vitrail.FAMILIES, *compvis.FAMILIES, *ldm.FAMILIES)}
