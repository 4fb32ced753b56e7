"""Quality of the recording: attention sinks, dead neurons, tokens and documents that stand out, change per token."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ... import plotting
from ...plotting.text import visible_token
from ..page import figure, note, render
from ..station import STATIONS, Station
from ..tables import html_table, number
from .display import BYTES

OUTLIER = 5.0  # robust standard deviations from the median, from which a token or a document stands out
CHUNK = 512  # tokens that are read at once
SHOWN = 8  # rows of the tables


@dataclass
class Quality:
    """Measures of every token that was read, and counts of neurons."""

    tokens: pd.DataFrame  # run, token, document, kind, sink, surprisal, activity, change, outlying
    documents: pd.DataFrame  # document, kind, tokens, activity, distance, outlying
    dead: np.ndarray  # (n_layers,), neurons that never change
    layers: tuple
    n_neurons: int
    whole: bool  # whether all tokens were read
    sinks: dict = field(default_factory=dict)


@STATIONS.register("quality", title="Quality of the recording", place=35)
class QualityStation(Station):
    """Reads the recording once more, within a budget of bytes."""

    what = "quality of the recording"

    def result(self, report):
        recorded = report["recording"]
        return None if recorded is None or recorded.recording is None else measure_quality(recorded.recording)

    def section(self, report, result):
        n = len(result.tokens)
        read = f"All {number(n)} tokens." if result.whole else f"The beginning of every run, {number(n)} tokens."
        facts = [
            ("tokens looked at", f"{number(n)}{'' if result.whole else ' (the beginning of every run)'}"),
            ("dead neurons", f"{number(int(result.dead.sum()))} of {number(result.n_neurons)}"),
            ("attention sinks", _sinks_in_words(result.sinks)),
            ("outlying tokens", number(int(result.tokens["outlying"].sum()))),
            ("outlying documents", f"{int(result.documents['outlying'].sum())} of {len(result.documents)}"),
        ]
        fig = plotting.plot_token_quality(result.tokens, title="")
        caption = (
            f"{read} Activity: root mean square of all neurons, each z-scored within its run (1 is "
            "usual). Change: the same of the difference to the token before; in brain imaging, framewise change or "
            f"DVARS. A mark is a token more than {OUTLIER:g} robust standard deviations from the median. Runs are "
            "separated by lines."
        )
        alt = f"Activity and change of {n} tokens, with outlying tokens marked."
        parts = [render("facts.html", facts=facts), figure(fig, "fig-quality", caption, alt)]
        parts += [_dead_note(result), _token_table(result), _document_table(result)]
        return "".join(parts)

    def methods(self, report, result, cite):
        return (
            "Tokens and documents whose root mean square activity lay more than "
            f"{OUTLIER:g} robust standard deviations from the median were counted as outlying, and were kept."
        )


def measure_quality(recording, budget=2 * BYTES):
    """Measure every token of a recording, or of the beginning of each run if it is larger than ``budget`` bytes."""
    each = int(max(60, budget / (4 * recording.geometry.n_neurons * len(recording))))
    frames, dead = [], np.ones(recording.geometry.n_neurons, bool)
    for run in recording:
        n = min(each, run.n_tokens)
        activity, change, constant = token_measures(run, n)
        dead &= constant
        frame = run.events.iloc[:n].reset_index(drop=True).assign(run=run.index, activity=activity, change=change)
        first = frame["document"].ne(frame["document"].shift())
        frame.loc[first, "change"] = np.nan  # the token before belongs to another document
        frames.append(frame.assign(place=np.arange(n)))
    tokens = pd.concat(frames, ignore_index=True)
    tokens["outlying"] = np.abs(robust_z(tokens["activity"])) > OUTLIER
    documents = tokens.groupby("document", sort=False).agg(
        kind=("kind", "first") if "kind" in tokens else ("document", "first"), tokens=("activity", "size"),
        activity=("activity", "median"),
    ).reset_index()  # fmt: skip
    documents["distance"] = robust_z(documents["activity"])
    documents["outlying"] = np.abs(documents["distance"]) > OUTLIER
    counts = np.bincount(recording.geometry.layer_of[dead], minlength=recording.geometry.n_layers)
    sinks = tokens["sink"].fillna(0).astype(bool) if "sink" in tokens else pd.Series(False, index=tokens.index)
    share = float((tokens["activity"][sinks] ** 2).sum() / max((tokens["activity"] ** 2).sum(), 1e-30))
    return Quality(
        tokens, documents, counts, recording.geometry.layers, recording.geometry.n_neurons,
        len(tokens) == recording.n_tokens, {"n": int(sinks.sum()), "share": share},
    )  # fmt: skip


def token_measures(run, n):
    """Activity and change of the first ``n`` tokens of a run, ``(n,)`` each, and the neurons that never change.

    Neurons are z-scored over these tokens. The run is read in chunks, twice.
    """
    total, square = 0.0, 0.0
    for start in range(0, n, CHUNK):
        block = run.to_array(start, min(start + CHUNK, n)).astype(np.float64)
        total, square = total + block.sum(axis=0), square + np.square(block).sum(axis=0)
    mean = total / n
    sd = np.sqrt(np.maximum(square / n - mean**2, 0))
    constant = sd <= 1e-7 * np.maximum(np.abs(mean), 1e-12)
    scale = np.where(constant, 0.0, 1 / np.where(constant, 1, sd)).astype(np.float32)
    activity, change, last = np.empty(n), np.full(n, np.nan), None
    alive = max(int((~constant).sum()), 1)
    for start in range(0, n, CHUNK):
        stop = min(start + CHUNK, n)
        z = (run.to_array(start, stop) - mean.astype(np.float32)) * scale
        activity[start:stop] = np.sqrt(np.square(z).sum(axis=1, dtype=np.float64) / alive)
        steps = np.diff(z, axis=0, prepend=z[:1] if last is None else last)
        change[start:stop] = np.sqrt(np.square(steps).sum(axis=1, dtype=np.float64) / alive)
        last = z[-1:]
    change[:1] = np.nan
    return activity, change, constant


def robust_z(values):
    """Distance from the median in units of 1.4826 times the median absolute deviation; 0 for constant values."""
    values = np.asarray(values, float)
    centred = values - np.nanmedian(values)
    spread = 1.4826 * np.nanmedian(np.abs(centred))
    return centred / spread if spread > 0 else np.zeros_like(values)


def _sinks_in_words(sinks):
    if not sinks["n"]:
        return "none recorded"
    return f"{number(sinks['n'])} tokens, {number(sinks['share'], 'share')} of the energy"


def _dead_note(result):
    if not result.dead.any():
        return note("Every neuron changes at some token.")
    worst = [f"layer {result.layers[i]}: {int(result.dead[i])}" for i in np.argsort(-result.dead)[:5] if result.dead[i]]
    return note(f"Neurons that never change, most in {', '.join(worst)}. They belong to no network.")


def _token_table(result):
    found = result.tokens[result.tokens["outlying"]].sort_values("activity", ascending=False).head(SHOWN)
    if not len(found):
        return note("No token stands out.")
    shown = pd.DataFrame(
        {
            "token": [visible_token(t) for t in found["token"]] if "token" in found else "–",
            "document": found["document"], "run": found["run"], "position in run": found["place"],
            "activity": found["activity"], "change": found["change"],
        }
    )  # fmt: skip
    return html_table(shown, "Tokens that stand out most")


def _document_table(result):
    found = result.documents[result.documents["outlying"]]
    if not len(found):
        return note("No document stands out.")
    found = found.reindex(found["distance"].abs().sort_values(ascending=False).index).head(SHOWN)
    return html_table(
        found[["document", "kind", "tokens", "activity", "distance"]], "Documents that stand out",
        labels={"activity": "median activity", "distance": "robust sd from the median"},
    )  # fmt: skip
