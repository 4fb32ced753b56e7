"""Sections on what happens when something is taken away: lesions and pruning."""

import numpy as np
import pandas as pd

from .. import plotting
from ..plotting.lesions import short_name
from ..plotting.pruning import split_dense
from .page import Section, figure, network_number, page_of
from .tables import html_table, number

COLUMNS = (
    "network", "task", "family", "n_neurons", "effect", "interval", "control_mean", "control_max",
    "n_controls", "z", "p", "q", "p_min", "p_pooled", "q_pooled",
)  # fmt: skip


def main_lesions(data):
    """The rows of the first task and of :func:`main_family`: what the summary and the network pages speak of."""
    return _first_rows(data.lesion.table, data.lesion.table)


def main_controls(data):
    """The control draws that belong to :func:`main_lesions`, or None."""
    controls = getattr(data.lesion, "controls", None)
    return None if controls is None or not len(controls) else _first_rows(controls, data.lesion.table)


def main_family(table):
    """The family of controls to judge by: the one matched by importance too, if there is one, else the first."""
    families = [] if "family" not in table else list(dict.fromkeys(table["family"].dropna()))
    strict = [family for family in families if "importance" in str(family)]
    return next(iter(strict + families), None)


def _first_rows(frame, table):
    if "task" in frame and "task" in table and len(table):
        frame = frame[frame["task"] == table["task"].iloc[0]]
    family = main_family(table)
    return frame if family is None or "family" not in frame else frame[frame["family"] == family]


def q_column(table):
    """The column to judge by: q, or p where there is no q, or None."""
    return next((c for c in ("q", "p") if c in table and table[c].notna().any()), None)


def unit_of(data, task):
    """Unit of a task's effect."""
    tasks = (getattr(data.lesion, "info", None) or {}).get("tasks") or {}
    known = tasks.get(task) if isinstance(tasks, dict) else None
    return (known or {}).get("unit") or "nats per token"


def lesions(data, render):
    """What each network's lesion does, against its controls, one figure a family of controls."""
    if data.lesion is None:
        return None
    table, info = data.lesion.table, dict(getattr(data.lesion, "info", None) or {})
    families = list(dict.fromkeys(table["family"])) if "family" in table else [None]
    tasks = list(dict.fromkeys(table["task"])) if "task" in table else [None]
    unit, n = unit_of(data, tasks[0]), table["network"].nunique()
    task = "" if tasks[0] is None else f" on the task “{tasks[0]}”"
    parts = []
    for i, family in enumerate(families):
        what = (info.get("families") or {}).get(family) or (
            f"matched by {family}" if family else "random sets of neurons"
        )
        fig = plotting.plot_lesion_effects(data.lesion, family=family, unit=f"harm ({unit})", title="")
        caption = (
            f"Harm done{task} when a network is silenced (point, 95 % interval) and by its control sets (grey): {what}."
        )
        parts.append(
            figure(render, fig, f"fig-lesion-{i}", caption, f"Lesion effects of {n} networks over their controls.")
        )
    parts += [render("note.html", text=text) for text in reading_notes(data)]
    if len(tasks) > 1:
        parts.append(_by_task(data, table, tasks, render))
    keep = [
        c for c in COLUMNS if not (c in ("task", "family", "n_controls") and c in table and table[c].nunique() == 1)
    ]
    keep.insert(1, "flag")
    q = q_column(table)
    shown = _with_intervals(table)
    if data.networks is not None:
        shown["flag"] = _flags(data, table)
    strong = (table[q] < 0.05).to_numpy() if q else np.zeros(len(table), bool)
    link = None if data.networks is None else ("network", page_of)
    first = (table["task"] == tasks[0]).to_numpy() if "task" in table else np.ones(len(table), bool)
    caption = f"Lesion effects{task}; larger is worse, {unit}" + (f"; bold: {q} < 0.05" if q else "")
    brief = [c for c in keep if c not in ("task", "p_min", "p_pooled", "control_mean")]
    parts.append(html_table(shown[first], caption, brief, link=link, emphasis=strong[first]))
    if not first.all():
        every = html_table(shown, "Lesion effects on all tasks; larger is worse", keep, link=link, emphasis=strong)
        parts.append(render("details.html", title=f"All {len(tasks)} tasks", inside=every))
    return Section("lesions", "Lesions", "".join(parts))


def reading_notes(data):
    """Sentences that say what p and q of this study can and cannot reach, and how the pooled ones differ.

    Parameters
    ----------
    data : ReportData

    Returns
    -------
    list of str
    """
    table = main_lesions(data)
    if "n_controls" not in table or "p" not in table or not table["p"].notna().any():
        return []
    n, k = int(table["n_controls"].max()), len(table)
    floor = 1 / (n + 1)
    above = int((table["effect"] > table["control_max"]).sum()) if "control_max" in table else None
    family = main_family(data.lesion.table)
    against = f" (matched by {family})" if family else ""
    text = f"How to read p and q. A network is ranked among its own {n} controls, so p cannot fall below 1 / ({n} + 1)"
    text += f" = {floor:.3f}, however large the effect."
    if k > 1:
        text += f" q corrects for {k} networks: if a single one stands out, its q cannot fall below"
        text += f" {min(1, k * floor):.3f}."
    if above is not None:
        text += f" {above} of {k} {'does' if above == 1 else 'do'} more harm than each of their controls{against}."
    if k * floor > 0.05:
        text += " So a large q here may only say that controls are few; look at the picture and at z as well."
    notes = [text]
    if "q_pooled" in table and table["q_pooled"].notna().any():
        found = int((table["q_pooled"] < 0.05).sum())
        notes.append(
            f"“Pooled” ranks each network among the controls of all networks, each on the scale of its own, so p can "
            f"fall to 1 / ({k} × {n} + 1) = {1 / (k * n + 1):.4f}. It assumes that control effects have one shape in "
            f"all networks, whatever their mean and spread. {found} of {k} have a pooled q < 0.05."
        )
    power = (dict(getattr(data.lesion, "info", None) or {}).get("power") or {}).get("note")
    return notes + ([power] if power and k * floor > 0.05 else [])


