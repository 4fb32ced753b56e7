"""Figures of network maps over the neurons of a model."""

import numpy as np

from ..exceptions import ParameterError
from ..registry import Registry
from . import style as st
from .sheets import as_maps, layer_shares, network_names, sheet_mosaic, unit_mosaic

# Ways to draw a small map: (axes, thresholded map, geometry, topography) -> image.
KINDS = Registry("kind", n_columns=3, aspect=0.5, layer_axis=False)

SHOWN = 8.0  # |z| at which the colours are full


@st.figure
def plot_network_map(networks, network=0, geometry=None, *, threshold=3.0, topography=None, title=None):
    """Draw one network: the sheet of every layer, and the share of each layer's neurons.

    Parameters
    ----------
    networks : NetworkSet, estimator, array of shape (n_networks, n_neurons) or (n_neurons,), or NIfTI image
        The maps.
    network : int
        Which of them.
    geometry : NeuronGeometry, optional
        Needed for arrays and images.
    threshold : float
        Neurons whose ``|z|`` does not exceed this stay blank.
    topography : Topography, optional
        Display order of neurons; the figure states it.

    Examples
    --------
    >>> from llmbrain.geometry import NeuronGeometry
    >>> maps = np.random.default_rng(0).standard_t(3, size=(2, 300))
    >>> figure = plot_network_map(maps, 1, NeuronGeometry.from_sizes([100] * 3))
    >>> len(figure.axes)
    3
    """
    z, geometry = as_maps(networks, geometry)
    names, flag_note = network_names(networks, len(z))
    z = z[checked_network(network, len(z))]
    count = int((np.abs(z) > threshold).sum())
    mosaic, corners = sheet_mosaic(np.where(np.abs(z) > threshold, z, 0), geometry, topography, aspect=1.9)
    width = 5.5
    height = float(np.clip(width * mosaic.shape[0] / mosaic.shape[1], 1.5, 8))
    flag_note = flag_note if names[network] != str(network) else ""
    note = join_notes(flag_note, "" if topography is None else topography.note)
    title = _title(names[network], count, threshold, geometry) if title is None else title
    fig, place = st.fixed_figure(st.PAGE, height + 0.78, title, note)
    image = _draw_sheets(place(0.1, 0.08, width, height), mosaic, corners, geometry)
    side = place(width + 0.55, 0.08, st.PAGE - width - 0.7, height)
    _draw_profile(side, *layer_shares(z, geometry, threshold), geometry)
    side.set_ylabel("layer", labelpad=1)
    side.set_xlabel("% of the\nlayer's neurons")
    _colorbar(fig, image, place(0.1, height + 0.2, 2.2, 0.09), threshold)
    return fig


