"""Agreement of measurements: intraclass correlation and overlap of masks."""

import numpy as np

from ..arguments import checked, finite
from ..exceptions import ParameterError
from ..registry import choose

# numerator and denominator, from the size of the intersection and the sum of both sizes
_OVERLAPS = {
    "dice": lambda both, total: (2.0 * both, total),
    "jaccard": lambda both, total: (both, total - both),
}


@checked(ratings=finite)
def icc(ratings, kind="ICC(3,1)"):
    """Compute the intraclass correlation of `n_raters` measurements of `n_targets` targets.

    With the mean squares of the two-way layout (targets B, raters J, residual E) and k raters:
    ``ICC(3,1) = (B - E) / (B + (k - 1) E)`` (consistency) and
    ``ICC(2,1) = (B - E) / (B + (k - 1) E + k (J - E) / n)`` (absolute agreement).

    Parameters
    ----------
    ratings : array of shape (n_targets, n_raters)
        For a network: the values of its map at every neuron (targets) in each half or session (raters).
    kind : {"ICC(3,1)", "ICC(2,1)"}

    Returns
    -------
    float
        NaN if all ratings are equal.

    References
    ----------
    Shrout & Fleiss (1979), Intraclass correlations, Psychol. Bull. 86, 420-428.

    Examples
    --------
    >>> table = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    >>> round(icc(table, "ICC(2,1)"), 2), round(icc(table, "ICC(3,1)"), 2)
    (0.29, 0.71)
    """
    choose("kind", kind, ("ICC(3,1)", "ICC(2,1)"))
    x = np.asarray(ratings, dtype=np.float64)
    if x.ndim != 2 or x.shape[0] < 2 or x.shape[1] < 2:
        raise ParameterError(f"ratings must be (n_targets >= 2, n_raters >= 2); got {x.shape}.")
    n, k = x.shape
    grand = x.mean()
    rows, columns = x.mean(axis=1) - grand, x.mean(axis=0) - grand
    between = k * (rows**2).sum() / (n - 1)
    raters = n * (columns**2).sum() / (k - 1)
    residual = ((x - grand - rows[:, None] - columns) ** 2).sum() / ((n - 1) * (k - 1))
    total = between + (k - 1) * residual
    if kind == "ICC(2,1)":
        total += k * (raters - residual) / n
    return float((between - residual) / total) if total > 0 else float("nan")


@checked(a=finite, b=finite)
def overlap(a, b, kind="dice"):
    """Compute the overlap of every mask of `a` with every mask of `b`.

    Parameters
    ----------
    a : array of shape (n_a, n_neurons)
    b : array of shape (n_b, n_neurons)
        Boolean masks.
    kind : {"dice", "jaccard"}
        ``2 |a & b| / (|a| + |b|)`` or ``|a & b| / |a | b|`` (IoU).

    Returns
    -------
    array of shape (n_a, n_b)
        NaN where both masks are empty.

    Examples
    --------
    >>> overlap([[1, 1, 0, 0]], [[1, 0, 0, 0], [0, 0, 1, 1]], "jaccard").tolist()
    [[0.5, 0.0]]
    """
    parts = _OVERLAPS[choose("kind", kind, _OVERLAPS)]
    a, b = np.asarray(a).astype(bool), np.asarray(b).astype(bool)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ParameterError(f"Masks must be (n_a, n_neurons) and (n_b, n_neurons); got {a.shape} and {b.shape}.")
    # one matrix product; float32 counts are exact up to 2**24 neurons
    dtype = np.float32 if a.shape[1] < 2**24 else np.float64
    both = (a.astype(dtype) @ b.astype(dtype).T).astype(np.float64)
    total = a.sum(axis=1)[:, None] + b.sum(axis=1)[None, :].astype(np.float64)
    top, bottom = parts(both, total)
    return np.divide(top, bottom, out=np.full(both.shape, np.nan), where=bottom > 0)
