"""Matrices and graphs: connectivity, links between layers, matched components, coupled models."""

import numpy as np
from scipy.spatial.distance import squareform

from ..arguments import whole
from ..exceptions import ParameterError
from ..networks.connectivity import Connectivity
from ..networks.evidence.matching import Matching, assign
from . import style as st
from .text import axis_token

BAR = {"shrink": 0.7, "aspect": 22, "pad": 0.02}  # size and place of colour bars


def similarity_order(matrix):
    """Order the rows of a similarity matrix so that similar rows are neighbours; NaN counts as 0.

    Average linkage on 1 - r, optimal leaf order. Returns the row numbers in their new order.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(matrix) < 3:
        return np.arange(len(matrix))
    distance = np.clip(1 - np.nan_to_num(np.asarray(matrix, float)), 0, 2)
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform((distance + distance.T) / 2, checks=False), "average", optimal_ordering=True))


@st.figure
def plot_connectivity(matrix, labels=None, *, reorder=True, label="correlation", title=None):
    """Draw functional connectivity: the correlations of the networks' time courses.

    Parameters
    ----------
    matrix : Connectivity, or array of shape (n, n)
        Symmetric, e.g. correlations; the diagonal is left blank.
    labels : sequence of str, optional
        Names of the rows; their numbers by default. Of a long name, such as ``"3 fires at numbers"``, the columns show
        the first word.
    reorder : bool
        Put similar rows side by side.
    label : str
        Name of the colour bar.

    Examples
    --------
    >>> figure = plot_connectivity(np.corrcoef(np.random.default_rng(0).normal(size=(5, 50))))
    """
    if isinstance(matrix, Connectivity):
        matrix, label = matrix.mean, matrix.kind if label == "correlation" else label
    matrix = np.array(matrix, float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ParameterError(f"Connectivity must be a square matrix; got shape {matrix.shape}.")
    labels = _labels(labels, len(matrix))
    order = similarity_order(matrix) if reorder else np.arange(len(matrix))
    shown = matrix[np.ix_(order, order)]
    np.fill_diagonal(shown, np.nan)
    limit = max(float(np.nanmax(np.abs(shown), initial=0)), 1e-6)
    side = float(np.clip(1.9 + 0.14 * len(matrix), 3.0, 6.2))
    longest = max(map(len, labels), default=0)
    extra = 0.045 * longest if longest > 6 else 0.0
    width = min(side + 0.7 + extra, st.PAGE)
    fig, ax = st.one_axes(width, side, title if title is not None else "Functional connectivity")
    image = ax.imshow(shown, cmap=st.diverging(), vmin=-limit, vmax=limit)
    _name_axes(ax, [labels[i] for i in order], [labels[i].split(" ")[0] if extra else labels[i] for i in order])
    ax.set(xlabel="network", ylabel="network")
    st.colorbar(fig, image, label, ax=ax, **BAR)
    return fig


@st.figure
def plot_matching(similarity, pairs=None, *, names=("first", "second"), label="correlation of maps", title=None):
    """Draw how the networks of two decompositions, or two models, correspond.

    Rows and columns are ordered so that matched pairs lie on the diagonal, best match first; they are outlined.

    Parameters
    ----------
    similarity : Matching, or array of shape (n_first, n_second)
        Similarity of each pair, 0 to 1 or -1 to 1.
    pairs : array of shape (n_pairs, 2), optional
        Matched rows and columns; by default the best one-to-one assignment by absolute value.
    names : (str, str)
        Names of the two decompositions.
    label : str
        Name of the colour bar.

    Examples
    --------
    >>> figure = plot_matching(np.array([[0.1, 0.9], [0.7, 0.2], [0.0, 0.1]]))
    """
    if isinstance(similarity, Matching):
        pairs, similarity = similarity if pairs is None else pairs, similarity.similarity
    similarity = np.asarray(similarity, float)
    if similarity.ndim != 2 or not similarity.size:
        raise ParameterError(f"Similarity must be (n_first, n_second) and not empty; got shape {similarity.shape}.")
    rows, cols, pairs = _matched_order(similarity, pairs)
    shown = similarity[np.ix_(rows, cols)]
    width = float(np.clip(1.8 + 0.15 * len(cols), st.COLUMN, st.PAGE))
    height = float(np.clip(1.2 + 0.15 * len(rows), 2.4, 8.5))
    fig, ax = st.one_axes(width, height, "Matched networks" if title is None else title)
    signed = shown.min() < 0
    limit = max(np.abs(shown).max(), 1e-9)
    cmap = st.diverging() if signed else st.sequential()
    image = ax.imshow(shown, cmap=cmap, vmin=-limit if signed else 0, vmax=limit if signed else max(1.0, limit))
    _outline(ax, len(pairs))
    _name_axes(ax, rows, cols)
    ax.set(xlabel=f"network, {names[1]}", ylabel=f"network, {names[0]}")
    st.colorbar(fig, image, label, ax=ax, **BAR)
    return fig


@st.figure
def plot_coupling(
    first, second, *, events=None, names=("first model", "second model"), n_pairs=3, tokens=None, title=None,
):  # fmt: skip
    """Draw how the time courses of two models' networks correlate over the same words.

    Parameters
    ----------
    first, second : array of shape (n_words, n_networks)
        Time courses of two models on the same text, pooled to the same words.
    events : pandas.DataFrame, optional
        ``token`` (or ``word``) of each row, written under the courses if there is room.
    names : (str, str)
        Names of the models.
    n_pairs : int
        Number of best matched pairs whose time courses are drawn.
    tokens : (int, int), optional
        First row and the one after the last whose time courses are drawn; the first 80 by default.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> course = rng.normal(size=(40, 3))
    >>> figure = plot_coupling(course, course[:, ::-1] + rng.normal(size=(40, 3)))
    """
    first, second = (_standard(x) for x in (first, second))
    if len(first) != len(second):
        raise ParameterError(
            f"The courses have {len(first)} and {len(second)} rows; pool both models to the same words first."
        )
    r = first.T @ second / len(first)
    rows, cols, pairs = _matched_order(r, pairs=None)
    start, stop = (0, min(80, len(first))) if tokens is None else tokens
    pairs = pairs[:n_pairs]
    fig = st.new_figure(
        st.PAGE, 1.4 + max(1.5, 0.72 * len(pairs)), "Coupling of two models" if title is None else title
    )
    left, right = fig.subfigures(1, 2, width_ratios=[1, 1.75])
    ax = left.add_subplot()
    limit = max(np.abs(r).max(), 1e-9)
    image = ax.imshow(r[np.ix_(rows, cols)], cmap=st.diverging(), vmin=-limit, vmax=limit)
    _outline(ax, min(r.shape))
    _name_axes(ax, rows, cols, turn_over=10)
    ax.set(xlabel=names[1], ylabel=names[0])
    st.colorbar(left, image, "correlation of time courses", ax=ax, location="bottom", **BAR)
    axes = right.subplots(len(pairs), 1, sharex=True, squeeze=False)[:, 0]
    for course_ax, (i, j) in zip(axes, pairs):
        sign = -1 if r[i, j] < 0 else 1
        at = np.arange(start, stop)
        course_ax.plot(at, first[start:stop, i], color=st.SERIES[0], lw=1.1)
        course_ax.plot(at, sign * second[start:stop, j], color=st.SERIES[1], lw=1.1)
        turned = ", sign reversed" if sign < 0 else ""
        course_ax.set_title(
            f"r = {r[i, j]:.2f}{turned}".replace("-", "−"), fontsize=7, loc="right", fontweight="normal", pad=2
        )
        course_ax.set_title(f"networks {i} and {j}", fontsize=7, loc="left", pad=2)
        course_ax.axhline(0, color=st.GRID, lw=0.6, zorder=0)
        course_ax.set_yticks([])
        course_ax.spines["left"].set_visible(False)
    _word_axis(axes[-1], events, start, stop)
    handles = axes[0].get_lines()[:2]
    right.legend(handles, names, loc="outside lower center", ncols=2, handlelength=1.2)
    return fig


@st.figure
def plot_layer_graph(matrix, layers=None, *, keep=0.1, label="correlation", title=None):
    """Draw the strongest links between layers as arcs: warm above the line for positive, cool below it for negative.

    Parameters
    ----------
    matrix : array of shape (n_layers, n_layers)
        Symmetric link strengths, e.g. correlations of layers' mean time courses.
    layers : sequence of int, optional
        Numbers of the layers.
    keep : float
        Share of the links to draw, the strongest ones.
    label : str
        Name of the strength.

    Examples
    --------
    >>> figure = plot_layer_graph(np.corrcoef(np.random.default_rng(0).normal(size=(8, 50))), keep=0.3)
    """
    from matplotlib.patches import Arc

    matrix = np.asarray(matrix, float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ParameterError(f"Links must be a square matrix of at least two layers; got shape {matrix.shape}.")
    if not 0 < keep <= 1:
        raise ParameterError(f"keep={keep}: the share of links to draw must be above 0 and at most 1.")
    n = len(matrix)
    layers = _labels(layers, n)
    i, j = np.triu_indices(n, 1)
    strength = np.nan_to_num(matrix[i, j])
    n_kept = max(1, round(keep * len(strength)))
    chosen = np.argsort(-np.abs(strength), kind="stable")[:n_kept]
    chosen = chosen[np.argsort(np.abs(strength[chosen]), kind="stable")]  # the strongest on top
    strong = max(np.abs(strength[chosen]).max(), 1e-9)
    up = max([j[k] - i[k] for k in chosen if strength[k] >= 0], default=0) / 2
    down = max([j[k] - i[k] for k in chosen if strength[k] < 0], default=0) / 2
    unit = (st.PAGE - 0.6) / n
    height = float(np.clip(unit * (up + down) * 0.8 + 1.0, 1.8, 6))
    fig, ax = st.one_axes(st.PAGE, height, "Links between layers" if title is None else title)
    for k in chosen:
        weight = abs(strength[k]) / strong
        positive = strength[k] >= 0
        span = float(j[k] - i[k])
        ax.add_patch(
            Arc(((i[k] + j[k]) / 2, 0), span, span, theta1=0 if positive else 180, theta2=180 if positive else 360,
                color=st.POSITIVE if positive else st.NEGATIVE, lw=0.4 + 2.2 * weight, alpha=0.2 + 0.7 * weight)
        )  # fmt: skip
    ax.scatter(np.arange(n), np.zeros(n), s=16, color=st.INK, zorder=3)
    ax.set(xlim=(-0.7, n - 0.3), ylim=(-down - 0.8, up + 0.4))
    ax.set_yticks([])
    st.layer_ticks(ax, layers, 20)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    weakest = f"{np.abs(strength[chosen]).min():.2f}"
    st.caption(
        fig, f"The strongest {100 * keep:g} % of links, |{label}| ≥ {weakest}; width and depth of colour follow it."
    )
    return fig


# -- parts --------------------------------------------------------------------------------------------------------
def _standard(x):
    x = np.asarray(x, float)
    if x.ndim != 2:
        raise ParameterError(f"Time courses must be (n_words, n_networks); got shape {x.shape}.")
    return (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)


def matched_pairs(pairs, similarity):
    """Return matched rows and columns, ``(n_pairs, 2)``: those given, or the best one-to-one assignment for None."""
    if pairs is None or isinstance(pairs, Matching):
        index = assign(np.abs(similarity)) if pairs is None else pairs.index
        pairs = [(i, j) for i, j in enumerate(index) if j >= 0]
    pairs = whole("pairs", pairs).astype(int)
    if pairs.size and (pairs.shape[1:] != (2,) or (pairs < 0).any() or (pairs >= similarity.shape).any()):
        raise ParameterError(
            f"pairs={pairs.tolist()}: the networks are 0 to {len(similarity) - 1} and 0 to {similarity.shape[1] - 1}."
        )
    return pairs.reshape(-1, 2)


def _matched_order(similarity, pairs):
    """Order rows and columns such that matched pairs come first, on the diagonal, best first."""
    pairs = matched_pairs(pairs, similarity)
    pairs = pairs[np.argsort(-np.abs(similarity[pairs[:, 0], pairs[:, 1]]), kind="stable")]
    rows = [*pairs[:, 0], *sorted(set(range(similarity.shape[0])) - set(pairs[:, 0].tolist()))]
    cols = [*pairs[:, 1], *sorted(set(range(similarity.shape[1])) - set(pairs[:, 1].tolist()))]
    return [int(i) for i in rows], [int(j) for j in cols], pairs


def _outline(ax, n):
    from matplotlib.patches import Rectangle

    for i in range(n):
        ax.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, ec=st.INK, lw=0.9, clip_on=False))


def _word_axis(ax, events, start, stop):
    column = None if events is None else next((c for c in ("word", "token") if c in events), None)
    if column is None or stop - start > 70:
        ax.set_xlabel("word")
        return
    words = [axis_token(w) for w in events[column].iloc[start:stop]]
    ax.set_xticks(range(start, stop), words, rotation=90, fontsize=5.5)
    ax.tick_params(axis="x", length=0, pad=1)


def _labels(labels, n):
    labels = [str(i) for i in range(n)] if labels is None else [str(x) for x in labels]
    if len(labels) != n:
        raise ParameterError(f"{len(labels)} labels for {n} rows; pass one label per row.")
    return labels


def _name_axes(ax, rows, columns, turn_over=24):
    rows, columns = ([str(x) for x in names] for names in (rows, columns))
    for axis, names in ((ax.yaxis, rows), (ax.xaxis, columns)):
        every = 1 if len(names) <= 40 else -(-len(names) // 20)
        axis.set_ticks(range(0, len(names), every), names[::every])
    size = 7 if max(len(rows), len(columns)) <= 24 else 5.5
    ax.tick_params(length=0, labelsize=size)
    if max(map(len, columns), default=0) > 2 or len(columns) > turn_over:
        ax.tick_params(axis="x", rotation=90)
    ax.spines[:].set_visible(False)
