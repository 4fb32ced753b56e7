"""Curves that say how far to believe a decomposition: stability of its networks, and how many there are."""

import numpy as np

from ..exceptions import ParameterError
from . import style as st

__all__ = ["plot_order", "plot_stability"]


def plot_stability(values, *, bar=0.7, label="stability (Iq)", title=None, output_file=None):
    """Draw how stable each network is over restarts, the most stable first.

    Parameters
    ----------
    values : array of shape (n_networks,), or an object with ``iq``
        Stability index of each network.
    bar : float or None
        Networks below it are drawn hollow.
    label : str
        Name of the axis.
    title, output_file
        See :func:`llmbrain.plotting.plot_network_map`.

    Returns
    -------
    matplotlib.figure.Figure or None

    Examples
    --------
    >>> figure = plot_stability([0.95, 0.4, 0.8])
    """
    values = np.asarray(getattr(values, "iq", values), float).ravel()
    if not len(values):
        raise ParameterError("There is no network to draw; give at least one stability value.")
    order = np.argsort(-values, kind="stable")
    at = np.arange(len(values))
    with st.style():
        width = float(np.clip(1.2 + 0.16 * len(values), st.COLUMN, st.PAGE))
        fig = st.new_figure(width, 2.3, title if title is not None else "Stability of networks")
        ax = fig.add_subplot()
        good = values[order] >= (-np.inf if bar is None else bar)
        ax.vlines(at, np.minimum(0, np.nanmin(values)), values[order], color=st.GRID, lw=1.5, zorder=1)
        ax.scatter(at[good], values[order][good], s=22, color=st.SERIES[0], zorder=3)
        ax.scatter(at[~good], values[order][~good], s=22, color=st.FACE, ec=st.SERIES[0], lw=1, zorder=3)
        if bar is not None:
            ax.axhline(bar, color=st.MUTED, lw=0.8, ls=(0, (4, 2)))
            ax.annotate(f"{bar:g}", (1, bar), xycoords=("axes fraction", "data"), xytext=(2, 0), textcoords="offset points",
                        va="center", fontsize=6.5, color=st.MUTED, annotation_clip=False)  # fmt: skip
        ax.set_xticks(at, order, rotation=90 if len(values) > 24 else 0, fontsize=7 if len(values) <= 30 else 5.5)
        ax.tick_params(axis="x", length=0)
        ax.set(xlabel="network", ylabel=label, ylim=(min(0, np.nanmin(values) * 1.1), 1.03), xlim=(-0.8, len(values) - 0.2))
    return st.finish(fig, output_file)
