"""Sets of neurons that consist of whole attention heads."""

import numpy as np


class ControlUnits:
    """The units that controls of a set are made of: whole heads if the set consists of heads, else neurons."""

    def __init__(self, values, geometry):
        held = whole_heads(values, geometry) if np.any(values) else None
        self._head_of = None if held is None else _head_of(geometry)
        self.values = values if held is None else held  # which units belong to the set
        # position of each unit's layer
        self.layer_of = geometry.layer_of if held is None else np.repeat(np.arange(geometry.n_layers), geometry.n_heads)

    def total(self, array):
        """Sum the neurons' values in each unit, shape (n_units,)."""
        if self._head_of is None:
            return array
        return np.bincount(self._head_of, np.asarray(array, dtype=float))

    def neurons(self, values):
        """Expand a set of units, ``(n_units,)``, to a set of neurons, ``(n_neurons,)``."""
        return values if self._head_of is None else values[self._head_of]


def whole_heads(values, geometry):
    """Find the heads, ``(n_heads_in_all,)``, in a set that consists of whole heads.

    None if the site has no heads, or the set contains part of a head.
    """
    if geometry.n_heads is None:
        return None
    heads = _head_of(geometry)
    size, held = np.bincount(heads), np.bincount(heads, values)
    return held > 0 if ((held == 0) | (held == size)).all() else None


def heads_of_share(values, geometry, least=0.5):
    """Take the neurons of every head of which a set contains at least the share ``least``; None without heads."""
    if geometry.n_heads is None:
        return None
    heads = _head_of(geometry)
    share = np.bincount(heads, values) / np.bincount(heads)
    return (share >= least)[heads]


def _head_of(geometry):
    """Number of each neuron's head, counted through all layers."""
    width = np.array(geometry.sizes) // np.array(geometry.n_heads)
    first = np.concatenate([[0], np.cumsum(geometry.n_heads)])[:-1]
    return first[geometry.layer_of] + geometry.unit_of // width[geometry.layer_of]
