"""Figures of all networks on one surface: atlases, two models side by side, and nilearn's views."""

import re
import warnings

import numpy as np

from ..arguments import checked
from ..exceptions import ParameterError
from ..files import atomic_path, check_output_figure
from ..masks.selection import of_layers
from ..registry import choose
from . import style as st
from .maps import checked_network, frame_sheets, join_notes
from .matrices import matched_pairs
from .sheets import as_maps, network_names, sheet_mosaic


@st.figure
def plot_atlas(networks, geometry=None, *, threshold=3.0, topography=None, title=None):
    """Draw all networks in one figure: each neuron in the colour of the network it loads on most.

    Parameters
    ----------
    networks, geometry, threshold, topography
        See :func:`plot_network_map`. A topography turns networks into territories.

    Examples
    --------
    >>> from llmbrain.geometry import NeuronGeometry
    >>> maps = np.random.default_rng(0).standard_t(3, size=(4, 300))
    >>> figure = plot_atlas(maps, NeuronGeometry.from_sizes([100] * 3))
    """
    z, geometry = as_maps(networks, geometry)
    names, flag_note = network_names(networks, len(z))
    winner = _winner(z, threshold)
    mosaic, corners = sheet_mosaic(winner, geometry, topography, aspect=2.1)
    width = st.PAGE - 0.2
    height = min(width * mosaic.shape[0] / mosaic.shape[1], 8.5)
    key = 0.22 * -(-len(z) // 20)
    title = f"Dominant network of each neuron, |z| > {threshold:g}" if title is None else title
    note = join_notes(flag_note, "" if topography is None else topography.note)
    fig, place = st.fixed_figure(st.PAGE, height + key + 0.4, title, note)
    colors = st.network_colors(len(z))
    _draw_territories(place(0.1, 0.08, width, height), mosaic, corners, geometry, colors)
    _color_key(place(0.1, height + 0.14, width, key), colors, names)
    return fig


@st.figure
def plot_comparison(
    first, second, *, pairs=None, names=("first", "second"), threshold=3.0, topography=None, title=None,
):  # fmt: skip
    """Draw the networks of two models, or two checkpoints of one, above each other.

    Matched networks share a colour; networks of the second model without a partner are grey.

    Parameters
    ----------
    first, second : NetworkSet or estimator
        Networks to compare.
    pairs : Matching, or array of shape (n_pairs, 2), optional
        Matched networks of the two; by default the best one-to-one match of the maps, which needs the same
        neurons in both.
    names : (str, str)
        Names of the two models.
    threshold : float
        See :func:`llmbrain.plotting.plot_network_map`.
    topography : Topography or (Topography, Topography), optional
        Display order of neurons: one for both, so that a neuron keeps its place, or one each for different models.

    Examples
    --------
    >>> from llmbrain.geometry import NeuronGeometry
    >>> from llmbrain.networks import NetworkSet
    >>> maps = np.random.default_rng(0).standard_t(3, size=(4, 300))
    >>> sets = [NetworkSet(m, NeuronGeometry.from_sizes([100] * 3)) for m in (maps, maps[[2, 1, 0]])]
    >>> figure = plot_comparison(*sets, names=("step 1000", "step 2000"))
    """
    maps, geometries = zip(*(as_maps(one) for one in (first, second)))
    orders = topography if isinstance(topography, (tuple, list)) else (topography, topography)
    pairs = _pairs(pairs, maps, geometries)
    colors = st.network_colors(len(maps[0]))
    partner = np.full((len(maps[1]), 3), 0.62)
    partner[pairs[:, 1]] = colors[pairs[:, 0]]
    drawn = [
        sheet_mosaic(_winner(z, threshold), geometry, order, aspect=3.6)
        for z, geometry, order in zip(maps, geometries, orders)
    ]
    width = st.PAGE - 0.2
    heights = [min(width * mosaic.shape[0] / mosaic.shape[1], 4.2) for mosaic, _ in drawn]
    key = 0.22 * -(-len(maps[0]) // 14)
    title = f"{names[0]} and {names[1]}: dominant network of each neuron" if title is None else title
    used = [order.note for order in dict.fromkeys(orders) if order is not None]
    note = join_notes("Matched networks share a colour; grey: no partner.", *used)
    fig, place = st.fixed_figure(st.PAGE, sum(heights) + key + 0.95, title, note)
    top = 0.0
    for (mosaic, corners), height, geometry, palette, name in zip(drawn, heights, geometries, (colors, partner), names):
        ax = place(0.1, top + 0.22, width, height)
        _draw_territories(ax, mosaic, corners, geometry, palette)
        ax.set_title(name, fontsize=8, pad=3)
        top += height + 0.28
    labels = [f"{k}" for k in range(len(colors))]
    for i, j in pairs:
        labels[i] += f"={j}"
    _color_key(place(0.1, top + 0.08, width, key), colors, labels, across=14)
    return fig


@checked(**st.RULES)
def plot_prob_atlas(
    networks, geometry=None, *, topography=None, layers=None, threshold=3.0, view_type="continuous", output_file=None
):
    """Draw networks as coloured fields over chosen layers with nilearn's ``plot_prob_atlas``.

    Parameters
    ----------
    networks, geometry, topography, threshold, output_file
        See :func:`plot_network_map`.
    layers : sequence of int, optional
        Layer numbers to show; by default six, spread over the depth of the model.
    view_type : {"continuous", "contours"}
        Fields, or lines around them; lines need a topography, since scattered neurons have no outline.

    Returns
    -------
    nilearn display object or None
    """
    from matplotlib.colors import ListedColormap
    from nilearn import plotting

    if choose("view_type", view_type, ("continuous", "contours")) == "contours" and topography is None:
        raise ParameterError(
            "view_type='contours' needs topography=: scattered neurons have no outline. Pass it, or use 'continuous'."
        )

    if output_file is not None:
        check_output_figure(output_file)
    z, geometry = as_maps(networks, geometry)
    shown = np.where(np.abs(z) > threshold, np.abs(z), 0)
    if topography is not None:
        shown = topography.arrange(shown)
    if layers is None:
        layers = np.unique(np.linspace(0, geometry.n_layers - 1, min(6, geometry.n_layers)).astype(int))
    else:
        of_layers(layers, geometry)
        layers = [geometry.layers.index(i) for i in layers]
    colors = st.network_colors(len(z))
    with st.style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning: converting a masked element")  # an empty layer has no range
        figure, _ = st.fixed_figure(st.PAGE, 2.3, "Networks in chosen layers",
                                    None if topography is None else topography.note)  # fmt: skip
        display = plotting.plot_prob_atlas(
            geometry.to_img(shown), bg_img=None, view_type=view_type, display_mode="x",
            cut_coords=list(map(int, layers)), draw_cross=False, annotate=False, threshold=threshold, black_bg=False,
            cmap=ListedColormap(colors), colorbar=False, figure=figure, axes=(0, 0.1, 0.9, 0.75),
        )  # fmt: skip
        # nilearn counts maps from 1 and shows no frame: a key of the networks' own numbers, and the edge of the sheets
        for cut, layer in zip(display.axes.values(), layers):
            _frame_cut(cut.ax, geometry)
            cut.ax.set_title(f"layer {geometry.layers[layer]}", fontsize=7, pad=2)
        key = figure.add_axes((0.91, 0.1, 0.08, 0.75))
        names, _ = network_names(networks, len(z))
        _color_key(key, colors, names, across=1 + (len(z) - 1) // 24)
    if output_file is None:
        return display
    with atomic_path(output_file) as part:
        display.savefig(part)
    display.close()
    return None


@checked(**st.RULES)
def view_map(networks, network=0, geometry=None, *, threshold=3.0, topography=None):
    """Open one network in nilearn's interactive viewer, without a brain behind it.

    Parameters
    ----------
    networks, network, geometry, threshold, topography
        See :func:`plot_network_map`.

    Returns
    -------
    nilearn's HTML document
        With ``save_as_html`` and ``open_in_browser``; notebooks display it. x is the position of the layer, y and z
        are the row and the column in its sheet.
    """
    from nilearn import plotting

    z, geometry = as_maps(networks, geometry)
    z = z[checked_network(network, len(z))]
    shown = z if topography is None else topography.arrange(z)
    title = f"Network {network}" + ("" if topography is None else " (display)")
    view = plotting.view_img(
        geometry.to_img(shown), bg_img=None, threshold=threshold, cmap=st.diverging(), title=title, black_bg=False,
        resampling_interpolation="nearest", draw_cross=False,
    )  # fmt: skip
    # A layer has no left and right, and the page must not ask another server for its icon.
    html = view.html.replace('"showLR": true', '"showLR": false')
    view.html = re.sub(r"<link rel=\"icon\".*?/>", '<link rel="icon" href="data:,">', html, flags=re.S)
    return view


# -- parts --------------------------------------------------------------------------------------------------------
def _winner(z, threshold):
    """Return the number of the network that each neuron loads on most, -1 for neurons of none."""
    return np.where(np.abs(z).max(axis=0) > threshold, np.abs(z).argmax(axis=0), -1)


def _draw_territories(ax, mosaic, corners, geometry, colors):
    rgba = np.zeros((*mosaic.shape, 4))
    inside = ~np.isnan(mosaic)
    rgba[inside] = [0.5, 0.55, 0.6, 0.1]  # faint on white and on dark alike
    taken = inside & (mosaic >= 0)
    rgba[taken, :3], rgba[taken, 3] = colors[mosaic[taken].astype(int)], 1
    ax.imshow(rgba)
    frame_sheets(ax, corners, geometry)


def _pairs(pairs, maps, geometries):
    """Pairs of networks as rows (first, second)."""
    if pairs is None:
        geometries[0].check_same(geometries[1], "The second model (for different models give pairs=)")
        return matched_pairs(None, maps[0] @ maps[1].T)
    return matched_pairs(pairs, np.empty((len(maps[0]), len(maps[1]))))


def _frame_cut(ax, geometry):
    """Frame the sheet of a layer in nilearn's coordinates, and keep neurons square."""
    from matplotlib.patches import Rectangle

    corner = geometry.mask_img.affine @ [0, -0.5, -0.5, 1]
    far = geometry.mask_img.affine @ [0, geometry.shape[1] - 0.5, geometry.shape[2] - 0.5, 1]
    wide, high = (far - corner)[1:3]
    ax.add_patch(Rectangle(corner[1:3], wide, high, fill=False, ec=st.MUTED, lw=0.6, clip_on=False))
    ax.set(xlim=sorted((corner[1], far[1])), ylim=sorted((corner[2], far[2])), aspect="equal")


def _color_key(ax, colors, names, across=20):
    for k, color in enumerate(colors):
        row, col = divmod(k, across)
        ax.scatter(col + 0.2, -row, s=34, marker="s", color=[color])
        ax.text(col + 0.42, -row, names[k], va="center", fontsize=6.5)
    ax.set(xlim=(0, across), ylim=(-max(1, -(-len(colors) // across)) + 0.5, 0.5))
    ax.set_axis_off()
