"""Figures of quality: stability of networks, the choice of their number, and the tokens of a recording."""

import numpy as np

from ..arguments import holds, text
from ..exceptions import ParameterError, is_number
from ..networks.evidence.order import Order
from ..networks.evidence.stability import Icasso
from . import style as st

LABELS = {
    "n_reproduced": "networks found again",
    "share": "share found again",
    "mean_r": "mean |r| of matched maps",
    "median_r": "median |r| of matched maps",
}
FROM_ZERO = ("n_reproduced", "share", "mean_r", "median_r")


@st.figure
def plot_stability(values, *, bar=0.7, label="stability (Iq)", title=None):
    """Draw how stable each network is over restarts, the most stable first.

    Parameters
    ----------
    values : array of shape (n_networks,), or Icasso
        Stability index of each network.
    bar : float or None
        Networks below it are drawn hollow.
    label : str
        Name of the axis.

    Examples
    --------
    >>> figure = plot_stability([0.95, 0.4, 0.8])
    """
    values = np.asarray(values.iq if isinstance(values, Icasso) else values, float).ravel()
    if not len(values):
        raise ParameterError("values is empty; pass the stability of at least one network.")
    order = np.argsort(-values, kind="stable")
    at = np.arange(len(values))
    width = float(np.clip(1.2 + 0.16 * len(values), st.COLUMN, st.PAGE))
    fig, ax = st.one_axes(width, 2.3, title if title is not None else "Stability of networks")
    good = values[order] >= (-np.inf if bar is None else bar)
    ax.vlines(at, np.minimum(0, np.nanmin(values)), values[order], color=st.GRID, lw=1.5, zorder=1)
    ax.scatter(at[good], values[order][good], s=22, color=st.SERIES[0], zorder=3)
    ax.scatter(at[~good], values[order][~good], s=22, color=st.FACE, ec=st.SERIES[0], lw=1, zorder=3)
    if bar is not None:
        ax.axhline(bar, color=st.MUTED, lw=0.8, ls=(0, (4, 2)))
        st.edge_note(ax, f"{bar:g}", (1, bar), (2, 0), size=6.5, xycoords=("axes fraction", "data"), va="center")
    ax.set_xticks(at, order, rotation=90 if len(values) > 24 else 0, fontsize=7 if len(values) <= 30 else 5.5)
    ax.tick_params(axis="x", length=0)
    ax.set(xlabel="network", ylabel=label, ylim=(min(0, np.nanmin(values) * 1.1), 1.03), xlim=(-0.8, len(values) - 0.2))
    return fig


