"""The methods section: the sentences of all stations, the software, and the references."""

import platform
from importlib import metadata

from ..page import render
from ..references import CITED_AS, bibtex
from ..station import STATIONS, Station, stations

PACKAGES = ("llmbrain", "nilearn", "scikit-learn", "torch", "transformers", "numpy", "scipy", "nibabel")


@STATIONS.register("methods", title="Methods", place=140)
class Methods(Station):
    """Written from what was really run."""

    def result(self, report):
        return True

    def section(self, report, result):
        paragraphs, cited = methods_text(report)
        return render("methods.html", paragraphs=paragraphs, bibtex=bibtex(cited), n=len(cited))


def methods_text(report):
    """Write the methods of a report and collect what they cite.

    Parameters
    ----------
    report : Report
        Only the results in it are described.

    Returns
    -------
    paragraphs : list of str
        One per station.
    cited : list of str
        Keys of the references, in order of appearance.
    """
    cited = []

    def cite(*keys):
        cited.extend(key for key in keys if key not in cited)
        return f" ({'; '.join(CITED_AS[key] for key in keys)})"

    shown = [(station(), report[station.name]) for station in stations()]
    texts = [station.methods(report, result, cite) for station, result in shown if result is not None]
    recorded = report["recording"]
    used = versions(None if recorded is None else recorded.sidecar.get("LibraryVersions"))
    software = ", ".join(f"{name} {version}" for name, version in used.items())
    texts.append(f"Software: {software}{cite('wolf2020transformers', 'pedregosa2011sklearn', 'nilearn')}.")
    return [text for text in texts if text], cited


def versions(recorded=None):
    """Versions of the software: those recorded with the data override the installed ones."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**found, **(recorded or {})}
