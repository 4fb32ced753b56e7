"""Functional connectivity: how the time courses of networks vary together."""

import warnings
from dataclasses import dataclass

import numpy as np

from ..exceptions import NumericalWarning, ParameterError
from ..registry import Registry

# nilearn's measures, with the mean of the runs' matrices. min_runs: fewest runs that the measure needs
KINDS = Registry("kind of connectivity", min_runs=1)


@dataclass(frozen=True)
class Connectivity:
    """Connectivity of the networks of a study."""

    matrices: np.ndarray  # (n_runs, n_networks, n_networks); for "tangent" the deviation of the run from the group
    mean: np.ndarray  # (n_networks, n_networks); for "tangent" the geometric mean covariance
    kind: str

    def to_frame(self):
        """One row per pair of networks: network_a, network_b, mean and standard deviation over runs."""
        import pandas as pd

        a, b = np.triu_indices(len(self.mean), k=1)
        return pd.DataFrame(
            {"network_a": a, "network_b": b, "mean": self.mean[a, b], "sd": self.matrices[:, a, b].std(axis=0)}
        )


def functional_connectivity(time_courses, kind="correlation", confounds=None):
    """Compute the connectivity between networks from their time courses (nilearn's ``ConnectivityMeasure``).

    Parameters
    ----------
    time_courses : list of arrays of shape (n_tokens, n_networks)
        One array per run.
    kind : {"correlation", "partial correlation", "tangent", "covariance", "precision"}
        "partial correlation" is the correlation of two networks given all others; "tangent" compares runs, of which it
        needs at least two. "partial" is short for "partial correlation".
    confounds : list of arrays of shape (n_tokens, n_confounds), optional
        Removed from the courses by regression, for example position and log frequency of the tokens.

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
    return Connectivity(matrices, np.asarray(KINDS[kind](matrices, measure)), kind)


@KINDS.register("correlation")
@KINDS.register("partial correlation")
def _fisher_mean(matrices, measure):
    """Mean on Fisher's scale, where the sampling error of correlations does not depend on their size."""
    mean = np.tanh(np.arctanh(np.clip(matrices, -0.999999, 0.999999)).mean(axis=0))
    np.fill_diagonal(mean, 1.0)
    return mean


@KINDS.register("covariance")
@KINDS.register("precision")
def _mean(matrices, measure):
    """Arithmetic mean."""
    return matrices.mean(axis=0)


@KINDS.register("tangent", min_runs=2)
def _geometric_mean(matrices, measure):
    """Geometric mean of the covariances, around which the matrices are deviations."""
    return measure.mean_


def _checked(time_courses, kind):
    fewest = KINDS[kind].min_runs
    courses = [np.asarray(c, dtype=np.float64) for c in time_courses]
    if not courses or any(c.ndim != 2 for c in courses) or len({c.shape[1] for c in courses}) > 1:
        raise ParameterError(
            "time_courses must be a list of (n_tokens, n_networks) arrays with the same networks; "
            f"got shapes {[c.shape for c in courses]}."
        )
    if not all(np.isfinite(c).all() for c in courses):
        raise ParameterError("The time courses hold NaN or infinite values. Remove those networks first.")
    if len(courses) < fewest:
        raise ParameterError(f"kind={kind!r} compares runs and needs at least {fewest} of them; got {len(courses)}.")
    dead = {int(n) for c in courses for n in np.flatnonzero(c.std(axis=0) == 0)}
    if dead:
        raise ParameterError(f"The time courses of networks {sorted(dead)} are constant in some run. Remove them.")
    short = min(len(c) for c in courses)
    if short < 3 * courses[0].shape[1]:
        message = f"The shortest run has {short} tokens for {courses[0].shape[1]} networks, so its connectivity is "
        warnings.warn(message + "shrunk strongly towards zero.", NumericalWarning, stacklevel=3)
    return courses


def _residuals(course, confounds):
    x = np.asarray(confounds, dtype=np.float64).reshape(len(course), -1)
    x = np.column_stack([np.ones(len(x)), x])
    return course - x @ np.linalg.lstsq(x, course, rcond=None)[0]
