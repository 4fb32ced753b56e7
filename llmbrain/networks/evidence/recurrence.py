"""Recurrence of networks: templates from one part of a corpus among the networks of other texts.

The published count (individual networks whose IoU with a template exceeds 0.2) is reported beside a strict one (at most
one network of each text, at most one template for each network), the correlation of the matched maps, and both counts
for permuted maps, since with many networks some overlap is certain.
"""

from dataclasses import dataclass

import numpy as np

from ...arguments import between, checked, count, finite
from ...exceptions import ParameterError, check_threshold
from ...stats import fdr, overlap, permutation_p
from ..engines.progress import track
from ..result import THRESHOLD, zscore_maps
from .matching import correlate_maps, matched_scores, permute_neurons

SHORTEST = 4  # tokens; shorter texts are skipped
IOU = 0.2  # a network counts for a template if their overlap exceeds this, as in the published method


@dataclass(frozen=True)
class Recurrence:
    """Recurrence of templates in the networks of other texts.

    Parameters
    ----------
    table : DataFrame
        One row per template: network; n_neurons; many (number of individual networks above the overlap); texts (number
        of texts whose one-to-one match is above it); share (texts over number of texts); mean_overlap (IoU), mean_dice
        and mean_r (of the one-to-one matches, r in absolute value; signed in `correlations`); null_many and null_texts
        (mean counts for permuted maps); p and q (of `texts`, Benjamini-Hochberg over templates).
    overlaps : array of shape (n_texts, n_templates)
        Overlap of the one-to-one match of each template in each text.
    correlations : array of shape (n_texts, n_templates)
        Signed correlation of the best one-to-one match by absolute correlation.
    n_draws : int
        Draws of the null.
    """

    table: object
    overlaps: np.ndarray
    correlations: np.ndarray
    n_draws: int


@checked(maps=finite)
def threshold_maps(maps, threshold=THRESHOLD, two_sided=True):
    """Turn maps into masks ``(n_networks, n_neurons)``: neurons whose z over neurons exceeds the threshold.

    With ``two_sided`` strong negative weights count too, since the sign of a component is arbitrary.
    """
    check_threshold(threshold, two_sided)
    if np.ndim(maps) != 2:
        raise ParameterError(f"Maps must be (n_networks, n_neurons); got shape {np.shape(maps)}.")
    z = zscore_maps(maps)
    return (np.abs(z) if two_sided else z) > threshold


@checked(iou=between(0, 1))
def recurrence(
    templates, individuals, *, threshold=THRESHOLD, two_sided=True, iou=IOU, n_draws=100, layer_of=None, random_state=0
):
    """Count how often each template recurs in texts that were decomposed one by one.

    Parameters
    ----------
    templates : array of shape (n_templates, n_neurons)
        Group networks of one part of a corpus.
    individuals : list of arrays of shape (n_k, n_neurons)
        Networks of each of the other texts.
    threshold, two_sided
        Options of :func:`threshold_maps`. The papers use one-sided 1.96 or 3.6.
    iou : float
        Overlap above which two networks count as the same.
    n_draws : int
        Draws of the null: the neurons of each text are permuted (within layers if `layer_of` is given), in the same way
        for all its networks.
    layer_of : array of shape (n_neurons,), optional
    random_state : int, numpy Generator or None

    Returns
    -------
    Recurrence

    References
    ----------
    Liu et al. (2025), arXiv:2502.20408 (the one-to-many count, IoU > 0.2).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.standard_normal((2, 500)) ** 3
    >>> texts = [-truth[::-1] + 0.1 * rng.standard_normal((2, 500)) for _ in range(4)]
    >>> recurrence(truth, texts, n_draws=19).table["texts"].tolist()
    [4, 4]
    """
    import pandas as pd

    if not len(individuals):
        raise ParameterError("Recurrence needs the networks of at least one other text.")
    templates = np.asarray(templates)
    masks = threshold_maps(templates, threshold, two_sided)
    empty = np.flatnonzero(~masks.any(axis=1))
    if len(empty):
        raise ParameterError(
            f"Templates {empty.tolist()} have no neuron above threshold={threshold}. Lower it or remove them."
        )
    others = [threshold_maps(m, threshold, two_sided) for m in individuals]
    many, overlaps = _counts(masks, others, iou)
    correlations = np.stack([matched_scores(correlate_maps(templates, m))[1] for m in individuals])
    texts = (overlaps > iou).sum(axis=0)
    null_many, null_texts = _null_counts(masks, others, iou, n_draws, layer_of, random_state)
    p = permutation_p(texts, null_texts)
    table = pd.DataFrame(
        {
            "network": np.arange(len(templates)),
            "n_neurons": masks.sum(axis=1),
            "many": many,
            "texts": texts,
            "share": texts / len(individuals),
            "mean_overlap": overlaps.mean(axis=0),
            "mean_dice": (2 * overlaps / (1 + overlaps)).mean(axis=0),
            "mean_r": np.abs(correlations).mean(axis=0),
            "null_many": null_many.mean(axis=0),
            "null_texts": null_texts.mean(axis=0),
            "p": p,
            "q": fdr(p),
        }
    )
    return Recurrence(table, overlaps, correlations, n_draws)


@checked(n_components=count)
def individual_networks(texts, n_components=10, *, contrast="cube", n_init=1, random_state=0):
    """Decompose texts of at least four tokens one by one, for :func:`recurrence`.

    Parameters
    ----------
    texts : list of arrays of shape (n_tokens, n_neurons)
        Activations of one text each.
    n_components : int
        Clipped to half of the tokens of a text; more components are noise.
    contrast, n_init, random_state
        As in :func:`~llmbrain.networks.group_ica`.

    Returns
    -------
    maps : list of arrays of shape (n_k, n_neurons)
    kept : list of int
        Index of the texts that were decomposed.
    """
    from ..engines.group import group_ica

    kept = [i for i, x in enumerate(texts) if len(x) >= SHORTEST]
    maps = []
    for i in track(kept, "Networks of single texts"):
        k = max(1, min(n_components, len(texts[i]) // 2))
        found = group_ica(
            [texts[i]], k, contrast=contrast, n_init=n_init, random_state=random_state, time_courses=False, warn=False
        )
        maps.append(found.maps)
    return maps, kept


def _counts(masks, others, iou):
    """One-to-many count over all texts, and one-to-one overlap in every text."""
    tables = [np.nan_to_num(overlap(masks, other, "jaccard")) for other in others]
    many = sum((table > iou).sum(axis=1) for table in tables)
    return many, np.stack([matched_scores(table)[1] for table in tables])


def _null_counts(masks, others, iou, n_draws, layer_of, random_state):
    rng = np.random.default_rng(random_state)
    many, texts = [], []
    for _ in track(range(n_draws), "Recurrence by chance"):
        # each text has its own permutation: permuting the templates instead would make the texts dependent
        shuffled = [o[:, permute_neurons(o.shape[1], layer_of, rng)] for o in others]
        count, overlaps = _counts(masks, shuffled, iou)
        many.append(count)
        texts.append((overlaps > iou).sum(axis=0))
    return np.array(many), np.array(texts)
