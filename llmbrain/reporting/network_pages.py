"""Sections on networks: all at a glance, and a page for each."""

import numpy as np
import pandas as pd

from .. import plotting
from ..networks.result import STABLE
from ..plotting.sheets import as_maps, layer_shares
from .effects import lesions_by_number, main_controls, main_lesions, q_column, unit_of
from .graphics import MapPainter, course_svg, effect_strip, profile_svg
from .page import Section, figure, page_of
from .tables import html_table, number
from .words import best_stretch, engagement_by_kind, peaks

METRICS = {
    "variance": "share of variance", "stability": "stability", "iq": "stability (Iq)",
    "coverage": "found in repetitions", "split_half_r": "r in the other half of the text",
    "icc": "ICC between halves",
}  # fmt: skip
PAGE_ONLY = ("share", "layers", "iq", "coverage", "icc")  # columns that would make the table too wide
MAPS_UP_TO = 40  # small multiples of more networks are too small to read


def network_flags(data):
    """What speaks against each network, in a word or two; an empty text where nothing does."""
    z, _ = as_maps(data.networks)
    empty = ~(np.abs(z) > data.threshold).any(axis=1)
    stability, flagged = _metric(data, "stability", "iq"), _metric(data, "flagged")
    artefact = _metric(data, "artefact")
    if data.interpretation is not None and len(data.interpretation.table) == len(z):
        artefact = data.interpretation.table["artefact"].to_numpy()
    found = []
    for k in range(len(z)):
        words = ["empty"] if empty[k] else []
        low = stability is not None and np.isfinite(stability[k]) and stability[k] < STABLE
        marked = flagged is not None and isinstance(flagged[k], (bool, np.bool_)) and flagged[k]
        words += ["unstable"] if low or (marked and not empty[k]) else []
        words += [str(artefact[k])] if artefact is not None and artefact[k] in ARTEFACTS else []
        found.append(", ".join(words))
    return found


def _metric(data, *names):
    """The first of some columns of the metrics that is known, a value a network, or None."""
    metrics = data.networks.metrics
    if metrics is None or len(metrics) != len(data.networks.maps):
        return None
    name = next((n for n in names if n in metrics and metrics[n].notna().any()), None)
    return None if name is None else metrics[name].to_numpy()


def networks(data, render):
    """All networks at a glance: atlas, depth, maps, carpet, connectivity, stability, table."""
    if data.networks is None:
        return None
    makers = (_atlas, _depth, _maps, _carpet, _connectivity, _stability)
    parts = [html for html in (make(data, render) for make in makers) if html]
    caption = "Networks; a number leads to the network's page below"
    shown = network_table(data).drop(columns=[*PAGE_ONLY], errors="ignore")
    parts.append(html_table(shown, caption, link=("network", page_of)))
    parts.append(render("note.html", text=_flag_note(data)))
    return Section("networks", "Networks", "".join(parts))


def _flag_note(data):
    flags = network_flags(data)
    n = sum(map(bool, flags))
    what = "empty (no neuron above the threshold), unstable (repeated decompositions do not agree on it, or its"
    what += f" stability is below {STABLE:g}), or an artefact of position, attention sinks or a few tokens"
    if n == 0:
        return f"No network is flagged. Flags would say: {what}."
    verb = "is" if n == 1 else "are"
    return f"{n} of {len(flags)} networks {verb} flagged, here and on the pages below. Flags: {what}."


def _atlas(data, render):
    shown, note = data.networks, ""
    if data.other_half is not None:
        shown, half = data.other_half
        note = (
            f" The maps are estimated again on {half}, the order of the neurons comes from "
            f"{data.topography.info['source']}: what lies together here was not put together by the sorting."
        )
    fig = plotting.plot_atlas(shown, data.geometry, threshold=data.threshold, topography=data.topography, title="")
    what = f"Dominant network of each neuron with |z| > {data.threshold:g}"
    caption = f"{what}; one sheet a layer, numbered at its corner.{note}"
    alt = f"Mosaic of {data.geometry.n_layers} layer sheets, neurons coloured by the network they load on most."
    return figure(render, fig, "fig-atlas", caption, alt, fixed_colors=True)


def _depth(data, render):
    fig = plotting.plot_layer_profiles(data.networks, threshold=data.threshold, title="")
    alt = f"Heat map of {len(data.networks.maps)} networks by {data.geometry.n_layers} layers."
    return figure(render, fig, "fig-depth", "Share of each layer's neurons that belong to each network.", alt)


def _maps(data, render):
    n = len(data.networks.maps)
    if n > MAPS_UP_TO:
        return ""
    fig = plotting.plot_network_maps(data.networks, threshold=data.threshold, topography=data.topography, title="")
    caption = "Every network as layers × units, each pixel the strongest of the neurons it stands for."
    return figure(render, fig, "fig-maps", caption, f"Small multiples of {n} network maps with their layer profiles.")


