"""The recording: which text was read, and which activity was recorded."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ... import plotting
from ...dataset import Recording
from ..page import figure, render
from ..station import STATIONS, Station
from ..tables import html_table, number
from .display import BYTES


@dataclass
class Recorded:
    """What a report shows of a recording."""

    events: pd.DataFrame
    runs: pd.DataFrame
    sidecar: dict
    geometry: object
    corpus: dict
    carpet: tuple = None  # activity, events, name of the run, first token
    recording: Recording = None


@STATIONS.register("recording", title="Recording", place=30, alone="recording", accepts="a recording")
class RecordingStation(Station):
    """The runs of one site: the site of the networks, else mlp, else the first."""

    what = "recording"

    def read(self, study, report):
        sites, networks = study.sites(), report["networks"]
        wanted = [*([networks.geometry.site] if networks is not None else []), "mlp", *sites]
        site = next((site for site in wanted if site in sites), None)
        if len(sites) > 1:
            others = ", ".join(name for name in sites if name != site)
            report.absent.append(f"The study also holds recordings of {others}; this report shows {site}.")
        if site is None:
            report.absent.append("No text has been recorded yet (llmbrain record).")
            return None
        return _describe(study.recording(site), networks)

    def take(self, obj, report):
        if not isinstance(obj, Recording):
            return None
        report.results["model"] = obj.study.info["model"] or None
        return _describe(obj, None)

    def tiles(self, report, result):
        n_documents = number(result.events["document"].nunique())
        neurons = (number(result.geometry.n_neurons), f"neurons in {result.geometry.n_layers} layers")
        return [neurons, (number(len(result.events)), f"tokens of {n_documents} documents")]

    def section(self, report, result):
        geometry, side = result.geometry, result.sidecar
        shape = " × ".join(map(str, geometry.shape))
        facts = [
            ("corpus", str(side.get("Corpus") or result.corpus.get("name", "–"))),
            ("site", f"{geometry.site} ({geometry.n_layers} layers of {_sizes(geometry)} neurons)"),
            ("volume", f"{shape} (layer × row × column), one per token"),
        ]
        if side.get("Context"):
            facts.append(("context", f"at most {number(side['Context'])} tokens"))
        parts = [render("facts.html", facts=facts)]
        if result.carpet is not None and report["networks"] is None:  # else the carpet sorted by network shows more
            parts.append(_carpet_by_layer(result))
        kinds = _kinds_table(result.events)
        if kinds is not None:
            parts.append(html_table(kinds, "Kinds of text", labels={"surprisal": "mean surprisal (nats)"}))
        runs = html_table(result.runs, "Runs of the recording")
        parts.append(render("details.html", title=f"Runs ({len(result.runs)})", inside=runs))
        return "".join(parts)

    def methods(self, report, result, cite):
        side, geometry, model = result.sidecar, result.geometry, report["model"] or {}
        if not side:
            return ""
        revision = f", revision {model['revision'][:12]}" if model.get("revision") else ""
        weights = f", weights {model['weights_hash']}" if model.get("weights_hash") else ""
        architecture, dtype = model.get("architecture", "decoder"), side.get("ModelDataType", "unknown")
        corpus = side.get("Corpus", result.corpus.get("name", ""))
        value = side.get("CorpusHash") or result.corpus.get("hash")
        corpus_hash = f" (hash {str(value)[:16]})" if value else ""
        n_runs = f"{len(result.runs)} {'run' if len(result.runs) == 1 else 'runs'}"
        n_tokens, n_neurons = number(len(result.events)), number(geometry.n_neurons)
        text = (
            f"The language model {model.get('id', side.get('ModelID', 'a model'))} ({architecture}{revision}{weights}; "
            f"{dtype} weights) read {result.events['document'].nunique()} documents of the corpus “{corpus}”"
            f"{corpus_hash}. At each of {n_tokens} tokens, the {n_neurons} neurons of the site "
            f"“{geometry.site}” ({geometry.n_layers} layers) were recorded in {side.get('DataType', 'float32')}, in "
            f"{n_runs} that follow BIDS{cite('gorgolewski2016bids')}."
        )
        if side.get("Context"):
            text += f" The model read at most {side['Context']} tokens at once"
            later = f"; the first {side['WarmUp']} tokens of each later window only provided context."
            text += later if side.get("WarmUp") else "."
        return text + " Special tokens and padding were excluded. The repetition time is one token."


def _describe(recording, networks):
    recording.check()
    events = recording.events
    by_run = events.groupby("run", sort=False)
    runs = pd.DataFrame(
        {
            "run": [run.path.name for run in recording],
            "documents": by_run["document"].nunique().to_numpy(),
            "tokens": [run.n_tokens for run in recording],
            "size (MB)": [round(run.path.stat().st_size / 1e6, 1) for run in recording],
        }
    )
    same = networks is None or networks.geometry == recording.geometry
    return Recorded(
        events, runs, recording[0].sidecar, recording.geometry, recording.study.info["corpus"],
        _activity(recording) if same else None, recording,
    )  # fmt: skip


def _activity(recording, most=420):
    """A stretch of one run for the carpet: as many tokens as fit the budget, from the middle of the recording."""
    run = recording[len(recording) // 2]
    n = int(np.clip(BYTES / (4 * run.geometry.n_neurons), 40, most))
    n = min(n, run.n_tokens)
    start = (run.n_tokens - n) // 2
    events = run.events.iloc[start : start + n].reset_index(drop=True)
    return run.to_array(start, start + n), events, f"run {run.index}", start


def _carpet_by_layer(result):
    activity, events, run, start = result.carpet
    fig = plotting.plot_carpet(activity, geometry=result.geometry, events=events, order="layer", title="")
    caption = (
        f"Carpet: {len(events)} tokens of {run} from token {start}. Neurons are sorted by layer and pooled into rows. "
        "A vertical stripe is a token at which a whole layer changes. Finer structure appears when neurons are sorted "
        "by network."
    )
    alt = "Carpet plot of activity: rows are neurons grouped by layer, columns are tokens."
    return figure(fig, "fig-carpet-layers", caption, alt)


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
