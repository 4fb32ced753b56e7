"""The labels that a person gave to the networks; the table of networks shows them."""

from ...networks.labels import HandLabels
from ..station import STATIONS, Station


@STATIONS.register("labels", place=45)
class Labels(Station):
    """Has no section of its own."""

    what = "labels"

    def read(self, study, report):
        found = report["networks"]
        if found is None:
            return None
        return HandLabels.load(study, found.networks, report.networks_name)