def _carpet(data, render):
    if data.carpet is None:
        return ""
    activity, events, run, start = data.carpet
    try:
        fig = plotting.plot_carpet(activity, data.networks, events=events, threshold=data.threshold, title="")
    except ValueError:  # no neuron above the threshold: the table says so
        return ""
    where = f"{len(events)} tokens of {run} from token {start}"
    caption = f"Carpet: {where}; neurons are sorted by the network they load on most."
    alt = "Carpet plot of activity: rows are neurons grouped by network, columns are tokens."
    return figure(render, fig, "fig-carpet", caption, alt)


def _connectivity(data, render):
    if data.courses is None or data.courses.shape[1] < 3:
        return ""
    fig = plotting.plot_connectivity(np.corrcoef(data.courses.T), title="")
    caption = "Functional connectivity: correlation of the networks' time courses, similar networks side by side."
    return figure(render, fig, "fig-connectivity", caption, f"Correlation matrix of {data.courses.shape[1]} networks.")


def _stability(data, render):
    metrics = data.networks.metrics
    for frame in (data.stability, metrics):
        for name in ("stability", "iq"):
            if (
                frame is not None
                and name in frame
                and frame[name].notna().any()
                and len(frame) == len(data.networks.maps)
            ):
                fig = plotting.plot_stability(frame[name].to_numpy(float), label="stability", title="")
                caption = "Stability of each network over repeated decompositions; hollow points are unstable."
                alt = f"Dot plot of the stability of {len(frame)} networks."
                return figure(render, fig, "fig-stability", caption, alt)
    return ""


def network_table(data):
    """One row a network: size, depth, variance, stability, kind of text it answers to, lesion effect, flags."""
    z, geometry = as_maps(data.networks)
    profile = [sum(layer_shares(row, geometry, data.threshold)) for row in z]
    size = (np.abs(z) > data.threshold).sum(axis=1)
    table = pd.DataFrame({"network": np.arange(len(z)), "n_neurons": size, "share": size / z.shape[1]})
    table["peak_layer"] = [geometry.layers[int(p.argmax())] for p in profile]
    metrics = data.networks.metrics
    if metrics is not None and {"first_layer", "last_layer"} <= set(metrics) and len(metrics) == len(table):
        table["layers"] = [f"{a} to {b}" for a, b in zip(metrics["first_layer"], metrics["last_layer"])]
    for name in METRICS:
        if (values := _metric(data, name)) is not None:
            table[name] = values
    if data.interpretation is not None and len(data.interpretation.table) == len(table):
        table["label"] = [_readable(label) for label in data.interpretation.table["label"]]
    kinds = _kinds(data)
    if kinds is not None:
        table["most engaged in"] = kinds.idxmax().to_numpy()
    if data.lesion is not None:
        lesioned = lesions_by_number(data)
        table["lesion effect"] = lesioned["effect"].reindex(table["network"]).to_numpy()
        for q in (q_column(lesioned), "q_pooled"):
            if q in lesioned:
                table[q] = lesioned[q].reindex(table["network"]).to_numpy()
    flags = network_flags(data)
    table.insert(1, "flag", flags)
    return table


def _kinds(data):
    if data.courses is None or data.course_events is None:
        return None
    return engagement_by_kind(data.courses, data.course_events)


def browser(data, render):
    """A page for each network, one shown at a time."""
    if data.networks is None:
        return None
    z, geometry = as_maps(data.networks)
    painter = MapPainter(geometry, data.topography, data.threshold)
    table, kinds = network_table(data), _kinds(data)
    lesioned = None if data.lesion is None else lesions_by_number(data)
    cards = [
        {
            **_head(data, k, z[k], table.iloc[k], painter),
            "kinds": _kind_bars(kinds, k),
            "kinds_title": "" if kinds is None else kinds.attrs["title"],
            "kinds_note": _kinds_note(data, k),
            "lesion": None if lesioned is None else _lesion_strip(data, k, lesioned),
            **_words(data, k),
        }
        for k in range(len(z))
    ]
    note = "Neurons in natural order." if data.topography is None else data.topography.note
    html = render(
        "browser.html", cards=cards, note=note, labels=painter.labels(), width=painter.width, height=painter.height,
        threshold=data.threshold,
    )  # fmt: skip
    return Section("browse", "Network by network", html)


