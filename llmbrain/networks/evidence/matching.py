"""One-to-one matching of two sets of networks, and what such a matching reaches by chance.

Independent components have no order and no sign, so two sets are compared after a one-to-one assignment that maximises
the absolute spatial correlation (Hungarian algorithm). With many networks the matched correlations are high by
construction, so each matching can be compared with a null.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from ...arguments import checked, numbers
from ...exceptions import ParameterError
from ...registry import Registry
from ...stats import permutation_p
from ..engines.progress import track


@dataclass(frozen=True)
class Matching:
    """A one-to-one assignment of the networks of ``other`` to those of ``reference``."""

    index: np.ndarray  # (n_reference,), network of ``other``; -1 where it has too few
    score: np.ndarray  # (n_reference,), signed correlation (maps) or overlap (masks); NaN where unmatched
    similarity: np.ndarray  # (n_reference, n_other), of all pairs

    @property
    def sign(self):
        """Sign of each pair, +1 or -1 (0 where unmatched): multiply `other` by it to agree with the reference."""
        return np.where(self.index < 0, 0.0, np.where(self.score < 0, -1.0, 1.0))

    def align(self, other):
        """Put rows of `other` (n_other, ...) in the order and sign of the reference; unmatched rows are NaN."""
        other = np.asarray(other)
        shape = (-1,) + (1,) * (other.ndim - 1)
        rows = other[np.maximum(self.index, 0)] * self.sign.reshape(shape).astype(other.dtype)
        rows[self.index < 0] = np.nan
        return rows

    def to_frame(self, null=None):
        """One row per reference network: its match, the score, and p-values if a null of :func:`null_matches` is given.

        The p-value is corrected over networks (family-wise): the observed score is compared with the largest score of
        each draw.
        """
        import pandas as pd

        frame = pd.DataFrame({"network": np.arange(len(self.index)), "match": self.index, "score": self.score})
        if null is not None:
            frame["null_mean"] = np.mean(null, axis=0)
            frame["null_max"] = np.max(null)
            largest = np.repeat(np.max(null, axis=1)[:, None], len(frame), axis=1)
            frame["p"] = permutation_p(np.abs(self.score), largest)
        return frame


@checked(maps=numbers)
def standardize_maps(maps, dtype=np.float32):
    """Centre each map over neurons and scale it to unit norm, so that products are correlations.

    A constant map becomes zeros.
    """
    maps = np.asarray(maps)
    if maps.ndim != 2 or 0 in maps.shape:
        raise ParameterError(f"Maps must be (n_networks, n_neurons) and not empty; got shape {maps.shape}.")
    if not np.isfinite(maps).all():
        raise ParameterError("Maps hold NaN or infinite values. Remove those networks first.")
    # float64 for the two reductions only: a float32 sum over 10**6 neurons loses digits
    mean = maps.mean(axis=1, dtype=np.float64)
    out = (maps - mean[:, None]).astype(dtype)
    norm = np.sqrt(np.einsum("ij,ij->i", out, out, dtype=np.float64))
    tiny = norm <= 1e-12 * np.sqrt(maps.shape[1]) * np.maximum(1.0, np.abs(mean))
    return out / np.where(tiny, np.inf, norm)[:, None].astype(dtype)


def correlate_maps(a, b=None):
    """Pearson correlation over neurons of every map of ``a`` with every map of ``b`` (``a`` by default), float64.

    >>> correlate_maps([[1.0, 2.0, 3.0]], [[2.0, 4.0, 6.0], [3.0, 2.0, 1.0]]).round(6).tolist()
    [[1.0, -1.0]]
    """
    a = standardize_maps(a)
    b = a if b is None else standardize_maps(b)
    if a.shape[1] != b.shape[1]:
        raise ParameterError(f"The maps have {a.shape[1]} and {b.shape[1]} neurons; they must cover the same neurons.")
    return np.clip((a @ b.T).astype(np.float64), -1.0, 1.0)


def assign(similarity):
    """One-to-one assignment that maximises the summed similarity (Kuhn 1955).

    ``similarity`` is ``(n_reference, n_other)`` and not negative; NaN (the overlap of two empty masks) counts as 0.
    Returns the column of each row, -1 where there are fewer columns than rows.
    """
    similarity = np.nan_to_num(np.asarray(similarity, dtype=np.float64))
    index = np.full(similarity.shape[0], -1)
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    index[rows] = columns
    return index


def matched_scores(similarity, missing=0.0):
    """Column of each row in the assignment by absolute similarity (or -1), and the similarity there."""
    index = assign(np.abs(similarity))
    return index, np.where(index < 0, missing, similarity[np.arange(len(index)), np.maximum(index, 0)])


def _matching(similarity):
    index, score = matched_scores(similarity, missing=np.nan)
    return Matching(index, score, similarity)


def match_maps(reference, other):
    """Match networks one-to-one by absolute spatial correlation.

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


