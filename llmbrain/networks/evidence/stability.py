"""Reproducibility of networks over starts, over resampled runs and over halves of the corpus.

ICASSO (Himberg, Hyvarinen & Esposito 2004, NeuroImage 22, 1214-1222): the decomposition is repeated from other initial
values and on bootstrapped data, and all estimates are clustered by absolute spatial correlation. A cluster that is
tight and far from the others is a stable network; its most central member, the centrotype, is its best map.
"""

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import cut_tree, fcluster, linkage

from ...arguments import checked, holds
from ...exceptions import ParameterError
from ...stats import icc, overlap
from ..result import STABLE, THRESHOLD, zscore_maps
from .matching import correlate_maps, match_maps, null_matches


@dataclass(frozen=True, repr=False)
class Icasso:
    """Clusters of repeated estimates, the most stable first."""

    maps: np.ndarray  # (n_networks, n_features), the centrotypes, with the sign of the majority of the cluster
    iq: np.ndarray  # (n_networks,), mean similarity inside the cluster minus that to all other estimates
    coverage: np.ndarray  # (n_networks,), share of the repetitions that found the network
    labels: np.ndarray  # (n_estimates,), network of every estimate; -1 if its cluster is not returned
    centrotypes: np.ndarray  # (n_networks,), index among the estimates: the one most similar to the rest of its cluster
    similarity: np.ndarray  # (n_estimates, n_estimates), absolute correlations

    def __repr__(self):
        return f"Icasso({len(self.maps)} networks, {int(self.stable.sum())} stable, {len(self.labels)} estimates)"

    @property
    def stability(self):
        """Iq times coverage, which is small for a tight cluster of only two estimates."""
        return self.iq * self.coverage

    @property
    def stable(self):
        """Networks whose stability is at least ``STABLE``."""
        return self.stability >= STABLE


