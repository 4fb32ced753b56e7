"""Pruning: smaller models without retraining, and folders that load.

A recipe has three parts that are chosen independently: the *score* says which units are removed, the *allocation* how
many of each layer, the *compensation* what the kept ones do for the removed ones.
"""

from .allocation import ALLOCATIONS
from .budget import RATIO_OF
from .calibration import calibration_blocks
from .compensation import COMPENSATIONS, compensate, schur_residual
from .formats import FORMATS
from .grid import GridSettings, combine, kept_overlap, run_grid
from .grid_table import merge_grid
from .heads import HEAD_SCORES
from .prune import Pruner, prune
from .pruned import PrunedModel, load_pruned
from .published import LayerMaps, joint_networks, layer_networks, published_networks
from .recipe import RECIPES, Options, Recipe
from .scores import SCORES

__all__ = [
    "ALLOCATIONS",
    "COMPENSATIONS",
    "FORMATS",
    "HEAD_SCORES",
    "RATIO_OF",
    "RECIPES",
    "SCORES",
    "GridSettings",
    "LayerMaps",
    "Options",
    "PrunedModel",
    "Pruner",
    "Recipe",
    "calibration_blocks",
    "combine",
    "compensate",
    "joint_networks",
    "kept_overlap",
    "layer_networks",
    "load_pruned",
    "merge_grid",
    "prune",
    "published_networks",
    "run_grid",
    "schur_residual",
]
