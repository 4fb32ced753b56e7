"""One pruned model: its recipe, its size, and the neurons that each layer keeps."""

from ... import plotting
from ...pruning import PrunedModel
from ..page import figure, render
from ..station import STATIONS, Station
from ..tables import number

TILES = {
    "neurons_removed": "of the neurons removed", "total_parameters_removed": "of all parameters removed",
    "total_parameters_after": "parameters left",
}  # fmt: skip
RECIPE = ("score", "allocation", "compensation")


@STATIONS.register("pruned", title="Pruned model", place=130, alone="pruned model", accepts="a pruned model")
class Pruned(Station):
    """A PrunedModel."""

    def take(self, obj, report):
        if not isinstance(obj, PrunedModel):
            return None
        report.results["model"] = obj.summary.get("base_model") or None
        return obj

    def tiles(self, report, result):
        known = result.summary
        return [(number(known[key], key), label) for key, label in TILES.items() if key in known]

    def section(self, report, result):
        fig = plotting.plot_kept_neurons(result, result.geometry, title="")
        alt = "Bar chart of the share of neurons kept in each layer."
        kept = figure(fig, "fig-kept", "Neurons that each layer keeps.", alt)
        return render("facts.html", facts=_facts(result.summary)) + kept

    def methods(self, report, result, cite):
        summary = result.summary
        parts = [f"{k.replace('_', ' ')} {summary[k]}" for k in (*RECIPE, "ratio") if k in summary]
        text = f"MLP neurons were removed permanently ({', '.join(parts)})."
        if summary.get("calibration_tokens"):
            text_hash = summary.get("calibration_hash")
            used = f"{summary['calibration_tokens']} tokens{f' (hash {str(text_hash)[:16]})' if text_hash else ''}"
            text += f" Statistics were taken on {used}; nothing was trained."
        seed = summary.get("random_state")
        return text + (f" Seed {seed}." if seed is not None else "")


def _facts(summary):
    """Recipe, and how many neurons, parameters and bytes are left."""
    recipe = [str(summary[k]) for k in RECIPE if k in summary]
    facts = [("recipe", " + ".join(recipe))] if recipe else []
    if "ratio" in summary:
        removed = f"{number(float(summary['ratio']), 'ratio')} of all {summary.get('ratio_of', 'neurons')}"
        facts.append(("removed", removed))
    for name in ("neurons", "mlp_parameters", "decoder_parameters", "total_parameters", "bytes"):
        before, after = summary.get(f"{name}_before"), summary.get(f"{name}_after")
        if before and after is not None:
            in_bytes = f"{before / 1e6:.1f} → {after / 1e6:.1f} MB"
            counts = in_bytes if name == "bytes" else f"{number(before)} → {number(after)}"
            facts.append((name.replace("_", " "), f"{counts} (−{number(1 - after / before, 'ratio')})"))
    names = {"calibration_tokens": "calibration tokens", "random_state": "seed", "perplexity": "perplexity"}
    return facts + [(label, number(summary[key])) for key, label in names.items() if summary.get(key) is not None]
