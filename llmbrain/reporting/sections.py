"""The sections of a report: each takes what was gathered and returns HTML, or None where there is nothing to show."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .. import plotting
from ..plotting.sheets import layer_profile, zscore_maps
from .graphics import MapPainter, effect_strip, figure_svg, profile_svg
from .methods import bibtex, methods_text
from .tables import html_table, number
from .words import best_stretch, engagement_by_kind, peaks

__all__ = ["Section", "build_sections"]


@dataclass
class Section:
    """One section of the page: its address, its heading and its inside."""

    id: str
    title: str
    html: str


def build_sections(data, render):
    """Make all sections that the data allow, in order.

    Parameters
    ----------
    data : ReportData
    render : callable
        ``render(template, **values)`` fills a template of this package.

    Returns
    -------
    list of Section
    """
    makers = (summary, model, recording, networks, browser, lesions, pruning, pruned, methods, files)
    return [section for section in (make(data, render) for make in makers) if section is not None]


# -- what was studied ---------------------------------------------------------------------------------------------
def summary(data, render):
    """Key numbers, one sentence each on what was found, and what is missing."""
    tiles = []
    if data.geometry is not None:
        tiles.append((number(data.geometry.n_neurons), f"neurons in {data.geometry.n_layers} layers"))
    if data.events is not None:
        tiles.append((number(len(data.events)), f"tokens of {number(data.events['document'].nunique())} documents"))
    if data.networks is not None:
        tiles.append((number(len(data.networks.maps)), "networks"))
    if data.lesion is not None:
        table = _main_lesions(data)
        q = _q_column(table)
        if q:
            tiles.append((f"{int((table[q] < 0.05).sum())} of {len(table)}", f"lesioned networks exceed their controls ({q} < 0.05)"))
    if data.pruning is not None and "ratio_to_dense" in data.pruning:
        best = data.pruning.loc[data.pruning.groupby("ratio")["ratio_to_dense"].idxmin()].iloc[-1]
        tiles.append((f"× {best['ratio_to_dense']:.2f}", f"perplexity with {number(float(best['ratio']), 'ratio')} removed, best recipe"))
    if data.pruned is not None:
        tiles += [(number(v, k), k.replace("_", " ")) for k, v in data.pruned.summary.items() if isinstance(v, (int, float))][:4]
    if not tiles and not data.absent:
        return None
    return Section("summary", "Summary", render("summary.html", tiles=tiles, absent=data.absent))


def model(data, render):
    """Who the model is."""
    if not data.model:
        return None
    names = {
        "id": "name", "revision": "revision", "architecture": "architecture", "n_layers": "layers", "hidden_size": "hidden size",
        "n_parameters": "parameters", "dtype": "type of weights", "weights_hash": "hash of the weights",
    }  # fmt: skip
    facts = [(label, number(data.model[key])) for key, label in names.items() if data.model.get(key) not in (None, "")]
    return Section("model", "Model", render("facts.html", facts=facts))


def recording(data, render):
    """What was read and how much of it was recorded."""
    if data.events is None:
        return None
    geometry, side = data.geometry, data.sidecar
    facts = [
        ("corpus", str(side.get("Corpus") or data.corpus.get("name", "–"))),
        ("site", f"{geometry.site} ({geometry.n_layers} layers of {_sizes(geometry)} neurons)"),
        ("volume", f"{' × '.join(map(str, geometry.shape))} (layer × row × column), one for each token"),
        ("context", f"{side['Context']} tokens" if side.get("Context") else "–"),
    ]
    kinds = _kinds_table(data.events)
    return Section(
        "recording", "Recording",
        render("facts.html", facts=facts)
        + (html_table(kinds, "Kinds of text", labels={"surprisal": "mean surprisal (nats)"}) if kinds is not None else "")
        + render("details.html", title=f"Runs ({len(data.runs)})", inside=html_table(data.runs, "Runs of the recording")),
    )  # fmt: skip


def _sizes(geometry):
    low, high = min(geometry.sizes), max(geometry.sizes)
    return str(low) if low == high else f"{low} to {high}"


def _kinds_table(events):
    if "kind" not in events or events["kind"].isna().all():
        return None
    grouped = events.groupby("kind", sort=False)
    frame = pd.DataFrame({"kind": list(grouped.groups), "documents": grouped["document"].nunique().to_numpy(), "tokens": grouped.size().to_numpy()})
    if "surprisal" in events:
        frame["surprisal"] = grouped["surprisal"].mean().to_numpy()
    return frame


# -- networks -----------------------------------------------------------------------------------------------------
def networks(data, render):
    """All networks at a glance: atlas, depth, carpet, connectivity, stability, table."""
    if data.networks is None:
        return None
    n, where = len(data.networks.maps), {"threshold": data.threshold}
    order = {"topography": data.topography}
    parts = [
        _figure(render, plotting.plot_atlas(data.networks, title="", **where, **order), "fig-atlas",
                f"Dominant network of each neuron with |z| > {data.threshold:g}; one sheet for each layer, numbered at its corner.",
                f"Mosaic of {data.geometry.n_layers} layer sheets, neurons coloured by the network they load on most.",
                fixed_colors=True),
        _figure(render, plotting.plot_layer_profiles(data.networks, title="", **where), "fig-depth",
                "Share of each layer's neurons that belong to each network.",
                f"Heat map of {n} networks by {data.geometry.n_layers} layers."),
    ]  # fmt: skip
    if n <= 40:
        parts.append(
            _figure(render, plotting.plot_network_maps(data.networks, title="", **where, **order), "fig-maps",
                    "Every network as layers × units, each pixel the strongest of the neurons it stands for.",
                    f"Small multiples of {n} network maps with their layer profiles.")
        )  # fmt: skip
    if data.carpet is not None:
        activity, events, run, start = data.carpet
        parts.append(
            _figure(render, plotting.plot_carpet(activity, data.networks, events=events, threshold=data.threshold, title=""),
                    "fig-carpet",
                    f"Carpet: {len(events)} tokens of {run} from token {start}, neurons sorted by the network they load on most.",
                    "Carpet plot of activity, rows are neurons grouped by network, columns are tokens.")
        )  # fmt: skip
    if data.courses is not None and n > 2:
        r = np.corrcoef(data.courses.T)
        parts.append(
            _figure(render, plotting.plot_connectivity(r, title=""), "fig-connectivity",
                    "Functional connectivity: correlation of the networks' time courses, similar networks side by side.",
                    f"Correlation matrix of {n} networks.")
        )  # fmt: skip
    quality = _stability_values(data)
    if quality is not None:
        parts.append(
            _figure(render, plotting.plot_stability(quality, title=""), "fig-stability",
                    "Stability of each network over restarts (Iq).", f"Dot plot of the stability of {n} networks.")
        )  # fmt: skip
    table = network_table(data)
    parts.append(html_table(table, "Networks; a number leads to the network's page below", link=("network", lambda k: f"#network-{int(k):02d}")))
    return Section("networks", "Networks", "".join(parts))


def network_table(data):
    """One row a network: size, depth, variance, stability, kind of text it answers to, lesion effect, flags."""
    z = zscore_maps(data.networks.maps)
    profile = [sum(layer_profile(row, data.geometry, data.threshold)) for row in z]
    size = (np.abs(z) > data.threshold).sum(axis=1)
    table = pd.DataFrame(
        {
            "network": np.arange(len(z)), "n_neurons": size, "share": size / z.shape[1],
            "peak_layer": [data.geometry.layers[int(p.argmax())] for p in profile],
        }
    )  # fmt: skip
    metrics = data.networks.metrics
    for name in ("variance", "stability", "iq", "label", "flagged", "flags", "artefact"):
        if metrics is not None and name in metrics and len(metrics) == len(table):
            table[name] = metrics[name].to_numpy()
    if data.courses is not None and data.course_events is not None:
        kinds = engagement_by_kind(data.courses, data.course_events)
        if kinds is not None:
            table["answers to"] = kinds.idxmax().to_numpy()
    if data.lesion is not None:
        lesioned = _main_lesions(data).set_index("network")
        for column in ("effect", _q_column(lesioned)):
            if column:
                table[f"lesion {column}" if column == "effect" else column] = lesioned[column].reindex(table["network"]).to_numpy()
    return table


def _stability_values(data):
    for frame in (data.stability, data.networks.metrics):
        for name in ("iq", "stability"):
            if frame is not None and name in frame and len(frame) == len(data.networks.maps) and frame[name].notna().any():
                return frame[name].to_numpy(float)
    return None


def browser(data, render):
    """A page for each network, one shown at a time."""
    if data.networks is None:
        return None
    z = zscore_maps(data.networks.maps)
    painter = MapPainter(data.geometry, data.topography, data.threshold)
    table = network_table(data)
    kinds = None
    if data.courses is not None and data.course_events is not None:
        kinds = engagement_by_kind(data.courses, data.course_events)
    cards = [_card(data, k, z[k], painter, table.iloc[k], kinds, render) for k in range(len(z))]
    note = data.topography.note if data.topography is not None else "Neurons in natural order."
    html = render(
        "browser.html", cards=cards, numbers=list(range(len(z))), note=note, labels=painter.labels(),
        width=painter.width, height=painter.height, threshold=data.threshold,
    )  # fmt: skip
    return Section("browse", "Network by network", html)


def _card(data, k, z, painter, row, kinds, render):
    positive, negative = layer_profile(z, data.geometry, data.threshold)
    facts = [
        ("neurons", f"{number(int(row['n_neurons']))} ({number(float(row['share']), 'share')})"),
        ("peak layer", number(int(row["peak_layer"]))),
    ]
    for name, label in (("variance", "share of variance"), ("stability", "stability (Iq)"), ("iq", "stability (Iq)"), ("label", "label")):
        if name in row and pd.notna(row[name]):
            facts.append((label, number(row[name], name)))
    return {
        "k": k, "id": f"network-{k:02d}", "facts": facts, "map": painter.paint(z), "warnings": _warnings(row),
        "alt": f"Network {k}: {int(row['n_neurons'])} of {len(z)} neurons over {data.geometry.n_layers} layers, most in layer {row['peak_layer']}.",
        "profile": profile_svg(positive, negative, data.geometry.layers, f"Share of each layer's neurons in network {k}"),
        "lesion": _lesion_strip(data, k), "kinds": _kind_bars(kinds, k), **_words(data, k),
    }  # fmt: skip


def _warnings(row):
    found = []
    for name in ("flagged", "flags", "artefact"):
        value = row.get(name)
        if isinstance(value, str) and value.strip() and value.lower() not in ("false", "no", "n/a", "none", "0"):
            found.append(value)
        elif isinstance(value, (bool, np.bool_)) and value:
            found.append("flagged as a possible artefact")
    return found


def _kind_bars(kinds, k):
    if kinds is None:
        return None
    values = kinds[k]
    top = max(float(values.abs().max()), 1e-9)
    return [
        {"kind": str(kind), "value": number(float(v)), "width": round(100 * abs(v) / top), "css": "pos" if v > 0 else "neg"}
        for kind, v in values.sort_values(ascending=False).items()
    ]


def _words(data, k):
    if data.courses is None or data.course_events is None:
        return {"excerpts": [], "stretch": None}
    course, events = data.courses[:, k], data.course_events
    token = events["token"].astype(str).to_numpy()
    excerpts = [
        {
            "z": f"{course[i]:.1f}", "where": _where(events.iloc[i]),
            "html": plotting.words_html(token[first:last], course[first:last], mark=i - first),
        }
        for i, first, last in peaks(course, events)
    ]  # fmt: skip
    first, last = best_stretch(course, events)
    return {
        "excerpts": excerpts, "stretch": plotting.words_html(token[first:last], course[first:last]),
        "stretch_where": _where(events.iloc[first]),
    }  # fmt: skip


def _where(row):
    kind = row.get("kind")
    return f"{row['document']}" + (f", {kind}" if isinstance(kind, str) and kind else "")


def _lesion_strip(data, k):
    if data.lesion is None:
        return None
    table = _main_lesions(data)
    found = table[table["network"] == k]
    if not len(found):
        return None
    row, controls = found.iloc[0], _main_controls(data)
    values = np.array([]) if controls is None else controls.loc[controls["network"] == k, "effect"].to_numpy(float)
    everything = np.concatenate([table["effect"], [0.0] if controls is None else controls["effect"]])
    limits = (float(np.nanmin(everything)), float(np.nanmax(everything)))
    low, high = (row.get(c) for c in ("ci_low", "ci_high"))
    q = _q_column(table)
    text = f"{number(float(row['effect']))} nats per token" + (f", {q} = {number(float(row[q]), q)}" if q else "")
    label = f"Lesion of network {k}: {text}, against {len(values)} control draws"
    strip = effect_strip(float(row["effect"]), None if pd.isna(low) else float(low), high, values, limits, label)
    return {"text": text, "svg": strip, "n": len(values)}


# -- lesions and pruning ------------------------------------------------------------------------------------------
def _main_lesions(data):
    """The rows of the first task and control family: what the summary and the network pages speak of."""
    table = data.lesion.table
    for column in ("task", "family"):
        if column in table and len(table):
            table = table[table[column] == table[column].iloc[0]]
    return table


def _main_controls(data):
    controls, table = getattr(data.lesion, "controls", None), data.lesion.table
    if controls is None or not len(controls):
        return None
    for column in ("task", "family"):
        if column in controls and column in table:
            controls = controls[controls[column] == table[column].iloc[0]]
    return controls


def _q_column(table):
    return next((c for c in ("q", "p") if c in table and table[c].notna().any()), None)


def lesions(data, render):
    """What each network's lesion does, against matched controls."""
    if data.lesion is None:
        return None
    table = data.lesion.table
    families = list(dict.fromkeys(table["family"])) if "family" in table else [None]
    tasks = list(dict.fromkeys(table["task"])) if "task" in table else [None]
    parts = []
    for i, family in enumerate(families):
        matched = "" if family is None else f" matched by {family}"
        task = "" if tasks[0] is None else f" on “{tasks[0]}”"
        parts.append(
            _figure(render, plotting.plot_lesion_effects(data.lesion, family=family, title=""), f"fig-lesion-{i}",
                    f"Change in loss{task} when a network is silenced (point, 95 % interval), over random sets{matched} (grey).",
                    f"Lesion effects of {table['network'].nunique()} networks over their control draws.")
        )  # fmt: skip
    if len(tasks) > 1:
        parts.append(
            _figure(render, plotting.plot_selectivity(data.lesion, title=""), "fig-selectivity",
                    "Which lesion harms which task.", f"Matrix of {table['network'].nunique()} networks by {len(tasks)} tasks.")
        )  # fmt: skip
    columns = ("network", "task", "family", "n_neurons", "share", "effect", "ci_low", "ci_high", "control_mean", "control_max", "n_controls", "z", "p", "q")
    keep = [c for c in columns if not (c in ("task", "family") and c in table and table[c].nunique() == 1)]
    q = _q_column(table)
    parts.append(html_table(table, "Lesion effects, nats per token", keep, emphasis=(table[q] < 0.05).to_numpy() if q else None))
    return Section("lesions", "Lesions", "".join(parts))


