"""p-values from draws of a null distribution, and the number of draws that a level needs."""

import math

import numpy as np

from ..arguments import between, checked, count, numbers
from ..exceptions import ParameterError
from ..registry import choose

ALTERNATIVES = ("greater", "less", "two-sided")


@checked(observed=numbers, null=numbers)
def permutation_p(observed, null, alternative="greater"):
    """Compute the p-value of an observed value among draws of a null: ``(1 + #{null >= observed}) / (N + 1)``.

    The observed value counts as one of the draws, so the p-value is never zero and is valid (at most uniform under the
    null) for any number of draws.

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
        If there is no draw, the shapes do not match, or the alternative is unknown.

    References
    ----------
    Phipson & Smyth (2010), Permutation p-values should never be zero, Stat. Appl. Genet. Mol. Biol. 9, 39.

    Examples
    --------
    >>> permutation_p(3.0, [0.1, 0.5, 1.0, 3.0])
    0.4
    """
    choose("alternative", alternative, ALTERNATIVES)
    observed = np.asarray(observed, dtype=np.float64)
    null = np.asarray(null, dtype=np.float64)
    if null.ndim == 0 or null.shape[0] == 0:
        raise ParameterError("null holds no draw; a permutation p-value needs at least one.")
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


@checked(alpha=between(0, 1, ends=False), n_tests=count)
def minimum_draws(alpha=0.05, n_tests=1):
    """Compute the smallest number of null draws with which one of `n_tests` tests can pass at `alpha`.

    With N draws the smallest p-value is 1 / (N + 1). A single discovery passes a correction for m tests (Bonferroni,
    Benjamini-Hochberg) only if p <= alpha / m, hence N >= m / alpha - 1.

    Parameters
    ----------
    alpha : float
        Level, in (0, 1).
    n_tests : int
        Number of tests that are corrected for together.

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
