"""Smaller models: which units go, how many from each layer, what the others do for them, and folders that load.

Three axes that are never mixed in silence: the *score* says which units go, the *allocation* how many of each
layer, the *compensation* what the kept ones do for the removed ones.
"""

from .allocation import ALLOCATIONS
from .compensation import COMPENSATIONS, compensate, schur_residual
from .grid import kept_overlap, run_grid
from .measured import Pruner
from .prune import PrunedModel, prune
from .pruned import load_pruned, save_pruned
from .published import LayerMaps, joint_networks, layer_networks, published_networks
from .recipe import Options
from .scores import SCORES
from .walk import calibration_blocks

__all__ = [
    "ALLOCATIONS",
    "COMPENSATIONS",
    "SCORES",
    "LayerMaps",
    "Options",
    "PrunedModel",
    "Pruner",
    "calibration_blocks",
    "compensate",
    "joint_networks",
    "kept_overlap",
    "layer_networks",
    "load_pruned",
    "prune",
    "published_networks",
    "run_grid",
    "save_pruned",
    "schur_residual",
]
