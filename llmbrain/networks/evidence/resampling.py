"""Repeated decompositions of resampled runs, at little more than the price of one.

The data are reduced once, to a joint subspace a few times larger than the number of components. In it a resampled
data set is a small reweighted covariance, its whitened form a rotation of the rows that are white already, and a map
a row of coordinates, so that neither reading nor whitening nor correlating maps is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from ...exceptions import ParameterError
from .stability import Icasso, icasso

__all__ = [
    "JointSubspace",
    "LONGEST_BLOCK",
    "MINIMUM_BLOCKS",
    "cut_blocks",
    "decompose",
    "joint_subspace",
    "resampled_networks",
]

MINIMUM_BLOCKS = 12
"""Runs are cut until so many pieces can be drawn: a bootstrap of very few pieces is mostly the same data."""
LONGEST_BLOCK = 2048  # tokens: the Gram matrix of a piece is this large at most


@dataclass(frozen=True)
class JointSubspace:
    """Runs reduced once, for any number of decompositions.

    Parameters
    ----------
    rows : array of shape (n_rows, n_neurons), float32
        White rows, centred over neurons: ``rows @ rows.T / n_neurons`` is the identity.
    scores : list of arrays of shape (n_tokens, n_rows)
        Every token of every run in these rows: ``run ~ scores @ rows``.
    covariances : array of shape (n_blocks, n_rows, n_rows)
        What each block of tokens adds to the group covariance of the rows.
    group : {"tokens", "runs"}
        Group model of the reduction.
    """

    rows: np.ndarray
    scores: list
    covariances: np.ndarray
    group: str


def joint_subspace(
    runs, n_rows, *, blocks=None, group="auto", confounds=None, detrend=False, standardize=True, device="cpu"
):
    """Reduce runs to `n_rows` white rows and keep what every block of tokens adds to them.

    Parameters
    ----------
    runs : list of arrays of shape (n_tokens, n_neurons)
        Or sources that are read in blocks.
    n_rows : int
        Clipped to what the tokens carry.
    blocks : list of arrays of shape (n_tokens,), optional
        Label of the piece (document) of every token of every run. Default: :func:`cut_blocks`.
    group : {"auto", "tokens", "runs"}
        Group model, as in :func:`~llmbrain.networks.group_ica`: tokens weigh alike, or every piece enters with its
        leading rows at unit norm, as a run does in canonical ICA.
    confounds : list of arrays, optional
    detrend, standardize : bool
        Cleaning of each neuron in each run.
    device : str
        Torch device of the reduction.

    Returns
    -------
    JointSubspace
    """
    from ...stats.precision import full_precision
    from ..engines.reduction import group_subspace, whiten
    from ..engines.runs import CleanedRuns

    data = CleanedRuns(runs, confounds, detrend=detrend, standardize=standardize, device=device)
    blocks = cut_blocks(data.n_tokens) if blocks is None else [np.asarray(b) for b in blocks]
    if [len(b) for b in blocks] != data.n_tokens:
        raise ParameterError(f"blocks label {[len(b) for b in blocks]} tokens, the runs have {data.n_tokens}.")
    n_rows = min(n_rows, data.n_rows - len(data.n_tokens), data.n_neurons - 1)
    with full_precision():
        # as many rows of each run: those that canonical ICA keeps of a run, when n_rows is three times its components
        subspace = group_subspace(data, n_rows, group=group, rows_per_run=1)
        rows = whiten(data, subspace)
        scores, covariances = [], []
        for r, labels in enumerate(blocks):
            pieces = [np.flatnonzero(labels == label) for label in np.unique(labels)]
            score, grams = _scores_and_grams(data, r, rows, pieces if subspace.group == "runs" else [])
            scores.append(score)
            if subspace.group == "runs":
                parts = [_unit_rows(g, n_rows) @ score[p] * data.n_neurons**0.5 for p, g in zip(pieces, grams)]
            else:
                parts = [score[p] for p in pieces]
            covariances += [part.T @ part for part in parts]
    return JointSubspace(rows.cpu().numpy(), scores, np.stack(covariances), subspace.group)


def _scores_and_grams(data, r, rows, pieces):
    """Coordinates of the tokens of a run, and the Gram matrix of each of its pieces, in one pass over the run."""
    import torch

    from ..engines.linalg import gram, product

    score = torch.zeros(data.n_tokens[r], len(rows), dtype=torch.float64, device=data.device)
    kept = data.kept_gram(r) if pieces else None  # pieces are cleaned with their run, so theirs are parts of it
    if kept is not None:
        grams = [kept[p][:, p] for p in pieces]
        pieces = []
    else:
        grams = [torch.zeros(len(p), len(p), dtype=torch.float64, device=data.device) for p in pieces]
    for start, stop in data.blocks(data.n_tokens[r]):
        x = data.block(r, start, stop)
        score += product(x, rows[:, start:stop].T.contiguous()).double()
        for piece, total in zip(pieces, grams):
            total += gram(x[piece]).double()
    return (score / data.n_neurons).cpu().numpy(), [g.cpu().numpy() for g in grams]


def _unit_rows(gram, n_rows):
    """What turns a piece into its leading rows at unit norm, ``(n, n_tokens)``."""
    n = len(gram)
    values, vectors = eigh(gram, subset_by_index=(max(n - n_rows, 0), n - 1))
    kept = values > 1e-7 * max(values[-1], 1e-300)
    return (vectors[:, kept] / np.sqrt(values[kept]))[:, ::-1].T


def cut_blocks(n_tokens, minimum=MINIMUM_BLOCKS):
    """Label the tokens of every run by a piece that is drawn as a whole.

    Runs are the pieces if there are enough of them (a very long one is cut nevertheless); otherwise each is cut into
    contiguous pieces of equal length, so that neighbouring tokens, which are not independent, stay together.

    Parameters
    ----------
    n_tokens : list of int
        Length of every run.
    minimum : int
        Number of pieces wanted in all.

    Returns
    -------
    list of arrays of shape (n_tokens,), int

    Examples
    --------
    >>> [b.tolist() for b in cut_blocks([4, 4], minimum=4)]
    [[0, 0, 1, 1], [2, 2, 3, 3]]
    """
    total, first, labels = sum(n_tokens), 0, []
    for n in n_tokens:
        wanted = max(1, round(minimum * n / total)) if len(n_tokens) < minimum else 1
        pieces = min(n, max(wanted, -(-n // LONGEST_BLOCK)))
        labels.append(first + np.arange(n) * pieces // n)
        first += pieces
    return labels


def resampled_networks(
    runs,
    n_components,
    *,
    n_repeats=20,
    oversampling=3,
    resample=True,
    contrast="cube",
    max_iter=200,
    tol=1e-4,
    random_state=0,
    **reduction,
):
    """Decompose bootstrapped runs from new initial values, many times, and cluster what comes out (ICASSO).

    Parameters
    ----------
    runs : list of arrays of shape (n_tokens, n_neurons), or a JointSubspace
        A subspace that was made before can be used again, e.g. for several numbers of components.
    n_components : int
    n_repeats : int
        Number of decompositions, each with its own draw of blocks and its own start.
    oversampling : float
        Rows of the joint subspace over `n_components`. A draw can bring up a network only inside this space.
    resample : bool
        False repeats the decomposition of the whole data from new starts only.
    contrast, max_iter, tol
        As in :func:`~llmbrain.networks.group_ica`.
    random_state : int, numpy Generator or None
    **reduction
        Options of :func:`joint_subspace`, among them `blocks`: the pieces that are drawn with replacement.

    Returns
    -------
    Icasso
        Its `maps` are the centrotypes at unit norm over neurons, the peak positive.

    References
    ----------
    Himberg, Hyvarinen & Esposito (2004), NeuroImage 22, 1214-1222.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> maps = 3 * rng.standard_normal((3, 600)) * (rng.random((3, 600)) < 0.1)
    >>> run = rng.standard_normal((200, 3)) @ maps + rng.standard_normal((200, 600))
    >>> resampled_networks([run], 3, n_repeats=5).stable.tolist()
    [True, True, True]
    """
    rng = np.random.default_rng(random_state)
    subspace = runs
    if not isinstance(runs, JointSubspace):
        subspace = joint_subspace(runs, int(np.ceil(oversampling * n_components)), **reduction)
    if n_components > subspace.rows.shape[0]:
        raise ParameterError(
            f"n_components={n_components}, but the runs carry only {subspace.rows.shape[0]} directions."
        )
    n_blocks = len(subspace.covariances)
    estimates = []
    for _ in range(n_repeats):
        weights = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks)) if resample else np.ones(n_blocks)
        estimates.append(decompose(subspace, weights, n_components, rng, contrast, max_iter, tol))
    stacked = np.concatenate(estimates)
    clusters = icasso(estimates, correlations=stacked @ stacked.T)
    return _as_maps(clusters, subspace.rows)


def decompose(subspace, weights, n_components, rng, contrast="cube", max_iter=200, tol=1e-4):
    """Coordinates ``(n_components, n_rows)`` of the maps of one weighting of the blocks, from a random start.

    Parameters
    ----------
    subspace : JointSubspace
    weights : array of shape (n_blocks,)
    n_components : int
    rng : numpy Generator
        Draws the start.
    contrast, max_iter, tol
        As in :func:`~llmbrain.networks.group_ica`.
    """
    import torch

    from ..engines.fixed_point import draw_rotations, fastica

    covariance = np.tensordot(weights, subspace.covariances, axes=1)
    leading = np.linalg.eigh(covariance)[1][:, ::-1][:, :n_components]
    white = torch.from_numpy(np.ascontiguousarray(leading.T.astype(np.float32) @ subspace.rows))
    start = draw_rotations(1, n_components, int(rng.integers(2**31)))
    found = fastica(white, start, contrast=contrast, max_iter=max_iter, tol=tol)
    return found.w[0].numpy() @ leading.T


def _as_maps(clusters, rows):
    maps = clusters.maps.astype(np.float32) @ rows / np.float32(np.sqrt(rows.shape[1]))
    flip = np.where(maps.max(axis=1) < -maps.min(axis=1), np.float32(-1), np.float32(1))
    return Icasso(
        maps * flip[:, None],
        clusters.iq,
        clusters.coverage,
        clusters.labels,
        clusters.centrotypes,
        clusters.similarity,
    )
