"""Control sets: which neurons to silence instead of a network, so that the comparison is fair.

Plain functions on boolean arrays. ``values`` is the network, ``(n_neurons,)``; ``layer_of`` gives the layer of each
neuron. A control has as many neurons as the network and avoids the network's own neurons as far as there is room;
where a layer has fewer other neurons than are needed, the rest is drawn from the network itself (the overlap is then
unavoidable, and a lesion study reports it).
"""

import numpy as np

from ...exceptions import MaskError, ParameterError

__all__ = [
    "anti_network",
    "importance_matched",
    "layer_matched",
    "overlap_share",
    "permuted",
    "random_set",
    "top_matched",
]


def random_set(values, random_state=None):
    """Draw as many neurons as the network has, from anywhere in the model.

    Parameters
    ----------
    values : bool array of shape (n_neurons,)
    random_state : int, numpy.random.Generator or None

    Returns
    -------
    bool array of shape (n_neurons,)

    Examples
    --------
    >>> network = np.arange(100) < 7
    >>> control = random_set(network, 0)
    >>> int(control.sum()), bool((control & network).any())
    (7, False)
    """
    values = _checked(values)
    return layer_matched(values, np.zeros(values.size, int), random_state)


def layer_matched(values, layer_of, random_state=None):
    """Draw, in every layer, as many neurons as the network has there.

    Parameters
    ----------
    values : bool array of shape (n_neurons,)
    layer_of : int array of shape (n_neurons,)
    random_state : int, numpy.random.Generator or None

    Returns
    -------
    bool array of shape (n_neurons,)

    Examples
    --------
    >>> layer_of = np.repeat([0, 1, 2], 50)
    >>> network = np.isin(np.arange(150), [3, 4, 120])
    >>> control = layer_matched(network, layer_of, 0)
    >>> np.bincount(layer_of[control], minlength=3).tolist()
    [2, 0, 1]
    """
    values, rng = _checked(values), np.random.default_rng(random_state)
    control = np.zeros_like(values)
    for neurons in _layers_of(values, layer_of):
        inside = values[neurons]
        control[_draw(neurons[~inside], neurons[inside], int(inside.sum()), rng)] = True
    return control


def importance_matched(values, layer_of, importance, random_state=None, n_nearest=10):
    """Draw, for every neuron of the network, a neuron of its layer that is about as important.

    Neurons are ranked by importance within their layer; each neuron of the network is replaced by one of the
    ``n_nearest`` free neurons of nearest rank, at random, and none is taken twice.

    Parameters
    ----------
    values : bool array of shape (n_neurons,)
    layer_of : int array of shape (n_neurons,)
    importance : array of shape (n_neurons,)
        For example the variance of the activation times the squared norm of the output weights.
    random_state : int, numpy.random.Generator or None
    n_nearest : int
        Few: a close match. Many: more different controls.

    Returns
    -------
    bool array of shape (n_neurons,)

    Examples
    --------
    >>> importance = np.arange(100.0)
    >>> network = importance >= 95
    >>> control = importance_matched(network, np.zeros(100, int), importance, 0)
    >>> int(control.sum()), bool(importance[control].min() > 80)
    (5, True)
    """
    values, rng = _checked(values), np.random.default_rng(random_state)
    importance = _checked_importance(importance, values)
    if n_nearest < 1:
        raise ParameterError(f"n_nearest must be at least 1; got {n_nearest}.")
    control = np.zeros_like(values)
    for neurons in _layers_of(values, layer_of):
        order = neurons[np.argsort(importance[neurons], kind="stable")]
        control[_nearest_free(order, values[order], rng, n_nearest)] = True
    return control


def top_matched(values, layer_of, importance):
    """Take, in every layer, the most important neurons: as many as the network has there.

    There is one such set. It asks whether the network is more than a list of the strongest neurons, so it may share
    neurons with the network.

    Parameters
    ----------
    values : bool array of shape (n_neurons,)
    layer_of : int array of shape (n_neurons,)
    importance : array of shape (n_neurons,)

    Returns
    -------
    bool array of shape (n_neurons,)

    Examples
    --------
    >>> top_matched([1, 0, 0, 0], [0, 0, 0, 0], [1.0, 5.0, 2.0, 3.0]).tolist()
    [False, True, False, False]
    """
    values = _checked(values)
    importance = _checked_importance(importance, values)
    control = np.zeros_like(values)
    for neurons in _layers_of(values, layer_of):
        count = int(values[neurons].sum())
        control[neurons[np.argsort(-importance[neurons], kind="stable")[:count]]] = True
    return control


