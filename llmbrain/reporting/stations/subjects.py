"""The models of a dataset: what they are, and where their own reports lie."""

import pandas as pd

from ..station import STATIONS, Station
from ..tables import html_table


@STATIONS.register("subjects", title="Models", place=15)
class Subjects(Station):
    """A list of Study: only reports of a whole dataset have it."""

    what = "models"

    def tiles(self, report, result):
        return [(len(result), "models")]

    def section(self, report, result):
        rows = []
        for study in result:
            known = study.info["model"]
            rows.append(
                {
                    "model": study.name,
                    "name": known.get("id") or "",
                    "architecture": known.get("architecture") or "",
                    "layers": known.get("n_layers"),
                    "parameters": known.get("n_parameters"),
                    "corpus": study.info["corpus"].get("name") or "",
                }
            )
        pages = {study.name: _page(study) for study in result}
        return html_table(pd.DataFrame(rows), "Models of the dataset", link=("model", pages.get))


def _page(study):
    """Address of the report of one model, or None if it has not been written."""
    path = study.path("subject_report")
    return path.relative_to(study.root).as_posix() if path.is_file() else None
