"""The finished report as an object: shown by notebooks, saved, opened in a browser."""

from string import Template

from nilearn.reporting import HTMLReport as NilearnReport

from ..exceptions import ParameterError
from ..files import as_path, write_text
from ..files.outputs import check_output_head

MARK = '<meta name="generator" content="llmbrain '  # in the head of every report


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
        """Write the page and return its path; without a path, into the study it belongs to.

        Files that are not reports of llmbrain are refused with a :class:`~llmbrain.exceptions.ParameterError`.
        """
        path = self.path if path is None else path
        if path is None:
            raise ParameterError("This report belongs to no study folder. Pass a file, e.g. save('report.html').")
        return write_text(check_output_file(path), self.html)

    def save_as_html(self, file_name):
        """Write the page as :meth:`save` does; nilearn's name for it."""
        self.save(file_name)

    def _repr_html_(self):
        return self.get_iframe()

    def __repr__(self):
        return f"HTMLReport({len(self.html) / 1e6:.1f} MB, sections: {', '.join(self.sections)})"


def check_output_file(path):
    """Return a path to write a report to, or refuse it: a folder, or a file that is not a report of llmbrain."""
    path = as_path(path)
    if path.is_dir():
        raise ParameterError(f"{path} is a folder. Pass a file, e.g. {path / 'report.html'}.")
    return check_output_head(path, [MARK.encode()], "a report of llmbrain")
