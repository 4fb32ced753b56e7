"""The model card of a pruned model: what was removed, how, on what, and how to open it."""

__all__ = ["model_card"]

_LOADING = {
    "hetero": """The layers differ in width.

```python
import llmbrain as lb
model, tokenizer = lb.load_model("this folder")            # runs no code out of the folder
```
```python
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("this folder", trust_remote_code=True)
```
Without `trust_remote_code`, transformers stops at the shapes of the linears; never load with
`ignore_mismatched_sizes`, which would fill them with random numbers.""",
    "uniform": """All layers have one width: any tool that opens the base model opens this one.

```python
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("this folder")
```""",
    "padded": """Narrow layers are filled with zeros up to the widest one: any tool that opens the base model opens
    this one, with the
same logits, but only the width of the widest layer is saved.

```python
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("this folder")
```""",
    "gguf": """`model.gguf` is for llama.cpp (architecture `deci`, which has a width for each layer).

```sh
llama-cli -m model.gguf -p "The brain is"
```
Files of this writer were checked against llama.cpp (the xllamacpp build of 2026-10) with small random models, cut in
neurons and in heads: the same probabilities. This very file was read by no other program before you.""",
}


def model_card(pruned, format, results=None):
    """Text of the README of a saved model.

    Parameters
    ----------
    pruned : PrunedModel
    format : str
    results : pandas.DataFrame, optional
        Measured table; without one the card says that no perplexity was measured.

    Returns
    -------
    str
        Markdown with a YAML head.
    """
    s = pruned.summary
    base = s["base_model"].get("id") or "unknown"
    lines = ["---", f"base_model: {base}", "library_name: transformers", "tags: [pruned, llmbrain]", "---", ""]
    lines += [f"# {base}, {s['neurons_removed']:.0%} of the MLP neurons removed", ""]
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
        f"Neurons were ranked by `{s['score']}`, the budget was spread over layers by `{s['allocation']}`, "
        f"{_compensation(s)}{_refits(s)} Widths of the layers: {', '.join(map(str, s['n_kept']))}.",
        "",
        "## Loading", "", _LOADING[format], "",
        "## Measured", "",
    ]  # fmt: skip
    if s.get("speed"):
        lines += [*_speed(s["speed"]), ""]
    if results is None:
        lines += [
            "Perplexity was not measured when this card was written. On text like yours: `llmbrain evaluate FOLDER "
            "--text FILE`."
        ]
    else:
        lines += [_table(results)]
    lines += [
        "", "## Limits", "",
        "A pruned model knows less than its base. What was lost depends on the calibration text; test it on "
        "what you need.",
        f"Base weights {s['base_model'].get('weights_hash', 'unknown')}, calibration "
        f"{s['calibration_hash'][:16]}, seed "
        f"{s.get('random_state')}, llmbrain {s['llmbrain']}, torch {s['torch']}, transformers {s['transformers']}. "
        "Kept neurons and scores are in `llmbrain_subnetwork.safetensors`, the whole recipe in "
        "`llmbrain_pruning.json`.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _compensation(s):
    """What the neurons that stay do for the others."""
    text = f"measured on {s['calibration_tokens']:,} calibration tokens; no gradient step was taken)."
    if s["compensation"] == "none":
        return f"and the weights that stay are those of the base model (nothing was refitted; {text}"
    return f"and the neurons that stay make good for the others by `{s['compensation']}` (closed forms, {text}"


def _refits(s):
    """What else was refitted: only where least squares were."""
    if s["compensation"] not in ("ridge", "affine") or not s["ratio"]:
        return ""
    options = s["options"]
    what = {"all": ["gate", "up"], "up": ["up"]}.get(options.get("reconstruct"), [])
    what += ["the attention's output projection"] if options.get("refit_attention") else []
    return f" Refitted as well, by least squares: {', '.join(what)}." if what else ""


def _speed(speed):
    """Tokens per second before and after."""
    rows = [
        f"| {label} | {speed[f'{key}_tokens_per_second_before']:.0f} | {speed[f'{key}_tokens_per_second_after']:.0f} |"
        for label, key in ((f"reading {speed['prompt']} tokens", "prefill"), ("writing, one by one", "decode"))
    ]
    note = (
        f"One sequence at a time, {speed['dtype']}, {speed['device']}: a brief measurement, right after pruning, for "
        "orientation. At one sequence a GPU mostly waits for launches, and smaller matrices are then not faster."
    )
    return ["| tokens per second | before | after |", "| --- | --- | --- |", *rows, "", note]


def _table(frame):
    """A data frame as a Markdown table."""
    head = "| " + " | ".join(map(str, frame.columns)) + " |"
    rule = "| " + " | ".join("---" for _ in frame.columns) + " |"
    rows = [
        "| " + " | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row) + " |" for row in frame.values
    ]
    return "\n".join([head, rule, *rows])
