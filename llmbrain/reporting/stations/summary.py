"""The summary: key numbers of all stations, warnings, and what is missing."""

from ..page import render
from ..station import STATIONS, Station, stations


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
        return render("summary.html", tiles=tiles, absent=report.absent, warnings=report.warnings)
