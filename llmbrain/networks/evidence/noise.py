"""Number of directions above noise: spectrum, Marchenko-Pastur edge, parallel analysis."""

import warnings

import numpy as np

from ...arguments import checked, count, finite
from ...exceptions import NumericalWarning, ParameterError
from ...registry import Registry
from ..engines.progress import track

LARGEST_SIDE = 2048  # largest order of the Gram matrices of spectra; longer recordings use a sample of the neurons
SHUFFLES = Registry("null")  # ways to break the relations between neurons in parallel analysis


@checked(max_neurons=count)
def standardized_sample(runs, *, max_neurons=LARGEST_SIDE, confounds=None, random_state=0):
    """Z-scored activations of a random sample of the neurons, one array ``(n_tokens, n_sampled)`` float32 per run.

    Confounds ``(n_tokens, n_confounds)`` are removed first. Neurons that are constant in some run are left out.
    """
    from ..engines.sources import as_sources

    sources = as_sources(runs)
    n_neurons = sources[0].n_neurons
    chosen = np.arange(n_neurons)
    if n_neurons > max_neurons:
        chosen = np.sort(np.random.default_rng(random_state).choice(n_neurons, max_neurons, replace=False))
    columns = [s.columns[chosen] if s.columns is not None else chosen for s in sources]
    out = [np.array(s.open()[:, c], dtype=np.float32) for s, c in zip(sources, columns)]
    alive = np.ones(len(chosen), dtype=bool)
    for x, nuisance in zip(out, [None] * len(out) if confounds is None else confounds):
        x -= x.mean(axis=0)
        if nuisance is not None:
            nuisance = np.reshape(nuisance, (len(x), -1)).astype(np.float64)
            nuisance = nuisance - nuisance.mean(axis=0)
            x -= (nuisance @ np.linalg.lstsq(nuisance, x, rcond=None)[0]).astype(np.float32)
        sd = x.std(axis=0, ddof=1)
        alive &= np.isfinite(sd) & (sd > 0)
        x /= np.where(sd > 0, sd, 1)
    if not alive.any():
        raise ParameterError("Every sampled neuron is constant or not finite in some run.")
    return out if alive.all() else [x[:, alive] for x in out]


def spectrum(runs):
    """Eigenvalues of ``X X^T / n_neurons`` of standardised runs, descending, as many as the data have directions."""
    gram, _ = _gram(runs)
    rank = min(sum(len(x) for x in runs) - len(runs), runs[0].shape[1])
    values = np.linalg.eigvalsh(gram)[::-1] / runs[0].shape[1]
    return np.maximum(values[:rank], 0.0)


def explained_variance(eigenvalues):
    """Share of the variance that each direction explains, and the cumulative share, from all eigenvalues."""
    share = np.asarray(eigenvalues, dtype=np.float64) / np.sum(eigenvalues)
    return share, np.cumsum(share)


def noise_bound(n_tokens, n_neurons):
    """Value that the largest eigenvalue of ``X X^T / n_neurons`` exceeds in 5 % of the cases for independent noise.

    The Marchenko-Pastur edge ``(1 + sqrt(n_tokens / n_neurons))**2`` plus the Tracy-Widom fluctuation
    (Johnstone 2001, Ann. Stat. 29, 295-327, theorem 1.1).
    """
    a, b = np.sqrt(max(n_tokens - 1, 1)), np.sqrt(n_neurons)
    centre, scale = (a + b) ** 2, (a + b) * (1 / a + 1 / b) ** (1 / 3)
    return float((centre + 0.9793 * scale) / n_neurons)


def _as_runs(name, runs):
    """Refuse what is not a list of arrays (n_tokens, n_neurons) of the same neurons."""
    widths = {np.shape(finite(f"{name}[{i}]", run))[1:] for i, run in enumerate(runs)} if np.iterable(runs) else set()
    if len(widths) != 1 or len(*widths) != 1 or isinstance(runs, dict | str):
        raise ParameterError(f"{name} must be a list of arrays (n_tokens, n_neurons) that have the same neurons.")


