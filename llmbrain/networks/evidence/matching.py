"""Which network of one set is which network of another, and how much of that is chance.

Independent components come in no order and with no sign, so two sets are compared after a one-to-one
assignment that maximises the absolute spatial correlation (Hungarian algorithm). The number that comes out
is high by construction when many networks may be matched, so each matching can be set against a null.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from ...exceptions import ParameterError
from ...stats import overlap, permutation_p

__all__ = [
    "Matching",
    "NULLS",
    "assign",
    "correlate_maps",
    "count_matches",
    "match_maps",
    "match_masks",
    "null_matches",
    "permute_neurons",
    "standardize_maps",
]

NULLS = ("layers", "neurons", "rotation")


@dataclass(frozen=True)
class Matching:
    """A one-to-one assignment of the networks of `other` to those of `reference`.

    Parameters
    ----------
    index : array of shape (n_reference,)
        Network of `other` given to each reference network; -1 where `other` has too few.
    score : array of shape (n_reference,)
        Signed correlation (maps) or overlap (masks) of each pair; NaN where unmatched.
    similarity : array of shape (n_reference, n_other)
        The whole table the assignment was made from.
    """

    index: np.ndarray
    score: np.ndarray
    similarity: np.ndarray

    @property
    def sign(self):
        """+1 or -1 for each pair (0 where unmatched): what to multiply `other` by to agree."""
        return np.where(self.index < 0, 0.0, np.where(self.score < 0, -1.0, 1.0))

    def align(self, other):
        """Bring rows of `other` (n_other, ...) into the order and sign of the reference.

        Unmatched reference networks get a row of NaN.
        """
        other = np.asarray(other)
        shape = (-1,) + (1,) * (other.ndim - 1)
        rows = other[np.maximum(self.index, 0)] * self.sign.reshape(shape).astype(other.dtype)
        rows[self.index < 0] = np.nan
        return rows

    def to_frame(self, null=None):
        """One row a reference network: its match, the score, and p-values if a null is given.

        Parameters
        ----------
        null : array of shape (n_draws, n_reference), optional
            From :func:`null_matches`. The p-value is corrected over networks (family-wise): the observed
            score is held against the largest score of each draw.
        """
        import pandas as pd

        frame = pd.DataFrame({"network": np.arange(len(self.index)), "match": self.index, "score": self.score})
        if null is not None:
            frame["null_mean"] = np.mean(null, axis=0)
            frame["null_max"] = np.max(null)
            largest = np.repeat(np.max(null, axis=1)[:, None], len(frame), axis=1)
            frame["p"] = permutation_p(np.abs(self.score), largest)
        return frame


def standardize_maps(maps, dtype=np.float32):
    """Centre each map over neurons and scale it to unit norm, so that products are correlations.

    A constant map (a network that vanished) becomes zeros: it correlates with nothing.

    Parameters
    ----------
    maps : array of shape (n_networks, n_neurons)
    dtype : numpy type
        Of the result; the sums are float64.
    """
    maps = np.asarray(maps)
    if maps.ndim != 2 or 0 in maps.shape:
        raise ParameterError(f"Maps must be (n_networks, n_neurons) and not empty; got shape {maps.shape}.")
    if not np.isfinite(maps).all():
        raise ParameterError("Maps hold NaN or infinite values; drop those networks first.")
    # float64 for the two reductions only: a float32 sum over 10**6 neurons loses digits
    mean = maps.mean(axis=1, dtype=np.float64)
    out = (maps - mean[:, None]).astype(dtype)
    norm = np.sqrt(np.einsum("ij,ij->i", out, out, dtype=np.float64))
    tiny = norm <= 1e-12 * np.sqrt(maps.shape[1]) * np.maximum(1.0, np.abs(mean))
    return out / np.where(tiny, np.inf, norm)[:, None].astype(dtype)


def correlate_maps(a, b=None):
    """Pearson correlation over neurons of every map of `a` with every map of `b`.

    Parameters
    ----------
    a : array of shape (n_a, n_neurons)
    b : array of shape (n_b, n_neurons), optional
        Default: `a` itself.

    Returns
    -------
    array of shape (n_a, n_b), float64

    Examples
    --------
    >>> correlate_maps([[1.0, 2.0, 3.0]], [[2.0, 4.0, 6.0], [3.0, 2.0, 1.0]]).round(6).tolist()
    [[1.0, -1.0]]
    """
    a = standardize_maps(a)
    b = a if b is None else standardize_maps(b)
    if a.shape[1] != b.shape[1]:
        raise ParameterError(f"Maps over different neurons: {a.shape[1]} and {b.shape[1]}.")
    return np.clip((a @ b.T).astype(np.float64), -1.0, 1.0)


def assign(similarity):
    """One-to-one assignment that maximises the summed similarity (Kuhn 1955).

    Parameters
    ----------
    similarity : array of shape (n_reference, n_other)
        Non-negative; NaN (undefined overlap of two empty masks) counts as 0.

    Returns
    -------
    array of shape (n_reference,)
        Column of each row, -1 where there are fewer columns than rows.
    """
    similarity = np.nan_to_num(np.asarray(similarity, dtype=np.float64))
    index = np.full(similarity.shape[0], -1)
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    index[rows] = columns
    return index


def _matching(similarity):
    index = assign(np.abs(similarity))
    score = np.where(index < 0, np.nan, similarity[np.arange(len(index)), np.maximum(index, 0)])
    return Matching(index, score, similarity)


def match_maps(reference, other):
    """Match networks one-to-one by absolute spatial correlation, and say with which sign.

    Parameters
    ----------
    reference : array of shape (n_reference, n_neurons)
    other : array of shape (n_other, n_neurons)

    Returns
    -------
    Matching

    References
    ----------
    Kuhn (1955), The Hungarian method for the assignment problem, Nav. Res. Logist. Q. 2, 83-97.

    Examples
    --------
    >>> maps = np.random.default_rng(0).standard_normal((3, 500))
    >>> matching = match_maps(maps, -maps[[2, 0, 1]])
    >>> matching.index.tolist(), matching.sign.tolist()
    ([1, 2, 0], [-1.0, -1.0, -1.0])
    """
    return _matching(correlate_maps(reference, other))


def match_masks(reference, other, kind="jaccard"):
    """Match networks one-to-one by the overlap of their masks.

    Parameters
    ----------
    reference : array of shape (n_reference, n_neurons), bool
    other : array of shape (n_other, n_neurons), bool
    kind : {"jaccard", "dice"}

    Returns
    -------
    Matching
        Its `score` is the overlap, never negative.
    """
    return _matching(np.nan_to_num(overlap(reference, other, kind)))


def count_matches(reference, other, threshold=0.2, kind="jaccard"):
    """Count for each reference mask the masks of `other` that overlap it by more than `threshold`.

    This one-to-many count is the published recurrence: one network of `other` may count for several
    references, and several networks of `other` for one reference. :func:`match_masks` is the strict form.

    Parameters
    ----------
    reference, other : arrays of shape (n_reference, n_neurons), (n_other, n_neurons), bool
    threshold : float
    kind : {"jaccard", "dice"}

    Returns
    -------
    array of shape (n_reference,), int

    References
    ----------
    Liu et al. (2025), arXiv:2502.20408, section on recurring functional networks (IoU > 0.2).
    """
    return (np.nan_to_num(overlap(reference, other, kind)) > threshold).sum(axis=1)


def permute_neurons(n_neurons, layer_of=None, random_state=None):
    """Draw a permutation of the neurons, within layers if their layer is given.

    Parameters
    ----------
    n_neurons : int
    layer_of : array of shape (n_neurons,), optional
        Layer of each neuron: a permutation within layers keeps how much of a network each layer holds.
    random_state : int, numpy Generator or None

    Returns
    -------
    array of shape (n_neurons,), int
    """
    rng = np.random.default_rng(random_state)
    if layer_of is None:
        return rng.permutation(n_neurons)
    layer_of = np.asarray(layer_of)
    if layer_of.shape != (n_neurons,):
        raise ParameterError(f"layer_of must name the layer of each of {n_neurons} neurons.")
    permutation = np.empty(n_neurons, dtype=np.int64)
    # sorting random keys inside each layer is one pass, whatever the number of layers
    permutation[np.argsort(layer_of, kind="stable")] = np.lexsort((rng.random(n_neurons), layer_of))
    return permutation


def null_matches(reference, other, n_draws=100, null="layers", layer_of=None, random_state=0):
    """Scores of the whole one-to-one matching when `other` carries no knowledge of the networks.

    Parameters
    ----------
    reference, other : arrays of shape (n_reference, n_neurons), (n_other, n_neurons)
    n_draws : int
    null : {"layers", "neurons", "rotation"}
        "neurons" shuffles the neurons of `other` (all its maps alike), "layers" does so within layers, so
        that a common layer profile is no evidence. "rotation" turns the maps of `other` at random inside
        the space they span: two decompositions that share a subspace but not its axes match this well, so it
        is the bar that the independent components themselves, beyond a principal component analysis, have
        to pass.
    layer_of : array of shape (n_neurons,)
        Needed by "layers".
    random_state : int, numpy Generator or None

    Returns
    -------
    array of shape (n_draws, n_reference)
        Absolute correlations of the matched pairs in each draw (0 where unmatched).
    """
    if null not in NULLS:
        raise ParameterError(f"null={null!r} is unknown; choose one of {NULLS}.")
    if null == "layers" and layer_of is None:
        raise ParameterError('null="layers" needs layer_of, the layer of each neuron.')
    rng = np.random.default_rng(random_state)
    reference, other = standardize_maps(reference), standardize_maps(other)
    if null == "rotation":
        return _null_rotations(reference, other, n_draws, rng)
    scores = np.zeros((n_draws, len(reference)))
    for draw in range(n_draws):
        permutation = permute_neurons(other.shape[1], layer_of if null == "layers" else None, rng)
        scores[draw] = _matched_scores(np.abs(reference @ other[:, permutation].T))
    return scores


def _matched_scores(similarity):
    index = assign(similarity)
    return np.where(index < 0, 0.0, similarity[np.arange(len(index)), np.maximum(index, 0)])


def _null_rotations(reference, other, n_draws, rng):
    # coordinates in an orthonormal basis of the span, from two small tables: no second copy of the maps
    values, vectors = np.linalg.eigh((other @ other.T).astype(np.float64))
    kept = values > 1e-6 * max(values[-1], 1e-300)
    basis = vectors[:, kept] / np.sqrt(values[kept])
    table = (reference @ other.T).astype(np.float64) @ basis
    scores = np.zeros((n_draws, len(reference)))
    for draw in range(n_draws):
        q, r = np.linalg.qr(rng.standard_normal((kept.sum(), kept.sum())))
        scores[draw] = _matched_scores(np.abs(table @ (q * np.sign(np.diag(r)))))
    return scores
