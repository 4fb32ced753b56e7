"""Sections on what was studied and how: summary, model, recording, methods, files."""

import pandas as pd

from .. import plotting
from ..plotting.pruning import split_dense
from .effects import main_family, main_lesions, q_column
from .methods import bibtex, methods_text
from .page import Section, figure
from .tables import html_table, number

CURVES = ("n_reproduced", "share", "mean_r")  # of how many networks


def summary(data, render):
    """Key numbers, one sentence each on what was found, and what is missing."""
    tiles = []
    if data.geometry is not None:
        tiles.append((number(data.geometry.n_neurons), f"neurons in {data.geometry.n_layers} layers"))
    if data.events is not None:
        n_documents = number(data.events["document"].nunique())
        tiles.append((number(len(data.events)), f"tokens of {n_documents} documents"))
    if data.networks is not None:
        tiles.append((number(len(data.networks.maps)), "networks"))
    tiles += _lesion_tile(data) + _pruning_tiles(data)
    if not tiles and not data.absent and not data.warnings:
        return None
    return Section(
        "summary", "Summary", render("summary.html", tiles=tiles, absent=data.absent, warnings=data.warnings)
    )


def _lesion_tile(data):
    if data.lesion is None:
        return []
    table = main_lesions(data)
    q = q_column(table)
    if q is None:
        return [(number(len(table)), "networks lesioned")]
    found, more = int((table[q] < 0.05).sum()), ""
    if "q_pooled" in table and table["q_pooled"].notna().any():
        more = f"; {int((table['q_pooled'] < 0.05).sum())} with controls pooled"
    power = (getattr(data.lesion, "info", None) or {}).get("power") or {}
    more += "; too few controls to tell" if not found and power.get("smallest_p", 0) > 0.05 else ""
    family = main_family(data.lesion.table)
    matched = f" matched by {family.replace('+', ' and ')}" if family else ""
    label = f"lesioned networks do more harm than their controls{matched} ({q} < 0.05{more})"
    return [(f"{found} of {len(table)}", label)]


def _pruning_tiles(data):
    if data.pruned is not None:
        names = {
            "neurons_removed": "of the neurons removed",
            "total_parameters_removed": "of all parameters removed",
            "total_parameters_after": "parameters left",
        }
        known = data.pruned.summary
        return [(number(known[key], key), label) for key, label in names.items() if key in known]
    if data.pruning is None or not {"ratio", "ratio_to_dense"} <= set(data.pruning):
        return []
    table, _ = split_dense(data.pruning)
    if not len(table):
        return []
    best = table.loc[table.groupby("ratio")["ratio_to_dense"].idxmin()].iloc[-1]
    removed = number(float(best["ratio"]), "ratio")
    return [(f"× {best['ratio_to_dense']:.2f}", f"perplexity with {removed} removed, best recipe")]


def model(data, render):
    """Who the model is."""
    if not data.model:
        return None
    names = {
        "id": "name", "revision": "revision", "architecture": "architecture", "n_layers": "layers",
        "hidden_size": "hidden size", "n_parameters": "parameters", "dtype": "type of weights",
        "weights_hash": "hash of the weights",
    }  # fmt: skip
    known = {label: data.model.get(key) for key, label in names.items()}
    facts = [(label, number(value)) for label, value in known.items() if value not in (None, "")]
    return Section("model", "Model", render("facts.html", facts=facts)) if facts else None


def recording(data, render):
    """What was read and how much of it was recorded."""
    if data.events is None:
        return None
    geometry, side = data.recorded or data.geometry, data.sidecar
    shape = " × ".join(map(str, geometry.shape))
    facts = [
        ("corpus", str(side.get("Corpus") or data.corpus.get("name", "–"))),
        ("site", f"{geometry.site} ({geometry.n_layers} layers of {_sizes(geometry)} neurons)"),
        ("volume", f"{shape} (layer × row × column), one for each token"),
    ]
    if side.get("Context"):
        facts.append(("context", f"at most {number(side['Context'])} tokens"))
    parts = [render("facts.html", facts=facts)]
    parts.append(_carpet_by_layer(data, render))
    kinds = _kinds_table(data.events)
    if kinds is not None:
        parts.append(html_table(kinds, "Kinds of text", labels={"surprisal": "mean surprisal (nats)"}))
    runs = html_table(data.runs, "Runs of the recording")
    parts.append(render("details.html", title=f"Runs ({len(data.runs)})", inside=runs))
    return Section("recording", "Recording", "".join(parts))


def _carpet_by_layer(data, render):
    """The activity as it was recorded; once there are networks, the carpet sorted by them says more."""
    if data.carpet is None or data.networks is not None:
        return ""
    activity, events, run, start = data.carpet
    fig = plotting.plot_carpet(activity, geometry=data.geometry, events=events, order="layer", title="")
    caption = (
        f"Carpet: {len(events)} tokens of {run} from token {start}, neurons sorted by layer and pooled into rows. "
    )
    caption += (
        "Stripes are tokens at which a whole layer turns over; the rest looks like noise until it is sorted by network."
    )
    alt = "Carpet plot of activity: rows are neurons grouped by layer, columns are tokens."
    return figure(render, fig, "fig-carpet-layers", caption, alt)


def _sizes(geometry):
    low, high = min(geometry.sizes), max(geometry.sizes)
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def _kinds_table(events):
    if "kind" not in events or events["kind"].isna().all():
        return None
    grouped = events.groupby("kind", sort=False)
    frame = pd.DataFrame(
        {
            "kind": list(grouped.groups),
            "documents": grouped["document"].nunique().to_numpy(),
            "tokens": grouped.size().to_numpy(),
        }
    )
    if "surprisal" in events:
        frame["surprisal"] = grouped["surprisal"].mean().to_numpy()
    return frame


def order(data, render):
    """What speaks for one number of networks or another."""
    if not data.orders:
        return None
    parts = []
    for i, (desc, curve, info) in enumerate(data.orders):
        names = [c for c in CURVES if c in curve] or None
        columns = list(curve) if names is None else ["n_components", *names]
        fig = plotting.plot_order(curve[columns], chosen=info.get("n_components"), title="")
        caption = "Networks that are found again in the other half of the text, for each number asked for"
        caption += f" ({desc})" if desc else ""
        caption += f"; {number(info['n_components'])} were chosen." if info.get("n_components") else "."
        if info.get("parallel"):
            caption += (
                f" Parallel analysis counts {number(info['parallel'])} directions beyond noise, which is no number"
            )
            caption += " of networks: almost nothing in a language model is noise."
        alt = f"Curves of reproducibility over {len(curve)} numbers of networks."
        parts.append(figure(render, fig, f"fig-order-{i}", caption, alt))
        parts.append(render("details.html", title="Table", inside=html_table(curve, "Reproducibility between halves")))
    return Section("order", "How many networks", "".join(parts))


def methods(data, render):
    """The methods paragraph and its references."""
    paragraphs, cited = methods_text(data)
    html = render("methods.html", paragraphs=paragraphs, bibtex=bibtex(cited), n=len(cited))
    return Section("methods", "Methods", html)


def files(data, render):
    """Every file of the study."""
    if not data.files:
        return None
    table = html_table(pd.DataFrame(data.files), "Files of the study")
    return Section("files", "Files", render("details.html", title=f"{len(data.files)} files", inside=table))
