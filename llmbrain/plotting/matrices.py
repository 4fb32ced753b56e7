"""Matrices and graphs: connectivity, links between layers, matched components, coupled models."""

import numpy as np

from ..exceptions import ParameterError
from . import style as st

__all__ = ["plot_connectivity", "plot_coupling", "plot_layer_graph", "plot_matching", "similarity_order"]


def similarity_order(matrix):
    """Order rows so that similar ones are neighbours (average linkage on 1 - r, optimal leaf order)."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(matrix) < 3:
        return np.arange(len(matrix))
    distance = np.clip(1 - np.nan_to_num(np.asarray(matrix, float)), 0, 2)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform((distance + distance.T) / 2, checks=False), "average", optimal_ordering=True))


def plot_connectivity(matrix, labels=None, *, reorder=True, label="correlation", title=None, output_file=None):
    """Draw functional connectivity: which networks' time courses rise and fall together.

    Parameters
    ----------
    matrix : array of shape (n, n)
        Symmetric, e.g. correlations; the diagonal is left blank.
    labels : sequence of str, optional
        Names of the rows; their numbers if not given.
    reorder : bool
        Put similar rows side by side.
    label : str
        Name of the colour bar.
    title, output_file
        See :func:`llmbrain.plotting.plot_network_map`.

    Returns
    -------
    matplotlib.figure.Figure or None

    Examples
    --------
    >>> figure = plot_connectivity(np.corrcoef(np.random.default_rng(0).normal(size=(5, 50))))
    """
    matrix = np.array(matrix, float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ParameterError(f"Connectivity must be a square matrix; got shape {matrix.shape}.")
    labels = _labels(labels, len(matrix))
    order = similarity_order(matrix) if reorder else np.arange(len(matrix))
    shown = matrix[np.ix_(order, order)]
    np.fill_diagonal(shown, np.nan)
    limit = max(float(np.nanmax(np.abs(shown), initial=0)), 1e-6)
    with st.style():
        side = float(np.clip(1.9 + 0.14 * len(matrix), 3.0, 6.2))
        fig = st.new_figure(side + 0.7, side, title if title is not None else "Functional connectivity")
        ax = fig.add_subplot()
        image = ax.imshow(shown, cmap=st.DIVERGING(), vmin=-limit, vmax=limit)
        _name_axes(ax, [labels[i] for i in order], [labels[i] for i in order])
        ax.set(xlabel="network", ylabel="network")
        _bar(fig, image, ax, label)
    return st.finish(fig, output_file)


def _labels(labels, n):
    labels = [str(i) for i in range(n)] if labels is None else [str(x) for x in labels]
    if len(labels) != n:
        raise ParameterError(f"{n} rows need {n} labels; got {len(labels)}.")
    return labels


def _name_axes(ax, rows, columns, most=40):
    for axis, names in ((ax.yaxis, rows), (ax.xaxis, columns)):
        every = 1 if len(names) <= most else -(-len(names) // 20)
        axis.set_ticks(range(0, len(names), every), names[::every])
    size = 7 if max(len(rows), len(columns)) <= 24 else 5.5
    ax.tick_params(length=0, labelsize=size)
    if max(map(len, columns), default=0) > 2 or len(columns) > 24:
        ax.tick_params(axis="x", rotation=90)
    ax.spines[:].set_visible(False)


def _bar(fig, image, ax, label):
    bar = fig.colorbar(image, ax=ax, shrink=0.7, aspect=22, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(label)
