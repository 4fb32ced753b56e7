"""Write the page of the documentation from the tables that the replication scripts left.

python benchmarks/replication/report.py replication --out docs/replication.md
"""

import argparse
from pathlib import Path

import pandas as pd

from llmbrain.files import read_json, read_tsv, write_text

TITLES = {
    "lesions": "Single networks and all networks silenced",
    "retain_only": "Only the networks kept",
    "amplification": "Amplification",
    "recurrence": "Recurrence",
}
CLAIMS = {
    "lesions": "Silencing a functional network, or all ten (under 2 % of the units), breaks the model.",
    "retain_only": "Keeping the neurons of the networks, about 10 % of the units, is nearly enough.",
    "amplification": "Amplifying functional networks improves the model.",
    "recurrence": "Networks found on some texts recur in single other texts (IoU > 0.2).",
}
HEAD = """# The first paper, re-tested

Liu et al. (2025), *Brain-Inspired Exploration of Functional Networks and Key Neurons in Large Language Models*
([arXiv:2502.20408](https://arxiv.org/abs/2502.20408)), print their claims from masking code that applied one layer's
mask to every layer, and from controls that were matched in nothing. Here the same questions are put with hooks that are
tested to equal sliced weights, on text that the networks were not found on, beside matched controls. Their data sets
and models are not these, so the figures cannot be compared one by one; the claims can.

Written by `python benchmarks/replication/report.py` from the tables of the scripts beside it.
"""


def main():
    """Read the tables, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="output folders of the scripts, one a model")
    parser.add_argument("--out", default="docs/replication.md")
    args = parser.parse_args()
    parts = [HEAD]
    for name, title in TITLES.items():
        found = [Path(f) for f in args.folders if (Path(f) / f"{name}.json").is_file()]
        if found:
            parts.append(f"## {title}\n\n> {CLAIMS[name]}\n")
            parts += [section(folder, name) for folder in found]
    print(write_text(args.out, "\n".join(parts)))


def section(folder, name):
    """One experiment on one model: setting, statement, table."""
    info = read_json(folder / f"{name}.json")
    setting = (
        f"**{info['model']['id']}**, networks from {info['fit']['corpus']}, tested on {info['test']['corpus']}; "
        f"{info['arguments']['fit_tokens']:,} tokens to fit, {info['arguments']['test_tokens']:,} to test, |z| > "
        f"{info['arguments']['threshold']:g}, {info['arguments']['n_controls']} controls a network and family, "
        f"{info['arguments']['device']}, {info['arguments']['autocast'] or info['arguments']['dtype']}, "
        f"{info['seconds']:.0f} s."
    )
    statement = "\n".join(f"- {line}" for line in info["note"].splitlines())
    return f"{setting}\n\n{statement}\n\n{markdown(tables(folder, name))}\n"


def tables(folder, name):
    """The table of an experiment, cut to what a page can hold."""
    if name == "lesions":
        table = read_tsv(folder / "lesions_effects.tsv")
        table = table[table["task"] == table["task"].iloc[0]]
        rows = table.pivot(index="network", columns="family", values=["control_mean", "control_max", "p"])
        first = table[table["family"] == table["family"].iloc[0]].set_index("network")
        wide = first[["n_neurons", "share", "effect"]].copy()
        for family in dict.fromkeys(table["family"]):
            for column, label in (("control_mean", "mean"), ("control_max", "max"), ("p", "p")):
                wide[f"{family}: {label}"] = rows[column][family]
        return wide.reset_index()
    if name == "retain_only":
        table = read_tsv(folder / "retain_only_effects.tsv")
        return table[
            ["task", "networks", "retained", "share", "least_in_a_layer", "most_in_a_layer", "score", "effect", "sd"]
        ]
    if name == "amplification":
        table = read_tsv(folder / "amplification_chosen.tsv")
        return table[["network", "gain", "effect_choose", "effect", "control_mean", "control_sd", "p", "q"]]
    table = read_tsv(folder / "recurrence_templates.tsv")
    grouped = table.groupby("corpus", sort=False)
    return pd.DataFrame(
        {
            "corpus": list(grouped.groups),
            "texts": grouped["n_texts"].first().to_numpy(),
            "templates": grouped.size().to_numpy(),
            "many to one": grouped["many"].sum().to_numpy(),
            "by chance": grouped["null_many"].sum().to_numpy(),
            "share of texts, one to one": grouped["share"].mean().to_numpy(),
            "mean r": grouped["mean_r"].mean().to_numpy(),
        }
    )


def markdown(table):
    """A data frame as a table in Markdown, shares in percent."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + " --- |" * len(table.columns)]
    for row in table.itertuples(index=False):
        lines.append("| " + " | ".join(cell(v, c) for v, c in zip(row, table.columns)) + " |")
    return "\n".join(lines)


def cell(value, column):
    """One value as people read it."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return ""
    if column in ("share", "least_in_a_layer", "most_in_a_layer") or "share of" in column:
        return f"{value:.1%}"
    return f"{value:g}" if float(value).is_integer() else f"{value:.3f}"


if __name__ == "__main__":
    main()
