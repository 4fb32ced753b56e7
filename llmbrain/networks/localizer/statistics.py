"""Statistics of localizers on arrays: general linear model, permuted labels, overlap with networks."""

import numpy as np
from scipy import stats as sps

from ...exceptions import ParameterError
from ...stats import fdr, overlap, permutation_p
from ..engines.progress import track
from ..evidence.dual_regression import t_to_z
from ..evidence.matching import standardize_maps

NEURONS_AT_ONCE = 4096


def contrast_glm(data, design, noise_model="ols"):
    """Fit nilearn's general linear model at every neuron and test the first column of the design.

    Returns the effect, z and two-sided p, each ``(n_neurons,)`` float64 (p NaN and z 0 for constant neurons), and the
    degrees of freedom.
    """
    from nilearn.glm import compute_contrast
    from nilearn.glm.first_level import run_glm

    x = np.asarray(design, dtype=np.float64)
    vector = np.eye(x.shape[1])[0]
    n_neurons = data.shape[1]
    effect, t, alive = np.zeros(n_neurons), np.zeros(n_neurons), np.zeros(n_neurons, dtype=bool)
    dof = len(x) - np.linalg.matrix_rank(x)
    for start in track(range(0, n_neurons, NEURONS_AT_ONCE), "General linear model"):
        y = np.asarray(data[:, start : start + NEURONS_AT_ONCE], dtype=np.float64)
        moving = np.flatnonzero(y.std(axis=0) > 1e-7 * np.abs(y).max(axis=0))
        if not len(moving):
            continue
        labels, results = run_glm(y[:, moving], x, noise_model=noise_model)
        found = compute_contrast(labels, results, vector, stat_type="t")
        effect[start + moving], t[start + moving] = found.effect_size(), found.stat()
        alive[start + moving] = True
    p = np.where(alive, 2.0 * sps.t.sf(np.abs(t), dof), np.nan)
    return effect, t_to_z(t, dof), p, int(dof)


def permuted_discoveries(data, design, *, level=0.05, n_draws=100, random_state=0):
    """Count the neurons that a localizer would select under the null of no effect.

    The residuals of the nuisance columns are permuted over observations (Freedman & Lane 1983; Winkler et al. 2014,
    NeuroImage 92, 381-397), and each draw is tested with the same least squares and the same FDR ``level``. ``data`` is
    ``(n_items, n_neurons)``; the contrast is the first column of the design. Returns the counts, and the largest
    absolute z of each draw, whose 95 % quantile is a family-wise threshold.
    """
    rng = np.random.default_rng(random_state)
    x = np.asarray(design, dtype=np.float64)
    dof = len(x) - np.linalg.matrix_rank(x)
    nuisance = np.linalg.qr(x[:, 1:])[0]
    contrast = x[:, 0] - nuisance @ (nuisance.T @ x[:, 0])
    contrast /= np.linalg.norm(contrast)
    residual = np.asarray(data, dtype=np.float64)
    residual = residual - nuisance @ (nuisance.T @ residual)
    residual = residual[:, (residual**2).sum(axis=0) > 0]
    counts, largest = np.zeros(n_draws, dtype=int), np.zeros(n_draws)
    for draw in range(n_draws):
        y = residual[rng.permutation(len(x))]
        inside = nuisance.T @ y
        effect = contrast @ y
        rest = np.maximum((y**2).sum(axis=0) - (inside**2).sum(axis=0) - effect**2, 1e-300)
        t = effect / np.sqrt(rest / dof)
        counts[draw] = (fdr(2.0 * sps.t.sf(np.abs(t), dof)) <= level).sum()
        largest[draw] = np.abs(t_to_z(t[np.argmax(np.abs(t))], dof))
    return counts, largest


def localizer_overlap(selected, z, maps, masks, *, layer_of=None, n_draws=199, random_state=0):
    """Overlap of localized neurons with networks, compared with permuted neurons, one row per network.

    ``selected`` ``(n_neurons,)`` are the localized neurons, ``z`` is the localizer's z map, and ``masks`` are the
    networks' neurons like ``maps`` ``(n_networks, n_neurons)``. Columns: network; n_both; dice; jaccard; of_network and
    of_localizer (shares of each that lie in the other); expected (n_both under the null); enrichment (n_both /
    expected); p, q (more overlap than permuted within layers); r (of the network's map with the z map, signed).
    """
    import pandas as pd

    selected, masks = np.asarray(selected, dtype=bool), np.asarray(masks, dtype=bool)
    if selected.shape != (masks.shape[1],) or np.shape(maps) != masks.shape:
        raise ParameterError(
            f"selected {selected.shape}, maps {np.shape(maps)} and masks {masks.shape} must have the same neurons."
        )
    rng = np.random.default_rng(random_state)
    both = (masks & selected).sum(axis=1)
    null = _overlap_by_chance(selected, masks, layer_of, n_draws, rng)
    expected = null.mean(axis=0)
    p = permutation_p(both, null)
    sizes = masks.sum(axis=1)
    return pd.DataFrame(
        {
            "network": np.arange(len(masks)),
            "n_both": both,
            "dice": overlap(masks, selected[None], "dice")[:, 0],
            "jaccard": overlap(masks, selected[None], "jaccard")[:, 0],
            "of_network": both / np.maximum(sizes, 1),
            "of_localizer": both / max(selected.sum(), 1),
            "expected": expected,
            "enrichment": np.divide(both, expected, out=np.full(len(masks), np.nan), where=expected > 0),
            "p": p,
            "q": fdr(p),
            "r": (standardize_maps(maps) @ standardize_maps(np.asarray(z, np.float32)[None]).T)[:, 0],
        }
    )


def _overlap_by_chance(selected, masks, layer_of, n_draws, rng):
    """Counts of common neurons, ``(n_draws, n_networks)``, when the selected ones are permuted within layers.

    That is a hypergeometric draw in every layer.
    """
    layers = np.zeros(len(selected), int) if layer_of is None else np.unique(layer_of, return_inverse=True)[1]
    n_layers = layers.max() + 1
    size = np.bincount(layers, minlength=n_layers)
    drawn = np.bincount(layers[selected], minlength=n_layers)
    held = np.stack([np.bincount(layers[mask], minlength=n_layers) for mask in masks])
    return rng.hypergeometric(held, size - held, drawn, size=(n_draws, *held.shape)).sum(axis=2)
