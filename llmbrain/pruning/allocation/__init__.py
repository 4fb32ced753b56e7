"""Allocations: how many units each layer keeps. Scores decide which units; the two are chosen independently.

A registered allocation is called as ``allocation(*needs, n_keep, floors=, round_to=)``. What it may need are the
attributes of :class:`llmbrain.pruning.measured.Measured` and the fields of :class:`llmbrain.pruning.Options`.
"""

from .curves import fill_by_curves, smooth_curves
from .search import by_search
from .shares import (
    ALLOCATIONS,
    by_power,
    check_counts,
    global_standardised,
    global_threshold,
    round_counts,
    sensitivity_counts,
    uniform,
)
from .trial import by_trial

__all__ = [
    "ALLOCATIONS",
    "by_power",
    "by_search",
    "by_trial",
    "check_counts",
    "fill_by_curves",
    "global_standardised",
    "global_threshold",
    "round_counts",
    "sensitivity_counts",
    "smooth_curves",
    "uniform",
]
