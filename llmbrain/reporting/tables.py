"""Data frames as HTML tables: aligned and sortable."""

from html import escape

import numpy as np
import pandas as pd

from ..lesions.result import FEW_ITEMS
from ..plotting.lesions import p_text, short_name

LABELS = {
    "n_neurons": "neurons", "interval": "95 % interval", "control_mean": "controls, mean",
    "control_sd": "controls, sd", "control_max": "controls, max", "n_controls": "controls",
    "ratio_to_dense": "times unpruned", "first_layer": "from layer", "last_layer": "to layer",
    "peak_layer": "peak layer", "iq": "stability (Iq)", "p_min": "smallest p possible",
    "p_pooled": "p, pooled", "q_pooled": "q, pooled",
    "split_half_r": "r, other half", "coverage": "found again", "icc": "ICC",
}  # fmt: skip
PERCENT = ("share", "variance", "ratio", "coverage", "of_network")
P_VALUES = ("p", "q", "p_value", "q_value", "p_pooled", "q_pooled", "p_min")


def number(value, column=""):
    """Format a value for readers; the name of the column selects the formats of shares and p-values."""
    if pd.api.types.is_scalar(value) and (pd.isna(value) or value == ""):
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}".replace(",", "\u202f").replace("-", "−")
    if not isinstance(value, (float, np.floating)):
        return str(value)
    if column in P_VALUES:
        return p_text(value)
    if _is_share(column) and abs(value) <= 1:
        digits = ".0f" if abs(value) >= 0.995 else ".2g"  # .2g would write 100 as 1e+02
        return f"{100 * value:{digits}}\u202f%".replace("-", "−")
    if float(value).is_integer() and abs(value) >= 1000:
        return number(int(value))
    return f"{value:.3g}".replace("-", "−") if abs(value) < 1e5 else f"{value:.3e}"


def html_table(frame, caption, columns=None, labels=None, link=None, emphasis=None):
    """Format a data frame as a sortable HTML table.

    ``labels`` maps columns to headings; ``link`` is a column and a function from its values to addresses (or None);
    ``emphasis`` marks rows in bold.
    """
    columns = [c for c in (columns or frame.columns) if c in frame]
    decimals = {c: _decimals(frame[c]) for c in columns}
    labels = {**LABELS, **(labels or {})}
    numeric = [pd.api.types.is_numeric_dtype(frame[c]) for c in columns]
    names = [escape(labels.get(c, str(c).replace("_", " "))) for c in columns]
    head = "".join(
        f'<th scope="col"{" class=num" if num else ""}><button type="button">{name}</button></th>'
        for name, num in zip(names, numeric)
    )
    rows = []
    for i, values in enumerate(frame[columns].itertuples(index=False)):
        cells = "".join(_cell(v, c, num, link, decimals[c]) for v, c, num in zip(values, columns, numeric))
        rows.append(f"<tr{' class=strong' if emphasis is not None and emphasis[i] else ''}>{cells}</tr>")
    # The caption is outside the scrolling part, so that it stays in place above a wide table.
    return (
        f'<p class="caption">{escape(caption)}</p><div class="scroll" role="region" aria-label="{escape(caption)}" '
        f'tabindex="0"><table class="sortable" aria-label="{escape(caption)}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _is_share(column):
    return column in PERCENT or column.endswith("_removed")


def _decimals(values):
    """Number of decimals that aligns a column: three digits for a typical value; None for other columns."""
    if not pd.api.types.is_float_dtype(values) or values.name in P_VALUES or not values.notna().any():
        return None
    size = values.abs()
    if _is_share(str(values.name)):  # in percent, two digits
        typical = 100 * float(size[size > 0].median()) if (size > 0).any() else 1.0
        return int(np.clip(1 - np.floor(np.log10(typical)), 0, 3)) if float(size.max()) <= 1 else None
    typical = float(size[size > 0].median()) if (size > 0).any() else 1.0
    if not 1e-4 <= typical < 1e5 or float(size.max()) >= 1e6:
        return None
    return int(np.clip(2 - np.floor(np.log10(typical)), 0, 4))


def _cell(value, column, numeric, link, decimals=None):
    text = escape(number(value, column))
    if decimals is not None and not pd.isna(value):
        share = _is_share(column)
        text = f"{100 * value if share else value:.{decimals}f}".replace("-", "−") + ("\u202f%" if share else "")
        text = number(round(value)) if abs(value) >= 1e4 else text  # no decimals where nobody compares them
    if link is not None and column == link[0] and (address := link[1](value)):
        text = f'<a href="{escape(address)}">{text}</a>'
    if not numeric:
        return f"<td{' class=long' if len(text) > 24 else ''}>{text}</td>"
    key = "" if pd.isna(value) else f' data-v="{float(value):.6g}"'
    return f'<td class="num"{key}>{text}</td>'


def with_intervals(table):
    """Shorten the names of networks in a table of lesion effects, and write the interval as one column.

    An interval over fewer than six items says so, because it is unreliable.
    """
    shown = table.assign(network=[short_name(n) for n in table["network"]])
    if shown["network"].str.fullmatch(r"\d+").all():
        shown["network"] = shown["network"].astype(int)
    if {"ci_low", "ci_high"} <= set(table):
        ends = zip(table["ci_low"], table["ci_high"])
        counts = table["n_items"] if "n_items" in table else [np.nan] * len(table)
        few = [f" (over {int(n)} only)" if n < FEW_ITEMS else "" for n in counts]
        shown["interval"] = [
            "–" if pd.isna(a) else f"{a:.2f} to {b:.2f}".replace("-", "−") + said for (a, b), said in zip(ends, few)
        ]
    return shown
