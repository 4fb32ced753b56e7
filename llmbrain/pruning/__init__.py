"""Smaller models: which units go, how many from each layer, what the others do for them, and folders that load.

Three axes that are never mixed in silence: the *score* says which units go, the *allocation* how many of each
layer, the *compensation* what the kept ones do for the removed ones.
"""

from .allocation import ALLOCATIONS
from .api import PrunedModel, prune
from .calibration import calibration_blocks
from .checkpoint import load_pruned, save_pruned
from .compensation import COMPENSATIONS, compensate, schur_residual
from .grid import kept_overlap, run_grid
from .network_scores import LayerMaps, layer_networks, published_networks
from .options import Options
from .pruner import Pruner
from .scores import SCORES
from .statistics import Moments

__all__ = [
    "ALLOCATIONS",
    "COMPENSATIONS",
    "SCORES",
    "LayerMaps",
    "Moments",
    "Options",
    "PrunedModel",
    "Pruner",
    "calibration_blocks",
    "compensate",
    "kept_overlap",
    "layer_networks",
    "load_pruned",
    "prune",
    "published_networks",
    "run_grid",
    "save_pruned",
    "schur_residual",
]
