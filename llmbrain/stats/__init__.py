"""Statistics on plain arrays: permutation p-values, FDR, bootstrap intervals, agreement, moments.

Nothing here knows of models or files. Functions take and return numpy arrays or floats and are vectorised over tests
that share their draws; :class:`Moments` works on torch tensors, on any device.
"""

from .agreement import icc, overlap
from .bootstrap import Interval, bootstrap_interval
from .correction import fdr
from .moments import Moments
from .permutation import ALTERNATIVES, minimum_draws, permutation_p

__all__ = [
    "ALTERNATIVES",
    "Interval",
    "Moments",
    "bootstrap_interval",
    "fdr",
    "icc",
    "minimum_draws",
    "overlap",
    "permutation_p",
]
