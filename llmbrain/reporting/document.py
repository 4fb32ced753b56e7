"""The finished report as an object: shown by notebooks, saved, opened in a browser."""

from pathlib import Path
from string import Template

from nilearn.reporting import HTMLReport as NilearnReport

from ..exceptions import ParameterError
from ..files import write_text

__all__ = ["HTMLReport"]


class HTMLReport(NilearnReport):
    """A report as one HTML page; a nilearn report that also knows its sections and its study.

    Parameters
    ----------
    html : str
        The whole page.
    path : pathlib.Path, optional
        Default destination of :meth:`save`.
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
        super().__init__(Template("$body"), html)
        self.path, self.sections = path, list(sections)
        self.resize(1100, 800)

    def save(self, path=None):
        """Write the page and return its path; without a path, into the study it belongs to."""
        path = path or self.path
        if path is None:
            raise ParameterError("This report belongs to no study folder. Say where to write it: save('report.html').")
        return write_text(Path(path), self.html)

    def _repr_html_(self):
        return self.get_iframe()

    def __repr__(self):
        return f"HTMLReport({len(self.html) / 1e6:.1f} MB, sections: {', '.join(self.sections)})"
