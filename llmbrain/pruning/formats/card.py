"""The model card of a pruned model: what was removed, how, on which text, and how to open it."""

import html
import json
import re

from ..compensation import COMPENSATIONS
from .base import FORMATS


def model_card(pruned, format, results=None, size=None):
    """Write the README of a saved model: Markdown with a YAML head, in which names and values are escaped.

    ``results`` is a table of measurements; without one, and without perplexities in the summary, the card says that
    none was measured. ``size`` tells what was written: ``bytes``, ``n_files`` and ``dtype`` of the weights.
    """
    s = pruned.summary
    name, origin = s["base_model"].get("id") or "unknown", s["base_model"].get("origin") or {}
    # Quoted as JSON, a name is one string of YAML; the head is not rendered, so HTML in it does no harm.
    known = {"license": origin.get("license"), "base_model": origin.get("base_model")}
    head = [f"{key}: {json.dumps(value)}" for key, value in known.items() if value]
    head += ["library_name: transformers", "tags: [pruned, llmbrain]"]
    lines = ["---", *head, "---", "", f"# {_escape(name)}, {s['neurons_removed']:.0%} of the MLP neurons removed", ""]
    lines += [_provenance(name, origin), "", *_counts(s, size), ""]
    lines += [
        f"Neurons were ranked by `{s['score']}`, the budget was divided among layers by `{s['allocation']}`, "
        f"{_compensation(s)}{_refits(s)} {_widths(s['n_kept'])}",
        "",
        "## Loading", "", FORMATS[format].loading, "",
        "## Measured", "", *_measured(s, results), "",
        "## Limits", "",
        "A pruned model is worse than its base. How much depends on the calibration text; test it on your task.",
        f"Base weights {_escape(s['base_model'].get('weights_hash', 'unknown'))}, calibration "
        f"{s['calibration_hash'][:16]}, seed {s.get('random_state')}, llmbrain {s['llmbrain']}, "
        f"torch {s['torch']}, transformers {s['transformers']}. "
        "Kept neurons and scores are in `llmbrain_subnetwork.safetensors`, the complete recipe in "
        "`llmbrain_pruning.json`.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _provenance(name, origin):
    """Sentence on the base model and its licence."""
    base = origin.get("base_model")
    where = (
        f"`{_escape(base)}` on the Hugging Face hub" if base else f"{_escape(name)}; its files name no id on the hub"
    )
    licence = origin.get("license")
    terms = f"It is under the licence `{_escape(licence)}`" if licence else "Its files name no licence: look it up"
    return f"The base model is {where}. {terms}; it applies to this model too."


def _counts(s, size):
    """Table of counts before and after, and the size of what was written."""
    rows = (
        ("MLP neurons", "neurons"), ("MLP parameters", "mlp_parameters"), ("decoder parameters", "decoder_parameters"),
        ("all parameters", "total_parameters"), ("bytes of the weights in memory", "bytes"),
    )  # fmt: skip
    lines = ["| | before | after | removed |", "| --- | --- | --- | --- |"]
    for label, key in rows:
        lines.append(f"| {label} | {s[key + '_before']:,} | {s[key + '_after']:,} | {s[key + '_removed']:.1%} |")
    if size is not None:
        megabytes = f"{size['bytes'] / 1e6:,.1f} MB in {size['n_files']} files, this one not counted"
        lines += ["", f"On disk: {megabytes}; weights in {size['dtype']}."]
    return lines


def _measured(s, results):
    """Perplexity, text and speed, as far as they were measured."""
    quality, lines = s.get("quality"), []
    if results is not None:
        lines += [_table(results), ""]
    if quality:
        ratio = quality["perplexity_after"] / quality["perplexity_before"]
        lines += [
            "| perplexity | before | after | ratio |", "| --- | --- | --- | --- |",
            f"| {_escape(quality['text'])}, {quality['n_tokens']:,} tokens in windows of {quality['context']} | "
            f"{quality['perplexity_before']:.2f} | {quality['perplexity_after']:.2f} | {ratio:.3f} |", "",
            f"The most likely continuation of “{_escape(quality['prompt'])}”:", "",
            f"- before: {_escape(quality['written_before'])}", f"- after: {_escape(quality['written_after'])}", "",
        ]  # fmt: skip
    elif results is None:
        lines += [
            "Perplexity was not measured when this card was written. To measure it on your text: `llmbrain evaluate "
            "FOLDER --text FILE`.", "",
        ]  # fmt: skip
    return lines + _speed(s.get("speed"))


def _widths(kept):
    if len(set(kept)) == 1:
        return f"Every layer keeps {kept[0]:,}."
    return f"Widths of the layers: {', '.join(map(str, kept))}."


def _compensation(s):
    """What the kept neurons do for the removed ones."""
    steps = s["ratio"] and (s["options"].get("block_steps") or s.get("recovery"))
    text = (
        f"measured on {s['calibration_tokens']:,} calibration tokens{'' if steps else '; no gradient step was taken'})."
    )
    if s["compensation"] == "none":
        return f"and the kept weights are those of the base model (nothing was refitted; {text}"
    return f"and the kept neurons compensate for the removed ones by `{s['compensation']}` (closed forms, {text}"


def _in_a_row(n_blocks):
    return "each block" if n_blocks == 1 else f"each {n_blocks} blocks in a row"


def _refits(s):
    """What else was fitted."""
    options, text = s["options"], ""
    least_squares = s["compensation"] in COMPENSATIONS and "covariance" in COMPENSATIONS[s["compensation"]].needs
    if not s["ratio"]:
        return text
    if least_squares and options.get("refit_attention"):
        text += " The attention's output projection was refitted by least squares, too."
    if options.get("block_steps"):
        text += (
            f" Then all linears of {_in_a_row(options['block_span'])} took {options['block_steps']} gradient steps "
            f"towards the residual stream of the base model {options['lookahead']} layers later."
        )
    if s.get("recovery"):
        text += (
            f" The cut model was then trained for {s['recovery']['minutes']:g} minutes ({s['recovery']['steps']:,} "
            "steps) on what the base model predicts on the calibration text."
        )
    return text


def gain_in_words(speed, what):
    """Sentence on the speed of reading (``"prefill"``) or writing (``"decode"``), or "" without a measurement."""
    if not speed or f"{what}_gain" not in speed:
        return ""
    did = f"reading {speed['prompt']} tokens at once" if what == "prefill" else "writing token by token"
    low, high = speed[f"{what}_gain_low"], speed[f"{what}_gain_high"]
    if low <= 1 <= high:
        return f"{did}: no difference in speed beyond noise ({low:.2f} to {high:.2f} times in {speed['repeats']} pairs)"
    return f"{did}: {speed[f'{what}_gain']:.2f} times the speed ({low:.2f} to {high:.2f} in {speed['repeats']} pairs)"


def _speed(speed):
    """Sentences on the speed, before and after in turn."""
    found = [gain_in_words(speed, what) for what in ("prefill", "decode")]
    if not any(found):
        return []
    note = (
        f"Both models in turn, one sequence at a time, {speed['dtype']}, {speed['device']}. With one sequence a GPU "
        "mostly waits for launches, and smaller matrices are not faster."
    )
    return [*(f"- {line[0].upper()}{line[1:]}." for line in found if line), "", note]


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
