"""Bootstrap confidence intervals of means, with whole documents as the unit of resampling."""

from typing import NamedTuple

import numpy as np
from scipy import special

from ..arguments import between, checked, numbers
from ..exceptions import ParameterError
from ..registry import choose


class Interval(NamedTuple):
    """An estimate and its confidence interval; three floats, or three arrays for several columns.

    Parameters
    ----------
    estimate, low, high : float or array
    """

    estimate: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray


def _cluster_sums(values, weights, clusters):
    """Return the weighted sum and the weight of each cluster: (n_clusters, n_columns) and (n_clusters,)."""
    if clusters is None:
        return values * weights[:, None], weights
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    index = index.ravel()
    sums = np.stack([np.bincount(index, weights=column * weights) for column in values.T], axis=1)
    return sums, np.bincount(index, weights=weights)


def _bca_levels(estimate, draws, sums, sizes, levels):
    """Compute the two bias-corrected and accelerated quantile levels of each column, shape (2, n_columns)."""
    below = (draws < estimate).mean(axis=0) + 0.5 * (draws == estimate).mean(axis=0)
    bias = special.ndtri(np.clip(below, 0.5 / len(draws), 1 - 0.5 / len(draws)))
    jackknife = (sums.sum(axis=0) - sums) / (sizes.sum() - sizes)[:, None]
    spread = jackknife.mean(axis=0) - jackknife
    scale = (spread**2).sum(axis=0) ** 1.5
    acceleration = (spread**3).sum(axis=0) / (6.0 * np.where(scale > 0, scale, 1.0))
    shifted = bias + special.ndtri(np.asarray(levels))[:, None]
    return special.ndtr(bias + shifted / (1.0 - acceleration * shifted))


@checked(values=numbers, other=numbers, weights=numbers, level=between(0, 1, ends=False))
def bootstrap_interval(
    values, other=None, *, clusters=None, weights=None, level=0.95, n_draws=2000, method="bca", random_state=0
):
    """Compute a confidence interval of a (weighted) mean, or of a paired difference of means, over whole clusters.

    Tokens of one document are not independent. Whole documents are therefore drawn with replacement, not tokens. The
    statistic is ``sum(weights * values) / sum(weights)`` over the drawn clusters: the loss per token, if `values` are
    token losses.

    Parameters
    ----------
    values : array of shape (n_items,) or (n_items, n_columns)
        One value per item. Columns (networks, conditions) share the same draws.
    other : array of the same shape, optional
        The same items under another condition; the interval is then that of ``values - other``.
    clusters : array of shape (n_items,), optional
        Label of the document of each item. By default each item is its own cluster.
    weights : array of shape (n_items,), optional
        Weight of each item, for example its number of tokens if an item is a document.
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
        ``(estimate, low, high)``: floats, or arrays of shape (n_columns,). With a single cluster the bounds are NaN,
        because the spread is unknown.

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
    choose("method", method, ("bca", "percentile"))
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
            raise ParameterError(f"Paired values must have the same shape; got {values.shape} and {other.shape}.")
        values = values - other
    if values.ndim not in (1, 2) or values.shape[0] == 0:
        raise ParameterError(f"values must be (n_items,) or (n_items, n_columns) and not empty; got {values.shape}.")
    if not np.isfinite(values).all():
        raise ParameterError("values contain NaN or infinite entries. Exclude those items from values and other.")
    n_items = values.shape[0]
    weights = np.ones(n_items) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != (n_items,) or not (weights > 0).all():
        raise ParameterError(f"weights must be {n_items} positive numbers; got shape {weights.shape}.")
    if clusters is not None and np.asarray(clusters).shape != (n_items,):
        raise ParameterError(f"clusters must hold one label for each of the {n_items} items.")
    return values.reshape(n_items, -1), weights, values.ndim == 1
