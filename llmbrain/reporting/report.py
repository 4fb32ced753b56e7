"""Make a report: collect the results of all stations and fill the page."""

import datetime
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from .. import __version__
from ..dataset import Study
from ..exceptions import ParameterError
from .document import HTMLReport, check_output_file
from .page import render
from .station import stations

__all__ = ["HTMLReport", "Report", "generate_report"]


def generate_report(study_or_object, *, title=None, topography="auto", output_file=None):
    """Make a report of a whole study, or of one result.

    Parameters
    ----------
    study_or_object : path-like, or object
        Study, Recording, NetworkSet, fitted estimator, LesionResult, DoseResponse, Order, PrunedModel or DataFrame.
        A study folder gives the whole report, which names the stations that have not been run. A data frame must be
        the table of :func:`llmbrain.run_grid` or of a lesion study.
    title : str, optional
        Heading of the page.
    topography : "auto", Topography or None
        Display order of neurons. ``"auto"`` uses the study's own order, or computes one from half of its runs and
        saves it there; None keeps the natural order.
    output_file : path-like, optional
        Also write the page to this file; an earlier report is replaced.

    Returns
    -------
    HTMLReport
        With ``save()`` and ``open_in_browser()``; notebooks display it.

    Raises
    ------
    DatasetError
        If a path holds no study.
    ParameterError
        If there is no report for this kind of object, or ``output_file`` exists and is not a report of llmbrain.
    """
    if output_file is not None:
        check_output_file(output_file)
    if isinstance(study_or_object, (str, Path)):
        study_or_object = Study.open(study_or_object)
    of = Report.of_study if isinstance(study_or_object, Study) else Report.of_object
    page = of(study_or_object, topography).page(title)
    if output_file is not None:
        page.save(output_file)
    return page


class Report:
    """The results that one report shows, by the name of their station, and the lines that head the page.

    ``report["lesions"]`` is the result of the station ``lesions``, read on first use, or None.
    """

    def __init__(self, study=None, topography="auto", results=None, *, title="", subtitle="", kicker="study report"):
        self.study, self.topography = study, topography
        self.results = dict(results or {})
        self.title, self.subtitle, self.kicker = title, subtitle, kicker  # kicker: the line above the title
        self.absent, self.warnings = [], []  # what the report cannot show and why; what its readers must know

    @classmethod
    def of_study(cls, study, topography="auto"):
        """The report of a study folder."""
        title = last_part(study.info["model"].get("id", study.subject))
        corpus = study.info["corpus"].get("name", study.task)
        return cls(study, topography, title=title, subtitle=f"on the corpus “{corpus}”")

    @classmethod
    def of_object(cls, obj, topography="auto"):
        """The report of one result, made by the first station that takes the object."""
        report = cls(topography=topography)
        for station in stations():
            result = station().take(obj, report)
            if result is not None:
                report.results[station.name] = result
                report.title, report.kicker = station.title, station.alone
                report.subtitle = last_part((report["model"] or {}).get("id") or "")
                return report
        accepted = [station.accepts for station in stations() if station.accepts]
        raise ParameterError(
            f"There is no report for {type(obj).__name__}. Pass a study folder, a Study, {', '.join(accepted[:-1])}, "
            f"or {accepted[-1]}."
        )

    def __getitem__(self, name):
        if name not in self.results:
            self.results[name] = None  # also what a station sees that asks for itself
            self.results[name] = next(one for one in stations() if one.name == name)().result(self)
        return self.results[name]

    @property
    def geometry(self):
        """Neurons of the networks, or of the recording; None if there are neither."""
        found = self["networks"] or self["recording"]
        return None if found is None else found.geometry

    def page(self, title=None):
        """Fill the page and return it as an :class:`HTMLReport`."""
        shown = [(station, self[station.name]) for station in stations()]
        sections = [
            {"id": station.name, "title": station.title, "html": Markup(html)}
            for station, result in shown
            if result is not None and (html := station().section(self, result))
        ]
        html = render(
            "page.html", title=title or self.title, subtitle=self.subtitle, kicker=self.kicker, version=__version__,
            date=datetime.date.today().isoformat(), sections=sections, css=_asset("report.css"),
            js=_asset("report.js"),
        )  # fmt: skip
        path = None if self.study is None else self.study.path("report")
        return HTMLReport(html, path, [section["id"] for section in sections])


def last_part(name):
    """Last part of a model's name, without its owner or folder."""
    return str(name).rstrip("/").rsplit("/", 1)[-1]


def _asset(name):
    return Markup(resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8"))
