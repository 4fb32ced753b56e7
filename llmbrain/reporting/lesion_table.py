"""Rows of a lesion study that several parts of a report refer to."""

import pandas as pd

from .page import network_number


def main_lesions(lesion):
    """Rows of the first task and of :func:`main_family`; the summary and the network pages show these."""
    return _first_rows(lesion.table, lesion.table)


def main_controls(lesion):
    """Control draws that belong to :func:`main_lesions`, or None."""
    controls = lesion.controls
    return None if controls is None or not len(controls) else _first_rows(controls, lesion.table)


def main_family(table):
    """The control family to judge by: the first that is matched by importance, else the first of all, or None."""
    families = [] if "family" not in table else list(dict.fromkeys(table["family"].dropna()))
    strict = [family for family in families if "importance" in str(family)]
    return next(iter(strict + families), None)


def lesions_by_number(lesion):
    """:func:`main_lesions` indexed by the number of the network; rows whose name has no number are left out."""
    table = main_lesions(lesion)
    numbers = table["network"].map(network_number)
    return table[numbers.notna()].set_index(pd.Index(numbers.dropna().astype(int), name="number"))


def unit_of(lesion, task):
    """Unit of a task's effect."""
    tasks = lesion.info.get("tasks")
    known = tasks.get(task) if isinstance(tasks, dict) else None
    return (known or {}).get("unit") or "nats per token"


def _first_rows(frame, table):
    if "task" in frame and "task" in table and len(table):
        frame = frame[frame["task"] == table["task"].iloc[0]]
    family = main_family(table)
    return frame if family is None or "family" not in frame else frame[frame["family"] == family]