@st.figure
def plot_network_maps(
    networks, geometry=None, *, threshold=3.0, topography=None, kind="units", n_columns=None, title=None
):
    """Draw all networks as small multiples, each with its layer profile beside it.

    Parameters
    ----------
    networks, geometry, threshold, topography
        See :func:`plot_network_map`.
    kind : {"units", "sheets"}
        ``"units"``: layers from bottom to top, units from left to right; each pixel shows the strongest of the
        neurons it represents. ``"sheets"``: the sheet of every layer.
    n_columns : int, optional
        Networks per row.

    Examples
    --------
    >>> from llmbrain.geometry import NeuronGeometry
    >>> maps = np.random.default_rng(0).standard_t(3, size=(4, 300))
    >>> figure = plot_network_maps(maps, NeuronGeometry.from_sizes([100] * 3))
    """
    draw = KINDS[kind]
    z, geometry = as_maps(networks, geometry)
    n_columns = n_columns or _columns(len(z), draw.n_columns)
    n_rows = -(-len(z) // n_columns)
    wide = (st.PAGE - 0.45) / max(n_columns, 3)
    high = wide * draw.aspect
    names, flag_note = network_names(networks, len(z))
    bars = "Bars: share of each layer's neurons, each on its own scale."
    note = join_notes(bars, flag_note, "" if topography is None else topography.note)
    title = f"{len(z)} network{'s' if len(z) > 1 else ''}, |z| > {threshold:g}" if title is None else title
    width = min(st.PAGE, max(0.45 + n_columns * wide, 3.0))
    fig, place = st.fixed_figure(width, 0.05 + n_rows * (high + 0.2) + 0.62, title, note)
    for k in range(len(z)):
        left, top = 0.4 + wide * (k % n_columns), 0.2 + (high + 0.2) * (k // n_columns)
        ax = place(left, top, 0.74 * wide, high)
        image = draw(ax, np.where(np.abs(z[k]) > threshold, z[k], 0), geometry, topography)
        ax.set_title(names[k], fontsize=7, pad=1.5)
        side = place(left + 0.75 * wide, top, 0.18 * wide, high)
        _draw_profile(side, *layer_shares(z[k], geometry, threshold), geometry, labels=False)
        if k % n_columns == 0 and draw.layer_axis:
            _layer_ticks(ax, geometry, 3)
            ax.set_ylabel("layer", fontsize=7, labelpad=1)
    bar = place(0.4, n_rows * (high + 0.2) + 0.16, 2.2, 0.08)
    _colorbar(fig, image, bar, threshold)
    return fig


@st.figure
def plot_layer_profiles(networks, geometry=None, *, threshold=3.0, title=None):
    """Draw the depth of each network: networks x layers, coloured by the share of the layer's neurons.

    Parameters
    ----------
    networks, geometry, threshold
        See :func:`plot_network_map`.

    Examples
    --------
    >>> from llmbrain.geometry import NeuronGeometry
    >>> maps = np.random.default_rng(0).standard_t(3, size=(4, 300))
    >>> figure = plot_layer_profiles(maps, NeuronGeometry.from_sizes([100] * 3))
    """
    z, geometry = as_maps(networks, geometry)
    names, flag_note = network_names(networks, len(z))
    share = 100 * np.stack([sum(layer_shares(row, geometry, threshold)) for row in z])
    height = float(np.clip(0.9 + (0.17 if len(z) <= 40 else 0.1) * len(z), 1.8, 9))
    fig, ax = st.one_axes(st.PAGE * 0.75, height, "Depth of the networks" if title is None else title)
    image = ax.imshow(share, cmap=st.sequential(), aspect="auto", vmin=0)
    every = 1 if len(z) <= 40 else 4
    ax.set_yticks(range(0, len(z), every), names[::every])
    ax.set_ylabel("network")
    st.layer_ticks(ax, geometry.layers)
    label = f"% of neurons, |z| > {threshold:g}"
    st.colorbar(fig, image, label, ax=ax, shrink=min(0.9, 2.2 / height), aspect=20, pad=0.02)
    if flag_note:
        st.caption(fig, flag_note)
    return fig


# -- parts --------------------------------------------------------------------------------------------------------
def checked_network(network, n):
    """Return the number of a network, if it exists."""
    if not isinstance(network, (int, np.integer)) or not 0 <= network < n:
        raise ParameterError(f"network={network!r}: there are {n} networks, 0 to {n - 1}.")
    return network


def _title(network, count, threshold, geometry):
    return f"Network {network}   {count} neurons ({100 * count / geometry.n_neurons:.2g} %), |z| > {threshold:g}"


def _columns(n, most):
    """Number of columns: few for few networks, more for many, so that one page is enough."""
    if n <= most:
        return n
    return most if n <= 6 * most else min(8, -(-n // 8))


def _draw_sheets(ax, mosaic, corners, geometry):
    image = ax.imshow(mosaic, cmap=st.diverging(), vmin=-SHOWN, vmax=SHOWN)
    frame_sheets(ax, corners, geometry)
    return image


def frame_sheets(ax, corners, geometry):
    """Frame the sheets of a mosaic and write the number of the layer at the corner of each."""
    from matplotlib.patches import Rectangle

    rows, cols = geometry.shape[1:]
    for i, (top, left) in enumerate(corners):
        ax.add_patch(Rectangle((left - 0.5, top - 0.5), cols, rows, fill=False, lw=0.4, ec=st.GRID))
        ax.text(
            left + 0.04 * cols, top + 0.03 * rows, geometry.layers[i], fontsize=6, color=st.INK, va="top",
            ha="left", bbox={"facecolor": st.FACE, "alpha": 0.95, "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    ax.set_axis_off()


@KINDS.register("units", n_columns=5, aspect=0.62, layer_axis=True)
def _draw_units(ax, cut, geometry, topography):
    """Draw layers from bottom to top and pooled units from left to right."""
    picture = unit_mosaic(cut, geometry, topography, n_bins=96)
    image = ax.imshow(picture, cmap=st.diverging(), vmin=-SHOWN, vmax=SHOWN, aspect="auto", origin="lower")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(True)
    ax.spines[:].set(color=st.GRID, linewidth=0.6)
    return image


@KINDS.register("sheets")
def _draw_small_sheets(ax, cut, geometry, topography):
    """Draw the sheet of every layer."""
    mosaic, _ = sheet_mosaic(cut, geometry, topography, aspect=1.6)
    image = ax.imshow(mosaic, cmap=st.diverging(), vmin=-SHOWN, vmax=SHOWN)
    ax.set_axis_off()
    return image


def _layer_ticks(ax, geometry, n):
    places = np.unique(np.linspace(0, geometry.n_layers - 1, min(n, geometry.n_layers)).astype(int))
    ax.set_yticks(places, [geometry.layers[i] for i in places], fontsize=6)


def _draw_profile(ax, positive, negative, geometry, labels=True):
    at = np.arange(geometry.n_layers)
    ax.barh(at, 100 * positive, height=0.85, color=st.POSITIVE, lw=0)
    ax.barh(at, -100 * negative, height=0.85, color=st.NEGATIVE, lw=0)
    ax.axvline(0, color=st.MUTED, lw=0.5)
    ax.set_ylim(-0.6, geometry.n_layers - 0.4)
    widest = 100 * max(positive.max(), negative.max(), 1e-3)
    ax.set_xlim(-1.05 * widest, 1.05 * widest)
    if not labels:
        ax.set_axis_off()
        return
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{abs(v):g}"))
    _layer_ticks(ax, geometry, 7)
    ax.tick_params(axis="y", labelsize=7)


def _colorbar(fig, image, ax, threshold):
    bar = st.colorbar(fig, image, cax=ax, orientation="horizontal")
    ticks = [-SHOWN, -threshold, 0, threshold, SHOWN] if 0 < threshold < SHOWN else [-SHOWN, 0, SHOWN]
    bar.set_ticks(ticks, labels=[f"{t:g}".replace("-", "−") for t in ticks])
    ax.tick_params(length=2, pad=1.5)
    ax.text(1.05, 0.5, "z", transform=ax.transAxes, va="center", fontsize=7)


def join_notes(*notes):
    """Join notes to one line; None if all are empty."""
    return " ".join(note for note in notes if note) or None
