"""A page for each network, shown one at a time: map, layers, lesion, words."""

import numpy as np
import pandas as pd

from ... import plotting
from ...networks.result import STABLE
from ...plotting.sheets import as_maps, layer_shares
from ..graphics import FULL_Z, MapPainter, course_svg, effect_strip, profile_svg
from ..lesion_table import lesions_by_number, main_controls, main_lesions, unit_of
from ..mapdata import MOST_VALUES
from ..network_table import ARTEFACTS, METRICS, kinds_of, metric, network_table, readable
from ..page import render
from ..station import STATIONS, Station
from ..tables import number
from ..words import best_stretch, peaks


@STATIONS.register("browse", title="Network by network", place=60)
class Browse(Station):
    """Shows the networks of the station ``networks``."""

    def result(self, report):
        return report["networks"]

    def section(self, report, result):
        painter = MapPainter(result.geometry, report.shown_order, result.threshold)
        return render(
            "browser.html", cards=_cards(report, painter), note=painter.note, labels=painter.labels(),
            width=painter.width, height=painter.height, threshold=result.threshold, full=FULL_Z,
            live=result.networks.maps.size <= MOST_VALUES,
        )  # fmt: skip


def _cards(report, painter):
    found, drivers = report["networks"], report["drivers"]
    z, _ = as_maps(found.networks)
    table, kinds = network_table(report), kinds_of(drivers)
    return [
        {
            **_head(report, k, z[k], table.iloc[k], painter),
            "kinds": _kind_bars(kinds, k),
            "kinds_title": "" if kinds is None else kinds.attrs["title"],
            "kinds_note": _kinds_note(drivers, k),
            "lesion": _lesion_strip(report["lesions"], k),
            **_words(drivers, k),
        }
        for k in range(len(z))
    ]


def _head(report, k, z, row, painter):
    found = report["networks"]
    n, layer, geometry = int(row["n_neurons"]), int(row["peak_layer"]), found.geometry
    facts = [("neurons", f"{number(n)} ({number(float(row['share']), 'share')})"), ("peak layer", str(layer))]
    if "layers" in row:
        facts.append(("90 % of its energy in layers", row["layers"]))
    facts += [(label, number(row[name], name)) for name, label in METRICS.items() if pd.notna(row.get(name))]
    facts += _driver_facts(report["drivers"], k)
    positive, negative = layer_shares(z, geometry, found.threshold)
    return {
        "k": k, "id": f"network-{k:02d}", "facts": facts, "map": painter.paint(z), "flag": row["flag"],
        "warnings": _warnings(report, k, row, n),
        "alt": f"Network {k}: {n} of {len(z)} neurons over {geometry.n_layers} layers, most in layer {layer}.",
        "profile": profile_svg(positive, negative, geometry.layers, f"Share of each layer in network {k}"),
    }  # fmt: skip


def _driver_facts(drivers, k):
    """Candidate name, and the tokens and the regressor that the network follows."""
    if drivers is None or drivers.interpretation is None:
        return []
    row = drivers.interpretation.table.iloc[k]
    facts = [("candidate name", readable(row["label"]))]
    if isinstance(row.get("top_tokens"), str) and row["top_tokens"]:
        facts.append(("tokens that drive it", readable(row["top_tokens"])))
    if pd.notna(row.get("best_r")):
        r = number(round(float(row["best_r"]), 2))
        facts.append(("correlates most with", f"{str(row['best']).replace('_', ' ')} (r = {r})"))
    return facts


def _warnings(report, k, row, n_neurons):
    """Reasons to doubt a network."""
    reasons, drivers = [], report["drivers"]
    if drivers is not None and drivers.interpretation is not None:
        driven = drivers.interpretation.table.iloc[k]
        if driven["artefact"] in ARTEFACTS:
            reasons.append(ARTEFACTS[driven["artefact"]].format(**driven))
    if n_neurons == 0:
        reasons.append("no neuron lies above the threshold.")
    stability = next((row[c] for c in ("stability", "iq") if c in row and pd.notna(row[c])), None)
    if stability is not None and stability < STABLE:
        reasons.append(f"repeated decompositions disagree on it (stability {stability:.2f}).")
    flagged = metric(report["networks"].networks, "flagged")
    if flagged is not None and isinstance(flagged[k], str) and flagged[k].strip():
        reasons.append(flagged[k])
    elif row["flag"] and not reasons:
        reasons.append(f"it was flagged as {row['flag']} when the networks were found.")
    return reasons


