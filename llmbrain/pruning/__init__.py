"""Smaller models: which units go, how many from each layer, what the others do for them, and folders that load.

Three axes that are never mixed in silence: the *score* says which units go, the *allocation* how many of each layer, the
*compensation* what the kept ones do for the removed ones.
"""

from .allocation import ALLOCATIONS
from .api import PrunedModel, prune
from .calibration import calibration_blocks
from .compensation import COMPENSATIONS, compensate, schur_residual
from .options import Options
from .scores import SCORES
from .statistics import Moments

__all__ = [
    "ALLOCATIONS",
    "COMPENSATIONS",
    "SCORES",
    "Moments",
    "Options",
    "PrunedModel",
    "calibration_blocks",
    "compensate",
    "prune",
    "schur_residual",
]
