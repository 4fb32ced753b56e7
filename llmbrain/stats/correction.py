"""Many tests at once: false discovery rate and family-wise error."""

import numpy as np

from ..exceptions import ParameterError

__all__ = ["fdr", "holm"]


def _corrected(p, correct):
    """Apply `correct` to the finite p-values in ascending order; NaN stays NaN and is not counted."""
    p = np.asarray(p, dtype=np.float64)
    flat = p.ravel()
    known = np.flatnonzero(~np.isnan(flat))
    if known.size and (flat[known].min() < 0 or flat[known].max() > 1):
        raise ParameterError("p-values must lie in [0, 1].")
    out = np.full(flat.shape, np.nan)
    order = known[np.argsort(flat[known], kind="stable")]
    out[order] = np.minimum(1.0, correct(flat[order]))
    return out.reshape(p.shape)


def fdr(p):
    """Benjamini-Hochberg q-values: the smallest false discovery rate at which each test is rejected.

    Parameters
    ----------
    p : array of any shape
        p-values of one family; NaN (a test that was not run) stays NaN and does not count.

    Returns
    -------
    array of the same shape

    References
    ----------
    Benjamini & Hochberg (1995), J. R. Stat. Soc. B 57, 289-300.

    Examples
    --------
    >>> fdr([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.04, 0.04]
    """
    return _corrected(p, lambda s: np.minimum.accumulate((s * s.size / np.arange(1, s.size + 1))[::-1])[::-1])


def holm(p):
    """Holm's step-down adjusted p-values (family-wise error, no assumption on dependence).

    Parameters
    ----------
    p : array of any shape
        p-values of one family; NaN stays NaN and does not count.

    Returns
    -------
    array of the same shape

    References
    ----------
    Holm (1979), Scand. J. Stat. 6, 65-70.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    return _corrected(p, lambda s: np.maximum.accumulate(s * (s.size - np.arange(s.size))))
