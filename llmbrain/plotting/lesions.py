"""Figures of lesion studies: effects and their controls, dose and response, selectivity."""

import re

import numpy as np
import pandas as pd

from ..arguments import holds
from ..exceptions import ParameterError
from . import style as st

UNIT = "change in loss (nats per token)"
DOSES = ("strength", "gain", "threshold", "n_neurons")


@st.figure
def plot_lesion_effects(result, controls=None, *, task=None, family=None, alpha=0.05, unit=UNIT, sort=True, title=None):
    """Draw each network's lesion effect as a point with its interval, over the points of its matched controls.

    Parameters
    ----------
    result : LesionResult or pandas.DataFrame
        The study, or its table with the columns ``network, effect`` and, where known, ``task, family, ci_low, ci_high,
        n_neurons, p, q``.
    controls : pandas.DataFrame, optional
        ``network, effect`` of each control draw (and ``task, family``); by default those of ``result``.
    task, family : str, optional
        Which task and which control family; the first of each by default.
    alpha : float
        Networks with ``q`` (or ``p``, if there is no q) below this are filled.
    unit : str
        Label of the effect axis.
    sort : bool
        Largest effect at the top.

    Examples
    --------
    >>> table = pd.DataFrame({"network": [0, 1], "effect": [0.4, 0.02], "q": [0.01, 0.6]})
    >>> draws = pd.DataFrame({"network": [0, 0, 1, 1], "effect": [0.0, 0.05, 0.01, 0.03]})
    >>> figure = plot_lesion_effects(table, draws)
    """
    table, controls = _tables(result, controls)
    _need(table, ["network", "effect"])
    task, family = _first(table, "task", task), _first(table, "family", family)
    table, controls = (_pick(frame, task=task, family=family) for frame in (table, controls))
    if sort:
        table = table.sort_values("effect", ascending=False, kind="stable")
    q = q_column(table) or "p"
    row = 0.27 if len(table) <= 6 else 0.19 if len(table) <= 40 else 0.14
    body = row * len(table) + 0.1
    name = f"Lesion effects{'' if task is None else f', {task}'}"
    fig, place = st.fixed_figure(st.PAGE, body + 0.95, name if title is None else title)
    ax = place(0.75, 0.22, st.PAGE - 2.6, body)
    at = np.arange(len(table))
    _control_cloud(ax, table, controls)
    significant = (table[q] < alpha).to_numpy() if q in table else np.zeros(len(table), bool)
    _effect_points(ax, table, at, significant)
    ax.axvline(0, color=st.MUTED, lw=0.7, zorder=0)
    ax.set_yticks(at, [short_name(n) for n in table["network"]], fontsize=7 if row > 0.15 else 6)
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set(xlabel=unit, ylabel=f"{getattr(result, 'what', 'network')} lesioned")
    ax.grid(axis="x")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    _side_columns(ax, table, at, q, significant)
    _effect_key(place(0.1, body + 0.68, st.PAGE - 0.2, 0.2), controls, family, significant.any(), alpha, q)
    return fig


@st.figure
def plot_dose_response(table, *, x=None, group="network", xlabel=None, ylabel=UNIT, title=None):
    """Draw effects against the dose of a lesion, with a band for the controls.

    Parameters
    ----------
    table : DoseResponse or pandas.DataFrame
        One row per dose and group: the columns named by ``x`` and ``group``, ``effect``, and where known ``ci_low,
        ci_high`` (interval of the effect), ``control_mean``, and ``control_low, control_high`` or ``control_sd``.
    x : str, optional
        Column of the dose; by default the first known of ``strength, gain, threshold`` and ``n_neurons``.
    group : str
        Column that names the lines, drawn as small multiples.
    xlabel, ylabel : str, optional
        Axis labels.

    Examples
    --------
    >>> table = pd.DataFrame({"network": [0] * 3, "strength": [0, 0.5, 1], "effect": [0, 0.1, 0.4]})
    >>> figure = plot_dose_response(table)
    """
    from ..lesions import DoseResponse

    table = table.table if isinstance(table, DoseResponse) else table
    x = x or next((c for c in DOSES if c in table), DOSES[0])
    _need(table, [x, "effect"])
    groups = list(dict.fromkeys(table[group])) if group in table else [None]
    title = "Dose and response" if title is None else title
    fig, axes = st.small_multiples(
        len(groups),
        4,
        lambda rows, columns: (min(st.PAGE, st.COLUMN * columns), 1.75 * rows + 0.45),
        title,
        sharey=True,
    )
    for ax, name in zip(axes, groups):
        part = (table if name is None else table[table[group] == name]).sort_values(x)
        _dose_line(ax, part, x)
        if name is not None:
            ax.set_title(f"{group} {short_name(name)}", fontsize=8)
    axes[0].legend(loc="best", handlelength=1.2)
    fig.supxlabel(xlabel or x.replace("n_neurons", "neurons lesioned"), fontsize=8, color=st.INK)
    fig.supylabel(ylabel, fontsize=8, color=st.INK)
    return fig


