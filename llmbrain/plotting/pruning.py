"""Figures of pruning: the cost of smaller models, and the neurons that each layer keeps."""

import numpy as np

from ..arguments import holds, text
from ..exceptions import ParameterError
from . import style as st

PARTS = ("score", "allocation", "compensation", "variant")
MARKERS = "osD^vP<X"


def recipe_names(table):
    """Name each row's recipe by the parts that differ between rows.

    Returns the names, such as ``"flap + bias"``, and what they consist of, such as ``"score + compensation"``.
    """
    parts = [c for c in PARTS if c in table]
    varying = [c for c in parts if table[c].nunique() > 1] or parts[:1]
    if not varying:
        raise ParameterError(
            f"The table has no column of recipes. It needs one of {list(PARTS)}; it has {list(table.columns)}."
        )
    parts = " + ".join(varying) if len(varying) < 4 else "recipe"  # longer ones do not fit beside the axis
    return table[varying].astype(str).agg(" + ".join, axis=1), parts


@st.figure
def plot_pruning_grid(table, *, x=None, y="perplexity", dense=None, title=None):
    """Draw perplexity against size: one line per recipe, with a band over the seeds.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per recipe, ratio and seed, as from :func:`llmbrain.run_grid`: ``score, allocation, compensation,
        ratio, seed, perplexity`` and, where known, ``variant, parameters, ratio_to_dense``.
    x : str, optional
        Column of the size; ``"parameters"`` if known, else ``"ratio"``. A table of one size is drawn as dots,
        one recipe per line.
    y : str
        Column of the cost.
    dense : float, optional
        Value of the unpruned model, drawn as a line; by default that of its row (score ``"dense"`` or ratio 0), or
        derived from ``ratio_to_dense``.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"score": ["flap"] * 2, "ratio": [0.1, 0.2], "perplexity": [20.0, 25.0]})
    >>> figure = plot_pruning_grid(table)
    """
    holds("columns", "groupby", what="a table (a DataFrame)")("table", table)
    text("y", y)
    missing = [c for c in (x, y) if c is not None and c not in table]
    if missing or not len(table):
        raise ParameterError(f"The pruning table lacks {missing or 'rows'}; it has the columns {list(table.columns)}.")
    table, dense = split_dense(table, y, dense)
    names, parts = recipe_names(table)
    table = table.assign(recipe=names)
    finite = np.isfinite(table[y].astype(float))
    broken = ", ".join(dict.fromkeys(table.loc[~finite, "recipe"]))
    table = table[finite]
    if not len(table):
        raise ParameterError(f"No recipe has a finite {y}, so there is nothing to draw.")
    order = list(table.groupby("recipe")[y].median().sort_values(ascending=False).index)
    one_size = "ratio" in table and table["ratio"].nunique() == 1 and x is None
    title = "What a smaller model costs" if title is None else title
    fig = (_recipe_dots if one_size else _recipe_lines)(
        table, x, y, order[::-1] if one_size else order, dense, parts, title
    )
    if broken:
        st.caption(fig, f"Not drawn where {y.replace('_', ' ')} is not finite: {broken}.")
    return fig


def split_dense(table, y="perplexity", dense=None):
    """Separate the row of the unpruned model from those of recipes: return the other rows, and its cost or None.

    The unpruned model has the score ``"dense"`` or the ratio 0; without such a row its perplexity is derived from
    ``ratio_to_dense``.
    """
    is_dense = np.zeros(len(table), bool)
    if "score" in table:
        is_dense |= (table["score"].astype(str) == "dense").to_numpy()
    if "ratio" in table:
        is_dense |= (table["ratio"] == 0).to_numpy()
    if dense is None and is_dense.any():
        dense = float(table.loc[is_dense, y].median())
    elif dense is None and y == "perplexity" and "ratio_to_dense" in table:
        dense = float((table["perplexity"] / table["ratio_to_dense"]).median())
    return (table[~is_dense] if not is_dense.all() else table), dense


@st.figure
def plot_kept_neurons(kept, geometry, *, title=None):
    """Draw how many neurons each layer keeps.

    Parameters
    ----------
    kept : PrunedModel, list of index arrays, or dict of name -> either
        Kept units of each layer; several recipes in a dict become one row each.
    geometry : NeuronGeometry
        The neurons before pruning.

    Examples
    --------
    >>> from llmbrain.geometry import NeuronGeometry
    >>> figure = plot_kept_neurons([np.arange(80), np.arange(95)], NeuronGeometry.from_sizes([100, 100]))
    """
    named = kept if isinstance(kept, dict) else {"": kept}
    share = np.stack([_kept_share(value, geometry) for value in named.values()])
    at = np.arange(geometry.n_layers)
    if len(named) == 1:
        title = f"Neurons kept: {100 * _total(share[0], geometry):.1f} %" if title is None else title
        fig, ax = st.one_axes(st.PAGE * 0.75, 2.2, title)
        ax.bar(at, np.full(len(at), 100.0), color=st.GRID, width=0.8)
        ax.bar(at, 100 * share[0], color=st.SERIES[0], width=0.8)
        ax.set(ylim=(0, 100), ylabel="% of neurons kept", xlim=(-0.7, len(at) - 0.3))
    else:
        title = "Neurons kept in each layer" if title is None else title
        fig, ax = st.one_axes(st.PAGE, 0.95 + 0.24 * len(named), title)
        image = ax.imshow(100 * share, cmap=st.sequential(), aspect="auto", vmin=min(50, 100 * share.min()), vmax=100)
        ax.set_yticks(range(len(named)), list(named))
        st.colorbar(fig, image, "% kept", ax=ax, aspect=12, pad=0.02)
    st.layer_ticks(ax, geometry.layers)
    return fig