@checked(runs=_as_runs)
def marchenko_pastur_count(runs):
    """Number of directions above the noise edge, and that edge: an eigenvalue at unit noise variance.

    The edge (Marchenko & Pastur 1967) holds for noise of equal variance, but the noise of a z-scored neuron is smaller
    the more networks drive it (Dobriban & Owen 2019, J. R. Stat. Soc. B 81, 163-183). So the directions found are
    removed, every neuron is scaled to unit residual variance, and the count is repeated until it no longer changes, at
    most ten times. ``runs`` are centred arrays ``(n_tokens, n_neurons)``.

    The edge assumes independent tokens. Neighbouring tokens are not quite independent, so the number is too large;
    :func:`parallel_analysis` keeps their autocorrelation. In a language model there may be no bulk of noise at all: the
    count then stops at half of all directions with a warning.
    """
    dof, n_neurons = sum(len(x) for x in runs) - len(runs), runs[0].shape[1]
    bound = noise_bound(dof, n_neurons)
    total = sum(np.einsum("ij,ij->j", x, x, dtype=np.float64) for x in runs)
    noise, seen, count = total / dof, [], 0
    for _ in range(10):
        gram, tokens_side = _gram([x / np.sqrt(noise).astype(np.float32) for x in runs])
        values, vectors = np.linalg.eigh(gram)
        count, most = int((values > bound * n_neurons).sum()), min(len(values), dof) // 2
        if count >= most:
            warnings.warn(
                f"More than {most} directions (half of all) are above the Marchenko-Pastur edge: there is no bulk of "
                "independent noise, so this count is meaningless. Use parallel analysis and the split-half curve.",
                NumericalWarning,
                stacklevel=2,
            )
            return most, bound
        if count in seen:
            break
        seen.append(count)
        vectors = vectors[:, len(values) - count :]
        if tokens_side:
            explained = ((vectors.T @ np.concatenate(runs)) ** 2).sum(axis=0)
        else:
            explained = noise * (vectors**2 @ values[len(values) - count :])
        noise = np.maximum(total - explained, 1e-6 * total) / (dof - count)
    return count, bound


def _gram(runs):
    """Gram matrix of the shorter side, float64, and whether that side is the tokens."""
    if sum(len(x) for x in runs) <= runs[0].shape[1]:
        x = np.concatenate(runs)
        return (x @ x.T).astype(np.float64), True
    return sum((x.T @ x).astype(np.float64) for x in runs), False


@checked(runs=_as_runs)
def parallel_analysis(runs, *, null="shift", n_draws=10, random_state=0):
    """Number of directions that explain more than those of data without any shared signal (Horn).

    Parameters
    ----------
    runs : list of arrays of shape (n_tokens, n_neurons)
        Standardised, e.g. by :func:`standardized_sample`.
    null : {"shift", "permute"}
        How the relations between neurons are broken in each run: a circular shift of every neuron by a different
        amount, which keeps its autocorrelation, or a permutation of its tokens.
    n_draws : int
    random_state : int, numpy Generator or None

    Returns
    -------
    count : int
        Number of leading eigenvalues above the null.
    eigenvalues : array
        Of the data.
    bound : array
        95 % quantile of the null for every rank.

    References
    ----------
    Horn (1965), Psychometrika 30, 179-185; Buja & Eyuboglu (1992), Multivar. Behav. Res. 27, 509-540 (permutation).
    """
    shuffle = SHUFFLES[null]
    rng = np.random.default_rng(random_state)
    eigenvalues = spectrum(runs)
    steps = track(range(n_draws), "Parallel analysis")
    draws = [spectrum([shuffle(x, rng) for x in runs]) for _ in steps]
    bound = np.quantile(draws, 0.95, axis=0)
    above = eigenvalues > bound
    count = len(above) if above.all() else int(np.argmin(above))
    return count, eigenvalues, bound


@SHUFFLES.register("shift")
def _shifted(x, rng):
    """Shift every neuron circularly by a different amount, which keeps its autocorrelation."""
    n_tokens, n_neurons = x.shape
    out = np.empty((n_neurons, n_tokens), dtype=x.dtype)
    columns = np.ascontiguousarray(x.T)
    for row, source, shift in zip(out, columns, rng.integers(n_tokens, size=n_neurons)):
        row[shift:], row[:shift] = source[: n_tokens - shift], source[n_tokens - shift :]
    return out.T


@SHUFFLES.register("permute")
def _permuted(x, rng):
    """Permute the tokens of every neuron."""
    return rng.permuted(x, axis=0)
