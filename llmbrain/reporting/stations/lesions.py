"""Lesions: what happens when each network is silenced, compared with its controls."""

import numpy as np
import pandas as pd

from ... import plotting
from ...lesions import LesionResult
from ...lesions.result import FEW_ITEMS
from ...plotting.lesions import q_column
from ..lesion_table import main_family, main_lesions, unit_of
from ..network_table import network_flags
from ..page import figure, network_number, note, page_of, render
from ..station import STATIONS, Station
from ..tables import html_table, number, with_intervals

COLUMNS = (
    "network", "flag", "task", "family", "n_neurons", "effect", "interval", "control_mean", "control_max",
    "n_controls", "z", "p", "q", "p_min", "p_pooled", "q_pooled",
)  # fmt: skip
DONE = {
    "zero": "set to zero", "mean": "clamped to their mean", "resample": "replaced by their values at other tokens",
}  # fmt: skip


@STATIONS.register("lesions", title="Lesions", place=100, alone="lesion study", accepts="a lesion result or its table")
class Lesions(Station):
    """A LesionResult."""

    what = "lesion study"

    def read(self, study, report):
        found = report.current_one("lesions", self.what, "No network has been lesioned yet (llmbrain lesion).")
        if found is None:
            return None
        result = LesionResult.of_result(found)
        report.warnings += result.info.get("warnings") or []
        return result

    def take(self, obj, report):
        if isinstance(obj, LesionResult):
            return obj
        if isinstance(obj, pd.DataFrame) and {"network", "effect"} <= set(obj):
            return LesionResult(obj, None, None)
        return None

    def tiles(self, report, result):
        table = main_lesions(result)
        q, family = q_column(table), main_family(table)
        if q is None or "control_max" not in table:
            return [(number(len(table)), f"{result.what}s lesioned")]
        above, found = int((table["effect"] > table["control_max"]).sum()), int((table[q] < 0.05).sum())
        label = f"lesioned {result.what}s do more harm than each of their {int(table['n_controls'].max())} controls"
        label += f" (matched by {family})" if family else ""
        label += f"; {'none has' if not found else f'{found} have'} {q} < 0.05"
        if not found and above and 1 / (int(table["n_controls"].max()) + 1) * len(table) > 0.05:
            label += ", which so few controls hardly allow"
        return [(f"{above} of {len(table)}", label)]

    def section(self, report, result):
        table = result.table
        families = list(dict.fromkeys(table["family"])) if "family" in table else [None]
        tasks = list(dict.fromkeys(table["task"])) if "task" in table else [None]
        measured = result.measured_on(tasks[0]) if tasks[0] else ""
        parts = [note(f"Measured on {measured}.")] if measured else []
        parts += [_figure_of(result, family, tasks[0], f"fig-lesion-{i}") for i, family in enumerate(families)]
        parts += [note(text) for text in reading_notes(result)]
        if len(tasks) > 1:
            parts.append(_by_task(result, tasks))
        return "".join(parts) + _tables(report, result, tasks)

    def methods(self, report, result, cite):
        table, info = result.table, result.info
        how = (info.get("lesion") or {}).get("how") or info.get("how", "zero")
        n_controls = int(table["n_controls"].max()) if "n_controls" in table else 0
        families = [str(f) for f in dict.fromkeys(table["family"])] if "family" in table else []
        done = DONE.get(str(how), f"treated with “{how}”")
        text = (
            f"Each of {table['network'].nunique()} {result.what}s was lesioned: its neurons were {done} while the model"
        )
        tasks = [str(t) for t in dict.fromkeys(table["task"])] if "task" in table else []
        named = f"{', '.join(tasks[:8])}{', …' if len(tasks) > 8 else ''}"
        text += (
            f" was measured on the {'tasks' if len(tasks) > 1 else 'task'} {named}."
            if tasks
            else " read held-out text."
        )
        if n_controls:
            known = info.get("families") or {}
            against = "; ".join(f"“{f}”, {known[f]}" if f in known else f"matched by {f}" for f in families)
            text += (
                f" Each was compared with up to {n_controls} control sets of neurons ({against or 'random'}); "
                f"p = (1 + number of controls at least as harmful) / (controls + 1){cite('phipson2010permutation')}"
            )
            fdr = ", and q controls the false discovery rate over the networks of one task and family"
            text += f"{fdr}{cite('benjamini1995fdr')}." if "q" in table else "."
            if "q_pooled" in table and table["q_pooled"].notna().any():
                text += " Pooled p and q rank the standardised effect among the controls of all networks"
                text += f"{cite('storey2003significance')}."
        if info.get("threshold") is not None:
            text += f" Lesioned neurons have |z| > {info['threshold']:g}."
        if info.get("random_state") is not None:
            text += f" Seed {info['random_state']}."
        return text


