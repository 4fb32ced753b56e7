"""Write a report: gather the results, draw them, fill the page."""

import datetime
from html import escape
from importlib import resources
from pathlib import Path

from .. import __version__
from ..exceptions import ParameterError
from ..files import write_text

__all__ = ["HTMLReport", "generate_report"]

KICKERS = {
    "study": "study report", "recording": "recording", "networks": "decomposition", "lesion": "lesion study",
    "pruning": "pruning", "pruned": "pruned model", "dose": "dose and response", "order": "number of networks",
}  # fmt: skip


class HTMLReport:
    """A report as one HTML page, with the methods that nilearn's reports have.

    Parameters
    ----------
    html : str
        The whole page.
    path : pathlib.Path, optional
        Where :meth:`save` writes if it is not told.
    sections : sequence of str
        The ids of its sections, in order.

    Attributes
    ----------
    html : str
        The whole page.
    sections : list of str
        The ids of its sections, in order.

    Examples
    --------
    >>> report = HTMLReport("<!DOCTYPE html><title>t</title>")
    >>> report.get_standalone()[:15]
    '<!DOCTYPE html>'
    """

    def __init__(self, html, path=None, sections=()):
        self.html, self.path, self.sections = html, path, list(sections)
        self.width, self.height = 1100, 800

    def save(self, path=None):
        """Write the page and return its path; without a path, to the study it belongs to."""
        path = path or self.path
        if path is None:
            raise ParameterError("This report belongs to no study folder; say where to write it: save('report.html').")
        return write_text(Path(path), self.html)

    def save_as_html(self, file_name):
        """Write the page, as nilearn's reports do."""
        self.save(file_name)

    def open_in_browser(self, file_name=None):
        """Open the page in the web browser; written to ``file_name``, or to the study, or to a temporary file."""
        import tempfile
        import webbrowser

        path = file_name or self.path or Path(tempfile.mkdtemp(prefix="llmbrain-")) / "report.html"
        webbrowser.open(self.save(path).resolve().as_uri())

    def resize(self, width, height):
        """Set the size that the report has in a notebook, in pixels."""
        self.width, self.height = int(width), int(height)
        return self

    def get_standalone(self):
        """The whole page as text."""
        return self.html

    def get_iframe(self, width=None, height=None):
        """The page in a frame, to be put into another page or a notebook."""
        return (
            f'<iframe srcdoc="{escape(self.html, quote=True)}" width="{width or self.width}" '
            f'height="{height or self.height}" style="border:0;max-width:100%" title="llmbrain report"></iframe>'
        )

    def _repr_html_(self):
        return self.get_iframe()

    def __str__(self):
        return self.html

    def __repr__(self):
        return f"HTMLReport({len(self.html) / 1e6:.1f} MB, sections: {', '.join(self.sections)})"


def generate_report(study_or_object, *, title=None, topography="auto", output_file=None):
    """Make a report of a whole study, or of one result.

    Parameters
    ----------
    study_or_object : path-like, or object
        Study, Recording, NetworkSet, fitted estimator, LesionResult, DoseResponse, Order, PrunedModel or DataFrame.
        A study folder gives the whole report; stations that are absent are left out with a sentence. A data frame is
        taken for the table of :func:`llmbrain.run_grid` or of a lesion study.
    title : str, optional
        Heading of the page.
    topography : "auto", Topography or None
        Display order of neurons. ``"auto"`` takes the study's own, or makes one from half of its runs and keeps it;
        None leaves neurons in natural order.
    output_file : path-like, optional
        Write the page there as well.

    Returns
    -------
    HTMLReport
        ``save()``, ``open_in_browser()``, shown by a notebook.

    Raises
    ------
    DatasetError
        If a path holds no study.
    ParameterError
        If nothing is known to report about the object.
    """
    from .collect import from_object, from_study
    from .sections import build_sections

    if isinstance(study_or_object, (str, Path)):
        from ..dataset import Study

        study_or_object = Study.open(study_or_object)
    is_study = hasattr(study_or_object, "path") and hasattr(study_or_object, "subject")
    data = (from_study if is_study else from_object)(study_or_object, topography)
    render = _renderer()
    sections = build_sections(data, render)
    html = render(
        "page.html", title=title or data.title, subtitle=data.subtitle, kicker=KICKERS[data.kind], version=__version__,
        date=datetime.date.today().isoformat(), sections=sections, css=_asset("report.css"), js=_asset("report.js"),
    )  # fmt: skip
    report = HTMLReport(html, data.output, [section.id for section in sections])
    if output_file is not None:
        report.save(output_file)
    return report


def _asset(name):
    from markupsafe import Markup

    return Markup(resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8"))


def _renderer():
    """A function that fills one of the package's templates; everything not marked safe is escaped."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("llmbrain.reporting", "templates"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip

    def render(template, **values):
        for section in values.get("sections", ()):
            section.html = Markup(section.html)
        return environment.get_template(template).render(**values)

    return render
