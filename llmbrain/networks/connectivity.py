"""Functional connectivity: which networks rise and fall together over the tokens."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from ..exceptions import NumericalWarning, ParameterError

__all__ = ["Connectivity", "KINDS", "functional_connectivity"]

KINDS = ("correlation", "partial correlation", "tangent", "covariance", "precision")


@dataclass(frozen=True)
class Connectivity:
    """Connectivity of the networks of a study.

    Parameters
    ----------
    matrices : array of shape (n_runs, n_networks, n_networks)
        One matrix a run; for "tangent" the deviation of the run from the group.
    mean : array of shape (n_networks, n_networks)
        Group matrix; for "tangent" the geometric mean covariance.
    kind : str
    """

    matrices: np.ndarray
    mean: np.ndarray
    kind: str

    def to_frame(self):
        """One row a pair of networks: network_a, network_b, mean and standard deviation over runs."""
        import pandas as pd

        a, b = np.triu_indices(len(self.mean), k=1)
        return pd.DataFrame(
            {"network_a": a, "network_b": b, "mean": self.mean[a, b], "sd": self.matrices[:, a, b].std(axis=0)}
        )


def functional_connectivity(time_courses, kind="correlation", confounds=None):
    """Connectivity between networks from their time courses (nilearn's ``ConnectivityMeasure``).

    Parameters
    ----------
    time_courses : list of arrays of shape (n_tokens, n_networks)
        One array a run.
    kind : {"correlation", "partial correlation", "tangent", "covariance", "precision"}
        "partial correlation" leaves only what two networks share beyond all others; "tangent" compares runs
        (it needs at least two). "partial" is accepted for "partial correlation".
    confounds : list of arrays of shape (n_tokens, n_confounds), optional
        For example position and log frequency of the tokens: regressed out of the courses first.

    Returns
    -------
    Connectivity

    Raises
    ------
    ParameterError
        For an unknown kind, courses of unequal width, NaN, or a single run with "tangent".

    References
    ----------
    Varoquaux et al. (2010), MICCAI, LNCS 6361, 200-208 (tangent space).
    Ledoit & Wolf (2004), J. Multivar. Anal. 88, 365-411 (the covariance estimator used).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> shared = rng.standard_normal((400, 1))
    >>> course = np.hstack([shared, shared, rng.standard_normal((400, 1))]) + 0.1 * rng.standard_normal((400, 3))
    >>> functional_connectivity([course]).mean.round(1)[0, 1:].tolist()
    [1.0, 0.1]
    """
    from nilearn.connectome import ConnectivityMeasure

    kind = "partial correlation" if kind == "partial" else kind
    courses = _checked(time_courses, kind)
    if confounds is not None:
        courses = [_residuals(c, x) for c, x in zip(courses, confounds)]
    measure = ConnectivityMeasure(kind=kind, standardize="zscore_sample")
    matrices = np.asarray(measure.fit_transform(courses))
    mean = measure.mean_ if kind == "tangent" else _mean(matrices, kind)
    return Connectivity(matrices, np.asarray(mean), kind)


def _mean(matrices, kind):
    if "correlation" not in kind:
        return matrices.mean(axis=0)
    # correlations are averaged on Fisher's scale, where their sampling error does not depend on their size
    mean = np.tanh(np.arctanh(np.clip(matrices, -0.999999, 0.999999)).mean(axis=0))
    np.fill_diagonal(mean, 1.0)
    return mean


def _checked(time_courses, kind):
    if kind not in KINDS:
        raise ParameterError(f"kind={kind!r} is unknown; choose one of {KINDS}.")
    courses = [np.asarray(c, dtype=np.float64) for c in time_courses]
    if not courses or any(c.ndim != 2 for c in courses) or len({c.shape[1] for c in courses}) > 1:
        raise ParameterError(
            "time_courses must be a list of (n_tokens, n_networks) arrays with the same networks; "
            f"got shapes {[c.shape for c in courses]}."
        )
    if not all(np.isfinite(c).all() for c in courses):
        raise ParameterError("Time courses hold NaN or infinite values.")
    if kind == "tangent" and len(courses) < 2:
        raise ParameterError('kind="tangent" compares runs and needs at least two of them; got one.')
    dead = {int(n) for c in courses for n in np.flatnonzero(c.std(axis=0) == 0)}
    if dead:
        raise ParameterError(f"The time courses of networks {sorted(dead)} are constant in some run; drop them.")
    short = min(len(c) for c in courses)
    if short < 3 * courses[0].shape[1]:
        warnings.warn(
            f"The shortest run has {short} tokens for {courses[0].shape[1]} networks; "
            "its connectivity is shrunk towards zero and hardly its own.",
            NumericalWarning,
            stacklevel=3,
        )
    return courses


def _residuals(course, confounds):
    x = np.asarray(confounds, dtype=np.float64).reshape(len(course), -1)
    x = np.column_stack([np.ones(len(x)), x])
    return course - x @ np.linalg.lstsq(x, course, rcond=None)[0]
