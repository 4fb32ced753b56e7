"""Control families: which neurons to silence instead of a network, so that the comparison is fair.

A family is a function that draws a set of units from arrays: ``values``, the network, ``(n_units,)``, and ``layer_of``,
the layer of each unit. A control has as many units as the network and avoids the network's own units as far as the
layers have others; the rest is drawn from the network itself, and a lesion study reports the overlap.
"""

from bisect import bisect_left
from functools import lru_cache

import numpy as np

from ..arguments import checked, numbers
from ..exceptions import MaskError, ParameterError
from .family import CONTROLS

POOL = 0.2  # share of a layer from which the family "anti" draws


@CONTROLS.register("random", description="the same number of neurons, from anywhere in the model")
@checked()
def random_set(values, layer_of=None, random_state=None):
    """Draw the same number of neurons as the network has, from anywhere in the model.

    Parameters
    ----------
    values : bool array of shape (n_neurons,)
    layer_of
        Not used.
    random_state : int, numpy.random.Generator or None

    Returns
    -------
    bool array of shape (n_neurons,)

    Examples
    --------
    >>> network = np.arange(100) < 7
    >>> control = random_set(network, random_state=0)
    >>> int(control.sum()), bool((control & network).any())
    (7, False)
    """
    values = _checked(values)
    return layer_matched(values, np.zeros(values.size, int), random_state)


@CONTROLS.register("layer", description="the same number of neurons in every layer")
@checked()
def layer_matched(values, layer_of, random_state=None):
    """Draw the same number of neurons as the network has in every layer.

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
    return _in_layers(values, layer_of, lambda neurons, count: _draw(neurons, values, count, rng))


@CONTROLS.register(
    "layer+importance",
    needs=("importance",),
    takes=("n_nearest",),
    description="the same number of neurons in every layer, each close in importance rank to one of the network's",
)
@checked(importance=numbers)
def importance_matched(values, layer_of, importance, random_state=None, n_nearest=10):
    """Draw a neuron of similar importance from the same layer for every neuron of the network.

    Neurons are ranked by importance within their layer. Each neuron of the network is replaced by one of the
    ``n_nearest`` free neurons with the nearest ranks, at random and without replacement.

    Parameters
    ----------
    values : bool array of shape (n_neurons,)
    layer_of : int array of shape (n_neurons,)
    importance : array of shape (n_neurons,)
        For example the variance of the activation times the squared norm of the output weights.
    random_state : int, numpy.random.Generator or None
    n_nearest : int
        Small values match more closely; large values give more varied controls.

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

    layer_of = _checked_layers(layer_of, values)
    orders = _orders(layer_of.tobytes(), importance.tobytes())

    def choose(neurons, _):
        order = orders[neurons[0]]
        return _nearest_free(order, values[order], rng, n_nearest)

    return _in_layers(values, layer_of, choose)


@CONTROLS.register(
    "top",
    needs=("importance",),
    random=False,
    description="the most important neurons of every layer, the same number as the network has there (one set)",
)
@checked(importance=numbers)
def top_matched(values, layer_of, importance):
    """Take the most important neurons of every layer, the same number as the network has there.

    There is one such set. It tests whether the network is more than the list of the strongest neurons, so it may share
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

    def choose(neurons, count):
        return neurons[np.argsort(-importance[neurons], kind="stable")[:count]]

    return _in_layers(values, layer_of, choose)


@CONTROLS.register(
    "permuted",
    shared=True,
    description="the network with its neurons permuted within each layer, in the same way for all networks",
)
@checked(values=numbers)
def permuted(values, layer_of, random_state=None):
    """Permute the neurons within each layer.

    Networks that are given the same ``random_state`` are permuted in the same way, so their overlaps are kept. This is
    the exact permutation null: unlike the other families it may include neurons of the network.

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
    layer_of = _checked_layers(layer_of, values)
    order = np.arange(values.size)
    for layer in np.unique(layer_of):
        neurons = np.flatnonzero(layer_of == layer)
        order[neurons] = rng.permutation(neurons)
    return values[order]