def pruning(data, render):
    """What smaller models cost, recipe by recipe."""
    if data.pruning is None:
        return None
    table = data.pruning
    parts = [
        _figure(render, plotting.plot_pruning_grid(table, title=""), "fig-pruning",
                "Perplexity on held-out text against size; one line a recipe, the band spans the seeds.",
                f"Pruning curves of {len(table)} pruned models.")
    ]  # fmt: skip
    keys = [c for c in ("score", "allocation", "compensation", "ratio") if c in table]
    values = [c for c in ("perplexity", "ratio_to_dense", "parameters") if c in table]
    mean = table.groupby(keys, sort=False)[values].mean().reset_index()
    if "seed" in table and table["seed"].nunique() > 1:
        mean["seeds"] = table.groupby(keys, sort=False)["seed"].nunique().to_numpy()
    if "parameters" in mean:
        mean["parameters"] = mean["parameters"].round().astype(int)
    best = mean["perplexity"] == mean.groupby("ratio")["perplexity"].transform("min") if "ratio" in mean else None
    labels = {"ratio": "removed", "perplexity": "perplexity (mean)"}
    parts.append(html_table(mean, "Pruning recipes; the best of each size in bold", labels=labels, emphasis=None if best is None else best.to_numpy()))
    return Section("pruning", "Pruning", "".join(parts))