def permuted(values, layer_of, random_state=None):
    """Permute the neurons inside each layer: the map stays the same, its places do not.

    Every network of a study given the same ``random_state`` is permuted alike, so that their overlaps are kept. This
    is the exact permutation null: unlike the other families it may hit the network itself.

    Parameters
    ----------
    values : array of shape (n_neurons,)
        A mask, or a map.
    layer_of : int array of shape (n_neurons,)
    random_state : int, numpy.random.Generator or None

    Returns
    -------
    array of shape (n_neurons,)

    Examples
    --------
    >>> permuted([1, 1, 0, 0], [0, 0, 1, 1], 0).tolist()
    [1, 1, 0, 0]
    """
    values, rng = np.asarray(values), np.random.default_rng(random_state)
    order = np.arange(values.size)
    for layer in np.unique(layer_of):
        neurons = np.flatnonzero(np.asarray(layer_of) == layer)
        order[neurons] = rng.permutation(neurons)
    return values[order]


def anti_network(values, layer_of, scores, random_state=None, pool=0.2):
    """Draw, in every layer, among the neurons that belong least to the network.

    Parameters
    ----------
    values : bool array of shape (n_neurons,)
    layer_of : int array of shape (n_neurons,)
    scores : array of shape (n_neurons,)
        The network's map, or its absolute value: the lowest ``|score|`` are drawn from.
    random_state : int, numpy.random.Generator or None
    pool : float
        Share of each layer that counts as lowest. Where it holds fewer neurons than are needed, as many of the lowest
        as are needed are taken.

    Returns
    -------
    bool array of shape (n_neurons,)

    Examples
    --------
    >>> scores = np.r_[np.zeros(20), np.ones(70), np.full(10, 9.0)]
    >>> control = anti_network(scores > 3, np.zeros(100, int), scores, 0)
    >>> int(control.sum()), bool(control[:20].sum() == 10)
    (10, True)
    """
    values, rng = _checked(values), np.random.default_rng(random_state)
    scores = _checked_importance(np.abs(np.asarray(scores, dtype=float)), values)
    if not 0 < pool <= 1:
        raise ParameterError(f"pool is a share of the layer, above 0 and up to 1; got {pool}.")
    control = np.zeros_like(values)
    for neurons in _layers_of(values, layer_of):
        count = int(values[neurons].sum())
        lowest = neurons[np.argsort(scores[neurons], kind="stable")[: max(count, int(pool * neurons.size))]]
        inside = values[lowest]
        control[_draw(lowest[~inside], lowest[inside], count, rng)] = True
    return control


def overlap_share(values, control):
    """Share of the control's neurons that belong to the network, 0 to 1.

    Parameters
    ----------
    values, control : bool array of shape (n_neurons,)

    Returns
    -------
    float

    Examples
    --------
    >>> overlap_share([1, 1, 0, 0], [1, 0, 1, 0])
    0.5
    """
    values, control = _checked(values), _checked(control)
    return float((values & control).sum() / control.sum())


def _draw(free, taken, count, rng):
    """``count`` neurons of ``free``, completed from ``taken`` only if there are too few."""
    if count <= free.size:
        return rng.choice(free, count, replace=False)
    return np.concatenate([free, rng.choice(taken, count - free.size, replace=False)])


def _nearest_free(order, inside, rng, n_nearest):
    """For each selected place of a ranked list, a free place near it; see :func:`importance_matched`."""
    selected, free = np.flatnonzero(inside), list(np.flatnonzero(~inside))
    chosen = []
    for rank in rng.permutation(selected):
        if not free:
            break
        middle = int(np.searchsorted(free, rank))
        low = max(0, min(middle - n_nearest // 2, len(free) - n_nearest))
        # the window is centred by count; within it the n_nearest places lie at most n_nearest ranks off, unless used
        chosen.append(free.pop(low + int(rng.integers(min(n_nearest, len(free) - low)))))
    missing = selected.size - len(chosen)
    if missing:
        chosen.extend(rng.choice(selected, missing, replace=False))
    return order[np.asarray(chosen, dtype=int)]


def _layers_of(values, layer_of):
    """Indices of the neurons of every layer that holds part of the network."""
    layer_of = np.asarray(layer_of)
    if layer_of.shape != values.shape:
        raise ParameterError(f"layer_of has the shape {layer_of.shape}, the mask {values.shape}.")
    for layer in np.unique(layer_of[values]):
        yield np.flatnonzero(layer_of == layer)


def _checked(values):
    values = np.asarray(values)
    if values.ndim != 1 or not np.isin(values, (0, 1)).all():
        raise MaskError(f"A set of neurons is a boolean array (n_neurons,); got {values.dtype} {values.shape}.")
    if not values.any():
        raise MaskError("The set is empty; an empty network has no control.")
    return values.astype(bool)


def _checked_importance(importance, values):
    importance = np.asarray(importance, dtype=float)
    if importance.shape != values.shape:
        raise ParameterError(
            f"importance needs one value for each of {values.size} neurons; got shape {importance.shape}."
        )
    if not np.isfinite(importance).all():
        raise ParameterError("importance holds NaN or infinite values; every neuron needs a finite one.")
    return importance
