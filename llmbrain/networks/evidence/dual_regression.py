"""Dual regression: the time courses and maps of known networks in new runs.

Stage 1 regresses every token on all group maps together, which gives the time courses. Stage 2 regresses every neuron
on these courses, which gives the run's own version of each map, with a test at every neuron.

Filippini et al. (2009), PNAS 106, 7209-7214; Nickerson et al. (2017), Front. Neurosci. 11, 115.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats as sps

from ...arguments import checked, flag
from ...exceptions import ParameterError

BLOCK_VALUES = 1 << 23


@dataclass(frozen=True, repr=False)
class DualRegression:
    """Result of dual regression for one run."""

    time_courses: np.ndarray  # (n_tokens, n_networks), stage 1: units of the data per unit of the group map
    maps: np.ndarray  # (n_networks, n_neurons), stage 2: change of a neuron for one standard deviation of each course
    # (n_networks, n_neurons), of an ordinary least squares t-test of the maps. Tokens are treated as independent: use z
    # as a ranking, and runs as the unit of inference.
    z: np.ndarray
    dof: int  # residual degrees of freedom of stage 2

    def __repr__(self):
        return f"DualRegression({len(self.maps)} networks, {len(self.time_courses):,} tokens)"


@checked(demean=flag, normalize=flag)
def dual_regression(run, maps, *, demean=True, normalize=True):
    """Compute the time courses and maps of given networks in one run.

    Parameters
    ----------
    run : array of shape (n_tokens, n_neurons)
        Activations, cleaned as they were for the decomposition (z-scored per neuron).
    maps : array of shape (n_networks, n_neurons)
        Group maps.
    demean : bool
        Centre maps and tokens over neurons in stage 1, as FSL does. Otherwise the mean of a token over neurons leaks
        into networks whose maps have a non-zero mean; nilearn's ``NiftiMapsMasker`` does not centre.
    normalize : bool
        Divide courses by their standard deviation before stage 2, so that the maps hold amplitude as well as shape and
        can be compared between runs.

    Returns
    -------
    DualRegression

    Raises
    ------
    ParameterError
        If shapes disagree, maps are collinear, or there are not more tokens than networks.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> maps = rng.standard_normal((2, 300))
    >>> courses = rng.standard_normal((50, 2))
    >>> result = dual_regression(courses @ maps, maps, demean=False, normalize=False)
    >>> bool(np.allclose(result.time_courses, courses)), bool(np.allclose(result.maps, maps))
    (True, True)
    """
    courses = time_courses(run, maps, demean=demean)
    beta, z, dof = regress_maps(run, courses, normalize=normalize)
    return DualRegression(courses, beta, z, dof)


def regress_recording(networks, recording, confounds=None, **options):
    """Apply dual regression with the maps of a network set to every run of a recording.

    As for the decomposition, confounds are removed and neurons are z-scored within each run. Neurons that are constant
    or not finite in a run count as zero there, with a warning.

    Parameters
    ----------
    networks : NetworkSet
    recording : Recording, Run, study, or list of runs, images, paths or arrays
        Runs of the same model, such as another corpus, checkpoint or quantisation.
    confounds : list of ndarray, DataFrame or path, optional
        For each run ``(n_tokens, n_confounds)``.
    **options
        Of :func:`dual_regression`.

    Returns
    -------
    list of DualRegression
        One for each run, maps in the flat order of neurons.

    Examples
    --------
    >>> from llmbrain.networks import CanICA
    >>> rng = np.random.default_rng(0)
    >>> maps = rng.laplace(size=(2, 300)) ** 3
    >>> runs = [rng.normal(size=(60, 2)) @ maps + rng.normal(size=(60, 300)) for _ in range(2)]
    >>> networks = CanICA(n_components=2, n_init=2).fit(runs).networks_
    >>> [result.maps.shape for result in regress_recording(networks, runs)]
    [(2, 300), (2, 300)]
    """
    from ..inputs import as_confounds, load_runs

    runs = load_runs(recording, networks.geometry)
    networks.geometry.check_same(runs.geometry, "the recording")
    maps = runs.read_order(networks.maps)
    results = []
    for source, nuisance in zip(runs.sources, as_confounds(confounds, len(runs.sources)) or [None] * len(runs.sources)):
        found = dual_regression(_standardized(source, nuisance, warn=True), maps, **options)
        flat = (runs.flat_order(found.maps), runs.flat_order(found.z))
        results.append(DualRegression(found.time_courses, *flat, found.dof))
    return results


def pooled_maps(sources, maps, confounds=None):
    """Stage 2 for several runs together: one map per network, from the normal equations of all runs.

    Values are the change of each z-scored neuron for one standard deviation of each course,
    ``(n_networks, n_neurons)``.
    """
    import torch

    from ..engines.linalg import product
    from ..engines.maps import run_products
    from ..engines.parallel import run_blocks, workers
    from ..engines.runs import CleanedRuns

    data = CleanedRuns(sources, confounds)
    centred = np.asarray(maps, np.float64)
    centred = centred - centred.mean(axis=1, keepdims=True)
    inverse = _inverse(centred @ centred.T, "The maps")
    with workers(data.device):
        courses = [c.numpy() @ inverse for c in run_products(data, torch.from_numpy(centred.astype(np.float32)))]
        courses = [c - c.mean(axis=0) for c in courses]
        gram = sum(c.T @ c for c in courses)
        small = [torch.from_numpy(np.ascontiguousarray(c.T, np.float32)) for c in courses]
        products = np.zeros(centred.shape)

        def part(block):
            products[:, block[0] : block[1]] = sum(product(c, data.block(r, *block)) for r, c in enumerate(small))

        run_blocks(part, data.blocks(max(data.n_tokens)))
    scale = np.sqrt(np.diag(gram) / data.n_rows)
    return (_inverse(gram, "The time courses") @ products) * scale[:, None]


def _standardized(source, confounds=None, warn=False):
    from ..engines.group import warn_dead
    from ..engines.runs import CleanedRuns

    data = CleanedRuns([source], None if confounds is None else [confounds])
    x = np.empty((source.n_tokens, source.n_neurons), np.float32)
    for start, stop in data.blocks():
        x[:, start:stop] = data.block(0, start, stop).numpy()
    if warn:
        warn_dead(data.dead(), data, stacklevel=4)
    return x


def time_courses(run, maps, *, demean=True):
    """Stage 1: time courses ``(n_tokens, n_networks)`` float64 of all networks by joint least squares."""
    if np.ndim(run) != 2 or np.ndim(maps) != 2 or not len(maps):
        raise ParameterError(
            f"Expected a run (n_tokens, n_neurons) and maps (n_networks, n_neurons); "
            f"got {np.shape(run)} and {np.shape(maps)}."
        )
    if run.shape[1] != maps.shape[1]:
        raise ParameterError(f"The run has {run.shape[1]} neurons, the maps {maps.shape[1]}.")
    n_networks, n_neurons = maps.shape
    mean = maps.mean(axis=1, dtype=np.float64) if demean else np.zeros(n_networks)
    gram = np.zeros((n_networks, n_networks))
    products = np.zeros((run.shape[0], n_networks))
    token_mean = np.zeros(run.shape[0])
    for block in _blocks(n_neurons, run.shape[0] + n_networks):
        m, x = np.asarray(maps[:, block], np.float64), np.asarray(run[:, block], np.float64)
        gram += m @ m.T
        products += x @ m.T
        token_mean += x.sum(axis=1)
    if demean:
        gram -= n_neurons * np.outer(mean, mean)
        products -= token_mean[:, None] * mean
    if not np.isfinite(token_mean).all() or not np.isfinite(gram).all():
        raise ParameterError("The run or the maps hold NaN or infinite values. Remove those neurons first.")
    return products @ _inverse(gram, "The maps")


def regress_maps(run, courses, *, normalize=True):
    """Stage 2: maps of all time courses by joint least squares with an intercept.

    With ``normalize`` the courses have unit standard deviation. Returns the maps and their z-values, both
    ``(n_networks, n_neurons)`` float32 and 0 for constant neurons, and the residual degrees of freedom.
    """
    courses = np.asarray(courses, dtype=np.float64)
    n_tokens, n_networks = courses.shape
    if len(run) != n_tokens:
        raise ParameterError(f"The run has {len(run)} tokens, the time courses {n_tokens}.")
    dof = n_tokens - n_networks - 1
    if dof < 1:
        raise ParameterError(f"{n_networks} networks need more than {n_networks + 1} tokens; the run has {n_tokens}.")
    centred = courses - courses.mean(axis=0)
    if normalize:
        sd = centred.std(axis=0)
        centred = centred / np.where(sd > 0, sd, 1.0)
    inverse = _inverse(centred.T @ centred, "The time courses")
    n_neurons = run.shape[1]
    beta = np.empty((n_networks, n_neurons), dtype=np.float32)
    z = np.empty_like(beta)
    for block in _blocks(n_neurons, 2 * n_tokens):
        x = np.array(run[:, block], dtype=np.float64)
        x -= x.mean(axis=0)
        b = inverse @ (centred.T @ x)
        x -= centred @ b
        noise = np.einsum("ij,ij->j", x, x) / dof
        error = np.sqrt(np.outer(np.diag(inverse), noise))
        t = np.divide(b, error, out=np.zeros_like(b), where=error > 0)
        beta[:, block], z[:, block] = b, t_to_z(t, dof)
    return beta, z, dof


def t_to_z(t, dof):
    """z-values with the same tail probability as t-values, finite far into the tails.

    >>> t_to_z(np.array([0.0, 2.0, -60.0]), 30).round(2).tolist()
    [0.0, 1.92, -11.93]
    """
    # logarithms of the upper tail: the probability itself underflows at |z| of about 38
    magnitude = np.abs(np.asarray(t, dtype=np.float64))
    log_tail = sps.t.logsf(magnitude, dof)
    z = sps.norm.isf(np.exp(np.maximum(log_tail, -700.0)))
    return np.sign(t) * z


def _blocks(n_neurons, rows):
    size = max(64, BLOCK_VALUES // max(rows, 1))
    for start in range(0, n_neurons, size):
        yield slice(start, min(start + size, n_neurons))


def _inverse(gram, what):
    values, vectors = np.linalg.eigh(gram)
    if values[0] <= 1e-10 * values[-1]:
        raise ParameterError(
            f"{what} are collinear or constant, so least squares has no unique solution. Remove empty or duplicate "
            "networks."
        )
    return (vectors / values) @ vectors.T