def cluster_estimates(similarity, n_clusters):
    """Average-linkage clusters of estimates, with ``1 - similarity`` as the distance: the label of each estimate.

    The tree is cut where the mean similarity of clusters falls below 0.5, or at ``n_clusters`` if that gives
    fewer clusters. A fixed cut at the number of components, as in ICASSO, spends clusters on estimates that were never
    found again and merges real networks.
    """
    n = len(similarity)
    distance, first = np.empty(n * (n - 1) // 2), 0  # condensed, row by row, since copies of the square are large
    for i in range(n - 1):
        row, column = (np.clip(1.0 - s, 0.0, None) for s in (similarity[i, i + 1 :], similarity[i + 1 :, i]))
        distance[first : first + len(row)] = 0.5 * (row + column)
        first += len(row)
    tree = linkage(distance, method="average")
    labels = fcluster(tree, 0.5, criterion="distance") - 1
    # cut_tree gives exactly n_clusters, where fcluster would merge ties (identical restarts)
    return labels if labels.max() + 1 >= n_clusters else cut_tree(tree, n_clusters).ravel()


def quality_index(similarity, labels):
    """Iq of each cluster: mean similarity inside minus mean similarity to the outside.

    Unlike in the original formula (Himberg, Hyvarinen & Esposito 2004, equation 8), pairs of an estimate with itself do
    not count: a cluster of one estimate, which was never found again, would look perfectly tight. Its Iq is at most 0
    here.
    """
    sizes = np.bincount(labels).astype(float)
    own = np.bincount(labels, np.diag(similarity))
    same, every = np.zeros((2, len(sizes)))
    for label, row in zip(labels, similarity):
        same[label] += row[labels == label].sum()
        every[label] += row.sum()
    pairs = sizes * (sizes - 1)
    inside = np.divide(same - own, pairs, out=np.zeros_like(sizes), where=pairs > 0)
    others = sizes * (len(labels) - sizes)
    outside = np.divide(every - same, others, out=np.zeros_like(sizes), where=others > 0)
    return inside - outside


def icasso(estimates, n_networks=None, correlations=None):
    """Cluster repeated decompositions and return the centrotype and stability of each network.

    Parameters
    ----------
    estimates : array of shape (n_repeats, n_components, n_features), or list of (n_k, n_features)
        Maps of every repetition; or their coordinates in a common basis, if `correlations` is given.
    n_networks : int, optional
        Number of networks to return: the clusters found in most repetitions, the tighter first. Default:
        the number of components of one repetition.
    correlations : array of shape (n_estimates, n_estimates), optional
        Correlations between all estimates, stacked, if they are known already.

    Returns
    -------
    Icasso
        Sorted by falling Iq.

    Raises
    ------
    ParameterError
        With fewer than two repetitions.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.standard_normal((3, 400))
    >>> runs = [truth[rng.permutation(3)] + 0.1 * rng.standard_normal((3, 400)) for _ in range(5)]
    >>> bool((icasso(runs).iq > 0.9).all())
    True
    """
    estimates = [np.asarray(e) for e in estimates]
    if len(estimates) < 2:
        raise ParameterError(f"Stability needs at least two repetitions; got {len(estimates)}.")
    repeat = np.repeat(np.arange(len(estimates)), [len(e) for e in estimates])
    n_networks = max(len(e) for e in estimates) if n_networks is None else n_networks
    stacked = np.concatenate(estimates)
    if not 1 <= n_networks <= len(stacked):
        raise ParameterError(f"n_networks={n_networks} must lie between 1 and {len(stacked)} estimates.")
    signed = correlate_maps(stacked) if correlations is None else np.asarray(correlations, dtype=np.float64)
    similarity = np.abs(signed)
    labels = cluster_estimates(similarity, n_networks)
    iq = quality_index(similarity, labels)
    coverage = np.array([len(np.unique(repeat[labels == c])) for c in range(len(iq))]) / len(estimates)
    kept = np.lexsort((-iq, -coverage))[:n_networks]
    kept = kept[np.argsort(-iq[kept], kind="stable")]
    rank = np.full(len(iq), -1)
    rank[kept] = np.arange(n_networks)
    labels = rank[labels]
    centre, sign = _centrotypes(signed, labels, n_networks)
    maps = stacked[centre] * sign[:, None].astype(stacked.dtype)
    return Icasso(maps, iq[kept], coverage[kept], labels, centre, similarity)


def _centrotypes(signed, labels, n_networks):
    centre, sign = [], []
    for cluster in range(n_networks):
        members = np.flatnonzero(labels == cluster)
        table = signed[np.ix_(members, members)]
        best = np.argmax(np.abs(table).sum(axis=1))
        centre.append(members[best])
        sign.append(1.0 if np.sign(table[best]).sum() >= 0 else -1.0)
    return np.array(centre), np.array(sign)


def restart_stability(rotations, chosen):
    """Iq of each network of one decomposition among its own starts, ``(n_components,)``; NaN with a single start.

    Results from several starts on the same white data differ by a rotation only, so their maps correlate as the rows of
    the rotations ``(n_init, n_components, n_components)`` do, and no map is needed.
    """
    n_init, n_components, _ = np.shape(rotations)
    if n_init < 2:
        return np.full(n_components, np.nan)
    stacked = np.concatenate(rotations).astype(np.float32)
    similarity = stacked @ stacked.T
    np.abs(similarity, out=similarity)
    labels = cluster_estimates(similarity, n_components)
    return quality_index(similarity, labels)[labels[chosen * n_components : (chosen + 1) * n_components]]


@checked(clusters=holds("maps", "iq", what="the clusters of icasso"))
def score_networks(maps, clusters):
    """Stability of given maps ``(n_networks, n_neurons)`` from an ICASSO of the same data, one row per network.

    Columns: network; cluster, its matched centrotype; r, their absolute correlation; iq and coverage of the cluster;
    stability, the product of these three; stable, whether it is at least ``STABLE``.
    """
    import pandas as pd

    matching = match_maps(maps, clusters.maps)
    found = matching.index >= 0
    r = np.where(found, np.abs(matching.score), 0.0)
    iq, coverage = (np.where(found, x[matching.index], 0.0) for x in (clusters.iq, clusters.coverage))
    return pd.DataFrame(
        {
            "network": np.arange(len(r)),
            "cluster": matching.index,
            "r": r,
            "iq": iq,
            "coverage": coverage,
            "stability": r * iq * coverage,
            "stable": r * iq * coverage >= STABLE,
        }
    )


@checked()
def split_half(maps_a, maps_b, threshold=THRESHOLD, layer_of=None, n_draws=100, random_state=0):
    r"""Test-retest reliability of the networks of two halves of a corpus.

    Parameters
    ----------
    maps_a : array of shape (n_a, n_neurons)
        Networks of one half; the table follows their order.
    maps_b : array of shape (n_b, n_neurons)
        Networks of the other half, found without knowledge of the first.
    threshold : float
        Neurons with \|z\| above it belong to a network (z over neurons).
    layer_of : array of shape (n_neurons,), optional
        Layer of each neuron; the null then shuffles neurons within layers only.
    n_draws : int
        Draws of each null.
    random_state : int, numpy Generator or None

    Returns
    -------
    DataFrame
        network, match, r (signed), icc (ICC(3,1) of the aligned z maps, which equals \|r\| for maps of equal variance;
        for maps in units of activity use dual regression), dice (of the thresholded maps), and family-wise p-values of
        the match: ``p`` against permuted maps, ``p_axes`` against random rotations inside the subspace of the second
        half (whether the axes themselves are reproducible).

    References
    ----------
    Shrout & Fleiss (1979), Psychol. Bull. 86, 420-428, for ICC(3,1).
    """
    matching = match_maps(maps_a, maps_b)
    za, zb = zscore_maps(maps_a), matching.align(zscore_maps(maps_b))
    frame = matching.to_frame().rename(columns={"score": "r"})
    matched = matching.index >= 0
    frame["icc"] = [icc(np.stack(pair, axis=1)) if ok else np.nan for *pair, ok in zip(za, zb, matched)]
    # both maps are aligned now, so positive neurons of one are not compared with negative ones of the other
    dices = np.diag(overlap(_signed_masks(za, threshold), _signed_masks(np.nan_to_num(zb), threshold)))
    frame["dice"] = np.where(matched, dices, np.nan)
    kind = "neurons" if layer_of is None else "layers"
    for column, null in (("p", kind), ("p_axes", "rotation")):
        draws = null_matches(maps_a, maps_b, n_draws, null, layer_of, random_state)
        frame[column] = matching.to_frame(draws)["p"]
    return frame


def _signed_masks(z, threshold):
    return np.concatenate([z > threshold, z < -threshold], axis=1)
