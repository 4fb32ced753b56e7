"""Repeated decompositions of resampled runs, at little more than the cost of one.

The data are reduced once, to a joint subspace a few times larger than the number of components. In this subspace a
resampled data set is a small reweighted covariance, its whitening a rotation, and a map a row of coordinates, so data
are read and whitened only once.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.linalg import eigh

from ...arguments import checked, count, flag
from ...exceptions import ParameterError
from ...parallel import gather, share
from ...stats.precision import full_precision
from ..engines.ica import draw_rotations, fastica
from ..engines.leading import check_rank, from_tokens
from ..engines.linalg import gram, product
from ..engines.parallel import workers
from ..engines.progress import track
from ..engines.reduction import GROUP_MODELS, ROWS_PER_RUN, STACK_BYTES, group_subspace, run_rows, whiten, whiten_rows
from ..engines.runs import CleanedRuns
from .stability import icasso

MINIMUM_BLOCKS = 12  # pieces into which runs are cut at least: a bootstrap of very few pieces is mostly the same data
ROWS_PER_COMPONENT = 3  # rows of the joint subspace; networks are found only inside this space
LONGEST_BLOCK = 2048  # tokens of a piece at most, which limits its Gram matrix


@dataclass(frozen=True)
class JointSubspace:
    """Runs reduced once, for any number of decompositions."""

    rows: np.ndarray  # (n_rows, n_neurons) float32, white and centred over neurons
    covariances: np.ndarray  # (n_blocks, n_rows, n_rows), what each block of tokens adds to the group covariance
    group: str  # group model of the reduction
    parts: list = None  # of (n, n_rows), by runs: the leading rows of every block at unit norm, the strongest first
    rows_per_run: float = ROWS_PER_RUN  # rows of each block that count, as a multiple of the number of components

    def covariance(self, weights, n_components):
        """Group covariance of weighted blocks, as a decomposition into this number of components sees it."""
        if self.parts is None:
            return np.tensordot(weights, self.covariances, axes=1)
        n = max(n_components, round(self.rows_per_run * n_components))
        return sum(w * part[:n].T @ part[:n] for w, part in zip(weights, self.parts) if w)


def joint_subspace(
    runs,
    n_rows,
    *,
    blocks=None,
    group="auto",
    rows_per_run=ROWS_PER_RUN,
    confounds=None,
    detrend=False,
    standardize=True,
    device="auto",
):
    """Reduce runs to ``n_rows`` white rows and keep the contribution of every block of tokens.

    ``n_rows`` is clipped to the number of independent directions. ``blocks`` labels the piece (document) of every token
    of every run, by default :func:`cut_blocks`. With the group model ``"tokens"`` all tokens have equal weight; with
    ``"runs"`` every piece enters with its leading rows at unit norm, as a run does in canonical ICA; how many of them
    count is ``rows_per_run`` times the number of components of a decomposition.
    """
    data = CleanedRuns(runs, confounds, detrend=detrend, standardize=standardize, device=device)
    blocks = cut_blocks(data.n_tokens) if blocks is None else [np.asarray(b) for b in blocks]
    if [len(b) for b in blocks] != data.n_tokens:
        raise ParameterError(
            f"blocks need one label per token: {data.n_tokens} tokens, {[len(b) for b in blocks]} labels."
        )
    n_leading = round(max(1, rows_per_run / ROWS_PER_COMPONENT) * n_rows)
    n_rows = min(n_rows, data.n_rows - len(data.n_tokens), data.n_neurons - 1)
    with full_precision(), workers(data.device):
        size = 4 * data.n_neurons * sum(min(n, n_leading) for n in data.n_tokens)
        if GROUP_MODELS[group].by_run and _are_runs(blocks) and size <= STACK_BYTES:
            return _of_whole_runs(data, n_rows, n_leading, rows_per_run)
        subspace = group_subspace(data, n_rows, group=group, rows_per_run=1)
        rows, by_run = whiten(data, subspace), GROUP_MODELS[subspace.group].by_run
        covariances, leading = [], []
        for r, labels in enumerate(track(blocks, "Reading runs")):
            pieces = [np.flatnonzero(labels == label) for label in np.unique(labels)]
            score, grams = _scores_and_grams(data, r, rows, pieces if by_run else [])
            if by_run:
                parts = [_unit_rows(g, n_leading) @ score[p] * data.n_neurons**0.5 for p, g in zip(pieces, grams)]
                leading += parts
            else:
                parts = [score[p] for p in pieces]
            covariances += [part[:n_rows].T @ part[:n_rows] if by_run else part.T @ part for part in parts]
    found = rows.cpu().numpy(), np.stack(covariances), subspace.group
    return JointSubspace(*found, leading if by_run else None, rows_per_run)


def _are_runs(blocks):
    """Whether the pieces are the runs themselves."""
    labels = [np.unique(b) for b in blocks]
    return (
        len(labels) > 1 and all(len(x) == 1 for x in labels) and len(np.unique(np.concatenate(labels))) == len(labels)
    )


def _of_whole_runs(data, n_rows, n_leading, rows_per_run):
    """Joint subspace whose pieces are runs, from their leading rows: the data are not read again.

    The rows are kept by the sources, so that the decomposition of each half of the runs needs no reading at all.
    """
    by_run = [run_rows(data, r, n_leading) for r in track(range(len(data.sources)), "Reading runs")]
    stack = torch.cat([rows[:n_rows] for rows in by_run])
    found = from_tokens(product(stack, stack.T).double(), min(n_rows, len(stack)))
    found = found[: check_rank(found.values, 1, "common to the runs")]
    z, _ = whiten_rows(product((found.left / found.values.sqrt()).T.float(), stack))
    parts = [product(rows, z.T).double().cpu().numpy() / data.n_neurons**0.5 for rows in by_run]
    covariances = np.stack([part[:n_rows].T @ part[:n_rows] for part in parts])
    return JointSubspace(z.cpu().numpy(), covariances, "runs", parts, rows_per_run)


def _scores_and_grams(data, r, rows, pieces):
    """Coordinates of the tokens of a run, and the Gram matrix of each of its pieces, in one pass over the run."""
    score = torch.zeros(data.n_tokens[r], len(rows), dtype=torch.float64, device=data.device)
    kept = data.kept_gram(r) if pieces else None  # pieces are cleaned with their run, so theirs are blocks of it
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
    """Projection of a piece on its leading rows at unit norm, ``(n, n_tokens)``."""
    n = len(gram)
    values, vectors = eigh(gram, subset_by_index=(max(n - n_rows, 0), n - 1))
    kept = values > 1e-7 * max(values[-1], 1e-300)
    return (vectors[:, kept] / np.sqrt(values[kept]))[:, ::-1].T


def cut_blocks(n_tokens, minimum=MINIMUM_BLOCKS):
    """Label the tokens of every run by pieces for a block bootstrap, at least ``minimum`` pieces in all.

    Runs are the pieces if there are enough of them (except that very long ones are cut). Otherwise each run is cut into
    contiguous pieces of equal length, so that neighbouring tokens, which are not independent, stay together.
    """
    total, first, labels = sum(n_tokens), 0, []
    for n in n_tokens:
        wanted = max(1, round(minimum * n / total)) if len(n_tokens) < minimum else 1
        pieces = min(n, max(wanted, -(-n // LONGEST_BLOCK)))
        labels.append(first + np.arange(n) * pieces // n)
        first += pieces
    return labels


@checked(n_components=count, n_repeats=count, resample=flag)
def resampled_networks(
    runs,
    n_components,
    *,
    n_repeats=20,
    resample=True,
    contrast="cube",
    max_iter=200,
    tol=1e-4,
    random_state=0,
    **reduction,
):
    """Decompose bootstrapped runs repeatedly from new initial values and cluster the results (ICASSO).

    Parameters
    ----------
    runs : list of arrays of shape (n_tokens, n_neurons), or a JointSubspace
        A subspace can be used again, for example for several numbers of components.
    n_components : int
    n_repeats : int
        Number of decompositions, each with its own draw of blocks and its own start.
    resample : bool
        False repeats the decomposition of the whole data from new starts.
    contrast, max_iter, tol
        As in :func:`~llmbrain.networks.group_ica`.
    random_state : int, numpy Generator or None
    **reduction
        ``group``, ``rows_per_run``, ``confounds``, ``detrend``, ``standardize`` and ``device``, as in
        :func:`~llmbrain.networks.group_ica`, and ``blocks``: for each run the label of the piece (document) of every
        token. Pieces are drawn with replacement.

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
        subspace = joint_subspace(runs, ROWS_PER_COMPONENT * n_components, **reduction)
    if n_components > subspace.rows.shape[0]:
        raise ParameterError(
            f"n_components={n_components} exceeds the {subspace.rows.shape[0]} independent directions of the runs."
        )
    n_blocks = len(subspace.covariances)
    draws = []
    for _ in range(n_repeats):
        weights = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks)) if resample else np.ones(n_blocks)
        draws.append((weights, draw_seed(rng)))
    own = {  # several processes share the repetitions
        str(i): decompose(subspace, draws[i][0], n_components, draws[i][1], contrast, max_iter, tol)
        for i in track(share(range(n_repeats)), "Repetitions on bootstrapped runs")
    }
    found = {i: maps for record in gather(own) for i, maps in record.items()}
    estimates = [found[str(i)] for i in range(n_repeats)]
    stacked = np.concatenate(estimates)
    clusters = icasso(estimates, correlations=stacked @ stacked.T)
    maps = clusters.maps.astype(np.float32) @ subspace.rows / np.float32(np.sqrt(subspace.rows.shape[1]))
    flip = np.where(maps.max(axis=1) < -maps.min(axis=1), np.float32(-1), np.float32(1))
    return replace(clusters, maps=maps * flip[:, None])


def draw_seed(rng):
    """Draw the seed of one decomposition."""
    return int(rng.integers(2**31))


def decompose(subspace, weights, n_components, seed, contrast="cube", max_iter=200, tol=1e-4):
    """Decompose one weighting of the blocks from a random start; returns map coordinates ``(n_components, n_rows)``."""
    covariance = subspace.covariance(weights, n_components)
    leading = np.linalg.eigh(covariance)[1][:, ::-1][:, :n_components]
    white = torch.from_numpy(np.ascontiguousarray(leading.T.astype(np.float32) @ subspace.rows))
    start = draw_rotations(1, n_components, seed)
    with workers(white.device):  # threads inside its small products would take several times as long
        found = fastica(white, start, contrast=contrast, max_iter=max_iter, tol=tol)
    return found.w[0].numpy() @ leading.T
