"""The model card of a pruned model: what was removed, how, on which text, and how to open it."""

import html
import json
import re

from ..compensation import COMPENSATIONS
from ..reconstruct import READERS
from .base import FORMATS

__all__ = ["model_card"]


def model_card(pruned, format, results=None):
    """Write the README of a saved model: Markdown with a YAML head, in which names and values are escaped.

    ``results`` is a table of measurements; without one the card says that no perplexity was measured.
    """
    s = pruned.summary
    base = s["base_model"].get("id") or "unknown"
    # Quoted as JSON, the name is one string of YAML; the head is not rendered, so HTML in it does no harm.
    head = [f"base_model: {json.dumps(base)}", "library_name: transformers", "tags: [pruned, llmbrain]"]
    lines = ["---", *head, "---", ""]
    lines += [f"# {_escape(base)}, {s['neurons_removed']:.0%} of the MLP neurons removed", ""]
    lines += [
        "| | before | after | removed |", "| --- | --- | --- | --- |",
        *(
            f"| {label} | {s[key + '_before']:,} | {s[key + '_after']:,} | {s[key + '_removed']:.1%} |"
            for label, key in (
                ("MLP neurons", "neurons"), ("MLP parameters", "mlp_parameters"),
                ("decoder parameters", "decoder_parameters"), ("all parameters", "total_parameters"),
                ("bytes", "bytes"),
            )
        ), "",
    ]  # fmt: skip
    lines += [
        f"Neurons were ranked by `{s['score']}`, the budget was divided among layers by `{s['allocation']}`, "
        f"{_compensation(s)}{_refits(s)} Widths of the layers: {', '.join(map(str, s['n_kept']))}.",
        "",
        "## Loading", "", FORMATS[format].loading, "",
        "## Measured", "",
    ]  # fmt: skip
    if s.get("speed"):
        lines += [*_speed(s["speed"]), ""]
    if results is None:
        lines += [
            "Perplexity was not measured when this card was written. To measure it on your text: `llmbrain evaluate "
            "FOLDER --text FILE`."
        ]
    else:
        lines += [_table(results)]
    lines += [
        "", "## Limits", "",
        "A pruned model is worse than its base. How much depends on the calibration text; test it on your task.",
        f"Base weights {_escape(s['base_model'].get('weights_hash', 'unknown'))}, calibration "
        f"{s['calibration_hash'][:16]}, seed {s.get('random_state')}, llmbrain {s['llmbrain']}, "
        f"torch {s['torch']}, transformers {s['transformers']}. "
        "Kept neurons and scores are in `llmbrain_subnetwork.safetensors`, the complete recipe in "
        "`llmbrain_pruning.json`.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _compensation(s):
    """What the kept neurons do for the removed ones."""
    text = f"measured on {s['calibration_tokens']:,} calibration tokens; no gradient step was taken)."
    if s["compensation"] == "none":
        return f"and the kept weights are those of the base model (nothing was refitted; {text}"
    return f"and the kept neurons compensate for the removed ones by `{s['compensation']}` (closed forms, {text}"


def _refits(s):
    """What else was refitted, if least squares were used."""
    least_squares = s["compensation"] in COMPENSATIONS and "covariance" in COMPENSATIONS[s["compensation"]].needs
    if not least_squares or not s["ratio"]:
        return ""
    options = s["options"]
    what = sorted(READERS.get(options.get("reconstruct"), ()))
    what += ["the attention's output projection"] if options.get("refit_attention") else []
    return f" Also refitted by least squares: {', '.join(what)}." if what else ""


def _speed(speed):
    """Tokens per second before and after."""
    rows = [
        f"| {label} | {speed[f'{key}_tokens_per_second_before']:.0f} | {speed[f'{key}_tokens_per_second_after']:.0f} |"
        for label, key in ((f"reading {speed['prompt']} tokens", "prefill"), ("writing one by one", "decode"))
    ]
    note = (
        f"One sequence at a time, {speed['dtype']}, {speed['device']}: a brief measurement right after pruning. With "
        "one sequence a GPU mostly waits for launches, and smaller matrices are not faster."
    )
    return ["| tokens per second | before | after |", "| --- | --- | --- |", *rows, "", note]


def _table(frame):
    """A data frame as a Markdown table."""
    head = "| " + " | ".join(map(_escape, frame.columns)) + " |"
    rule = "| " + " | ".join("---" for _ in frame.columns) + " |"
    cells = [[f"{v:.4g}" if isinstance(v, float) else _escape(v) for v in row] for row in frame.values]
    rows = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([head, rule, *rows])


def _escape(value):
    """Escape a value as literal text of one line of Markdown: no HTML, no links, no new cells or headings."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\\\`*\[\]|#!])", r"\\\1", text)
