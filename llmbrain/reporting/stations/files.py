"""The files of the study."""

from urllib.parse import quote

import pandas as pd

from ..page import render
from ..station import STATIONS, Station
from ..tables import html_table


@STATIONS.register("files", title="Files", place=150)
class Files(Station):
    """A table of all files with their sizes."""

    what = "list of files"

    def read(self, study, report):
        pages = study.path("report"), study.path("subject_report")  # a page must not depend on the one it replaces
        files = [path for path in study.all_files() if path not in pages]
        rows = [(path.relative_to(study.root).as_posix(), path.stat().st_size) for path in files]
        return pd.DataFrame(rows, columns=["file", "size"]) if rows else None

    def section(self, report, result):
        shown = result.assign(size=[size_in_words(size) for size in result["size"]])
        table = html_table(shown, "Files of the study; a link opens the file beside this page", link=("file", quote))
        total = size_in_words(int(result["size"].sum()))
        return render("details.html", title=f"{len(result)} files, {total}", inside=table)


def size_in_words(n_bytes):
    """A size with three digits and the unit that suits it.

    Examples
    --------
    >>> size_in_words(348), size_in_words(43_000_000)
    ('348 B', '43.0 MB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.3g} {unit}" if n_bytes < 10 * factor else f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes} B"
