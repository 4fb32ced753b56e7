"""Arrays behind the figures of maps: mosaics of layer sheets, pooled units, layer profiles. Nothing is drawn here."""

import numpy as np
from nibabel.spatialimages import SpatialImage

from ..arguments import COMMON, finite
from ..exceptions import GeometryMismatchError, ParameterError
from ..masks import NeuronMask
from ..networks.base import NetworkEstimator
from ..networks.result import NetworkSet, zscore_maps

FLAG = "°"  # behind the number of a network that is empty or unstable
FLAG_NOTE = f"{FLAG} flagged: empty or unstable."
GAP = 2  # pixels between sheets


def as_maps(networks, geometry=None):
    """Read what a figure shows: maps z-scored over neurons, ``(n_networks, n_neurons)``, and their geometry.

    ``networks`` is a network set, a fitted estimator, a mask, an array or a NIfTI image; arrays and images need
    ``geometry``.
    """
    networks = _network_set(networks)
    if isinstance(networks, NetworkSet):
        return networks.z, networks.geometry
    if isinstance(networks, NeuronMask):
        return np.atleast_2d(np.asarray(networks.values, np.float32)), networks.geometry
    if geometry is not None:
        COMMON["geometry"]("geometry", geometry)
    else:
        raise ParameterError("Maps given as an array or image need geometry=, the NeuronGeometry of the recording.")
    maps = geometry.to_array(networks) if isinstance(networks, SpatialImage) else finite("networks", networks)
    if maps.ndim not in (1, 2) or not maps.size or maps.shape[-1] != geometry.n_neurons:
        raise GeometryMismatchError(
            f"Maps of shape {maps.shape} do not fit a geometry of {geometry.n_neurons} neurons."
        )
    return zscore_maps(np.atleast_2d(maps)), geometry


def network_names(networks, n):
    """Return the labels of ``n`` networks, their numbers with a mark on flagged ones, and the meaning of the mark."""
    networks = _network_set(networks)
    metrics = networks.metrics if isinstance(networks, NetworkSet) else None
    known = metrics is not None and "flagged" in metrics and len(metrics) == n
    flags = [flag is True or str(flag) == "True" for flag in metrics["flagged"]] if known else [False] * n
    return [f"{k}{FLAG if flag else ''}" for k, flag in enumerate(flags)], FLAG_NOTE if any(flags) else ""


def _network_set(networks):
    return networks.networks_ if isinstance(networks, NetworkEstimator) else networks


def mosaic_layout(n_sheets, rows, cols, aspect=2.2):
    """Choose the number of sheets per row: full rows if possible, ``aspect`` is the target width over height."""
    best, chosen = np.inf, 1
    for across in range(1, n_sheets + 1):
        down = -(-n_sheets // across)
        off = abs(np.log(across * cols / (down * rows) / aspect)) + 1.5 * (across * down - n_sheets) / n_sheets
        if off < best:
            best, chosen = off, across
    return chosen


def sheet_mosaic(values, geometry, topography=None, aspect=2.2):
    """Arrange the sheets of all layers of a map ``(n_neurons,)`` side by side, from the top left.

    Returns the mosaic, NaN between sheets and in padding, and the row and column of each sheet's first pixel, shape
    ``(n_layers, 2)``. ``aspect`` (width over height) decides how many sheets are in a row.

    Examples
    --------
    >>> from llmbrain.geometry import NeuronGeometry
    >>> mosaic, corners = sheet_mosaic(np.arange(8.0), NeuronGeometry.from_sizes([4, 4]))
    >>> mosaic.shape, corners.tolist()
    ((2, 6), [[0, 0], [0, 4]])
    """
    values = np.asarray(values, np.float32)
    if topography is not None:
        values = topography.arrange(values)
    rows, cols = geometry.shape[1:]
    n_across = mosaic_layout(geometry.n_layers, rows, cols, aspect)
    n_down = -(-geometry.n_layers // n_across)
    mosaic = np.full((n_down * (rows + GAP) - GAP, n_across * (cols + GAP) - GAP), np.nan, np.float32)
    corners = np.empty((geometry.n_layers, 2), int)
    for i, part in enumerate(geometry.split(values)):
        sheet = np.full(rows * cols, np.nan, np.float32)
        sheet[: len(part)] = part
        top, left = (i // n_across) * (rows + GAP), (i % n_across) * (cols + GAP)
        mosaic[top : top + rows, left : left + cols] = sheet.reshape(rows, cols)
        corners[i] = top, left
    return mosaic, corners


def signed_max(array):
    """Return the value of largest magnitude along the last axis, with its sign; NaN only where all values are NaN."""
    filled = np.where(np.isnan(array), 0, array)
    high, low = filled.max(axis=-1), filled.min(axis=-1)
    out = np.where(high >= -low, high, low)
    return np.where(np.isnan(array).all(axis=-1), np.nan, out)


def unit_mosaic(values, geometry, topography=None, n_bins=None):
    """Arrange a map ``(n_neurons,)`` as layers x units, ``(n_layers, n_bins)``: each pixel shows its strongest neuron.

    With a topography neurons follow a Hilbert curve through the sheet. Layers narrower than the widest end in NaN.
    """
    values = np.asarray(values, np.float32)
    widest = max(geometry.sizes)
    per_bin = max(1, -(-widest // n_bins)) if n_bins else 1
    n_bins = -(-widest // per_bin)
    out = np.full((geometry.n_layers, n_bins * per_bin), np.nan, np.float32)
    rank = geometry.unit_of if topography is None else topography.rank()
    out[geometry.layer_of, rank] = values
    return signed_max(out.reshape(geometry.n_layers, n_bins, per_bin))


def layer_shares(z, geometry, threshold=3.0):
    """Return the shares of each layer's neurons above ``threshold`` and below ``-threshold``, ``(n_layers,)``."""
    z = np.asarray(z)
    count = np.array(geometry.sizes, float)
    return tuple(
        np.bincount(geometry.layer_of[side], minlength=geometry.n_layers) / count
        for side in (z > threshold, z < -threshold)
    )