@CONTROLS.register(
    "anti",
    needs=("map",),
    description="the same number of neurons in every layer, from the fifth of the layer with the lowest |map|",
)
@checked(map=numbers)
def anti_network(values, layer_of, map, random_state=None):
    """Draw from the fifth of each layer with the lowest ``|map|``, whose neurons belong least to the network.

    The pool is larger where a fifth of the layer has fewer neurons than the network.

    Parameters
    ----------
    values : bool array of shape (n_neurons,)
    layer_of : int array of shape (n_neurons,)
    map : array of shape (n_neurons,)
        The network's map, or its absolute value: the neurons are drawn from those with the lowest ``|map|``.
    random_state : int, numpy.random.Generator or None

    Returns
    -------
    bool array of shape (n_neurons,)

    Examples
    --------
    >>> map = np.r_[np.zeros(20), np.ones(70), np.full(10, 9.0)]
    >>> control = anti_network(map > 3, np.zeros(100, int), map, 0)
    >>> int(control.sum()), bool(control[:20].sum() == 10)
    (10, True)
    """
    values, rng = _checked(values), np.random.default_rng(random_state)
    distance = _checked_importance(np.abs(np.asarray(map, dtype=float)), values, "The map")

    def choose(neurons, count):
        lowest = neurons[np.argsort(distance[neurons], kind="stable")[: max(count, int(POOL * neurons.size))]]
        return _draw(lowest, values, count, rng)

    return _in_layers(values, layer_of, choose)


@CONTROLS.register(
    "others", needs=("networks",), random=False, description="the other networks of the study, unchanged"
)
def other_networks(networks, number):
    """Return the other networks of a study as controls.

    Nothing is drawn and nothing is lesioned twice: a study reuses the effects of these networks.

    Parameters
    ----------
    networks : sequence
        All networks of the study.
    number : int
        Position of the network that the others are controls of.

    Returns
    -------
    list of int
        Positions of the controls in ``networks``.
    """
    return [i for i in range(len(networks)) if i != number]


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


def _draw(pool, values, count, rng):
    """Draw ``count`` neurons of a pool, from the network itself only if the others are too few."""
    free, taken = pool[~values[pool]], pool[values[pool]]
    if count <= free.size:
        return rng.choice(free, count, replace=False)
    return np.concatenate([free, rng.choice(taken, count - free.size, replace=False)])


def _nearest_free(order, inside, rng, n_nearest):
    """Find for each selected place of a ranked list a free place near it; see :func:`importance_matched`."""
    selected, free = np.flatnonzero(inside), np.flatnonzero(~inside).tolist()
    chosen, ranks = [], rng.permutation(selected)[: len(free)].tolist()
    # one call for all draws from n_nearest places; the last ones may have fewer
    steps = rng.integers(n_nearest, size=max(0, min(len(ranks), len(free) - n_nearest + 1))).tolist()
    for i, rank in enumerate(ranks):
        # the window of n_nearest free places is centred on the rank
        low = max(0, min(bisect_left(free, rank) - n_nearest // 2, len(free) - n_nearest))
        chosen.append(free.pop(low + (steps[i] if i < len(steps) else int(rng.integers(len(free))))))
    missing = selected.size - len(chosen)
    if missing:
        chosen.extend(rng.choice(selected, missing, replace=False))
    return order[np.asarray(chosen, dtype=int)]


def _in_layers(values, layer_of, choose):
    """Join the neurons that ``choose(neurons, count)`` returns for every layer with part of the network."""
    control = np.zeros_like(values)
    for neurons in _orders(_checked_layers(layer_of, values).tobytes()).values():
        count = int(np.count_nonzero(values[neurons]))
        if count:
            control[choose(neurons, count)] = True
    return control


@lru_cache(maxsize=8)
def _orders(layer_of, importance=None):
    """Neurons of each layer by their first neuron: in order, or from the least to the most important.

    The arguments are bytes of int64 and float64 arrays, because a study draws thousands of controls from the same ones.
    """
    layer_of = np.frombuffer(layer_of, dtype=np.int64)
    keys = [layer_of] if importance is None else [np.frombuffer(importance), layer_of]
    order = np.lexsort(keys)  # stable: equal neurons stay in their order
    layers = np.split(order, np.flatnonzero(np.diff(layer_of[order])) + 1)
    return {int(neurons.min()): neurons for neurons in layers}


def _checked(values):
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype != bool and not np.isin(values, (0, 1)).all():
        raise MaskError(f"A set of neurons must be a boolean array (n_neurons,); got {values.dtype} {values.shape}.")
    if not values.any():
        raise MaskError("The set is empty; an empty network has no control.")
    return values.astype(bool)


def _checked_layers(layer_of, values):
    layer_of = np.asarray(layer_of)
    if layer_of.shape != values.shape:
        raise ParameterError(f"layer_of has the shape {layer_of.shape}, the mask {values.shape}.")
    return layer_of.astype(np.int64)


def _checked_importance(importance, values, what="importance"):
    importance = np.asarray(importance, dtype=float)
    if importance.shape != values.shape:
        raise ParameterError(f"{what} must have one value per neuron ({values.size}); got shape {importance.shape}.")
    if not np.isfinite(importance).all():
        raise ParameterError(f"{what} has NaN or infinite values; every neuron needs a finite one.")
    return importance
