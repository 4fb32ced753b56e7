"""How many networks the data hold: spectrum, noise edge, parallel analysis, reproducibility between halves.

Four answers to two questions. The explained variance, the Marchenko-Pastur edge and parallel analysis say how many
directions stand out of noise; in a language model these are hundreds. The split-half curve says how many *networks*
are found again in other text, which is what a number of components should be chosen for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..exceptions import ParameterError
from .matching import match_maps
from .resampling import cut_blocks, decompose, joint_subspace

LARGEST_SIDE = 2048
"""Spectra are computed from a Gram matrix of this order at most; longer recordings use a sample of the neurons."""
REPRODUCED = 0.7
"""Absolute correlation of the maps of two halves from which a network counts as found again."""


# ------------------------------------------------------------------------------------------- spectrum and noise
def standardized_sample(runs, *, max_neurons=LARGEST_SIDE, random_state=0):
    """Z-scored activations of a random sample of the neurons, run by run.

    Parameters
    ----------
    runs : list of arrays of shape (n_tokens, n_neurons), or sources
    max_neurons : int
    random_state : int, numpy Generator or None

    Returns
    -------
    list of arrays of shape (n_tokens, n_sampled), float32
        Neurons that are constant in some run are left out.
    """
    from .engines.blocks import as_sources

    sources = as_sources(runs)
    n_neurons = sources[0].n_neurons
    chosen = np.arange(n_neurons)
    if n_neurons > max_neurons:
        chosen = np.sort(np.random.default_rng(random_state).choice(n_neurons, max_neurons, replace=False))
    columns = [s.columns[chosen] if s.columns is not None else chosen for s in sources]
    out = [np.array(s.open()[:, c], dtype=np.float32) for s, c in zip(sources, columns)]
    alive = np.ones(len(chosen), dtype=bool)
    for x in out:
        x -= x.mean(axis=0)
        sd = x.std(axis=0, ddof=1)
        alive &= np.isfinite(sd) & (sd > 0)
        x /= np.where(sd > 0, sd, 1)
    if not alive.any():
        raise ParameterError("Every sampled neuron is constant or not finite in some run.")
    return out if alive.all() else [x[:, alive] for x in out]


def spectrum(runs):
    """Eigenvalues of ``X X^T / n_neurons`` of standardised runs, descending.

    Parameters
    ----------
    runs : list of arrays of shape (n_tokens, n_neurons)
        Centred in each run.

    Returns
    -------
    array of shape (min(n_tokens - n_runs, n_neurons),)

    Examples
    --------
    >>> x = np.array([[1.0, -1.0], [-1.0, 1.0]])
    >>> spectrum([x]).tolist()
    [2.0]
    """
    gram, _ = _gram(runs)
    rank = min(sum(len(x) for x in runs) - len(runs), runs[0].shape[1])
    values = np.linalg.eigvalsh(gram)[::-1] / runs[0].shape[1]
    return np.maximum(values[:rank], 0.0)


def explained_variance(eigenvalues):
    """Share of the variance that each direction and all up to it explain: (share, cumulative)."""
    share = np.asarray(eigenvalues, dtype=np.float64) / np.sum(eigenvalues)
    return share, np.cumsum(share)


def marchenko_pastur_edge(n_tokens, n_neurons, variance=1.0):
    """Largest eigenvalue of ``X X^T / n_neurons`` for independent noise, in the limit of large matrices.

    ``variance * (1 + sqrt(n_tokens / n_neurons))**2``

    References
    ----------
    Marchenko & Pastur (1967), Math. USSR Sb. 1, 457-483.

    Examples
    --------
    >>> marchenko_pastur_edge(100, 400)
    2.25
    """
    return float(variance * (1.0 + np.sqrt(n_tokens / n_neurons)) ** 2)


def noise_bound(n_tokens, n_neurons, variance=1.0):
    """Value that the largest eigenvalue of independent noise exceeds in 5 % of the cases.

    The Marchenko-Pastur edge plus the Tracy-Widom fluctuation around it.

    References
    ----------
    Johnstone (2001), Ann. Stat. 29, 295-327, theorem 1.1.

    Examples
    --------
    >>> marchenko_pastur_edge(100, 400) < noise_bound(100, 400) < 1.1 * marchenko_pastur_edge(100, 400)
    True
    """
    a, b = np.sqrt(max(n_tokens - 1, 1)), np.sqrt(n_neurons)
    centre, scale = (a + b) ** 2, (a + b) * (1 / a + 1 / b) ** (1 / 3)
    return float(variance * (centre + 0.9793 * scale) / n_neurons)


def marchenko_pastur_count(runs, max_iter=10):
    """Number of directions beyond the noise edge.

    The edge holds for noise of one variance, but the noise that is left in a z-scored neuron is the smaller the
    more networks drive it. So the directions found are taken out, every neuron is scaled to unit variance of what
    is left, and the count is repeated until it stays.

    Valid for tokens that are independent under the null. Activations of neighbouring tokens are not quite, so this
    overstates the number; :func:`parallel_analysis` keeps their autocorrelation.

    Parameters
    ----------
    runs : list of arrays of shape (n_tokens, n_neurons)
        Centred in each run.
    max_iter : int

    Returns
    -------
    count : int
    bound : float
        Eigenvalue of the noise-scaled data, of unit noise variance, that had to be exceeded.

    References
    ----------
    Marchenko & Pastur (1967), Math. USSR Sb. 1, 457-483.
    Dobriban & Owen (2019), J. R. Stat. Soc. B 81, 163-183 (why the noise of each variable matters).
    """
    dof, n_neurons = sum(len(x) for x in runs) - len(runs), runs[0].shape[1]
    bound = noise_bound(dof, n_neurons)
    total = sum(np.einsum("ij,ij->j", x, x, dtype=np.float64) for x in runs)
    noise, seen, count = total / dof, [], 0
    for _ in range(max_iter):
        gram, tokens_side = _gram([x / np.sqrt(noise).astype(np.float32) for x in runs])
        values, vectors = np.linalg.eigh(gram)
        count = min(int((values > bound * n_neurons).sum()), len(values) // 2, dof // 2)
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


def parallel_analysis(runs, *, null="shift", n_draws=10, quantile=0.95, random_state=0):
    """Number of directions that explain more than those of data without any shared signal (Horn).

    Parameters
    ----------
    runs : list of arrays of shape (n_tokens, n_neurons)
        Standardised, e.g. by :func:`standardized_sample`.
    null : {"shift", "permute"}
        What breaks the ties between neurons in each run: a circular shift of every neuron by an amount of its own,
        which leaves its autocorrelation as it is, or a permutation of its tokens.
    n_draws : int
    quantile : float
        Quantile over draws that the eigenvalue of the same rank must exceed.
    random_state : int, numpy Generator or None

    Returns
    -------
    count : int
        Leading eigenvalues above the null, up to the first that is not.
    eigenvalues : array
        Of the data.
    bound : array
        Quantile of the null for every rank.

    References
    ----------
    Horn (1965), Psychometrika 30, 179-185; Buja & Eyuboglu (1992), Multivar. Behav. Res. 27, 509-540 (permutation).
    """
    if null not in ("shift", "permute"):
        raise ParameterError(f'null={null!r} is unknown; choose "shift" or "permute".')
    rng = np.random.default_rng(random_state)
    eigenvalues = spectrum(runs)
    draws = [spectrum([_shuffled(x, null, rng) for x in runs]) for _ in range(n_draws)]
    bound = np.quantile(draws, quantile, axis=0)
    above = eigenvalues > bound
    count = len(above) if above.all() else int(np.argmin(above))
    return count, eigenvalues, bound


def _shuffled(x, null, rng):
    if null == "permute":
        return rng.permuted(x, axis=0)
    n_tokens, n_neurons = x.shape
    out = np.empty((n_neurons, n_tokens), dtype=x.dtype)
    columns = np.ascontiguousarray(x.T)
    for row, source, shift in zip(out, columns, rng.integers(n_tokens, size=n_neurons)):
        row[shift:], row[:shift] = source[: n_tokens - shift], source[n_tokens - shift :]
    return out.T


# ------------------------------------------------------------------------------------------- split-half curve
def halves(runs):
    """Split runs into two lists that share no text: every other run, or every other piece of a few runs.

    Returns
    -------
    first, second : lists of sources
    """
    from .engines.blocks import ArraySource, as_sources

    sources = as_sources(runs)
    if len(sources) < 4:
        pieces = []
        for source, labels in zip(sources, cut_blocks([s.n_tokens for s in sources], minimum=8)):
            cuts = np.flatnonzero(np.diff(labels, prepend=labels[0] - 1, append=labels[-1] + 1))
            for start, stop in zip(cuts, cuts[1:]):
                opened = lambda s=source, a=int(start), b=int(stop): s.open()[a:b]  # noqa: E731
                pieces.append(ArraySource(opened, stop - start, source.n_neurons, source.columns, source.scale))
        sources = pieces
    return sources[::2], sources[1::2]


def split_half_curve(runs, grid, *, n_init=3, random_state=0, **reduction):
    """Decompose two halves of the data with each number of components, and see which networks come back.

    Parameters
    ----------
    runs : list of arrays of shape (n_tokens, n_neurons), or sources
    grid : sequence of int
        Numbers of components.
    n_init : int
        Restarts of each decomposition; the sparsest is kept.
    random_state : int, numpy Generator or None
    **reduction
        Options of :func:`~llmbrain.networks.resampling.joint_subspace`.

    Returns
    -------
    DataFrame
        n_components; n_reproduced (one-to-one pairs with an absolute correlation of at least ``REPRODUCED``); share
        (of the components); mean_r and median_r of all pairs.
    """
    import pandas as pd

    grid = sorted({int(k) for k in grid})
    rng = np.random.default_rng(random_state)
    sides = halves(runs)
    if reduction.get("group", "auto") == "auto":
        # the model that the whole data would get, not that of the shorter halves
        reduction["group"] = _group_model(sides)
    limit = min(sum(s.n_tokens - 1 for s in side) for side in sides)
    if not grid or grid[0] < 1 or grid[-1] > limit:
        raise ParameterError(f"The grid {grid} must lie between 1 and {limit}, what half of the tokens carry.")
    spaces = [joint_subspace(side, grid[-1], **reduction) for side in sides]
    table = []
    for k in grid:
        a, b = (sparsest_maps(space, k, n_init, rng) for space in spaces)
        r = np.abs(match_maps(a, b).score)
        found = int((r >= REPRODUCED).sum())
        table.append((k, found, found / k, r.mean(), np.median(r)))
    return pd.DataFrame(table, columns=["n_components", "n_reproduced", "share", "mean_r", "median_r"])


def _group_model(sides):
    from .engines.reduction import TOKENS_AT_ONCE

    return "tokens" if sum(s.n_tokens for side in sides for s in side) <= TOKENS_AT_ONCE else "runs"


def sparsest_maps(space, n_components, n_init, rng):
    """Maps of the sparsest of some decompositions of a joint subspace, (n_components, n_neurons)."""
    weights = np.ones(len(space.covariances))
    maps = [decompose(space, weights, n_components, rng).astype(np.float32) @ space.rows for _ in range(n_init)]
    return min(maps, key=lambda m: np.abs(m).sum(axis=1).max())


# ------------------------------------------------------------------------------------------- the choice
@dataclass(frozen=True)
class Order:
    """A number of components, and all that speaks for it.

    Attributes
    ----------
    n_components : int
    marchenko_pastur, parallel : int
        Directions beyond the noise edge, and beyond parallel analysis.
    curve : DataFrame
        From :func:`split_half_curve`.
    spectrum : DataFrame
        component, eigenvalue, share, cumulative, null (bound of parallel analysis).
    info : dict
        Sizes and settings.
    """

    n_components: int
    marchenko_pastur: int
    parallel: int
    curve: object
    spectrum: object
    info: dict = field(default_factory=dict)


def default_grid(limit):
    """Numbers of components worth trying: 5, 10, 15, 20, 30, 40, 60, 80, 120 ... up to `limit`."""
    grid = [5, 10, 15, 20, 30, 40, 60, 80, 120, 160]
    return [k for k in grid if k <= limit] or [max(1, limit)]


def choose_n_components(runs, *, largest=80, grid=None, n_draws=5, n_init=3, random_state=0, **reduction):
    """Choose the number of components: what ``n_components="auto"`` does.

    The candidates are those of the grid that parallel analysis allows. Chosen is the one that yields the most networks
    found again in the other half of the text, among those of which at least half of the networks are; of equals the
    smaller. (In a language model a larger number always brings up a few more networks, among ever more that are
    never seen again.) Asking for somewhat too many is safe, surplus components are unstable and flagged; asking for
    too few merges networks.

    Parameters
    ----------
    runs : list of arrays of shape (n_tokens, n_neurons), or sources
    largest : int
        Upper end of the default grid.
    grid : sequence of int, optional
    n_draws : int
        Draws of parallel analysis.
    n_init : int
        Restarts of each decomposition.
    random_state : int, numpy Generator or None
    **reduction
        Options of :func:`~llmbrain.networks.resampling.joint_subspace`.

    Returns
    -------
    Order
    """
    import pandas as pd

    sample = standardized_sample(runs, random_state=random_state)
    n_tokens, n_neurons = sum(len(x) for x in sample) - len(sample), sample[0].shape[1]
    parallel, eigenvalues, bound = parallel_analysis(sample, n_draws=n_draws, random_state=random_state)
    beyond, edge = marchenko_pastur_count(sample)
    half = min(sum(s.n_tokens - 1 for s in side) for side in halves(runs))
    limit = min(max(parallel, 1), half, largest)
    curve = split_half_curve(
        runs, default_grid(limit) if grid is None else grid, n_init=n_init, random_state=random_state, **reduction
    )
    share, cumulative = explained_variance(eigenvalues)
    table = pd.DataFrame(
        {
            "component": np.arange(len(eigenvalues)),
            "eigenvalue": eigenvalues,
            "share": share,
            "cumulative": cumulative,
            "null": bound,
        }
    )
    info = {"n_tokens": n_tokens, "n_neurons_sampled": n_neurons, "noise_bound": edge, "reproduced_at": REPRODUCED}
    return Order(_best(curve), beyond, parallel, curve, table, info)


def _best(curve):
    """The most networks found again among numbers of which at least half are; the smaller of equals."""
    trusted = curve[curve["share"] >= 0.5]
    if trusted.empty:
        return int(curve["n_components"][curve["share"].idxmax()])
    return int(trusted["n_components"][trusted["n_reproduced"].idxmax()])
