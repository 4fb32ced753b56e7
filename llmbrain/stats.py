"""Small statistics on plain arrays: permutation p-values, FDR, bootstrap intervals, reliability, overlap.

Everything here takes and returns numpy arrays or floats, knows nothing of models or files, and is
vectorised over tests where several tests share their draws.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from .exceptions import ParameterError

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

ALTERNATIVES = ("greater", "less", "two-sided")


class Interval(NamedTuple):
    """An estimate and its confidence interval; three floats, or three arrays for several columns.

    Parameters
    ----------
    estimate, low, high : float or array
    """

    estimate: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray


# ------------------------------------------------------------------------------------ permutation p-values
def permutation_p(observed, null, alternative="greater"):
    """p-value of an observed value among draws of a null: ``(1 + #{null >= observed}) / (N + 1)``.

    The observed value counts as one of the draws, so the p-value is never zero and is valid (at most
    uniform under the null) for any number of draws.

    Parameters
    ----------
    observed : float or array of shape (...)
        The statistic, one per test.
    null : array of shape (n_draws, ...)
        The same statistic under the null: matched random lesions, permuted labels, shifted courses.
    alternative : {"greater", "less", "two-sided"}
        "two-sided" doubles the smaller of the two one-sided p-values (the null need not be centred).

    Returns
    -------
    float or array of shape (...)
        NaN where the observed value or any draw of its null is NaN.

    Raises
    ------
    ParameterError
        If there is no draw, the shapes do not fit, or the alternative is unknown.

    References
    ----------
    Phipson & Smyth (2010), Permutation p-values should never be zero, Stat. Appl. Genet. Mol. Biol. 9, 39.

    Examples
    --------
    >>> permutation_p(3.0, [0.1, 0.5, 1.0, 3.0])
    0.4
    """
    if alternative not in ALTERNATIVES:
        raise ParameterError(f"alternative={alternative!r} is unknown; choose one of {ALTERNATIVES}.")
    observed = np.asarray(observed, dtype=np.float64)
    null = np.asarray(null, dtype=np.float64)
    if null.ndim == 0 or null.shape[0] == 0:
        raise ParameterError("The null holds no draw; a permutation p-value needs at least one.")
    if null.shape[1:] != observed.shape:
        raise ParameterError(
            f"The null has shape {null.shape}, the observed values {observed.shape}; "
            f"expected a null of shape {('n_draws', *observed.shape)}."
        )
    tails = {}
    for name, at_least in (("greater", null >= observed), ("less", null <= observed)):
        tails[name] = (1.0 + at_least.sum(axis=0)) / (null.shape[0] + 1.0)
    p = tails.get(alternative)
    if p is None:
        p = np.minimum(1.0, 2.0 * np.minimum(tails["greater"], tails["less"]))
    p = np.where(np.isnan(observed) | np.isnan(null).any(axis=0), np.nan, p)
    return float(p) if p.ndim == 0 else p


def minimum_draws(alpha=0.05, n_tests=1):
    """Fewest null draws with which one of `n_tests` tests can pass at `alpha` at all.

    With N draws the smallest p-value is 1 / (N + 1). A single discovery survives Bonferroni, Holm and
    Benjamini-Hochberg over m tests only if p <= alpha / m, hence N >= m / alpha - 1.

    Parameters
    ----------
    alpha : float
        Level, in (0, 1).
    n_tests : int
        How many tests are corrected for together.

    Returns
    -------
    int

    Examples
    --------
    >>> minimum_draws(0.05), minimum_draws(0.05, n_tests=20)
    (19, 399)
    """
    if not 0.0 < alpha < 1.0 or n_tests < 1:
        raise ParameterError(f"alpha={alpha} must lie in (0, 1) and n_tests={n_tests} be at least 1.")
    return int(math.ceil(round(n_tests / alpha, 9))) - 1


# ---------------------------------------------------------------------------------------- multiple testing
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


# ------------------------------------------------------------------------------------- bootstrap intervals
def _cluster_sums(values, weights, clusters):
    """Weighted sums and weights of every cluster: (n_clusters, n_columns) and (n_clusters,)."""
    if clusters is None:
        return values * weights[:, None], weights
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    index = index.ravel()
    sums = np.stack([np.bincount(index, weights=column * weights) for column in values.T], axis=1)
    return sums, np.bincount(index, weights=weights)


def _bca_levels(estimate, draws, sums, sizes, levels):
    """The two bias-corrected and accelerated quantile levels of every column, shape (2, n_columns)."""
    below = (draws < estimate).mean(axis=0) + 0.5 * (draws == estimate).mean(axis=0)
    bias = special.ndtri(np.clip(below, 0.5 / len(draws), 1 - 0.5 / len(draws)))
    jackknife = (sums.sum(axis=0) - sums) / (sizes.sum() - sizes)[:, None]
    spread = jackknife.mean(axis=0) - jackknife
    scale = (spread**2).sum(axis=0) ** 1.5
    acceleration = (spread**3).sum(axis=0) / (6.0 * np.where(scale > 0, scale, 1.0))
    shifted = bias + special.ndtri(np.asarray(levels))[:, None]
    return special.ndtr(bias + shifted / (1.0 - acceleration * shifted))


def bootstrap_interval(
    values, other=None, *, clusters=None, weights=None, level=0.95, n_draws=2000, method="bca", random_state=0
):
    """Confidence interval of a (weighted) mean, or of a paired difference of means, over whole clusters.

    Tokens of one document are not independent, so the documents are drawn, with replacement and with all
    their tokens, not the tokens. The statistic is ``sum(weights * values) / sum(weights)`` over the drawn
    clusters: the loss per token, when `values` are token losses.

    Parameters
    ----------
    values : array of shape (n_items,) or (n_items, n_columns)
        One value an item. Columns (networks, conditions) share the same draws.
    other : array of the same shape, optional
        The same items under another condition: the interval is then that of ``values - other``.
    clusters : array of shape (n_items,), optional
        Label of the document every item belongs to. Default: every item is its own cluster.
    weights : array of shape (n_items,), optional
        For example tokens, if an item is a document.
    level : float
        Coverage of the interval.
    n_draws : int
        Number of bootstrap draws.
    method : {"bca", "percentile"}
        Bias-corrected and accelerated, or plain quantiles of the draws.
    random_state : int, numpy Generator or None

    Returns
    -------
    Interval
        ``(estimate, low, high)``: floats, or arrays of shape (n_columns,). With a single cluster the
        bounds are NaN: nothing can be said about the spread.

    Raises
    ------
    ParameterError
        If shapes differ, values are empty or not finite, or weights are not positive.

    References
    ----------
    Efron (1987), Better bootstrap confidence intervals, J. Am. Stat. Assoc. 82, 171-185.
    Davison & Hinkley (1997), Bootstrap Methods and their Application, section 3.8 (clusters).

    Examples
    --------
    >>> loss = np.array([2.0, 2.2, 3.1, 2.9, 1.0, 1.4])
    >>> interval = bootstrap_interval(loss + 0.5, loss, clusters=[0, 0, 1, 1, 2, 2])
    >>> [round(float(x), 6) for x in interval]
    [0.5, 0.5, 0.5]
    """
    values, weights, one_column = _checked_items(values, other, weights, clusters)
    if method not in ("bca", "percentile"):
        raise ParameterError(f'method={method!r} is unknown; choose "bca" or "percentile".')
    if not 0.0 < level < 1.0 or n_draws < 1:
        raise ParameterError(f"level={level} must lie in (0, 1) and n_draws={n_draws} be at least 1.")
    sums, sizes = _cluster_sums(values, weights, clusters)
    estimate = sums.sum(axis=0) / sizes.sum()
    n_clusters = len(sizes)
    if n_clusters == 1:
        low = high = np.full(estimate.shape, np.nan)
    else:
        rng = np.random.default_rng(random_state)
        # how often each cluster was drawn: one small matrix product replaces n_draws passes over the items
        counts = rng.multinomial(n_clusters, np.full(n_clusters, 1.0 / n_clusters), size=n_draws)
        draws = (counts @ sums) / (counts @ sizes)[:, None]
        tails = ((1.0 - level) / 2.0, (1.0 + level) / 2.0)
        if method == "bca":
            levels = _bca_levels(estimate, draws, sums, sizes, tails)
        else:
            levels = np.repeat(np.asarray(tails)[:, None], estimate.size, axis=1)
        low, high = np.stack([np.quantile(d, q) for d, q in zip(draws.T, levels.T)], axis=1)
    if one_column:
        return Interval(float(estimate[0]), float(low[0]), float(high[0]))
    return Interval(estimate, low, high)


def _checked_items(values, other, weights, clusters):
    values = np.asarray(values, dtype=np.float64)
    if other is not None:
        other = np.asarray(other, dtype=np.float64)
        if other.shape != values.shape:
            raise ParameterError(f"Paired values must have one shape; got {values.shape} and {other.shape}.")
        values = values - other
    if values.ndim not in (1, 2) or values.shape[0] == 0:
        raise ParameterError(f"values must be (n_items,) or (n_items, n_columns) and not empty; got {values.shape}.")
    if not np.isfinite(values).all():
        raise ParameterError("values hold NaN or infinite entries; leave those items out, on both sides.")
    n_items = values.shape[0]
    weights = np.ones(n_items) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != (n_items,) or not (weights > 0).all():
        raise ParameterError(f"weights must be {n_items} positive numbers; got shape {weights.shape}.")
    if clusters is not None and np.asarray(clusters).shape != (n_items,):
        raise ParameterError(f"clusters must hold one label for each of the {n_items} items.")
    return values.reshape(n_items, -1), weights, values.ndim == 1


# ---------------------------------------------------------------------------------------------- reliability
def icc(ratings, kind="ICC(3,1)"):
    """Intraclass correlation of `n_raters` measurements of `n_targets` targets.

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
    if kind not in ("ICC(3,1)", "ICC(2,1)"):
        raise ParameterError(f'kind={kind!r} is unknown; choose "ICC(3,1)" or "ICC(2,1)".')
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


# -------------------------------------------------------------------------------------------------- overlap
def overlap(a, b, kind="dice"):
    """Overlap of every mask of `a` with every mask of `b`.

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
    if kind not in ("dice", "jaccard"):
        raise ParameterError(f'kind={kind!r} is unknown; choose "dice" or "jaccard".')
    a, b = np.asarray(a).astype(bool), np.asarray(b).astype(bool)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ParameterError(f"Masks must be (n_a, n_neurons) and (n_b, n_neurons); got {a.shape} and {b.shape}.")
    # float32 counts are exact up to 2**24 neurons, and run as one matrix product
    dtype = np.float32 if a.shape[1] < 2**24 else np.float64
    both = (a.astype(dtype) @ b.astype(dtype).T).astype(np.float64)
    total = a.sum(axis=1)[:, None] + b.sum(axis=1)[None, :].astype(np.float64)
    top, bottom = (2.0 * both, total) if kind == "dice" else (both, total - both)
    return np.divide(top, bottom, out=np.full(both.shape, np.nan), where=bottom > 0)


def dice(a, b):
    """Dice coefficient of two masks of shape (n_neurons,); NaN if both are empty.

    Parameters
    ----------
    a, b : arrays of shape (n_neurons,)

    Examples
    --------
    >>> round(dice([1, 1, 0], [1, 0, 0]), 3)
    0.667
    """
    return float(overlap(np.ravel(a)[None], np.ravel(b)[None], "dice")[0, 0])


def jaccard(a, b):
    """Jaccard index (IoU) of two masks of shape (n_neurons,); NaN if both are empty.

    Parameters
    ----------
    a, b : arrays of shape (n_neurons,)

    Examples
    --------
    >>> jaccard([1, 1, 0], [1, 0, 0])
    0.5
    """
    return float(overlap(np.ravel(a)[None], np.ravel(b)[None], "jaccard")[0, 0])