# -- parts --------------------------------------------------------------------------------------------------------
def _recipe_lines(table, x, y, order, dense, parts, title):
    x = x or ("parameters" if "parameters" in table and table["parameters"].nunique() > 1 else "ratio")
    fig, ax = st.one_axes(st.PAGE, 3.3, title)
    for i, recipe in enumerate(order):
        _recipe_line(ax, table[table["recipe"] == recipe], x, y, recipe, i)
    if dense is not None:
        ax.axhline(dense, color=st.INK, lw=0.9, ls=(0, (4, 2)), label="unpruned")
    values = table[y].to_numpy(float)
    if values.max() > 3 * max(values.min(), 1e-9) and values.min() > 0:
        _log_axis(ax, ax.yaxis)
    _size_axis(ax, x)
    ax.set_ylabel(y.replace("_", " "))
    ax.grid(axis="y")
    fig.legend(loc="outside right upper", title=parts)
    return fig


def _recipe_dots(table, x, y, order, dense, parts, title):
    """Draw recipes of one size, one per line, the best at the top."""
    fig, ax = st.one_axes(st.PAGE, 1.0 + 0.24 * len(order), title)
    for i, recipe in enumerate(order):
        values = table.loc[table["recipe"] == recipe, y].to_numpy(float)
        ax.hlines(i, dense if dense is not None else values.min(), values.mean(), color=st.GRID, lw=2, zorder=1)
        ax.scatter(values, np.full(len(values), i), s=28, color=st.SERIES[0], zorder=3)
        place = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        ax.annotate(_price(values.mean()), (values.max(), i), fontsize=7, **place)
    if dense is not None:
        ax.axvline(dense, color=st.INK, lw=0.9, ls=(0, (4, 2)))
        st.edge_note(ax, f"unpruned {_price(dense)}", (dense, 1), (3, 2))
    everything = np.append(table[y].to_numpy(float), [] if dense is None else dense)
    if everything.max() > 3 * everything.min() > 0:
        _log_axis(ax, ax.xaxis)
        ax.set_xlim(everything.min() / 1.15, everything.max() * 1.35)
    else:
        ax.set_xlim(everything.min() - 0.05 * np.ptp(everything), everything.max() + 0.12 * np.ptp(everything))
    ax.set_yticks(range(len(order)), order)
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    removed = f", {100 * table['ratio'].iloc[0]:.3g} % removed"
    ax.set(xlabel=y.replace("_", " ") + removed, ylabel=parts)
    ax.grid(axis="x")
    return fig


def _recipe_line(ax, part, x, y, name, i):
    by = "ratio" if "ratio" in part else x
    grouped = part.groupby(by)
    at, mid = grouped[x].mean().to_numpy(float), grouped[y].median().to_numpy(float)
    low, high = grouped[y].min().to_numpy(float), grouped[y].max().to_numpy(float)
    color = st.SERIES[i % len(st.SERIES)]
    if (high > low).any():
        ax.fill_between(at, low, high, color=color, alpha=0.18, lw=0)
    dashes = "-" if i < len(st.SERIES) else (0, (3, 1.5))
    ax.plot(at, mid, color=color, marker=MARKERS[i % len(MARKERS)], ms=4, ls=dashes, label=name)


def _price(value):
    return f"{value:,.0f}".replace(",", "\u2009") if value >= 1000 else f"{value:.3g}"


def _log_axis(ax, axis):
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    (ax.set_xscale if axis is ax.xaxis else ax.set_yscale)("log")
    low, high = axis.get_data_interval()
    few = high <= 300 * max(low, 1e-9)  # beyond this the numbers between the powers of ten would run into each other
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: _price(v) if v >= 1000 else f"{v:g}"))
    axis.set_minor_formatter(NullFormatter())


def _size_axis(ax, x):
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    if x == "parameters":
        unit, name = (1e9, "B") if ax.get_xlim()[1] >= 1e9 else (1e6, "M")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / unit:g} {name}"))
        ax.set_xlabel("parameters")
        ax.invert_xaxis()
    elif x == "ratio":
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.set_xlabel("share removed")
    else:
        ax.set_xlabel(x.replace("_", " "))


def _kept_share(kept, geometry):
    from ..pruning import PrunedModel

    kept = kept.kept if isinstance(kept, PrunedModel) else kept
    if len(kept) != geometry.n_layers:
        raise ParameterError(f"{len(kept)} lists of kept units do not fit {geometry.n_layers} layers.")
    return np.array([len(units) / size for units, size in zip(kept, geometry.sizes)])


def _total(share, geometry):
    return float((share * np.array(geometry.sizes)).sum() / geometry.n_neurons)
