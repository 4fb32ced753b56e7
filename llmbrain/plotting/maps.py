"""Pictures of network maps over the neurons of a model."""

import re

import numpy as np

from ..exceptions import ParameterError
from . import style as st
from .sheets import as_maps, layer_profile, network_names, sheet_mosaic, unit_mosaic

__all__ = ["plot_atlas", "plot_layer_profiles", "plot_network_map", "plot_network_maps", "plot_prob_atlas", "view_map"]

SHOWN = 8.0  # |z| at which the colours are full


def plot_network_map(
    networks, network=0, geometry=None, *, threshold=3.0, topography=None, title=None, output_file=None
):
    """Draw one network: the sheet of every layer, and beside it the share of each layer's neurons.

    Parameters
    ----------
    networks : NetworkSet, estimator, array of shape (n_networks, n_neurons) or (n_neurons,), or NIfTI image
        The maps.
    network : int
        Which of them.
    geometry : NeuronGeometry, optional
        Needed for arrays and images.
    threshold : float
        Neurons with ``|z|`` up to this are left blank.
    topography : Topography, optional
        Display order of neurons; said on the figure.
    title : str, optional
        Replaces the title.
    output_file : path-like, optional
        Save there and close the figure.

    Returns
    -------
    matplotlib.figure.Figure or None
        None if ``output_file`` is given.

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
    z = z[_checked(network, len(z))]
    count = int((np.abs(z) > threshold).sum())
    mosaic, corners = sheet_mosaic(np.where(np.abs(z) > threshold, z, 0), geometry, topography, aspect=1.9)
    width = 5.5
    height = float(np.clip(width * mosaic.shape[0] / mosaic.shape[1], 1.5, 8))
    with st.style():
        flag_note = flag_note if names[network] != str(network) else ""
        note = _join(flag_note, "" if topography is None else topography.note)
        title = _title(names[network], count, threshold, geometry) if title is None else title
        fig, place = st.fixed_figure(st.PAGE, height + 0.78, title, note)
        image = _draw_sheets(place(0.1, 0.08, width, height), mosaic, corners, geometry)
        side = place(width + 0.55, 0.08, st.PAGE - width - 0.7, height)
        _draw_profile(side, *layer_profile(z, geometry, threshold), geometry)
        side.set_ylabel("layer", labelpad=1)
        side.set_xlabel("% of the\nlayer's neurons")
        _colorbar(fig, image, place(0.1, height + 0.2, 2.2, 0.09), threshold)
    return st.finish(fig, output_file)


def plot_network_maps(
    networks,
    geometry=None,
    *,
    threshold=3.0,
    topography=None,
    kind="units",
    n_columns=None,
    title=None,
    output_file=None,
):
    """Draw all networks as small multiples, each with its layer profile beside it.

    Parameters
    ----------
    networks : NetworkSet, estimator, array of shape (n_networks, n_neurons), or NIfTI image
        The maps.
    geometry : NeuronGeometry, optional
        Needed for arrays and images.
    threshold : float
        Neurons with ``|z|`` up to this are left blank.
    topography : Topography, optional
        Display order of neurons; said on the figure.
    kind : {"units", "sheets"}
        ``"units"``: layers from bottom to top, units from left to right, each pixel the strongest of the neurons it
        stands for. ``"sheets"``: the sheet of every layer.
    n_columns : int, optional
        Networks in a row.
    title, output_file
        See :func:`plot_network_map`.

    Returns
    -------
    matplotlib.figure.Figure or None

    Examples
    --------
    >>> from llmbrain.geometry import NeuronGeometry
    >>> maps = np.random.default_rng(0).standard_t(3, size=(4, 300))
    >>> figure = plot_network_maps(maps, NeuronGeometry.from_sizes([100] * 3))
    """
    if kind not in ("units", "sheets"):
        raise ParameterError(f"kind={kind!r} is unknown; choose 'units' or 'sheets'.")
    z, geometry = as_maps(networks, geometry)
    n_columns = n_columns or _columns(len(z), 5 if kind == "units" else 3)
    n_rows = -(-len(z) // n_columns)
    wide = (st.PAGE - 0.45) / max(n_columns, 3)
    high = wide * (0.62 if kind == "units" else 0.5)
    names, flag_note = network_names(networks, len(z))
    note = _join("Bars: share of each layer's neurons, own scale each.", flag_note)
    note = note if topography is None else f"{note} {topography.note}"
    with st.style():
        title = f"{len(z)} network{'s' if len(z) > 1 else ''}, |z| > {threshold:g}" if title is None else title
        width = min(st.PAGE, max(0.45 + n_columns * wide, 3.0, 0.3 + 0.052 * len(note)))  # the note has to fit
        fig, place = st.fixed_figure(width, 0.05 + n_rows * (high + 0.2) + 0.62, title, note)
        for k in range(len(z)):
            left, top = 0.4 + wide * (k % n_columns), 0.2 + (high + 0.2) * (k // n_columns)
            ax = place(left, top, 0.74 * wide, high)
            image = _draw_small(ax, z[k], geometry, threshold, topography, kind)
            ax.set_title(names[k], fontsize=7, pad=1.5)
            side = place(left + 0.75 * wide, top, 0.18 * wide, high)
            _draw_profile(side, *layer_profile(z[k], geometry, threshold), geometry, labels=False)
            if k % n_columns == 0 and kind == "units":
                _layer_ticks(ax, geometry, 3)
                ax.set_ylabel("layer", fontsize=7, labelpad=1)
        bar = place(0.4, n_rows * (high + 0.2) + 0.16, 2.2, 0.08)
        _colorbar(fig, image, bar, threshold)
    return st.finish(fig, output_file)


def plot_atlas(networks, geometry=None, *, threshold=3.0, topography=None, title=None, output_file=None):
    """Draw all networks in one picture: each neuron in the colour of the network it loads on most.

    Parameters
    ----------
    networks, geometry, threshold, topography, title, output_file
        See :func:`plot_network_maps`. Best with a topography, which turns networks into territories.

    Returns
    -------
    matplotlib.figure.Figure or None

    Examples
    --------
    >>> from llmbrain.geometry import NeuronGeometry
    >>> maps = np.random.default_rng(0).standard_t(3, size=(4, 300))
    >>> figure = plot_atlas(maps, NeuronGeometry.from_sizes([100] * 3))
    """
    z, geometry = as_maps(networks, geometry)
    names, flag_note = network_names(networks, len(z))
    winner = np.where(np.abs(z).max(axis=0) > threshold, np.abs(z).argmax(axis=0), -1)
    with st.style():
        mosaic, corners = sheet_mosaic(winner, geometry, topography, aspect=2.1)
        width = st.PAGE - 0.2
        height = min(width * mosaic.shape[0] / mosaic.shape[1], 8.5)
        key = 0.22 * -(-len(z) // 20)
        title = f"Dominant network of each neuron, |z| > {threshold:g}" if title is None else title
        note = _join(flag_note, "" if topography is None else topography.note)
        fig, place = st.fixed_figure(st.PAGE, height + key + 0.4, title, note)
        colors = st.network_colors(len(z))
        rgba = np.zeros((*mosaic.shape, 4))
        inside = ~np.isnan(mosaic)
        rgba[inside] = [0.5, 0.55, 0.6, 0.1]  # faint on white and on dark alike
        taken = inside & (mosaic >= 0)
        rgba[taken, :3], rgba[taken, 3] = colors[mosaic[taken].astype(int)], 1
        ax = place(0.1, 0.08, width, height)
        ax.imshow(rgba)
        _frame_sheets(ax, corners, geometry)
        _color_key(place(0.1, height + 0.14, width, key), colors, names)
    return st.finish(fig, output_file)


def plot_layer_profiles(networks, geometry=None, *, threshold=3.0, title=None, output_file=None):
    """Draw where in depth each network lies: networks x layers, colour = share of the layer's neurons.

    Parameters
    ----------
    networks, geometry, threshold, title, output_file
        See :func:`plot_network_maps`.

    Returns
    -------
    matplotlib.figure.Figure or None

    Examples
    --------
    >>> from llmbrain.geometry import NeuronGeometry
    >>> maps = np.random.default_rng(0).standard_t(3, size=(4, 300))
    >>> figure = plot_layer_profiles(maps, NeuronGeometry.from_sizes([100] * 3))
    """
    z, geometry = as_maps(networks, geometry)
    names, flag_note = network_names(networks, len(z))
    share = 100 * np.stack([sum(layer_profile(row, geometry, threshold)) for row in z])
    with st.style():
        height = float(np.clip(0.9 + (0.17 if len(z) <= 40 else 0.1) * len(z), 1.8, 9))
        fig = st.new_figure(st.PAGE * 0.75, height, "Where in depth each network lies" if title is None else title)
        ax = fig.add_subplot()
        image = ax.imshow(share, cmap=st.SEQUENTIAL(), aspect="auto", vmin=0)
        step = max(1, round(geometry.n_layers / 15))
        ax.set_xticks(
            range(0, geometry.n_layers, step), [geometry.layers[i] for i in range(0, geometry.n_layers, step)]
        )
        every = 1 if len(z) <= 40 else 4
        ax.set_yticks(range(0, len(z), every), names[::every])
        ax.set(xlabel="layer", ylabel="network")
        bar = fig.colorbar(image, ax=ax, shrink=min(0.9, 2.2 / height), aspect=20, pad=0.02)
        bar.set_label(f"% of neurons, |z| > {threshold:g}")
        bar.outline.set_visible(False)
        if flag_note:
            st.caption(fig, flag_note)
    return st.finish(fig, output_file)


def plot_prob_atlas(networks, geometry=None, *, topography=None, layers=None, threshold=3.0, output_file=None):
    """Draw networks as coloured fields over chosen layers with nilearn's ``plot_prob_atlas``.

    Parameters
    ----------
    networks, geometry, topography, threshold, output_file
        See :func:`plot_network_maps`.
    layers : sequence of int, optional
        Layer numbers to show; six through the depth of the model if not given.

    Returns
    -------
    nilearn display object or None
    """
    import matplotlib.pyplot as plt
    from nilearn import plotting

    z, geometry = as_maps(networks, geometry)
    shown = np.where(np.abs(z) > threshold, np.abs(z), 0)
    if topography is not None:
        shown = topography.arrange(shown)
    if layers is None:
        layers = np.unique(np.linspace(0, geometry.n_layers - 1, min(6, geometry.n_layers)).astype(int))
    else:
        layers = [geometry.layers.index(i) for i in layers]
    title = f"Networks in layers {', '.join(str(geometry.layers[i]) for i in layers)}"
    with st.style():
        display = plotting.plot_prob_atlas(
            geometry.to_img(shown), bg_img=geometry.mask_img, view_type="continuous", display_mode="x",
            cut_coords=list(map(int, layers)), draw_cross=False, annotate=False, threshold=threshold, black_bg=False,
            title=title if topography is None else f"{title} (display order)",
            figure=plt.figure(figsize=(st.PAGE, 2.3)),
        )  # fmt: skip
    if output_file is None:
        return display
    display.savefig(output_file)
    display.close()
    return None


def view_map(networks, network=0, geometry=None, *, threshold=3.0, topography=None):
    """Open one network in nilearn's interactive viewer, without a brain behind it.

    Parameters
    ----------
    networks, network, geometry, threshold, topography
        See :func:`plot_network_map`.

    Returns
    -------
    nilearn's HTML document
        ``save_as_html``, ``open_in_browser``, or shown by a notebook. x is the position of the layer, y and z are the
        row and the column in its sheet.
    """
    from nilearn import plotting

    z, geometry = as_maps(networks, geometry)
    z = z[_checked(network, len(z))]
    shown = z if topography is None else topography.arrange(z)
    title = f"Network {network}" + ("" if topography is None else " (display)")
    view = plotting.view_img(
        geometry.to_img(shown), bg_img=None, threshold=threshold, cmap=st.DIVERGING(), title=title, black_bg=False,
        resampling_interpolation="nearest", draw_cross=False,
    )  # fmt: skip
    # A layer has no left and right, and the page must not ask another server for its icon.
    html = view.html.replace('"showLR": true', '"showLR": false')
    view.html = re.sub(r"<link rel=\"icon\".*?/>", '<link rel="icon" href="data:,">', html, flags=re.S)
    return view


# -- parts --------------------------------------------------------------------------------------------------------
def _checked(network, n):
    if not 0 <= network < n:
        raise ParameterError(f"There are {n} networks, 0 to {n - 1}; got network={network}.")
    return network


def _title(network, count, threshold, geometry):
    return f"Network {network}   {count} neurons ({100 * count / geometry.n_neurons:.2g} %), |z| > {threshold:g}"


def _columns(n, most):
    """Small multiples: few columns for few networks, more for many, so that a page is enough."""
    if n <= most:
        return n
    return most if n <= 6 * most else min(8, -(-n // 8))


def _draw_sheets(ax, mosaic, corners, geometry):
    image = ax.imshow(mosaic, cmap=st.DIVERGING(), vmin=-SHOWN, vmax=SHOWN)
    _frame_sheets(ax, corners, geometry)
    return image


def _frame_sheets(ax, corners, geometry):
    from matplotlib.patches import Rectangle

    rows, cols = geometry.shape[1:]
    for i, (top, left) in enumerate(corners):
        ax.add_patch(Rectangle((left - 0.5, top - 0.5), cols, rows, fill=False, lw=0.4, ec=st.GRID))
        ax.text(
            left + 0.04 * cols, top + 0.03 * rows, geometry.layers[i], fontsize=5.5, color=st.MUTED, va="top", ha="left"
        )
    ax.set_axis_off()


def _draw_small(ax, z, geometry, threshold, topography, kind):
    cut = np.where(np.abs(z) > threshold, z, 0)
    if kind == "sheets":
        mosaic, corners = sheet_mosaic(cut, geometry, topography, aspect=1.6)
        image = ax.imshow(mosaic, cmap=st.DIVERGING(), vmin=-SHOWN, vmax=SHOWN)
        ax.set_axis_off()
        return image
    picture = unit_mosaic(cut, geometry, topography, n_bins=96)
    image = ax.imshow(picture, cmap=st.DIVERGING(), vmin=-SHOWN, vmax=SHOWN, aspect="auto", origin="lower")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(True)
    ax.spines[:].set(color=st.GRID, linewidth=0.6)
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
    bar = fig.colorbar(image, cax=ax, orientation="horizontal")
    bar.outline.set_visible(False)
    ticks = [-SHOWN, -threshold, 0, threshold, SHOWN] if 0 < threshold < SHOWN else [-SHOWN, 0, SHOWN]
    bar.set_ticks(ticks, labels=[f"{t:g}".replace("-", "−") for t in ticks])
    ax.tick_params(length=2, pad=1.5)
    ax.text(1.05, 0.5, "z", transform=ax.transAxes, va="center", fontsize=7)


def _join(*notes):
    return " ".join(note for note in notes if note) or None


def _color_key(ax, colors, names, across=20):
    for k, color in enumerate(colors):
        row, col = divmod(k, across)
        ax.scatter(col + 0.2, -row, s=34, marker="s", color=[color])
        ax.text(col + 0.42, -row, names[k], va="center", fontsize=6.5)
    ax.set(xlim=(0, across), ylim=(-max(1, -(-len(colors) // across)) + 0.5, 0.5))
    ax.set_axis_off()