@st.figure
def plot_order(curves, x="n_components", *, chosen=None, ylabel=None, title=None):
    """Draw the criteria for the number of networks, one panel each.

    Parameters
    ----------
    curves : Order, or pandas.DataFrame
        One row per number of networks: the column named by ``x`` and one column per criterion, e.g. reproducibility of
        split halves or explained variance. ``<criterion>_low`` and ``<criterion>_high`` become a band, and
        ``<criterion>_null`` a dashed line.
    x : str
        Column of the number of networks.
    chosen : int or dict, optional
        The chosen number, which is marked; a dict for each criterion.
    ylabel : dict, optional
        Criterion -> label.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"n_components": [5, 10, 20], "reproducibility": [0.6, 0.9, 0.7]})
    >>> figure = plot_order(table, chosen=10)
    """
    if isinstance(curves, Order):
        curves, chosen = curves.curve, curves.n_components if chosen is None else chosen
    holds("columns", "select_dtypes", what="a table (a DataFrame) or an Order")("curves", curves)
    text("x", x)
    for name, best in (chosen if isinstance(chosen, dict) else {"chosen": chosen}).items():
        if best is not None and not is_number(best):
            raise ParameterError(f"{name}={best!r}: it must be a number.")
    if ylabel is not None and not isinstance(ylabel, dict):
        raise ParameterError(f"ylabel={ylabel!r}: pass a dict of labels by the names of the columns.")
    if x not in curves:
        raise ParameterError(f"The table has no column {x!r}; it has {list(curves.columns)}.")
    helpers = ("_low", "_high", "_null")
    names = [c for c in curves.select_dtypes("number").columns if c != x and not c.endswith(helpers)]
    if not names:
        raise ParameterError(f"The table has no criterion beside {x!r}; it has {list(curves.columns)}.")
    curves = curves.sort_values(x)
    at = curves[x].to_numpy(float)
    title = "Number of networks" if title is None else title
    fig, axes = st.small_multiples(
        len(names), 3, lambda rows, columns: (st.COLUMN if columns == 1 else st.PAGE, 2.0 * rows + 0.4), title
    )
    for ax, name in zip(axes, names):
        if {f"{name}_low", f"{name}_high"} <= set(curves):
            low, high = (curves[f"{name}{end}"].to_numpy(float) for end in ("_low", "_high"))
            ax.fill_between(at, low, high, color=st.SERIES[0], alpha=0.18, lw=0)
        if f"{name}_null" in curves:
            ax.plot(at, curves[f"{name}_null"], color=st.MUTED, lw=1, ls=(0, (4, 2)), label="chance")
            ax.legend(loc="best")
        ax.plot(at, curves[name], color=st.SERIES[0], marker="o", ms=3.5)
        best = chosen.get(name) if isinstance(chosen, dict) else chosen
        if best is not None:
            ax.axvline(best, color=st.POSITIVE, lw=1)
            st.edge_note(ax, f"{best:g}", (best, 1), (0, 1), st.POSITIVE, ha="center", va="bottom")
        if name in FROM_ZERO:
            ax.set_ylim(0, max(1.0 if name.startswith("n_") else 0.1, 1.08 * ax.dataLim.y1))
            ax.yaxis.get_major_locator().set_params(integer=name.startswith("n_"))
        ax.set_ylabel({**LABELS, **(ylabel or {})}.get(name, name.replace("_", " ")))
        ax.grid(axis="y")
    fig.supxlabel("number of networks" if x == "n_components" else x.replace("_", " "), fontsize=8, color=st.INK)
    return fig


@st.figure
def plot_token_quality(tokens, *, title=None):
    """Draw the activity of all neurons at every token and its change, with tokens that stand out marked.

    Parameters
    ----------
    tokens : pandas.DataFrame
        One row per token, in order: ``activity``, and where known ``change``, ``surprisal``, ``run``, and ``outlying``
        (bool).

    Examples
    --------
    >>> import pandas as pd
    >>> figure = plot_token_quality(pd.DataFrame({"activity": [1.0, 0.9, 3.0], "outlying": [False, False, True]}))
    """
    strips = [name for name in ("activity", "change", "surprisal") if name in tokens and tokens[name].notna().any()]
    looks, high = {"surprisal": (st.MUTED, "surprisal\n(nats)")}, 0.62
    title = "Activity and change per token" if title is None else title
    fig, place = st.fixed_figure(st.PAGE, (high + 0.12) * len(strips) + 0.5, title)
    at = np.arange(len(tokens))
    edges = np.flatnonzero(tokens["run"].ne(tokens["run"].shift()))[1:] if "run" in tokens else []
    outlying = tokens["outlying"].to_numpy(bool) if "outlying" in tokens else np.zeros(len(tokens), bool)
    for i, name in enumerate(strips):
        ax = place(0.75, 0.08 + i * (high + 0.12), st.PAGE - 0.95, high)
        values = tokens[name].to_numpy(float)
        color, label = looks.get(name, (st.NEGATIVE, name))
        ax.plot(at, values, color=color, lw=0.5, rasterized=len(at) > 4000)
        if name == "activity":
            ax.plot(at[outlying], values[outlying], ls="", marker="v", ms=3, color=st.POSITIVE)
        for edge in edges:
            ax.axvline(edge - 0.5, color=st.GRID, lw=0.6, zorder=0)
        ax.set(xlim=(-0.5, len(at) - 0.5), ylim=(0, None))
        ax.set_ylabel(label, fontsize=7)
        ax.set_xticklabels([]) if i < len(strips) - 1 else ax.set_xlabel("token", labelpad=1)
    return fig
