"""Sections on probes beside the main path: dose and response, and localizers."""

import numpy as np
import pandas as pd

from .. import plotting
from ..plotting.lesions import short_name
from ..plotting.sheets import as_maps
from .graphics import MapPainter, profile_svg
from .page import Section, figure, page_of
from .tables import html_table, number

CURVES_UP_TO = 16  # networks in one figure of curves
N_DRAWS = 99  # of permuted neurons, for the overlap of a localizer with networks
LEVEL_Z = 3.0  # |z| from which a localizer's neurons are painted
OVERS = {
    "strength": "strength of the lesion (0 intact, 1 silenced)", "gain": "gain (1 intact)",
    "threshold": "threshold |z| of the network", "n_neurons": "neurons lesioned",
}  # fmt: skip
OVERLAP = {
    "network": "network", "n_both": "neurons in both", "dice": "Dice", "of_network": "share of the network",
    "enrichment": "times chance", "q": "q", "r": "r of maps",
}  # fmt: skip


def doses(data, render):
    """How effects grow with the dose, for networks and their controls."""
    if not data.doses:
        return None
    html = "".join(_dose(data, dose, i, render) for i, dose in enumerate(data.doses))
    return Section("doses", "Dose and response", html)


def _dose(data, dose, i, render):
    table, info = dose.table, dose.info or {}
    over = info.get("over") or next((c for c in OVERS if c in table), "strength")
    unit, task = info.get("unit") or "nats per token", info.get("task")
    names = list(dict.fromkeys(table["network"]))
    shown = table[table["network"].isin(names[:CURVES_UP_TO])]
    fig = plotting.plot_dose_response(shown, x=over, xlabel=OVERS.get(over, over), ylabel=f"harm ({unit})", title="")
    family = next(iter((info.get("family") or {}).items()), None)
    caption = f"Harm{f' on the task “{task}”' if task else ''} against the {over.replace('_', ' ')} of the lesion"
    caption += ", with the interval of each network (95 %)"
    caption += (
        f"; grey: 5 to 95 % of {info.get('n_controls', 'its')} controls a network" if "control_low" in table else ""
    )
    caption += f" ({family[0]}: {family[1]})." if family else "."
    if len(names) > len(names[:CURVES_UP_TO]):
        caption += f" The first {CURVES_UP_TO} of {len(names)} networks; the table holds all."
    alt = f"Curves of harm over {table[over].nunique()} doses for {len(names[:CURVES_UP_TO])} networks."
    html = figure(render, fig, f"fig-dose-{i}", caption, alt)
    rows = table.assign(network=[short_name(n) for n in table["network"]])
    if {"ci_low", "ci_high"} <= set(rows):
        ends = zip(rows["ci_low"], rows["ci_high"])
        rows["interval"] = ["–" if pd.isna(a) else f"{a:.2f} to {b:.2f}".replace("-", "−") for a, b in ends]
    columns = ("network", over, "n_neurons", "effect", "interval", "control_mean", "control_max", "z", "p")
    link = None if data.networks is None else ("network", page_of)
    inside = html_table(rows, f"Effects by {over.replace('_', ' ')}; larger is worse, {unit}", columns, link=link)
    return html + render("details.html", title=f"Table ({len(rows)} rows)", inside=inside)


def localizers(data, render):
    """Where each contrast lies, and with which networks it overlaps."""
    if not data.localizers:
        return None
    note = (
        "A contrast says which neurons respond, not which matter; that takes a lesion of them. Units of inference are "
        "items (a sentence, a function), at a false discovery rate of 5 %."
    )
    parts = [_localizer(data, one, i, render) for i, one in enumerate(data.localizers)]
    return Section("localizers", "Localizers", render("note.html", text=note) + "".join(parts))


def _localizer(data, found, i, render):
    geometry = found.geometry
    topography = data.topography if data.topography is not None and data.topography.geometry == geometry else None
    painter = MapPainter(geometry, topography, LEVEL_Z)
    first, second = found.contrast
    more, less = (found.selected & (found.z * sign > 0) for sign in (1, -1))
    facts = [
        (f"more in {first}", f"{number(int(more.sum()))} neurons ({number(float(more.mean()), 'share')})"),
        (f"more in {second}", f"{number(int(less.sum()))} neurons ({number(float(less.mean()), 'share')})"),
    ]
    items = found.info.get("n_items") or {}
    if items:
        facts.append(("items", ", ".join(f"{number(n)} of {name}" for name, n in items.items())))
    named = {"unit": "unit of inference", "noise_model": "noise model"}
    facts += [(label, str(found.info[key])) for key, label in named.items() if found.info.get(key)]
    shares = [np.array([part.mean() for part in geometry.split(side.astype(float))]) for side in (more, less)]
    what, n = f"{first} against {second}", int(found.selected.sum())
    return render(
        "localizer.html", id=f"localizer-{i}", title=what, facts=facts, map=painter.paint(found.z),
        alt=f"Map of {what}: {n} neurons selected over {geometry.n_layers} layers.", labels=painter.labels(),
        width=painter.width, height=painter.height, threshold=LEVEL_Z, first=first, second=second,
        note="Neurons in natural order." if topography is None else topography.note,
        profile=profile_svg(*shares, geometry.layers, f"Share of each layer that tells {first} from {second}"),
        overlap=_overlap(data, found),
    )  # fmt: skip


def _overlap(data, found):
    """Networks that share more neurons with a localizer than chance, the most alike first."""
    if data.networks is None or data.networks.geometry != found.geometry or not found.selected.any():
        return ""
    from ..networks.localizer.localize import localizer_overlap

    z, geometry = as_maps(data.networks)
    masks = np.abs(z) > data.threshold
    table = localizer_overlap(
        found.selected, found.z, z, masks, layer_of=geometry.layer_of, n_draws=N_DRAWS, random_state=0
    )
    table = table.sort_values("r", key=lambda r: -r.abs(), kind="stable")
    caption = "Overlap with the networks, against neurons permuted within layers; bold: q < 0.05"
    strong = (table["q"] < 0.05).to_numpy()
    return html_table(table, caption, list(OVERLAP), labels=OVERLAP, link=("network", page_of), emphasis=strong)
