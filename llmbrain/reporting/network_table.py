"""The networks of a report in one table, and the flags of unreliable ones."""

import numpy as np
import pandas as pd

from ..networks.result import STABLE
from ..plotting.lesions import q_column
from ..plotting.sheets import as_maps, layer_shares
from .lesion_table import lesions_by_number
from .words import engagement_by_kind

METRICS = {
    "variance": "share of variance", "stability": "stability", "iq": "stability (Iq)",
    "coverage": "found in repetitions", "split_half_r": "r in the other half of the text",
    "icc": "ICC between halves",
}  # fmt: skip
ARTEFACTS = {
    "position": "it follows the position in the text ({position_r2:.0%} of its variance), as a brain network would "
    "follow head motion.",
    "sink": "{sink_share:.0%} of its energy lies on attention sinks, the first tokens that the model sees.",
    "few tokens": "{few_share:.0%} of its energy lies on the strongest 0.2 % of tokens.",
}


def network_flags(report):
    """Name the problems of each network in a word or two: a list of str, empty for a network without problems."""
    found, drivers = report["networks"], report["drivers"]
    z, _ = as_maps(found.networks)
    empty = ~(np.abs(z) > found.threshold).any(axis=1)
    stability, flagged = metric(found.networks, "stability", "iq"), metric(found.networks, "flagged")
    artefact = metric(found.networks, "artefact")
    if drivers is not None and drivers.interpretation is not None and len(drivers.interpretation.table) == len(z):
        artefact = drivers.interpretation.table["artefact"].to_numpy()
    flags = []
    for k in range(len(z)):
        words = ["empty"] if empty[k] else []
        low = stability is not None and np.isfinite(stability[k]) and stability[k] < STABLE
        marked = flagged is not None and isinstance(flagged[k], (bool, np.bool_)) and flagged[k]
        words += ["unstable"] if low or (marked and not empty[k]) else []
        words += [str(artefact[k])] if artefact is not None and artefact[k] in ARTEFACTS else []
        flags.append(", ".join(words))
    return flags


def metric(networks, *names):
    """Values of the first of some columns of the metrics that is known, one per network, or None."""
    metrics = networks.metrics
    if metrics is None or len(metrics) != len(networks.maps):
        return None
    name = next((n for n in names if n in metrics and metrics[n].notna().any()), None)
    return None if name is None else metrics[name].to_numpy()


def network_table(report):
    """One row per network: flag, size, depth, variance, stability, kind of text it responds to, lesion effect."""
    found, drivers, lesion = report["networks"], report["drivers"], report["lesions"]
    z, geometry = as_maps(found.networks)
    profile = [sum(layer_shares(row, geometry, found.threshold)) for row in z]
    size = (np.abs(z) > found.threshold).sum(axis=1)
    table = pd.DataFrame({"network": np.arange(len(z)), "flag": network_flags(report)})
    table["n_neurons"], table["share"] = size, size / z.shape[1]
    table["peak_layer"] = [geometry.layers[int(p.argmax())] for p in profile]
    metrics = found.networks.metrics
    if metrics is not None and {"first_layer", "last_layer"} <= set(metrics) and len(metrics) == len(table):
        table["layers"] = [f"{a} to {b}" for a, b in zip(metrics["first_layer"], metrics["last_layer"])]
    for name in METRICS:
        if (values := metric(found.networks, name)) is not None:
            table[name] = values
    if drivers is not None and drivers.interpretation is not None and len(drivers.interpretation.table) == len(table):
        table["label"] = [readable(label) for label in drivers.interpretation.table["label"]]
    hand = report["labels"]
    if hand is not None and len(hand) == len(table):  # what a person said counts more than a suggestion
        suggested = table["label"] if "label" in table else [""] * len(table)
        table["label"] = [name or label for name, label in zip(hand.names, suggested)]
        if any(decision != "undecided" for decision in hand.decisions):
            table["decision"] = [decision.replace("undecided", "") for decision in hand.decisions]
    kinds = kinds_of(drivers)
    if kinds is not None:
        table["most engaged in"] = kinds.idxmax().to_numpy()
    if lesion is not None:
        lesioned = lesions_by_number(lesion)
        table["lesion effect"] = lesioned["effect"].reindex(table["network"]).to_numpy()
        for q in (q_column(lesioned), "q_pooled"):
            if q in lesioned:
                table[q] = lesioned[q].reindex(table["network"]).to_numpy()
    return table


def kinds_of(drivers):
    """Engagement of the networks in each kind of text, or None."""
    if drivers is None or drivers.events is None:
        return None
    return engagement_by_kind(drivers.courses, drivers.events)


def readable(text):
    """A name or a list of tokens, with signs for line breaks and spaces for underscores between words."""
    text = str(text).replace("\\\\n", "⏎").replace("\\n", "⏎")
    return text if "tokens" in text or "'" in text else text.replace("_", " ")
