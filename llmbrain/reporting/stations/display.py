"""The display order of neurons, computed from one half of the recording, and the maps of the other half."""

from dataclasses import dataclass

import numpy as np

from ...dataset import is_done, write_result
from ...topography import Topography, fit_topography, loadings_from_maps
from ..station import STATIONS, Station

BYTES = 3e8  # of activity that a report reads at once, for the carpet and for the display order


@dataclass
class Display:
    """The order, and the maps of the half that it was not computed from, with the name of that half."""

    topography: Topography
    other_half: tuple = None


@STATIONS.register("display", place=80)
class DisplayStation(Station):
    """Has no section: the figures of the networks use it."""

    def result(self, report):
        found = report["networks"]
        if found is None or report.topography is None:
            return None
        recorded = report["recording"]
        recording = None if recorded is None else recorded.recording
        if recording is not None and recording.geometry != found.geometry:
            recording = None
        topography = _topography(report, found, recording)
        if recording is None or half_name(recording) != str(topography.info.get("source")):
            return Display(topography)
        # Maps of the half that the order has not seen: the sorting cannot have made their clusters.
        maps = loadings_from_maps(half_of(recording, second=True), found.networks.maps)
        return Display(topography, (maps, half_name(recording, second=True)))

    def methods(self, report, result, cite):
        info = result.topography.info
        how = {
            "transport": "by optimal transport, so that neurons with similar loadings are neighbours",
            "hilbert": "along a Hilbert curve, by dominant loading",
        }.get(info.get("method"), "by similarity")
        source = info.get("source") or "their loadings"
        return (
            f"For display only, the neurons of each layer were arranged {how}. The arrangement was computed from "
            f"{source} (seed {info.get('seed', 'not recorded')}), and no statistic depends on it."
        )


def _topography(report, found, recording):
    """The order that was passed, the one in the study, or a new one from half of the data."""
    if report.topography != "auto":
        found.geometry.check_same(report.topography.geometry, "The topography")
        return report.topography
    settings = None
    if report.study is not None and report.networks_name is not None:
        runs = None if recording is None else recording.source()["runs"]
        settings = {"networks": found.networks.hash, "recording": runs}
        if is_done(report.study, "topography", report.networks_name, settings):
            return Topography.load(report.study.path("topography", desc=report.networks_name))
    features, source = np.asarray(found.networks.maps), "the shown maps themselves"
    if recording is not None:
        features, source = loadings_from_maps(half_of(recording), found.networks.maps), half_name(recording)
    topography = fit_topography(features, found.geometry, source=source)
    if settings is not None:
        parts, sources = {"topography": topography.img}, {"networks": [found.networks.hash]}
        sources |= {} if recording is None else {"recording": recording.source()}
        given = {"sources": sources, "settings": settings}
        write_result(report.study, "topography", report.networks_name, parts, topography.sidecar, **given)
    return topography


def half_of(recording, second=False, budget=BYTES):
    """Read one half of a recording (n_tokens, n_neurons), thinned to a budget of bytes and z-scored in each run.

    With several runs, every other one belongs to a half; with one run, half of its tokens.
    """
    n = max(60, int(budget / (4 * recording.geometry.n_neurons)))
    if len(recording) == 1:
        run, half = recording[0], recording[0].n_tokens // 2
        start, stop = (half, run.n_tokens) if second else (0, max(half, 1))
        return _standard(run.to_array(start, min(start + n, stop)))
    runs = recording[int(second) :: 2]
    each = -(-n // len(runs))
    return np.concatenate([_standard(run.to_array(0, min(each, run.n_tokens))) for run in runs])


def half_name(recording, second=False):
    """Name of the half that :func:`half_of` reads."""
    if len(recording) == 1:
        half = recording[0].n_tokens // 2
        return f"the last {recording[0].n_tokens - half} tokens" if second else f"the first {half} tokens"
    runs = recording[int(second) :: 2]
    names = ", ".join(str(run.index) for run in runs[:12]) + (" …" if len(runs) > 12 else "")
    return f"the {'even' if second else 'odd'} runs ({names})"


def _standard(activity):
    centred = activity - activity.mean(axis=0)
    return centred / np.maximum(centred.std(axis=0), 1e-6)