def _flags(data, table):
    """What speaks against each lesioned network, for those whose name has a number."""
    from .network_pages import network_flags

    flags, numbers = network_flags(data), [network_number(name) for name in table["network"]]
    return [flags[k] if k is not None and k < len(flags) else "" for k in numbers]


def _with_intervals(table):
    """The table with short names of networks and the interval as one column."""
    shown = table.assign(network=[short_name(n) for n in table["network"]])
    if shown["network"].str.fullmatch(r"\d+").all():
        shown["network"] = shown["network"].astype(int)
    if {"ci_low", "ci_high"} <= set(table):
        ends = zip(table["ci_low"], table["ci_high"])
        shown["interval"] = ["–" if pd.isna(a) else f"{a:.2f} to {b:.2f}".replace("-", "−") for a, b in ends]
    return shown


def _by_task(data, table, tasks, render):
    units = {unit_of(data, task) for task in tasks}
    # Effects in different units cannot share a colour scale; distances from the controls can.
    value, label = ("effect", f"harm ({units.pop()})") if len(units) == 1 else ("z", "z against controls")
    if value not in table:
        return ""
    fig = plotting.plot_selectivity(data.lesion, value=value, label=label, title="")
    caption = "Which network's lesion harms which task; a dot marks effects beyond the controls."
    alt = f"Matrix of {table['network'].nunique()} networks by {len(tasks)} tasks."
    return figure(render, fig, "fig-selectivity", caption, alt)


def pruning(data, render):
    """What smaller models cost, recipe by recipe."""
    if data.pruning is None:
        return None
    table, dense = split_dense(data.pruning)
    fig = plotting.plot_pruning_grid(data.pruning, title="")
    if "ratio" in table and table["ratio"].nunique() > 1:
        caption = "Perplexity on held-out text against size; one line a recipe, the band spans the seeds."
    else:
        caption = "Perplexity on held-out text by recipe; the dashed line is the unpruned model."
    parts = [figure(render, fig, "fig-pruning", caption, f"Pruning curves of {len(table)} pruned models.")]
    keys = [c for c in ("score", "allocation", "compensation", "variant", "ratio") if c in table]
    if "variant" in table and table["variant"].nunique() < 2:
        keys.remove("variant")
    values = [c for c in ("perplexity", "ratio_to_dense", "parameters") if c in table]
    mean = table.groupby(keys, sort=False, dropna=False)[values].mean().reset_index()
    if "seed" in table and table["seed"].nunique() > 1:
        mean["seeds"] = table.groupby(keys, sort=False, dropna=False)["seed"].nunique().to_numpy()
    if "parameters" in mean:
        mean["parameters"] = mean["parameters"].round().astype("Int64")
    best = None
    if "ratio" in mean:
        best = (mean["perplexity"] == mean.groupby("ratio")["perplexity"].transform("min")).to_numpy()
    caption = "Pruning recipes; the best of each size in bold"
    caption += "" if dense is None else f". The unpruned model has a perplexity of {dense:.1f}"
    parts.append(html_table(mean, caption, labels={"ratio": "removed", "variant": "statistics"}, emphasis=best))
    return Section("pruning", "Pruning", "".join(parts))


def pruned(data, render):
    """One pruned model: its summary and what each layer kept."""
    if data.pruned is None:
        return None
    html = render("facts.html", facts=_pruned_facts(data.pruned.summary))
    geometry = data.geometry or getattr(data.pruned, "geometry", None)
    if geometry is not None:
        fig = plotting.plot_kept_neurons(data.pruned, geometry, title="")
        alt = "Bar chart of the share of neurons kept in each layer."
        html += figure(render, fig, "fig-kept", "Neurons that each layer keeps.", alt)
    return Section("pruned", "Pruned model", html)


def _pruned_facts(summary):
    """Recipe, and what is left of neurons, parameters and bytes."""
    recipe = [str(summary[k]) for k in ("score", "allocation", "compensation") if k in summary]
    facts = [("recipe", " + ".join(recipe))] if recipe else []
    if "ratio" in summary:
        facts.append(
            ("removed", f"{number(float(summary['ratio']), 'ratio')} of all {summary.get('ratio_of', 'neurons')}")
        )
    for name in ("neurons", "mlp_parameters", "decoder_parameters", "total_parameters", "bytes"):
        before, after = summary.get(f"{name}_before"), summary.get(f"{name}_after")
        if before and after is not None:
            less = number(1 - after / before, "ratio")
            counts = (
                f"{before / 1e6:.1f} → {after / 1e6:.1f} MB"
                if name == "bytes"
                else f"{number(before)} → {number(after)}"
            )
            facts.append((name.replace("_", " "), f"{counts} (−{less})"))
    names = {"calibration_tokens": "calibration tokens", "random_state": "seed", "perplexity": "perplexity"}
    return facts + [(label, number(summary[key])) for key, label in names.items() if summary.get(key) is not None]


def lesions_by_number(data):
    """:func:`main_lesions` indexed by the number of the network, for those whose name has one."""
    table = main_lesions(data)
    numbers = table["network"].map(network_number)
    return table[numbers.notna()].set_index(pd.Index(numbers.dropna().astype(int), name="number"))
