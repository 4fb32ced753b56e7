"""The networks at a glance: atlas, depth, maps, carpet, connectivity, stability, table."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ... import plotting
from ...dataset import find_results
from ...networks import NetworkSet
from ...networks.base import NetworkEstimator
from ...networks.engines.reduction import GROUP_MODELS
from ...networks.meaning.labels import UNNAMED
from ...networks.result import STABLE, THRESHOLD
from ..network_table import network_flags, network_table, readable
from ..page import figure, note, page_of
from ..station import STATIONS, Station
from ..tables import html_table, number

# columns that would make the table too wide
PAGE_ONLY = ("share", "layers", "iq", "coverage", "icc", "q_pooled", "q", "split_half_r", "most engaged in")
MAPS_UP_TO = 40  # with more networks, small multiples are too small to read
COURSES_UP_TO = 20
# Estimator -> the sentence, with the number of networks and the citations of what follows.
FOUND_BY = {
    "CanICA": (
        "group independent component analysis (CanICA{1}, FastICA{2}) with {0} components",
        "varoquaux2010canica",
        "hyvarinen1999fastica",
    ),
    "DictLearning": ("dictionary learning{1} with {0} atoms", "mensch2016compressed"),
}


@dataclass
class Found:
    """The networks of one analysis."""

    networks: NetworkSet
    threshold: float = THRESHOLD
    stability: pd.DataFrame = None

    @property
    def geometry(self):
        """Neurons of the maps."""
        return self.networks.geometry


@STATIONS.register(
    "networks", title="Networks", place=50, alone="decomposition",
    accepts="networks or a fitted estimator (CanICA, DictLearning)",
)  # fmt: skip
class Networks(Station):
    """The networks that the report was asked for, or the only ones."""

    what = "decomposition"

    def read(self, study, report):
        name = report.networks_name
        if name is None:
            report.absent.append("No networks have been found yet (llmbrain networks).")
            return None
        others = [one for one in find_results(study, "networks") if one != name]
        if others:
            held = ", ".join(others)
            report.absent.append(f"The study also holds the networks {held}; this report shows {name}.")
        for result in report.current("networks", self.what, name):
            return _found(NetworkSet.of_result(result), result.read("stability"))
        return None

    def take(self, obj, report):
        obj = obj.networks_ if isinstance(obj, NetworkEstimator) else obj
        if not isinstance(obj, NetworkSet):
            return None
        report.results["model"] = obj.info.get("model") or None
        return _found(obj)

    def tiles(self, report, result):
        size = (number(result.geometry.n_neurons), f"neurons in {result.geometry.n_layers} layers")
        found = (number(len(result.networks.maps)), "networks")
        return [found] if report["recording"] is not None else [size, found]

    def section(self, report, result):
        parts = [_maps(result, report.shown_order), _carpet(report, result)]
        shown = network_table(report).drop(columns=[*PAGE_ONLY], errors="ignore")
        parts.append(
            html_table(shown, "Networks; a number links to the network's page below", link=("network", page_of))
        )
        parts += [
            note(_flag_note(report)), _courses(report), _depth(result), _connectivity(report), _stability(result),
            _atlas(result, report["display"]),
        ]  # fmt: skip
        return "".join(parts)

    def methods(self, report, result, cite):
        networks = result.networks
        info = dict(networks.info or {})
        n = len(networks.maps)
        if info.get("method") in FOUND_BY:
            form, *cited = FOUND_BY[info["method"]]
            text = f"Functional networks{cite('liu2025networks')} were found by {form.format(n, *map(cite, cited))}"
        else:
            text = f"{n} networks were decomposed"
        parameters = {**info, **(info.get("parameters") or {})}
        forms = {
            "engine": "engine {}", "n_init": "{} starts", "random_state": "seed {}", "scope": "scope {}",
            "alpha": "alpha {}", "group": "group model {}",
        }  # fmt: skip
        if info.get("group") in GROUP_MODELS and GROUP_MODELS[info["group"]].by_run:
            forms["rows_per_run"] = "{} rows per run and component"
        settings = [form.format(parameters[key]) for key, form in forms.items() if parameters.get(key) is not None]
        text += f" ({', '.join(settings)})." if settings else "."
        converged = info.get("converged")
        if converged is not None and not np.all(converged):
            text += " The decomposition did not converge, so its networks should be interpreted with caution."
        if parameters.get("standardize") not in (None, False):
            text += " Every neuron was z-scored within its run."
        text += f" Maps were z-scored over neurons; a neuron belongs to a network where |z| > {result.threshold:g}."
        text += " No smoothing was applied."
        metrics = networks.metrics
        known = metrics is not None and "stability" in metrics and metrics["stability"].notna().any()
        if result.stability is not None or known:
            text += f" Stability compares repeated decompositions, following ICASSO{cite('himberg2004icasso')}."
        return text


def _found(networks, stability=None):
    return Found(networks, networks.threshold, stability)


def _flag_note(report):
    flags = network_flags(report)
    n = sum(map(bool, flags))
    what = (
        "empty (no neuron above the threshold), unstable (repeated decompositions disagree, or the stability is below "
        f"{STABLE:g}), or an artefact of position, attention sinks or a few tokens"
    )
    if n == 0:
        return f"No network is flagged. A flag marks a network that is {what}."
    verb = "is" if n == 1 else "are"
    return f"{n} of {len(flags)} networks {verb} flagged, here and on the pages below. A flagged network is {what}."


def _atlas(found, display):
    shown, half_note = found.networks, ""
    topography = None if display is None else display.topography
    if display is not None and display.other_half is not None:
        shown, half = display.other_half
        half_note = (
            f" The maps are estimated again on {half}, and the order of the neurons comes from "
            f"{topography.info['source']}, so the sorting cannot have produced the clusters."
        )
    fig = plotting.plot_atlas(shown, found.geometry, threshold=found.threshold, topography=topography, title="")
    what = f"Dominant network of each neuron with |z| > {found.threshold:g}"
    caption = f"{what}; one sheet per layer, with the layer's number in its corner. Only contrasts within a sheet mean "
    caption += f"something: similar neurons were put next to each other.{half_note}"
    alt = f"Mosaic of {found.geometry.n_layers} layer sheets, neurons coloured by the network they load on most."
    return figure(fig, "fig-atlas", caption, alt, fixed_colors=True)


def _depth(found):
    fig = plotting.plot_layer_profiles(found.networks, threshold=found.threshold, title="")
    alt = f"Heat map of {len(found.networks.maps)} networks by {found.geometry.n_layers} layers."
    return figure(fig, "fig-depth", "Share of each layer's neurons that belong to each network.", alt)


def _maps(found, topography):
    n = len(found.networks.maps)
    if n > MAPS_UP_TO:
        return ""
    fig = plotting.plot_network_maps(found.networks, threshold=found.threshold, topography=topography, title="")
    caption = "Maps of all networks, layers × units; each pixel shows the strongest of the neurons that share it."
    return figure(fig, "fig-maps", caption, f"Small multiples of {n} network maps with their layer profiles.")


def _carpet(report, found):
    recorded = report["recording"]
    if recorded is None or recorded.carpet is None:
        return ""
    activity, events, run, start = recorded.carpet
    try:
        fig = plotting.plot_carpet(activity, found.networks, events=events, threshold=found.threshold, title="")
    except ValueError:  # no neuron above the threshold: the table says so
        return ""
    where = f"{len(events)} tokens of {run} from token {start}"
    caption = f"Carpet: {where}; neurons are sorted by the network they load on most."
    alt = "Carpet plot of activity: rows are neurons grouped by network, columns are tokens."
    return figure(fig, "fig-carpet", caption, alt)


def _courses(report):
    """Time courses of all networks over one whole run, with the surprisal of its tokens below them."""
    drivers = report["drivers"]
    if drivers is None or drivers.events is None or "run" not in drivers.events:
        return ""
    runs = list(dict.fromkeys(drivers.events["run"]))
    chosen = runs[len(runs) // 2]
    rows = (drivers.events["run"] == chosen).to_numpy().nonzero()[0]
    n = min(drivers.courses.shape[1], COURSES_UP_TO)
    span = (int(rows[0]), int(rows[-1]) + 1)
    fig = plotting.plot_time_courses(
        drivers.courses, drivers.events, networks=range(n), tokens=span, surprisal=True, title=""
    )
    caption = f"Time courses of {'all' if n == drivers.courses.shape[1] else 'the first'} {n} networks over the "
    caption += f"{len(rows)} tokens of run {chosen}, in z over all runs"
    caption += ", with the surprisal of every token below." if "surprisal" in drivers.events else "."
    return figure(
        fig, "fig-courses", caption, f"Strips of {n} time courses over {len(rows)} tokens.", fixed_colors=True
    )


def _connectivity(report):
    drivers = report["drivers"]
    if drivers is None or drivers.courses.shape[1] < 3:
        return ""
    labels = None
    if drivers.interpretation is not None:
        named = (readable(label) for label in drivers.interpretation.table["label"])
        labels = [f"{k}" if label == UNNAMED else f"{k} {label}" for k, label in enumerate(named)]
    fig = plotting.plot_connectivity(np.corrcoef(drivers.courses.T), labels, title="")
    caption = (
        "Functional connectivity: correlations between the time courses of networks; similar networks are neighbours."
    )
    return figure(fig, "fig-connectivity", caption, f"Correlation matrix of {drivers.courses.shape[1]} networks.")


def _stability(found):
    for frame in (found.stability, found.networks.metrics):
        if frame is None or len(frame) != len(found.networks.maps):
            continue
        name = next((c for c in ("stability", "iq") if c in frame and frame[c].notna().any()), None)
        if name is not None:
            fig = plotting.plot_stability(frame[name].to_numpy(float), label="stability", title="")
            over = "restarts on the same data" if found.stability is None else "repeated decompositions"
            caption = f"Stability of each network over {over}; hollow points are unstable."
            return figure(fig, "fig-stability", caption, f"Dot plot of the stability of {len(frame)} networks.")
    return ""
