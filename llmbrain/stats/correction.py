"""Correction for many tests: false discovery rate."""

import numpy as np

from ..arguments import checked, numbers
from ..exceptions import ParameterError


@checked(p=numbers)
def fdr(p):
    """Compute Benjamini-Hochberg q-values: the smallest false discovery rate at which each test is rejected.

    Parameters
    ----------
    p : array of any shape
        p-values of one family of tests. NaN, a test that was not run, stays NaN and is not counted.

    Returns
    -------
    array of the same shape

    Raises
    ------
    ParameterError
        If a p-value lies outside [0, 1].

    References
    ----------
    Benjamini & Hochberg (1995), J. R. Stat. Soc. B 57, 289-300.

    Examples
    --------
    >>> fdr([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.04, 0.04]
    """
    from scipy.stats import false_discovery_control

    q = np.array(p, dtype=np.float64)
    known = ~np.isnan(q)
    if (q[known] < 0).any() or (q[known] > 1).any():
        raise ParameterError("p-values must lie in [0, 1].")
    if known.any():
        q[known] = false_discovery_control(q[known])
    return q
