"""Pruning: the cost of smaller models, recipe by recipe."""

from dataclasses import dataclass, field

import pandas as pd

from ... import plotting
from ...plotting.pruning import split_dense
from ...pruning.scores import SCORES
from ..page import figure
from ..station import STATIONS, Station
from ..tables import html_table, number


@dataclass
class Grid:
    """The table of pruned models, and how it was made."""

    table: pd.DataFrame
    info: dict = field(default_factory=dict)


@STATIONS.register("pruning", title="Pruning", place=120, alone="pruning", accepts="the table of run_grid")
class Pruning(Station):
    """A table of recipes."""

    what = "pruning table"

    def read(self, study, report):
        found = report.current_one("pruning", self.what, "No pruning has been compared yet (llmbrain run).")
        return None if found is None else Grid(found.read("prune_table"), found.info)

    def take(self, obj, report):
        return Grid(obj) if isinstance(obj, pd.DataFrame) and "perplexity" in obj else None

    def tiles(self, report, result):
        table, _ = split_dense(result.table)
        if not {"ratio", "ratio_to_dense"} <= set(result.table) or not len(table):
            return []
        best = table.loc[table.groupby("ratio")["ratio_to_dense"].idxmin()].iloc[-1]
        removed = number(float(best["ratio"]), "ratio")
        return [(f"× {best['ratio_to_dense']:.2f}", f"perplexity with {removed} removed, best recipe")]

    def section(self, report, result):
        table, dense = split_dense(result.table)
        fig = plotting.plot_pruning_grid(result.table, title="")
        if "ratio" in table and table["ratio"].nunique() > 1:
            caption = "Perplexity on held-out text against size; one line per recipe, with a band over the seeds."
        else:
            caption = "Perplexity on held-out text by recipe; the dashed line is the unpruned model."
        html = figure(fig, "fig-pruning", caption, f"Pruning curves of {len(table)} pruned models.")
        mean = _means(table)
        best = None
        if "ratio" in mean:
            best = (mean["perplexity"] == mean.groupby("ratio")["perplexity"].transform("min")).to_numpy()
        caption = "Pruning recipes; bold: the best of each size"
        caption += "" if dense is None else f". The unpruned model has a perplexity of {dense:.1f}"
        return html + html_table(mean, caption, labels={"ratio": "removed", "variant": "statistics"}, emphasis=best)

    def methods(self, report, result, cite):
        (table, _), info = split_dense(result.table), result.info
        scores = [str(s) for s in dict.fromkeys(table["score"])] if "score" in table else []
        known = dict.fromkeys(key for score in scores if score in SCORES for key in SCORES[score].cites)
        ratios = (
            ", ".join(f"{100 * r:g} %" for r in sorted(set(table["ratio"]))) if "ratio" in table else "several shares"
        )
        of = info.get("ratio_of")
        text = f"MLP neurons were removed permanently ({ratios}{f' of all {of}' if of else ''})"
        text += f", ranked by the scores {', '.join(scores)}{cite(*known) if known else ''}" if scores else ""
        seeds = table["seed"].nunique() if "seed" in table else 0
        text += f", with {seeds} {'seed' if seeds == 1 else 'seeds'}" if seeds else ""
        for role, verb in (("calibration", "statistics were taken on"), ("test_text", "perplexity was measured on")):
            used = info.get(role)
            if used:
                text_hash = f" (hash {str(used['hash'])[:16]})" if used.get("hash") else ""
                text += f"; {verb} {used.get('n_tokens', 'all')} tokens of “{used.get('corpus')}”{text_hash}"
        settings = (info.get("variants") or {}).values()
        if any(s.get("propagation") == "sequential" for s in settings):
            text += "; “sequential” statistics are taken again after each pruned layer"
        if any(s.get("token_weights") == "stream" for s in settings):
            text += "; “weighted” least squares weight each token by the power of its residual stream"
        text += "; perplexity is the exponential of the mean loss per token in nats on held-out text."
        seed = info.get("random_state")
        return text + (f" Seed {seed}." if seed is not None else "")


def _means(table):
    """One row per recipe and size: means over the seeds."""
    keys = [c for c in ("score", "allocation", "compensation", "variant", "ratio") if c in table]
    if "variant" in table and table["variant"].nunique() < 2:
        keys.remove("variant")
    values = [c for c in ("perplexity", "ratio_to_dense", "parameters") if c in table]
    grouped = table.groupby(keys, sort=False, dropna=False)
    mean = grouped[values].mean().reset_index()
    if "seed" in table and table["seed"].nunique() > 1:
        mean["seeds"] = grouped["seed"].nunique().to_numpy()
    if "parameters" in mean:
        mean["parameters"] = mean["parameters"].round().astype("Int64")
    return mean
