"""Figures of several models: how similar they are, and what became of the networks of one in the others."""

import numpy as np

from . import style as st

FATES = {"kept": st.SERIES[2], "split": st.SERIES[5], "lost": st.GRID}


@st.figure
def plot_models(comparison, *, title=None):
    """Draw a tree of models, their similarity, and how many networks of the first model each of them keeps.

    Every row is a model, in the order of the tree.

    Parameters
    ----------
    comparison : Comparison
        From :func:`llmbrain.compare_studies`.

    Examples
    --------
    >>> figure = plot_models(found)  # doctest: +SKIP
    """
    tree, table = comparison.tree, comparison.similarity.to_numpy()
    reference = comparison.info["models"][0]
    names = [tree.names[i] for i in tree.order]
    labels = 0.055 * max(map(len, names))  # inches of the names below the similarities
    height = float(np.clip(1.0 + labels + 0.34 * len(names), 2.2, 8.0))
    fig = st.new_figure(st.PAGE, height, "What the models share" if title is None else title)
    ratios = [0.8, 1.0 + 0.12 * len(names), 1.7]
    left, middle, right = fig.subplots(1, 3, width_ratios=ratios)
    _draw_tree(left, tree)
    _draw_similarity(middle, table[np.ix_(tree.order, tree.order)], names)
    _draw_fates(right, comparison.fates(), reference, names)
    for ax in (left, middle, right):
        ax.set_ylim(len(names) - 0.5, -0.5)
    return fig


def _draw_tree(ax, tree):
    from scipy.cluster.hierarchy import dendrogram

    parts = dendrogram(tree.linkage, no_plot=True)
    for at, distance in zip(parts["icoord"], parts["dcoord"]):
        ax.plot(distance, (np.array(at) - 5) / 10, color=st.INK, lw=1)  # scipy puts the leaves at 5, 15, 25, ...
    ax.set(xlabel="1 - correlation", xlim=(1.05 * max(float(tree.linkage[:, 2].max()), 1e-3), 0))
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_title("tree", fontsize=8)


def _draw_similarity(ax, table, names):
    ax.imshow(table, cmap=st.sequential(), vmin=0, vmax=1, aspect="auto")
    for i, row in enumerate(table):
        for j, value in enumerate(row):
            color = "white" if value > 0.55 else st.INK
            ax.text(j, i, f"{value:.2f}".replace("-", "−"), ha="center", va="center", color=color, fontsize=6)
    ax.set_yticks(range(len(names)), names)
    ax.set_xticks(range(len(names)), names, rotation=90)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("correlation of\nmatched networks", fontsize=8)


def _draw_fates(ax, fates, reference, names):
    from matplotlib.transforms import ScaledTranslation

    rows = fates[fates["model"] == reference].set_index("other")
    for y, name in enumerate(names):
        if name == reference:
            ax.text(0, y, " reference", va="center", color=st.MUTED, fontsize=7)
            continue
        start = 0
        for fate, color in FATES.items():
            count = int(rows.loc[name, fate])
            ax.barh(
                y, count, left=start, height=0.62, color=color, label=fate if y == _first(names, reference) else None
            )
            if count:
                ax.text(start + count / 2, y, count, ha="center", va="center", fontsize=6.5, color=st.INK)
            start += count
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_title(f"networks of {reference}", fontsize=8)
    below = ScaledTranslation(0, -0.2, ax.figure.dpi_scale_trans)  # inches, which leave room for the numbers
    place = {"bbox_to_anchor": (0.5, 0), "bbox_transform": ax.transAxes + below}
    ax.legend(loc="upper center", ncols=3, handlelength=1, **place)


def _first(names, reference):
    return next(y for y, name in enumerate(names) if name != reference)