def _head(data, k, z, row, painter):
    n, layer = int(row["n_neurons"]), int(row["peak_layer"])
    facts = [("neurons", f"{number(n)} ({number(float(row['share']), 'share')})"), ("peak layer", str(layer))]
    if "layers" in row:
        facts.append(("90 % of its energy in layers", row["layers"]))
    facts += [(label, number(row[name], name)) for name, label in METRICS.items() if pd.notna(row.get(name))]
    facts += _drivers(data, k)
    positive, negative = layer_shares(z, data.geometry, data.threshold)
    return {
        "k": k, "id": f"network-{k:02d}", "facts": facts, "map": painter.paint(z), "flag": row["flag"],
        "warnings": _warnings(data, k, row, n),
        "alt": f"Network {k}: {n} of {len(z)} neurons over {data.geometry.n_layers} layers, most in layer {layer}.",
        "profile": profile_svg(positive, negative, data.geometry.layers, f"Share of each layer in network {k}"),
    }  # fmt: skip


def _drivers(data, k):
    """Candidate name, the tokens and the regressor that go with a network."""
    if data.interpretation is None:
        return []
    row = data.interpretation.table.iloc[k]
    facts = [("candidate name", _readable(row["label"]))]
    if isinstance(row.get("top_tokens"), str) and row["top_tokens"]:
        facts.append(("tokens that drive it", _readable(row["top_tokens"])))
    if pd.notna(row.get("best_r")):
        r = number(round(float(row["best_r"]), 2))
        facts.append(("goes most with", f"{str(row['best']).replace('_', ' ')} (r = {r})"))
    return facts


def _readable(text):
    """A name or a list of tokens, with line breaks as signs and without underscores between words."""
    text = str(text).replace("\\\\n", "⏎").replace("\\n", "⏎")
    return text if "tokens" in text or "'" in text else text.replace("_", " ")


ARTEFACTS = {
    "position": "it follows the position in the text ({position_r2:.0%} of its variance), as head motion would.",
    "sink": "{sink_share:.0%} of its energy lies on attention sinks, the first tokens that the model sees.",
    "few tokens": "{few_share:.0%} of its energy lies on the strongest 0.2 % of tokens.",
}


def _warnings(data, k, row, n_neurons):
    """What speaks against believing in a network."""
    found = []
    if data.interpretation is not None:
        driven = data.interpretation.table.iloc[k]
        if driven["artefact"] in ARTEFACTS:
            found.append(ARTEFACTS[driven["artefact"]].format(**driven))
    if n_neurons == 0:
        found.append("no neuron lies above the threshold.")
    stability = next((row[c] for c in ("stability", "iq") if c in row and pd.notna(row[c])), None)
    if stability is not None and stability < STABLE:
        found.append(f"repeated decompositions do not agree on it (stability {stability:.2f}).")
    flagged = _metric(data, "flagged")
    if isinstance(flagged, np.ndarray) and isinstance(flagged[k], str) and flagged[k].strip():
        found.append(flagged[k])
    elif row["flag"] and not found:
        found.append(f"flagged as {row['flag']} when the networks were found.")
    return found


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


def _kinds_note(data, k):
    """Whether kinds of text differ at all, with documents as the unit."""
    if data.engagement is None:
        return None
    rows = data.engagement[data.engagement["network"] == k]
    q_mean, q_rms = (number(float(rows[c].iloc[0]), "q") for c in ("q_mean", "q_rms"))
    return f"Do kinds differ, documents being the unit? Level: q = {q_mean}; strength of fluctuation: q = {q_rms}."


def _words(data, k):
    """Excerpts around the strongest tokens, and a stretch of text to read the network on."""
    if data.courses is None or data.course_events is None:
        return {"excerpts": [], "stretch": None, "course": ""}
    course, events = data.courses[:, k], data.course_events
    # The sign of a component is arbitrary: what engages it lies in the heavier tail, and is shown with its own sign.
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


def _lesion_strip(data, k, lesioned):
    if k not in lesioned.index:
        return None
    row, table, controls = lesioned.loc[k], main_lesions(data), main_controls(data)
    values = np.array([])
    everything = [*table["effect"], *table.get("ci_low", []), *table.get("ci_high", []), 0.0]
    if controls is not None:
        values = controls.loc[controls["network"] == row["network"], "effect"].to_numpy(float)
        everything += [*controls["effect"]]
    limits = (float(np.nanmin(everything)), float(np.nanmax(everything)))
    text = f"{number(float(row['effect']))} {unit_of(data, row.get('task'))}"
    if len(values):
        text += f", more than {int((values < row['effect']).sum())} of {len(values)} control draws"
    known = [(c, name) for c, name in (("p", "p"), ("q", "q"), ("q_pooled", "q pooled")) if pd.notna(row.get(c))]
    text += "".join(f", {name} = {number(float(row[c]), c)}" for c, name in known)
    low, high = (row.get(c) for c in ("ci_low", "ci_high"))
    known = pd.notna(low) and pd.notna(high)
    ends = (float(low), float(high)) if known else (None, None)
    label = f"Lesion of network {k}: {text}"
    return {"text": text, "svg": effect_strip(float(row["effect"]), *ends, values, limits, label), "n": len(values)}