@st.figure
def plot_selectivity(result, *, value="effect", alpha=0.05, family=None, label=None, title=None):
    """Draw the harm of each network's lesion on each task, with a dot where it exceeds the controls.

    Parameters
    ----------
    result : LesionResult or pandas.DataFrame
        The study, or its table with ``network, task`` and the column named by ``value``; ``q`` or ``p`` where known.
    value : str
        What the colours show, e.g. ``"effect"`` or ``"z"``.
    alpha : float
        Cells with ``q`` (or ``p``) below this carry a dot.
    family : str, optional
        Which control family; the first by default.
    label : str, optional
        Label of the colour bar.

    Examples
    --------
    >>> table = pd.DataFrame({"network": [0, 0, 1, 1], "task": ["code", "prose"] * 2, "effect": [0.4, 0.1, 0, 0.3]})
    >>> figure = plot_selectivity(table)
    """
    table, _ = _tables(result, None)
    _need(table, ["network", "task", value])
    table = _pick(table, family=_first(table, "family", family))
    grid = table.pivot_table(index="network", columns="task", values=value, sort=False)
    q = q_column(table)
    limit = float(np.nanmax(np.abs(grid.to_numpy()))) or 1.0
    width = float(np.clip(1.6 + 0.42 * grid.shape[1], st.COLUMN, st.PAGE))
    height = float(np.clip(1.25 + 0.17 * len(grid) + 0.06 * max(map(len, _short_tasks(grid.columns))), 2.2, 9.5))
    fig, ax = st.one_axes(width, height, "Lesions by task" if title is None else title)
    image = ax.imshow(grid, cmap=st.diverging(), vmin=-limit, vmax=limit, aspect="auto")
    if q is not None:
        low = table.pivot_table(index="network", columns="task", values=q, sort=False).reindex_like(grid) < alpha
        rows, cols = np.nonzero(low.to_numpy())
        ax.scatter(cols, rows, s=9, color="white", edgecolor=st.INK, linewidth=0.7)
    names = _short_tasks(grid.columns)
    ax.set_xticks(range(grid.shape[1]), names, rotation=40, ha="right", rotation_mode="anchor")
    every = 1 if len(grid) <= 45 else 4
    ax.set_yticks(range(0, len(grid), every), [short_name(n) for n in grid.index[::every]])
    ax.set_ylabel(f"{getattr(result, 'what', 'network')} lesioned")
    ax.spines[:].set_visible(False)
    label = label or (UNIT if value == "effect" else value)
    st.colorbar(fig, image, label, ax=ax, shrink=min(0.7, 2.2 / height), aspect=20, pad=0.03)
    if q is not None:
        found = f"Dot: {q}" if len(rows) else f"No effect has a {q}"
        st.caption(fig, f"{found} < {alpha:g} against matched controls.")
    return fig


def q_column(table):
    """The column to judge by: q, else p, else None."""
    return next((c for c in ("q", "p") if c in table and table[c].notna().any()), None)


def short_name(network):
    """Return the name of a network on an axis: ``network-0007`` becomes ``7``."""
    found = re.fullmatch(r"network-0*(\d+)", str(network))
    return found[1] if found else str(network)


# -- parts --------------------------------------------------------------------------------------------------------
def _tables(result, controls):
    if isinstance(result, pd.DataFrame):
        return result, controls
    from ..lesions import LesionResult

    if not isinstance(result, LesionResult):
        raise ParameterError(f"result is {type(result).__name__}; pass a LesionResult or its table.")
    return result.table, result.controls if controls is None else controls


def _short_tasks(tasks):
    """Return the names of tasks without a shared part before the colon: ``loss:code`` -> ``code``."""
    tasks = [str(t) for t in tasks]
    heads = {t.split(":", 1)[0] for t in tasks}
    return [t.split(":", 1)[-1] for t in tasks] if len(heads) == 1 and len(tasks) > 1 else tasks


def _need(table, columns):
    holds("columns", "groupby", what="a table (a DataFrame)")("The table", table)
    missing = [c for c in columns if c not in table]
    if not len(table):
        raise ParameterError("The table has no rows, so there is nothing to draw.")
    if missing:
        raise ParameterError(f"The table has no column {', '.join(map(repr, missing))}; it has {list(table.columns)}.")


def _first(table, column, value):
    if column not in table:
        return None
    known = list(dict.fromkeys(table[column]))
    if value is not None and value not in known:
        raise ParameterError(f"{column}={value!r} is not in the table; choose one of {known}.")
    return known[0] if value is None else value


def _pick(frame, **values):
    if frame is None:
        return None
    for column, value in values.items():
        if value is not None and column in frame:
            frame = frame[frame[column] == value]
    return frame


