"""What a station contributes to a report, and the registry of all stations.

A report section is one module in ``reporting/stations``: it registers a class here, and the report finds it there.
"""

import functools
import importlib
import pkgutil

from ..exceptions import LLMBrainError
from ..registry import Registry

# title: heading of the section; place: its position on the page; alone: what a report of this result alone is called;
# accepts: the objects that such a report is made of, for messages.
STATIONS = Registry("report station", title="", place=0, alone="", accepts="")


class Station:
    """One part of a report. A subclass overrides the methods it needs; the others contribute nothing."""

    what = "part"  # what its result is called in messages

    def result(self, report):
        """Return what this station shows, or None; ``report`` gives the study, and other results by name."""
        if report.study is None:
            return None
        try:
            return self.read(report.study, report)
        except (LLMBrainError, OSError) as error:
            report.lacks(f"The {self.what} cannot be read: {error}")
            return None

    def read(self, study, report):
        """Return what a study folder holds of this station, or None. Name what is missing in ``report.absent``."""

    def take(self, obj, report):
        """Return the result of this station that an object is or holds, or None if the object is of another kind."""

    def tiles(self, report, result):
        """Return the key numbers for the summary, a list of ``(value, label)``."""
        return []

    def section(self, report, result):
        """Return the HTML inside the section, or an empty text for no section."""
        return ""

    def methods(self, report, result, cite):
        """Return the sentences for the methods section; ``cite(*keys)`` returns the references to put into them."""
        return ""


def stations():
    """Import all stations and return their registry entries in the order of the page."""
    _import_all()
    return sorted(STATIONS.values(), key=lambda station: station.place)


@functools.cache
def _import_all():
    package = importlib.import_module(".stations", __package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
