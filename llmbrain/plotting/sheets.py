"""Arrays behind the figures of maps: mosaics of layer sheets, pooled units, layer profiles. Nothing is drawn here."""

import numpy as np
from nibabel.spatialimages import SpatialImage

from ..exceptions import GeometryMismatchError, ParameterError
from ..masks import NeuronMask
from ..networks.base import NetworkEstimator
from ..networks.result import NetworkSet, zscore_maps

__all__ = [
    "as_maps", "layer_shares", "mosaic_layout", "network_names", "sheet_mosaic", "signed_max", "unit_mosaic",
]  # fmt: skip

FLAG = "°"  # behind the number of a network that is empty or unstable
FLAG_NOTE = f"{FLAG} flagged: empty or unstable."


def as_maps(networks, geometry=None):
    """Read maps from a network set, a fitted estimator, a mask, an array or an image.

    Parameters
    ----------
    networks : NetworkSet, fitted estimator, NeuronMask, array of shape (n_networks, n_neurons), or NIfTI image
        What to draw.
    geometry : NeuronGeometry, optional
        Needed for arrays and images.

    Returns
    -------
    z : ndarray of shape (n_networks, n_neurons)
        Maps z-scored over neurons.
    geometry : NeuronGeometry

    Raises
    ------
    ParameterError
        If an array comes without its geometry.
    GeometryMismatchError
        If the maps do not have one value per neuron.
    """
    networks = _network_set(networks)
    if isinstance(networks, NetworkSet):
        return networks.z, networks.geometry
    if isinstance(networks, NeuronMask):
        return np.atleast_2d(np.asarray(networks.values, np.float32)), networks.geometry
    if geometry is None:
        raise ParameterError(
            "Maps given as an array or image need geometry=, the NeuronGeometry they were recorded in."
        )
    maps = geometry.to_array(networks) if isinstance(networks, SpatialImage) else np.asarray(networks)
    if maps.shape[-1] != geometry.n_neurons:
        raise GeometryMismatchError(
            f"Maps of shape {maps.shape} do not fit a geometry of {geometry.n_neurons} neurons."
        )
    return zscore_maps(np.atleast_2d(maps)), geometry


def network_names(networks, n):
    """Labels of networks on figures: their numbers, with a mark on flagged ones.

    Parameters
    ----------
    networks : object
        A network set or estimator whose metrics flag networks; anything else flags none.
    n : int
        How many networks.

    Returns
    -------
    names : list of str
    note : str
        Meaning of the mark; empty if no network is flagged.
    """
    networks = _network_set(networks)
    metrics = networks.metrics if isinstance(networks, NetworkSet) else None
    known = metrics is not None and "flagged" in metrics and len(metrics) == n
    flags = [flag is True or str(flag) == "True" for flag in metrics["flagged"]] if known else [False] * n
    return [f"{k}{FLAG if flag else ''}" for k, flag in enumerate(flags)], FLAG_NOTE if any(flags) else ""


def _network_set(networks):
    return networks.networks_ if isinstance(networks, NetworkEstimator) else networks


def mosaic_layout(n_sheets, rows, cols, aspect=2.2):
    """Choose the number of sheets per row.

    Parameters
    ----------
    n_sheets : int
        Number of sheets.
    rows, cols : int
        Size of each.
    aspect : float
        Target width over height of the whole; full rows of sheets are preferred.

    Returns
    -------
    int
    """
    best, chosen = np.inf, 1
    for across in range(1, n_sheets + 1):
        down = -(-n_sheets // across)
        off = abs(np.log(across * cols / (down * rows) / aspect)) + 1.5 * (across * down - n_sheets) / n_sheets
        if off < best:
            best, chosen = off, across
    return chosen


def sheet_mosaic(values, geometry, topography=None, n_across=None, gap=2, aspect=2.2):
    """Arrange the sheets of all layers side by side, the first layer at the top left.

    Parameters
    ----------
    values : array of shape (n_neurons,)
        One map.
    geometry : NeuronGeometry
        Its neurons.
    topography : Topography, optional
        Display order.
    n_across : int, optional
        Sheets per row; chosen from ``aspect`` by default.
    gap : int
        Empty pixels between sheets.
    aspect : float
        Target width over height.

    Returns
    -------
    mosaic : ndarray of shape (height, width)
        NaN between sheets and in padding.
    corners : ndarray of shape (n_layers, 2)
        Row and column of each sheet's first pixel.

    Examples
    --------
    >>> from llmbrain.geometry import NeuronGeometry
    >>> mosaic, corners = sheet_mosaic(np.arange(8.0), NeuronGeometry.from_sizes([4, 4]), n_across=2, gap=1)
    >>> mosaic.shape, corners.tolist()
    ((2, 5), [[0, 0], [0, 3]])
    """
    values = np.asarray(values, np.float32)
    if topography is not None:
        values = topography.arrange(values)
    rows, cols = geometry.shape[1:]
    n_across = n_across or mosaic_layout(geometry.n_layers, rows, cols, aspect)
    n_down = -(-geometry.n_layers // n_across)
    mosaic = np.full((n_down * (rows + gap) - gap, n_across * (cols + gap) - gap), np.nan, np.float32)
    corners = np.empty((geometry.n_layers, 2), int)
    for i, part in enumerate(geometry.split(values)):
        sheet = np.full(rows * cols, np.nan, np.float32)
        sheet[: len(part)] = part
        top, left = (i // n_across) * (rows + gap), (i % n_across) * (cols + gap)
        mosaic[top : top + rows, left : left + cols] = sheet.reshape(rows, cols)
        corners[i] = top, left
    return mosaic, corners


def signed_max(array, axis=-1):
    """Value of largest magnitude along an axis, with its sign.

    Parameters
    ----------
    array : ndarray
        May hold NaN.
    axis : int
        The axis.

    Returns
    -------
    ndarray
        NaN only where all values are.
    """
    filled = np.where(np.isnan(array), 0, array)
    high, low = filled.max(axis=axis), filled.min(axis=axis)
    out = np.where(high >= -low, high, low)
    return np.where(np.isnan(array).all(axis=axis), np.nan, out)


def unit_mosaic(values, geometry, topography=None, n_bins=None):
    """Arrange a map as layers x units; each pixel shows the strongest of the neurons it represents.

    Parameters
    ----------
    values : array of shape (n_neurons,)
        One map.
    geometry : NeuronGeometry
        Its neurons.
    topography : Topography, optional
        Display order; neurons then follow a Hilbert curve through the sheet.
    n_bins : int, optional
        Pixels of the widest layer; by default one per neuron.

    Returns
    -------
    ndarray of shape (n_layers, n_bins)
        NaN to the right of layers that are narrower than the widest.
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
    """Share of each layer's neurons in a network, separately for positive and negative values.

    Parameters
    ----------
    z : array of shape (n_neurons,)
        One z-scored map.
    geometry : NeuronGeometry
        Its neurons.
    threshold : float
        Neurons with ``|z| > threshold`` belong to the network.

    Returns
    -------
    positive, negative : ndarray of shape (n_layers,)
    """
    z = np.asarray(z)
    count = np.array(geometry.sizes, float)
    return tuple(
        np.bincount(geometry.layer_of[side], minlength=geometry.n_layers) / count
        for side in (z > threshold, z < -threshold)
    )