def pruned(data, render):
    """One pruned model: its summary and what each layer kept."""
    if data.pruned is None:
        return None
    simple = {k: v for k, v in data.pruned.summary.items() if isinstance(v, (str, int, float, bool))}
    html = render("facts.html", facts=[(k.replace("_", " "), number(v, k)) for k, v in simple.items()])
    geometry = data.geometry or getattr(data.pruned, "geometry", None)
    if geometry is not None:
        html += _figure(render, plotting.plot_kept_neurons(data.pruned, geometry, title=""), "fig-kept",
                        "Neurons that each layer keeps.", "Bar chart of the share of neurons kept in each layer.")  # fmt: skip
    return Section("pruned", "Pruned model", html)


# -- how ----------------------------------------------------------------------------------------------------------
def methods(data, render):
    """The methods paragraph, its references, and what the words mean."""
    paragraphs, cited = methods_text(data)
    return Section("methods", "Methods", render("methods.html", paragraphs=paragraphs, bibtex=bibtex(cited), n=len(cited)))


def files(data, render):
    """Every file of the study."""
    if not data.files:
        return None
    table = html_table(pd.DataFrame(data.files), "Files of the study")
    return Section("files", "Files", render("details.html", title=f"{len(data.files)} files", inside=table))


def _figure(render, fig, key, caption, label, fixed_colors=False):
    return render("figure.html", svg=figure_svg(fig, key, label, fixed_colors), id=key, caption=caption)
