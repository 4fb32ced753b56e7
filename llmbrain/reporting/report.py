"""Make a report: collect the results of all stations and fill the page."""

import datetime
import warnings
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from .. import __version__, plotting
from ..dataset import Study, find_results, find_studies, open_result, result_name
from ..exceptions import DatasetError, LLMBrainError, LLMBrainWarning, ParameterError
from ..subjects.comparison import Comparison
from .document import HTMLReport, check_output_file
from .mapdata import map_data
from .page import render
from .station import stations


def generate_report(study_or_object, *, networks=None, title=None, topography="auto", output_file=None):
    """Make a report of a whole study, or of one result.

    Parameters
    ----------
    study_or_object : path-like, or object
        Study, Recording, NetworkSet, fitted estimator, LesionResult, DoseResponse, Order, PrunedModel or DataFrame.
        A study folder gives the whole report, which names the stations that have not been run. A data frame must be
        the table of :func:`llmbrain.run_grid` or of a lesion study.
    networks : str, optional
        Name of the networks to show, needed if the study holds several. Results of other networks, and results whose
        sources have changed, are not shown; the summary names them.
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
        If a path holds no study, or the study holds several sets of networks and ``networks`` is not given.
    ParameterError
        If there is no report for this kind of object, or ``output_file`` exists and is not a report of llmbrain.
    """
    if output_file is not None:
        check_output_file(output_file)
    if topography is not None and topography != "auto" and not hasattr(topography, "geometry"):
        raise ParameterError(f"topography={topography!r} must be 'auto', a Topography or None.")
    if isinstance(study_or_object, (str, Path)):
        study_or_object = Study.open(study_or_object)
    if isinstance(study_or_object, Study):
        report = Report.of_study(study_or_object, topography, networks)
    else:
        report = Report.of_object(study_or_object, topography)
    page = report.page(title)
    if output_file is not None:
        page.save(output_file)
    return page


def generate_group_report(dataset, *, name=None, title=None, output_file=None):
    """Make a report of all models of a dataset: what they are, and which networks they share.

    Parameters
    ----------
    dataset : path-like
        Folder with several models and a comparison of them (``llmbrain compare``).
    name : str, optional
        Name of the comparison, if a model holds several.
    title, output_file
        See :func:`generate_report`.

    Returns
    -------
    HTMLReport
        Its ``save()`` writes ``report.html`` in the dataset.

    Raises
    ------
    DatasetError
        If the dataset holds one model, or no comparison that belongs to its networks.
    """
    if output_file is not None:
        check_output_file(output_file)
    page = Report.of_group(find_studies(dataset), name).page(title)
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
        self.networks_name = None  # of the networks of a study that are shown
        self.path = None  # where the page is saved, if not in a study
        self.group = []  # studies of a dataset, for a report of all of them
        self.absent, self.warnings = [], []  # what the report cannot show and why; what its readers must know

    @classmethod
    def of_study(cls, study, topography="auto", networks=None):
        """The report of a study folder, with the networks of a name; they need one if there are several."""
        title = last_part(study.info["model"].get("id", study.subject))
        corpus = study.info["corpus"].get("name", study.task)
        report = cls(study, topography, title=title, subtitle=f"on the corpus “{corpus}”")
        if networks is not None or find_results(study, "networks"):
            report.networks_name = result_name(study, "networks", networks)
        return report

    @classmethod
    def of_group(cls, studies, name=None):
        """The report of all models of a dataset; the comparison lies in the study of its first model."""
        if len(studies) < 2:
            raise DatasetError(
                f"{studies[0].root} holds one model ({studies[0].name}); a report of the group needs at least two."
            )
        report, found = cls(kicker="report of several models", title="What the models share"), []
        for study in studies:
            names = [one for one in find_results(study, "comparison") if name in (None, one)]
            for result in (open_result(study, "comparison", one) for one in names):
                if result.stale:
                    report.absent.append(f"Not shown: {result.stale}")
                else:
                    found.append(Comparison.of_result(result))
        if not found:
            reasons = " ".join(report.absent) or "None has been made."
            raise DatasetError(
                f"{studies[0].root} holds no comparison{f' {name!r}' if name else ''} of its present networks. "
                f"{reasons} Run 'llmbrain compare {studies[0].root}'."
            )
        report.results, report.group = {"comparison": found}, studies
        report.subtitle = f"{len(studies)} models in {studies[0].root.resolve().name}"
        report.path = studies[0].path("report")
        return report

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

    def lacks(self, reason):
        """Say on the page and in a warning that something is damaged and not shown."""
        self.absent.append(reason)
        warnings.warn(reason, LLMBrainWarning, stacklevel=2)

    def current(self, kind, what, name=None):
        """Open the results of a kind that belong to the study and to the networks shown.

        The others are named in ``absent`` with the reason. ``name`` selects one result.
        """
        found, shown = [], self["networks"] if name is None else None
        own = None if shown is None else shown.networks.hash
        for one in find_results(self.study, kind) if name is None else [name]:
            try:
                result = open_result(self.study, kind, one)
                reason, made = result.stale, result.sources.get("networks")
            except (LLMBrainError, OSError) as error:
                self.lacks(f"The {what} {one!r} cannot be read: {error}")
                continue
            if not reason and made and own and own not in made:
                reason = f"The {what} {one!r} is of other networks than {self.networks_name}; choose with --networks."
            if reason:
                self.absent.append(f"Not shown: {reason}")
            else:
                found.append(result)
        return found

    def current_one(self, kind, what, missing):
        """Open the one result of a kind that the report shows: of :meth:`current`, the one named like the networks.

        ``missing`` is what ``absent`` says if the study holds none.
        """
        if not find_results(self.study, kind):
            self.absent.append(missing)
            return None
        found = {result.name: result for result in self.current(kind, what)}
        name = self.networks_name if self.networks_name in found else next(iter(found), None)
        if len(found) > 1:
            others = ", ".join(other for other in found if other != name)
            said = f"The study also holds another {what}: {others}; this report shows {name}."
            self.absent.append(f"{said} The tables of both are in the list of files.")
        return found.get(name)

    @property
    def shown_order(self):
        """The display order of the neurons, a Topography, or None for the natural order."""
        display = self["display"]
        return None if display is None else display.topography

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
            js=_asset("report.js"), maps=_maps_script(self),
        )  # fmt: skip
        several = self.study is not None and len(find_studies(self.study.root)) > 1
        path = self.path if self.study is None else self.study.path("subject_report" if several else "report")
        return HTMLReport(html, path, [section["id"] for section in sections])


def last_part(name):
    """Last part of a model's name, without its owner or folder."""
    return str(name).rstrip("/").rsplit("/", 1)[-1]


def _asset(name, package=__package__, folder="assets"):
    return Markup(resources.files(package).joinpath(folder, name).read_text(encoding="utf-8"))


def _maps_script(report):
    """The canvas of the maps and their data, or nothing for a report without networks or with too many neurons."""
    found = report["networks"]
    if found is None:
        return None
    data = map_data(found.networks.z, found.geometry, report.shown_order, found.threshold)
    if data is None:
        return None
    return {"data": Markup(data), "js": _asset("map.js", plotting.__name__, "static") + _asset("maps.js")}