def reading_notes(lesion):
    """Explain how small p and q can be in a lesion study, and what pooling assumes; a list of str."""
    table = main_lesions(lesion)
    if "n_controls" not in table or "p" not in table or not table["p"].notna().any():
        return []
    n, k, what = int(table["n_controls"].max()), len(table), lesion.what
    floor = 1 / (n + 1)
    text = (
        f"How to read p and q. A {what} is ranked among its own {n} controls, so p is at least 1 / ({n} + 1) = "
        f"{floor:.3f}, however large the effect."
    )
    if k > 1:
        text += f" q corrects for {k} {what}s: if only one stands out, its q is at least {min(1, k * floor):.3f}."
    if "control_max" in table:
        above, family = int((table["effect"] > table["control_max"]).sum()), main_family(lesion.table)
        against = f" (matched by {family})" if family else ""
        text += f" {above} of {k} {'does' if above == 1 else 'do'} more harm than each of their controls{against}."
    if k * floor > 0.05:
        text += " A large q may only mean that there are few controls; see the figure and z as well."
    notes = [text]
    if "q_pooled" in table and table["q_pooled"].notna().any():
        found = int((table["q_pooled"] < 0.05).sum())
        notes.append(
            f"“Pooled” ranks each {what} among the controls of all {what}s, each set standardised, so p can be as "
            f"small as 1 / ({k} × {n} + 1) = {1 / (k * n + 1):.4f}. This assumes that the effects of controls have the "
            f"same distribution in all {what}s, apart from mean and spread. {found} of {k} have a pooled q < 0.05."
        )
    power = (lesion.info.get("power") or {}).get("note")
    return notes + ([power.replace("<=", "≤")] if power and k * floor > 0.05 else [])


def _figure_of(lesion, family, task, key):
    what = (lesion.info.get("families") or {}).get(family)
    what = what or (f"matched by {family}" if family else "random sets of neurons")
    fig = plotting.plot_lesion_effects(lesion, family=family, unit=f"harm ({unit_of(lesion, task)})", title="")
    caption = (
        f"Harm{_on(task)} when a {lesion.what} is silenced (point, with its 95 % interval), and when each of its "
        f"control sets is silenced (grey). Controls: {what}.{_measured(lesion, task)}"
    )
    rows = lesion.table if task is None else lesion.table[lesion.table["task"] == task]
    few = rows["n_items"].min() if "n_items" in rows else np.nan
    if few < FEW_ITEMS:
        caption += f" Intervals over {int(few)} items are unreliable."
    n = lesion.table["network"].nunique()
    return figure(fig, key, caption, f"Lesion effects of {n} {lesion.what}s over their controls.")


def _measured(lesion, task):
    """Sentence on how much was read for a task, and the intact value."""
    found = "" if task is None else lesion.measured_on(task)
    return f" Measured on {found}." if found else ""


def _on(task):
    return "" if task is None else f" on the task “{task}”"


def _by_task(lesion, tasks):
    units = {unit_of(lesion, task) for task in tasks}
    # Effects in different units cannot share a colour scale; distances from the controls can.
    value, label = ("effect", f"harm ({units.pop()})") if len(units) == 1 else ("z", "z against controls")
    if value not in lesion.table:
        return ""
    fig = plotting.plot_selectivity(lesion, value=value, label=label, title="")
    q = q_column(lesion.table)
    found = q is not None and bool((lesion.table[q] < 0.05).any())
    caption = "Harm of each network's lesion on each task; " + (
        f"a dot marks effects beyond the controls ({q} < 0.05)." if found else "no effect is beyond the controls."
    )
    caption = f"{caption} {_amounts(lesion, tasks)}".rstrip()
    alt = f"Matrix of {lesion.table['network'].nunique()} networks by {len(tasks)} tasks."
    return figure(fig, "fig-selectivity", caption, alt)


def _amounts(lesion, tasks):
    """Sentence on how much was read for each task, and the intact values."""
    known = [(task.split(":", 1)[-1], lesion.measured_on(task)) for task in tasks]
    said = "; ".join(f"{name}: {amount}" for name, amount in known if amount)
    return f"Measured on {said}." if said else ""


def _tables(report, lesion, tasks):
    table, task = lesion.table, tasks[0]
    constant = [c for c in ("task", "family", "n_controls") if c in table and table[c].nunique() == 1]
    keep = [c for c in COLUMNS if c not in constant]
    q, shown = q_column(table), with_intervals(table)
    if report["networks"] is not None:
        flags, numbers = network_flags(report), [network_number(name) for name in table["network"]]
        shown["flag"] = [flags[k] if k is not None and k < len(flags) else "" for k in numbers]
    strong = (table[q] < 0.05).to_numpy() if q else np.zeros(len(table), bool)
    link = None if report["networks"] is None else ("network", page_of)
    first = (table["task"] == task).to_numpy() if "task" in table else np.ones(len(table), bool)
    measured = f", on {lesion.measured_on(task)}" if task and lesion.measured_on(task) else ""
    caption = f"Lesion effects{_on(task)} ({unit_of(lesion, task)}; larger is worse){measured}" + (
        f"; bold: {q} < 0.05" if q else ""
    )
    brief = [c for c in keep if c not in ("task", "p_min", "p_pooled", "control_mean")]
    html = html_table(shown[first], caption, brief, link=link, emphasis=strong[first])
    if first.all():
        return html
    every = html_table(shown, "Lesion effects on all tasks; larger is worse", keep, link=link, emphasis=strong)
    return html + render("details.html", title=f"All {len(tasks)} tasks", inside=every)