def permute_neurons(n_neurons, layer_of=None, random_state=None):
    """Draw a permutation of the neurons, within layers if ``layer_of``, the layer of each neuron, is given."""
    rng = np.random.default_rng(random_state)
    if layer_of is None:
        return rng.permutation(n_neurons)
    layer_of = np.asarray(layer_of)
    if layer_of.shape != (n_neurons,):
        raise ParameterError(f"layer_of must name the layer of each of {n_neurons} neurons.")
    permutation = np.empty(n_neurons, dtype=np.int64)
    # sorting random numbers from the layer's number up is one pass, whatever the number of layers
    permutation[np.argsort(layer_of, kind="stable")] = np.argsort(layer_of + rng.random(n_neurons))
    return permutation


# needs_layers: whether the null needs the layer of each neuron
NULLS = Registry("null", needs_layers=False)


@checked()
def null_matches(reference, other, n_draws=100, null="layers", layer_of=None, random_state=0):
    """Scores of the whole one-to-one matching when `other` holds no information about the networks.

    Parameters
    ----------
    reference, other : arrays of shape (n_reference, n_neurons), (n_other, n_neurons)
    n_draws : int
    null : {"layers", "neurons", "rotation"}
        "neurons" shuffles the neurons of `other` (all its maps alike). "layers" does so within layers, so that a common
        layer profile is no evidence. "rotation" rotates the maps of `other` at random inside the space they span: two
        decompositions that share a subspace but not its axes match this well, so independent components are
        reproducible themselves, beyond a principal component analysis, only if they exceed it.
    layer_of : array of shape (n_neurons,)
        Layer of each neuron, for "layers".
    random_state : int, numpy Generator or None

    Returns
    -------
    array of shape (n_draws, n_reference)
        Absolute correlations of the matched pairs in each draw (0 where unmatched).
    """
    if NULLS[null].needs_layers and layer_of is None:
        raise ParameterError(f"null={null!r} needs layer_of, the layer of each neuron.")
    rng = np.random.default_rng(random_state)
    draws = NULLS[null](standardize_maps(reference), standardize_maps(other), layer_of, rng)
    scores = [matched_scores(np.abs(next(draws)))[1] for _ in track(range(n_draws), "Null matches")]
    return np.reshape(scores, (n_draws, len(reference)))


@NULLS.register("layers", needs_layers=True)
def _permuted_within_layers(reference, other, layer_of, rng):
    """Correlations with the maps of ``other`` whose neurons are permuted within layers, draw after draw."""
    while True:
        yield reference @ other[:, permute_neurons(other.shape[1], layer_of, rng)].T


@NULLS.register("neurons")
def _permuted(reference, other, layer_of, rng):
    """Correlations with the maps of ``other`` whose neurons are permuted, draw after draw."""
    return _permuted_within_layers(reference, other, None, rng)


@NULLS.register("rotation")
def _rotated(reference, other, layer_of, rng):
    """Correlations with the maps of ``other`` rotated inside their span, draw after draw."""
    # coordinates in an orthonormal basis of the span, from two small tables: no second copy of the maps
    values, vectors = np.linalg.eigh((other @ other.T).astype(np.float64))
    kept = values > 1e-6 * max(values[-1], 1e-300)
    table = (reference @ other.T).astype(np.float64) @ (vectors[:, kept] / np.sqrt(values[kept]))
    while True:
        q, r = np.linalg.qr(rng.standard_normal((kept.sum(), kept.sum())))
        yield table @ (q * np.sign(np.diag(r)))