def _kind_bars(kinds, k):
    if kinds is None or k not in kinds:
        return None
    values = kinds[k].sort_values(ascending=False)
    top = max(float(values.abs().max()), 1e-9)
    return [
        {
            "kind": str(kind), "value": number(round(float(v), 2)), "width": round(100 * abs(v) / top),
            "css": "pos" if v > 0 else "neg",
        }
        for kind, v in values.items()
    ]  # fmt: skip


def _kinds_note(drivers, k):
    """Whether the kinds of text differ, with documents as the unit of inference."""
    if drivers is None or drivers.engagement is None:
        return None
    rows = drivers.engagement[drivers.engagement["network"] == k]
    q_mean, q_rms = (number(float(rows[c].iloc[0]), "q") for c in ("q_mean", "q_rms"))
    return (
        "Test of the differences between kinds, with documents as the unit: level, "
        f"q = {q_mean}; strength of fluctuation, q = {q_rms}."
    )


def _words(drivers, k):
    """Excerpts around the strongest tokens, and a stretch of text with the network's time course."""
    if drivers is None or drivers.events is None:
        return {"excerpts": [], "stretch": None, "course": ""}
    course, events = drivers.courses[:, k], drivers.events
    # The sign of a component is arbitrary, so the heavier tail counts as engaged; values keep their own sign.
    engaged = course if np.mean(course**3) >= 0 else -course
    token = events["token"].astype(str).to_numpy()
    excerpts = [
        {
            "z": f"{course[i]:.1f}".replace("-", "−"),
            "where": _where(events.iloc[i]),
            "html": plotting.words_html(token[first:last], course[first:last], mark=i - first, one_line=True),
        }
        for i, first, last in peaks(engaged, events)
    ]
    first, last = best_stretch(engaged, events)
    stretch, where = plotting.words_html(token[first:last], course[first:last]), _where(events.iloc[first])
    label = f"Time course of network {k} over {last - first} tokens of {where}"
    chart = course_svg(course[first:last], token[first:last], label)
    return {"excerpts": excerpts, "stretch": stretch, "stretch_where": where, "course": chart}


def _where(row):
    document, kind = str(row["document"]), row.get("kind")
    return document if not isinstance(kind, str) or not kind or kind in document else f"{document}, {kind}"


def _lesion_strip(lesion, k):
    lesioned = None if lesion is None else lesions_by_number(lesion)
    if lesioned is None or k not in lesioned.index:
        return None
    row, table, controls = lesioned.loc[k], main_lesions(lesion), main_controls(lesion)
    values = np.array([])
    everything = [*table["effect"], *table.get("ci_low", []), *table.get("ci_high", []), 0.0]
    if controls is not None:
        values = controls.loc[controls["network"] == row["network"], "effect"].to_numpy(float)
        everything += [*controls["effect"]]
    limits = (float(np.nanmin(everything)), float(np.nanmax(everything)))
    text = f"{number(float(row['effect']))} {unit_of(lesion, row.get('task'))}"
    amount = lesion.measured_on(row["task"]) if row.get("task") else ""
    text += f" on {amount}" if amount else ""
    if len(values):
        text += f", more than {int((values < row['effect']).sum())} of {len(values)} control draws"
    known = [(c, name) for c, name in (("p", "p"), ("q", "q"), ("q_pooled", "q pooled")) if pd.notna(row.get(c))]
    text += "".join(f", {name} = {number(float(row[c]), c)}" for c, name in known)
    low, high = (row.get(c) for c in ("ci_low", "ci_high"))
    ends = (float(low), float(high)) if pd.notna(low) and pd.notna(high) else (None, None)
    label = f"Lesion of network {k}: {text}"
    return {"text": text, "svg": effect_strip(float(row["effect"]), *ends, values, limits, label), "n": len(values)}
