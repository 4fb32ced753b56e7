"""Find the neurons that a map, names, heads or layers select; all return a bool array ``(n_neurons,)``."""

import operator

import numpy as np

from ..arguments import checked, count, numbers, whole
from ..exceptions import GeometryMismatchError, MaskError, ParameterError, check_threshold
from ..geometry import NeuronGeometry


@checked()
def above(map, geometry, threshold, two_sided=True):
    """Select the neurons whose value, or absolute value, lies strictly above a threshold."""
    check_threshold(threshold, two_sided)
    values = _checked_map(map, geometry)
    return (np.abs(values) if two_sided else values) > threshold


@checked(n=count)
def highest(map, geometry, n, two_sided=True):
    """Select the ``n`` neurons with the highest values, or absolute values."""
    values = _checked_map(map, geometry)
    if not 1 <= n <= geometry.n_neurons:
        raise ParameterError(f"n must lie between 1 and {geometry.n_neurons}, the number of neurons; got {n}.")
    values = np.abs(values) if two_sided else values
    chosen = np.zeros(geometry.n_neurons, dtype=bool)
    chosen[np.argsort(-values, kind="stable")[:n]] = True
    return chosen


def named(neurons, geometry):
    """Select neurons named ``(layer, unit)`` or ``(site, layer, unit)``."""
    chosen = np.zeros(geometry.n_neurons, dtype=bool)
    for neuron in neurons:
        chosen[flat_index(geometry, neuron)] = True
    return chosen


def of_heads(heads, geometry):
    """Select whole attention heads, given as ``(layer, head)``."""
    if geometry.n_heads is None or geometry.parts is not None:
        raise MaskError(f"The site '{geometry.site}' has no heads; use the site 'attention'.")
    chosen = np.zeros(geometry.n_neurons, dtype=bool)
    for layer, head in heads:
        start = geometry.index(layer, 0)
        position = geometry.layers.index(layer)
        if not 0 <= head < geometry.n_heads[position]:
            raise MaskError(f"Layer {layer} has heads 0 to {geometry.n_heads[position] - 1}; got {head}.")
        width = geometry.sizes[position] // geometry.n_heads[position]
        chosen[start + head * width : start + (head + 1) * width] = True
    return chosen


def of_layers(layers, geometry):
    """Select all neurons of some layers, given by the model's own layer numbers."""
    unknown = [i for i in whole("layers", layers).ravel().tolist() if i not in geometry.layers]
    if unknown or not np.size(layers):
        raise MaskError(f"Layers {unknown} are not among the layers {list(geometry.layers)} of this geometry.")
    positions = [i for i, layer in enumerate(geometry.layers) if layer in set(layers)]
    return np.isin(geometry.layer_of, positions)


def as_geometry(geometry, site="mlp"):
    """Return a geometry as it is, or the geometry of a site of a loaded model."""
    if isinstance(geometry, NeuronGeometry):
        return geometry
    if hasattr(geometry, "named_modules"):
        return NeuronGeometry.from_model(geometry, site)
    raise MaskError(
        f"A mask needs a NeuronGeometry or a loaded model; got {type(geometry).__name__}. Make one with "
        "NeuronGeometry.from_model(model), or take recording.geometry."
    )


def flat_index(geometry, neuron):
    """Flat index of a neuron that is named ``(layer, unit)`` or ``(site, layer, unit)``."""
    try:
        *site, layer, unit = neuron
        layer, unit = operator.index(layer), operator.index(unit)
    except (TypeError, ValueError):
        site = [None] * 3
    if len(site) > 1:
        raise MaskError(
            f"A neuron is named (layer, unit), or (site, layer, unit) if there are several; got {neuron!r}."
        )
    if site and geometry.parts is None and site[0] != geometry.site:
        raise MaskError(f"The neuron {neuron!r} is of another site; this mask has the site '{geometry.site}'.")
    return geometry.index(layer, unit, site[0] if site else None)


def _checked_map(map, geometry):
    """Return a map as floats, one per neuron and none NaN."""
    values = np.asarray(numbers("map", map), dtype=float)
    if values.shape != (geometry.n_neurons,):
        raise GeometryMismatchError(
            f"A map must have one value per neuron ({geometry.n_neurons}); got shape {values.shape}."
        )
    if not np.isfinite(values).all():
        n_bad = int((~np.isfinite(values)).sum())
        raise MaskError(f"The map has {n_bad} NaN or infinite values, which cannot be thresholded.")
    return values
