"""Layers and kinds of text in which networks are strong."""

import numpy as np

from ...arguments import checked, finite
from ...exceptions import ParameterError
from ...stats import fdr, permutation_p
from ..engines.progress import track
from .interpretation import align_events


@checked(maps=finite)
def layer_profile(maps, layer_of, *, threshold=None):
    """Compute the share of each network in each layer.

    Parameters
    ----------
    maps : array of shape (n_networks, n_neurons)
        Maps, of which the squared weights are counted, or boolean masks, of which the neurons are counted.
    layer_of : array of shape (n_neurons,), int
        Position of the layer of each neuron.
    threshold : float, optional
        Count the neurons with a larger \\|z\\| over neurons instead of squared weights.

    Returns
    -------
    array of shape (n_networks, n_layers)
        Rows sum to 1; they are 0 for a network without neurons.

    Examples
    --------
    >>> layer_profile(np.array([[1.0, 1.0, 0.0, 2.0]]), np.array([0, 0, 1, 1])).round(3).tolist()
    [[0.333, 0.667]]
    """
    maps, layer_of = np.asarray(maps), np.asarray(layer_of)
    if maps.ndim != 2 or maps.shape[1] != len(layer_of):
        raise ParameterError(f"maps {maps.shape} must be (n_networks, n_neurons) with {len(layer_of)} neurons.")
    if threshold is not None:
        from ..evidence.recurrence import threshold_maps

        maps = threshold_maps(maps, threshold)
    n_layers = int(layer_of.max()) + 1
    mass = np.stack([np.bincount(layer_of, np.square(row, dtype=np.float64), n_layers) for row in maps])
    total = mass.sum(axis=1, keepdims=True)
    return np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)


@checked()
def kind_engagement(time_courses, events, *, n_draws=999, random_state=0):
    """Compare the activity of each network between kinds of text, with documents as the unit of inference.

    There are two measures per document: the mean of the course (level) and its root mean square (activity). If runs are
    z-scored and hold one document each, only the second can differ between kinds.

    Parameters
    ----------
    time_courses : list of arrays of shape (n_tokens, n_networks), or one array
    events : list of DataFrames, or one DataFrame
        With the columns document and kind.
    n_draws : int
        Permutations of the kinds over documents.
    random_state : int, numpy Generator or None

    Returns
    -------
    DataFrame
        One row per network and kind: n_documents; mean and rms (averages over the documents of the kind, courses in
        standard deviations); p_mean, p_rms, q_mean and q_rms, which test for each network whether kinds differ at all
        (permuted F-ratio over documents; Benjamini-Hochberg over networks).

    Raises
    ------
    ParameterError
        If document or kind is missing, or there are fewer than two kinds.
    """
    import pandas as pd

    z, events, _ = align_events(time_courses, events)
    missing = {"document", "kind"} - set(events.columns)
    if missing:
        raise ParameterError(f"The events lack the columns {sorted(missing)}.")
    document, first, index = np.unique(
        events["document"].astype(str).to_numpy(dtype=object), return_index=True, return_inverse=True
    )
    kinds = events["kind"].fillna("n/a").astype(str).to_numpy(dtype=object)[first]
    names, kind_of = np.unique(kinds, return_inverse=True)
    if len(names) < 2:
        raise ParameterError(f"Engagement compares kinds of text; all documents are of the kind {names[0]!r}.")
    sizes = np.bincount(index)[:, None]
    mean = np.stack([np.bincount(index, c) for c in z.T], axis=1) / sizes
    rms = np.sqrt(np.stack([np.bincount(index, c) for c in (z**2).T], axis=1) / sizes)
    rng = np.random.default_rng(random_state)
    orders = [rng.permutation(len(document)) for _ in range(n_draws)]
    rows, n_networks = {}, z.shape[1]
    for measure, values in (("mean", mean), ("rms", rms)):
        null = np.stack([_f_ratio(values, kind_of[order]) for order in track(orders, "Engagement by chance")])
        rows[f"p_{measure}"] = permutation_p(_f_ratio(values, kind_of), null)
        rows[f"q_{measure}"] = fdr(rows[f"p_{measure}"])
    table = [
        {
            "network": k,
            "kind": name,
            "n_documents": int((kind_of == j).sum()),
            "mean": mean[kind_of == j, k].mean(),
            "rms": rms[kind_of == j, k].mean(),
            **{key: values[k] for key, values in rows.items()},
        }
        for k in range(n_networks)
        for j, name in enumerate(names)
    ]
    return pd.DataFrame(table)


def _f_ratio(values, groups):
    """Between over within sum of squares of every column, which is monotone in F."""
    sizes = np.bincount(groups)[:, None]
    means = np.stack([np.bincount(groups, v) for v in values.T], axis=1) / np.maximum(sizes, 1)
    between = (sizes * (means - values.mean(axis=0)) ** 2).sum(axis=0)
    within = ((values - means[groups]) ** 2).sum(axis=0)
    return between / np.maximum(within, 1e-300)
