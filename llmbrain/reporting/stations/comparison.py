"""Comparison with other models: which networks they share, and what became of the others."""

import pandas as pd

from ...plotting import plot_models
from ...subjects.comparison import Comparison
from ..page import figure, note
from ..station import STATIONS, Station
from ..tables import html_table

SHARED = ("network", "isc", "q", "n_kept", "words")
PAIRS = ("network", "match", "score", "explained", "fate", "p")
EFFECTS = {"effect": "effect of its lesion", "match_effect": "effect of the match's lesion"}


@STATIONS.register(
    "comparison", title="Compared with other models", place=125, alone="comparison of models", accepts="a comparison"
)
class Compared(Station):
    """A list of Comparison."""

    what = "comparison of models"

    def read(self, study, report):
        return [Comparison.of_result(one) for one in report.current("comparison", self.what)] or None

    def take(self, obj, report):
        return [obj] if isinstance(obj, Comparison) else None

    def tiles(self, report, result):
        fates = result[0].fates()
        first = fates[fates["model"] == result[0].info["models"][0]]
        total = int(first[["kept", "split", "lost"]].to_numpy().sum())
        return [(f"{int(first['kept'].sum())} of {total}", "networks kept in other models")]

    def section(self, report, result):
        parts = [_comparison(i, one) for i, one in enumerate(result)]
        return "".join([_models(report.group), *parts] if report.group else parts)

    def methods(self, report, result, cite):
        info = result[0].info
        removed = f" Confounds that were regressed out: {', '.join(info['confounds'])}." if info["confounds"] else ""
        return (
            f"Time courses of {len(info['models'])} models were aligned on {info['n_words']} words of "
            f"{info['n_documents']} documents.{removed} Networks were matched one to one on every other document and "
            f"scored on the documents between; a network is kept from r = {info['kept_at']:g}. Correlations between "
            f"models were tested by {info['n_draws']} circular shifts within documents, with FDR over networks."
        )


def _models(studies):
    """A table of the models of a dataset, with links to the reports that have been written."""
    rows = []
    for study in studies:
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
    pages = {study.name: study.path("subject_report") for study in studies}
    links = {name: path.relative_to(studies[0].root).as_posix() for name, path in pages.items() if path.is_file()}
    return html_table(pd.DataFrame(rows), "Models of the dataset", link=("model", links.get))


def _comparison(number, found):
    models = found.info["models"]
    shared = found.shared.sort_values("isc", ascending=False)[list(SHARED)]
    about = f"Networks of {models[0]}, with their correlation between all models on held-out documents (isc)"
    caption = (
        "A tree of the models, the mean correlation of their matched networks on held-out documents, and how many "
        f"networks of {models[0]} are kept, split and lost in each of the others."
    )
    html = figure(plot_models(found, title=""), f"fig-models-{number}", caption, "Similarity of the models.", True)
    html += html_table(found.fates(), "Networks of each model (first column) in each other model")
    html += html_table(found.similarity.reset_index(), "Mean correlation of matched networks on held-out documents")
    html += html_table(shared, f"{about}, and the words that drive them most")
    for (_, other), pairs in found.pairs[found.pairs["model"] == models[0]].groupby(["model", "other"], sort=False):
        columns = [*PAIRS, *(name for name in EFFECTS if name in pairs)]
        html += html_table(pairs[columns], f"Networks of {models[0]} and their matches in {other}", labels=EFFECTS)
    return html + "".join(map(note, found.info.get("notes", [])))
