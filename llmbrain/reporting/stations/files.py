"""The files of the study."""

import pandas as pd

from ..page import render
from ..station import STATIONS, Station
from ..tables import html_table


@STATIONS.register("files", title="Files", place=150)
class Files(Station):
    """A table of all files with their sizes."""

    what = "list of files"

    def read(self, study, report):
        rows = [(path.relative_to(study.root).as_posix(), path.stat().st_size / 1e6) for path in study.all_files()]
        return pd.DataFrame(rows, columns=["file", "size (MB)"]).round(2) if rows else None

    def section(self, report, result):
        table = html_table(result, "Files of the study")
        return render("details.html", title=f"{len(result)} files", inside=table)
