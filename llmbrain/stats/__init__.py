"""Small statistics on plain arrays: permutation p-values, FDR, bootstrap intervals, reliability, overlap.

Everything here takes and returns numpy arrays or floats, knows nothing of models or files, and is vectorised over tests
where several tests share their draws.
"""

from .agreement import dice, icc, jaccard, overlap
from .bootstrap import Interval, bootstrap_interval
from .correction import fdr, holm
from .permutation import ALTERNATIVES, minimum_draws, permutation_p

__all__ = [
    "ALTERNATIVES",
    "Interval",
    "bootstrap_interval",
    "dice",
    "fdr",
    "holm",
    "icc",
    "jaccard",
    "minimum_draws",
    "overlap",
    "permutation_p",
]
