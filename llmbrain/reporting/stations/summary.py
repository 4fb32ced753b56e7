"""The summary: key numbers of all stations, warnings, and what is missing."""

from ..page import render
from ..station import STATIONS, Station, stations
from ..tables import number


@STATIONS.register("summary", title="Summary", place=10)
class Summary(Station):
    """Key numbers and warnings."""

    def result(self, report):
        return True

    def section(self, report, result):
        shown = [(station(), report[station.name]) for station in stations()]
        tiles = [tile for station, found in shown if found is not None for tile in station.tiles(report, found)]
        if not (tiles or report.absent or report.warnings):
            return ""
        steps = pipeline(report) if report.study is not None else []
        return render("summary.html", tiles=tiles, absent=report.absent, warnings=report.warnings, steps=steps)


def pipeline(report):
    """The stations from text to report as a list of ``(name, what it holds, address or None)``."""
    recorded, found, lesions, grid = (report[name] for name in ("recording", "networks", "lesions", "pruning"))
    steps, n_documents = [], "" if recorded is None else f"{recorded.events['document'].nunique()} documents"
    steps.append(("text", n_documents, "#recording" if recorded else None))
    size = () if recorded is None else (number(len(recorded.events)), number(recorded.geometry.n_neurons))
    shape = "{} tokens × {} neurons".format(*size) if size else ""
    steps.append(("recording", shape, "#recording" if recorded else None))
    flagged = "" if found is None or not found.networks.flagged else f", {len(found.networks.flagged)} flagged"
    networks = "" if found is None else f"{len(found.networks.maps)}{flagged}"
    steps.append(("networks", networks, "#networks" if found else None))
    silenced = "" if lesions is None else f"{lesions.table['network'].nunique()} silenced, with matched controls"
    steps.append(("lesions", silenced, "#lesions" if lesions is not None else None))
    pruned = "" if grid is None else f"{int((grid.table['score'] != 'dense').sum())} recipes compared"
    steps.append(("pruning", pruned, "#pruning" if grid else None))
    return steps