def _control_cloud(ax, table, controls):
    if controls is None or not len(controls):
        return
    _need(controls, ["network", "effect"])
    place = {k: i for i, k in enumerate(table["network"])}
    known = controls[controls["network"].isin(place)]
    y = known["network"].map(place).to_numpy(float)
    # The jitter only separates dots; a fixed seed keeps the figure the same.
    y = y + np.random.default_rng(0).uniform(-0.28, 0.28, len(y))
    ax.scatter(known["effect"], y, s=5, color=st.MUTED, alpha=0.4, lw=0, zorder=1, rasterized=len(known) > 4000)


def _effect_points(ax, table, at, significant):
    effect = table["effect"].to_numpy(float)
    if {"ci_low", "ci_high"} <= set(table):
        ax.hlines(at, table["ci_low"], table["ci_high"], color=st.POSITIVE, lw=1.3, zorder=2)
    ax.scatter(effect[significant], at[significant], s=26, color=st.POSITIVE, ec=st.POSITIVE, zorder=3)
    ax.scatter(effect[~significant], at[~significant], s=26, color=st.FACE, ec=st.POSITIVE, lw=1.1, zorder=3)


def _side_columns(ax, table, at, q, significant):
    """Write the size of the lesion and its p or q to the right of the axes."""
    columns = []
    if "n_neurons" in table:
        columns.append(("neurons", [f"{int(v):,}".replace(",", "\u2009") for v in table["n_neurons"]]))
    if q in table:
        columns.append((q, [p_text(v) for v in table[q]]))
    if "q_pooled" in table and table["q_pooled"].notna().any():
        columns.append(("q pooled", [p_text(v) for v in table["q_pooled"]]))
    for i, (name, texts) in enumerate(columns):
        x = (1.12, 1.22, 1.36)[i]
        ax.text(x, 1, name, transform=ax.transAxes, ha="right", va="bottom", fontsize=7, color=st.MUTED)
        for y, text, strong in zip(at, texts, significant):
            ax.text(
                x, y, text, transform=ax.get_yaxis_transform(), ha="right", va="center", fontsize=6.5,
                color=st.INK if strong else st.MUTED,
            )  # fmt: skip


def p_text(value):
    """Write a p or q, which no figure and no table rounds up to the threshold of 0.05.

    Examples
    --------
    >>> p_text(0.2857), p_text(0.04956), p_text(0.0001)
    ('0.286', '0.0496', '< 0.001')
    """
    text = "–" if np.isnan(value) else f"{value:.3f}" if value >= 0.001 else "< 0.001"
    return f"{value:.4f}" if text == "0.050" and value < 0.05 else text


def _effect_key(ax, controls, family, any_significant, alpha, q):
    from matplotlib.lines import Line2D

    def dot(face, edge, size):
        return Line2D([], [], marker="o", ls="", mfc=face, mec=edge, ms=size)

    handles = [dot(st.POSITIVE, st.POSITIVE, 5)] if any_significant else []
    names = [f"network, {q} < {alpha:g}"] if any_significant else []
    handles.append(dot(st.FACE, st.POSITIVE, 5))
    names.append(f"network, {q} ≥ {alpha:g}")
    if controls is not None and len(controls):
        handles.append(dot(st.MUTED, "none", 3))
        names.append(f"control draws{'' if family is None else f' matched by {family}'}")
    ax.set_axis_off()
    ax.legend(
        handles, names, ncols=len(names), loc="center left", borderaxespad=0, columnspacing=1.4, handletextpad=0.3
    )


def _dose_line(ax, part, x):
    dose = part[x].to_numpy(float)
    if "control_mean" in part:
        ax.plot(dose, part["control_mean"], color=st.MUTED, lw=1)
    if {"control_low", "control_high"} <= set(part):
        low, high = part["control_low"].to_numpy(float), part["control_high"].to_numpy(float)
        ax.fill_between(dose, low, high, color=st.MUTED, alpha=0.22, lw=0, label="controls, 5 to 95 %")
    elif {"control_mean", "control_sd"} <= set(part):
        mean, sd = part["control_mean"].to_numpy(float), part["control_sd"].to_numpy(float)
        ax.fill_between(dose, mean - 2 * sd, mean + 2 * sd, color=st.MUTED, alpha=0.22, lw=0, label="controls ± 2 sd")
    if {"ci_low", "ci_high"} <= set(part):
        ax.fill_between(
            dose, part["ci_low"].to_numpy(float), part["ci_high"].to_numpy(float), color=st.POSITIVE, alpha=0.2, lw=0
        )
    ax.plot(dose, part["effect"], color=st.POSITIVE, marker="o", ms=3.5, label="network")
    ax.axhline(0, color=st.MUTED, lw=0.5)
    ax.grid(axis="y")
