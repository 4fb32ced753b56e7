"""Write the documentation page from the tables of the replication scripts.

python benchmarks/replication/report.py replication --out docs/replication.md
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from paper import CLAIMS, PRINTED

from llmbrain.files import read_json, read_tsv, write_text

TITLES = {
    "lesions": "Single networks and all networks silenced",
    "strongest": "What the strongest networks are",
    "retain_only": "Only the networks kept",
    "amplification": "Amplification",
    "recurrence": "Recurrence",
}
DEMO = "SmolLM2-135M-Instruct (the demo model)"
NAMES = {"demo": DEMO, "SmolLM2-135M-Instruct.Q4_1": DEMO, "qwen2.5-coder-0.5b": "Qwen2.5-Coder-0.5B-Instruct"}
HEAD = """# The first paper, re-tested

Liu et al. (2025), *Brain-Inspired Exploration of Functional Networks and Key Neurons in Large Language Models*
([arXiv:2502.20408](https://arxiv.org/abs/2502.20408)), report results from masking code that applied the mask of one
layer to every layer, and compare them with random neurons that are not matched to the networks. Here the same questions
are asked with lesions that are tested to equal sliced weights, on text that was not used to find the networks, and with
matched controls. The data sets and models differ from theirs, so single numbers cannot be compared, but the claims can.
Every script takes `--model`; a column or section for each model follows.

This page is written by `python benchmarks/replication/report.py benchmarks/results/replication/*` from the tables of
the scripts in these folders. Networks are numbered by the variance that they explain. "Above all" means more harm than
every control set. `q` is a false discovery rate over all networks, with the controls of all networks pooled. `pairs`
are minimal pairs of BLiMP, from 14 paradigms.
"""


def main():
    """Read the tables and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="output folders of the scripts, one per model")
    parser.add_argument("--out", default="docs/replication.md")
    args = parser.parse_args()
    parts = [HEAD, f"## In short\n\n{markdown(summary([Path(f) for f in args.folders]))}\n"]
    for name, title in TITLES.items():
        found = [Path(f) for f in args.folders if (Path(f) / f"{name}.json").is_file()]
        if found:
            parts.append(f"## {title}\n\n> {CLAIMS[name]}\n\nThe paper prints:\n\n{PRINTED[name]}\n")
            parts += [section(folder, name) for folder in found]
    print(write_text(args.out, "\n".join(parts)))


def summary(folders):
    """One column per model: what each experiment found."""
    columns = [
        dict(row for name, lines in SUMMARIES.items() if (folder / f"{name}.json").is_file() for row in lines(folder))
        for folder in folders
    ]
    rows = list(dict.fromkeys(row for column in columns for row in column))
    table = {model_name(f): [c.get(row, "not measured") for row in rows] for f, c in zip(folders, columns)}
    return pd.DataFrame({"": rows, **table})


def model_name(folder):
    """Name of the model of a folder, from the first experiment that is there."""
    found = next(folder / f"{name}.json" for name in TITLES if (folder / f"{name}.json").is_file())
    model = read_json(found)["model"]["id"]
    return NAMES.get(model, model)


def section(folder, name):
    """Format one experiment on one model: setting, statement, table."""
    info = read_json(folder / f"{name}.json")
    setting = (
        f"**{NAMES.get(info['model']['id'], info['model']['id'])}**, networks from {info['fit']['corpus']}, "
        f"tested on {info['test']['corpus']}; "
        f"{info['arguments']['fit_tokens']:,} tokens to fit, {info['arguments']['test_tokens']:,} to test, |z| > "
        f"{info['arguments']['threshold']:g}, {info['arguments']['n_controls']} controls per network and family, "
        f"{info['arguments']['device']}, {info['arguments']['autocast'] or info['arguments']['dtype']}, "
        f"{info['seconds']:.0f} s."
    )
    told = "Printed" if name != "strongest" else tuple("0123456789")  # the verdict and the table say it
    lines = [line for line in info["note"].splitlines() if not line.startswith(told)]
    statement = "\n".join(f"- {line}" for line in lines)
    verdict = VERDICTS[name](folder)
    return f"{setting}\n\n**{verdict[0]}** {verdict[1]}\n\n{statement}\n\n{markdown(TABLES[name](folder))}\n"


# ------------------------------------------------------------------------------------------------ silenced
def lesion_summary(folder):
    """Networks that beat all their controls, the largest effect, all networks together, and random neurons."""
    table = read_tsv(folder / "lesions_effects.tsv")
    table = table[table["task"] == table["task"].iloc[0]]
    yield "intact loss, nats per token", f"{table.intact.iloc[0]:.2f}"
    for family, part in table.groupby("family", sort=False):
        single, whole = part[part.network != "all networks"], part[part.network == "all networks"].iloc[0]
        above, top = int((single.effect > single.control_max).sum()), single.loc[single.effect.idxmax()]
        yield (
            f"networks that do more harm than each control, {family}",
            f"{above} of {len(single)} (of {single.n_controls.max():.0f} controls)",
        )
        yield f"networks with q < 0.05, {family}", f"{int((single.q_pooled < 0.05).sum())} of {len(single)}"
        yield (
            f"most harmful network, against {family}",
            f"+{top.effect:.2f} (controls {top.control_mean:.2f} ± {top.control_sd:.2f})",
        )
        yield (
            f"all networks together, against {family}",
            f"+{whole.effect:.2f} (controls {whole.control_mean:.2f} ± {whole.control_sd:.2f}; {whole.share:.0%} of "
            "the neurons)",
        )
    yield "15 % of all neurons at random", f"+{read_tsv(folder / 'lesions_random15.tsv').effect.iloc[0]:.2f}"


def strongest_table(folder):
    """The table of the script, in the words of this page."""
    table = read_tsv(folder / "strongest_networks.tsv").rename(columns={"whole": "nats", "in them": "share in them"})
    for column in ("share in them", "massive"):
        table[column] = table[column].map("{:.1%}".format)
    for column in ("nats", *(c for c in table if "top" in c)):
        table[column] = table[column].map("{:.2f}".format)
    tokens = table["tokens"].str.split(" ").str[:8].str.join(" ").str.replace("|", "\\|")
    return table.assign(tokens=tokens)


def strongest_verdict(folder):
    """Say whether a handful of neurons explains the harm of a network."""
    table = read_tsv(folder / "strongest_networks.tsv")
    share = table["top 25"] / table["whole"]
    few = table.network[share >= 0.5]
    word = "No handful of neurons does it." if few.empty else f"A few neurons explain {', '.join(few)}."
    return word, (
        "Of the networks above all controls of equal importance, the most harmful, at most five. The 25 strongest "
        f"neurons of a network alone do {spread(share)} of its harm, and the network without them does "
        f"{spread(table['without top 25'] / table['whole'])}. Massive neurons (a standard deviation above 30 times "
        f"the median of their layer) are at most {table.massive.max():.1%} of a network. The last column counts the "
        "tokens among the 200 where the network is strongest, with the sign of its course."
    )


def strongest_summary(folder):
    """How much of the harm the strongest neurons explain."""
    table = read_tsv(folder / "strongest_networks.tsv")
    share = table["top 25"] / table["whole"]
    yield "harm of the 25 strongest neurons alone, share of their network's", spread(share)


def spread(shares):
    """The smallest and the largest share in words."""
    least, most = f"{shares.min():.0%}", f"{shares.max():.0%}"
    return least if least == most else f"{least} to {most}"


def lesion_table(folder):
    """Make one row per network: its effect, and for each control family mean, sd, max and q."""
    effects = read_tsv(folder / "lesions_effects.tsv")
    table = effects[effects["task"] == effects["task"].iloc[0]]
    first = table[table["family"] == table["family"].iloc[0]].set_index("network")
    wide = first[["n_neurons", "share", "effect"]].rename(columns={"n_neurons": "neurons", "effect": "nats"})
    for family, rows in table.groupby("family", sort=False):
        rows = rows.set_index("network")
        wide[f"{family}: mean ± sd"] = [f"{m:.2f} ± {s:.2f}" for m, s in zip(rows.control_mean, rows.control_sd)]
        wide[f"{family}: max"] = rows.control_max
        wide[f"{family}: above all"] = np.where(rows.effect > rows.control_max, "yes", "no")
        wide[f"{family}: q"] = rows.q_pooled
    for task, rows in effects.groupby("task", sort=False):
        if task != effects["task"].iloc[0]:
            rows = rows[rows["family"] == rows["family"].iloc[-1]].set_index("network")
            wide[f"{task}: errors (intact {rows.intact.iloc[0]:.1%})"] = [
                f"{e:+.1%}{' (above all)' if e > m else ''}" for e, m in zip(rows.effect, rows.control_max)
            ]
    return wide.reset_index()


def lesion_verdict(folder):
    """Judge the claim by the strictest control family."""
    table = read_tsv(folder / "lesions_effects.tsv")
    table = table[(table["task"] == table["task"].iloc[0]) & (table["network"] != "all networks")]
    above = {f: int((p.effect > p.control_max).sum()) for f, p in table.groupby("family", sort=False)}
    family, n = min(above.items(), key=lambda x: x[1])
    k = table["network"].nunique()
    word = "Holds." if n == k else "Does not hold." if not n else "True of some networks, false of others."
    strong = table[(table.family == family) & (table.effect > table.control_max)].sort_values("effect")
    named = ", ".join(f"{x.network} (+{x.effect:.2f} nats)" for x in strong.iloc[::-1].itertuples())
    others = "; ".join(f"against {f} it is {m}" for f, m in above.items() if f != family)
    return word, (
        f"Against {family}, {n} of {k} networks do more harm than each of their controls{': ' if n else '.'}{named}"
        f"{'; ' + others if others else ''}. The effects of the other networks lie within the range of equally large "
        "sets of equally important neurons. Random neurons are too weak a control: silencing important neurons does "
        "harm, whether they belong to a network or not."
    )


# ------------------------------------------------------------------------------------------------ kept
def retain_table(folder):
    """Make one row per number of networks: loss with the networks, and with their controls."""
    table = read_tsv(folder / "retain_only_effects.tsv")
    table = table[table["task"] == table["task"].iloc[0]]
    wide = table.pivot(index="networks", columns="retained", values="score")
    own = table[table["retained"] == "networks"].set_index("networks")
    wide.insert(0, "share", own["share"])
    wide["share by layer"] = [f"{a:.0%} to {b:.0%}" for a, b in zip(own.least_in_a_layer, own.most_in_a_layer)]
    order = ["share", "share by layer", *dict.fromkeys(table["retained"])]
    return wide[order].rename_axis("K").reset_index().rename(columns={"share": "kept"})


def retain_verdict(folder):
    """Describe how much must be kept for a loss close to the intact one."""
    table = read_tsv(folder / "retain_only_effects.tsv")
    table = table[table["task"] == table["task"].iloc[0]]
    own = table[table["retained"] == "networks"].sort_values("share")
    near = own[own.effect < 0.1]
    tenth = own.iloc[(own.share - 0.1).abs().argmin()]
    enough = (
        f"the loss comes within 0.1 nats of the intact one only with {near.share.iloc[0]:.0%} of the neurons"
        if len(near)
        else ("no number of networks tried brings the loss within 0.1 nats of the intact one")
    )
    holds = len(near) and near.share.iloc[0] < 0.2
    random = table[(table.retained == "same layers") & (table.networks == tenth.networks)].score.iloc[0]
    strong = table[(table.retained == "strongest neurons") & (table.networks == tenth.networks)].score.iloc[0]
    return "Holds." if holds else "Does not hold.", (
        f"With {tenth.share:.0%} of the neurons the loss is {tenth.score:.1f} nats per token. It is {tenth.intact:.2f} "
        f"in the intact model, {random:.1f} with the same number of random neurons of the same layers, and "
        f"{strong:.1f} with the strongest neurons. {enough[0].upper()}{enough[1:]}."
    )


def retain_summary(folder):
    """Loss with the networks alone."""
    table = read_tsv(folder / "retain_only_effects.tsv")
    table = table[(table["task"] == table["task"].iloc[0]) & (table["retained"] == "networks")]
    for row in table.itertuples():
        yield f"only {row.networks} networks kept, loss", f"{row.score:.2f} with {row.share:.0%} of the neurons"


# ------------------------------------------------------------------------------------------------ amplified
def amplification_summary(folder):
    """Networks that amplification helps."""
    table = read_tsv(folder / "amplification_chosen.tsv")
    sure = int(((table.ci_high < 0) & (table.q_pooled < 0.05)).sum())
    yield "networks whose amplification helps beyond controls", f"{sure} of {len(table)}"


def amplification_table(folder):
    """Make one row per network: the chosen gain, its effect on both texts, and the controls."""
    table = read_tsv(folder / "amplification_chosen.tsv")
    added = read_tsv(folder / "amplification_added.tsv").set_index("network")
    wide = table[["network", "gain", "effect_choose", "effect"]].rename(columns={"effect": "nats on other text"})
    wide = wide.rename(columns={"effect_choose": "nats where chosen"})
    wide["95 %"] = [f"{a:+.4f} to {b:+.4f}" for a, b in zip(table.ci_low, table.ci_high)]
    wide["controls, mean ± sd"] = [f"{m:+.4f} ± {s:.4f}" for m, s in zip(table.control_mean, table.control_sd)]
    wide["best control"] = table.control_best
    wide["q"] = table.q_pooled
    wide["1 added: nats"] = added.effect.reindex(table.network).to_numpy().round(2)
    wide["1 added: controls"] = added.control_mean.reindex(table.network).to_numpy().round(2)
    return wide


def amplification_verdict(folder):
    """Describe whether any network helps on other text, beyond its controls."""
    table = read_tsv(folder / "amplification_chosen.tsv")
    sure = table[(table.ci_high < 0) & (table.q_pooled < 0.05)]
    lower = int((table.effect < 0).sum())
    least = (table.gain == min(read_json(folder / "amplification.json")["arguments"]["gains"])).all()
    word = "Does not hold." if not len(sure) else "Holds for some networks."
    return word, (
        f"{lower} of {len(table)} networks lower the loss at the gain that was best on other text, by at most "
        f"{-table.effect.min():.4f} nats, and {len(sure)} of them by more than amplified controls do."
        f"{' For every network the smallest gain was the best: more amplification is worse.' if least else ''}"
    )


# ------------------------------------------------------------------------------------------------ recurrence
def recurrence_table(folder):
    """Make one row per corpus."""
    table = read_tsv(folder / "recurrence_templates.tsv")
    grouped = table.groupby("corpus", sort=False)
    pairs = grouped.size() * grouped["n_individual"].first()
    return pd.DataFrame(
        {
            "corpus": list(grouped.groups),
            "texts": grouped["n_texts"].first().to_numpy(),
            "templates": grouped.size().to_numpy(),
            "pairs with IoU > 0.2": [f"{m:.0f} ({m / n:.1%})" for m, n in zip(grouped["many"].sum(), pairs)],
            "by chance": [f"{m:.0f} ({m / n:.1%})" for m, n in zip(grouped["null_many"].sum(), pairs)],
            "texts where a template is found, one to one": grouped["share"].mean().map("{:.0%}".format).to_numpy(),
            "templates beyond chance, q < 0.05": (table["q"] < 0.05)
            .groupby(table["corpus"], sort=False)
            .sum()
            .to_numpy(),
            "mean r": grouped["mean_r"].mean().to_numpy(),
        }
    )


def recurrence_verdict(folder):
    """Describe how many templates recur, and how often."""
    table = read_tsv(folder / "recurrence_templates.tsv")
    sure, share = int((table.q < 0.05).sum()), table.share.mean()
    word = "Holds." if share > 0.5 else "Weakly." if sure else "Does not hold."
    return word, (
        f"{sure} of {len(table)} templates recur beyond chance, but a template is found in {share:.0%} of single texts."
    )


def recurrence_summary(folder):
    """Templates that recur, and in how many texts."""
    table = read_tsv(folder / "recurrence_templates.tsv")
    yield "templates that recur beyond chance", f"{int((table.q < 0.05).sum())} of {len(table)}"
    yield "single texts in which a template is found", f"{table.share.mean():.0%}"


SUMMARIES = {
    "lesions": lesion_summary,
    "strongest": strongest_summary,
    "retain_only": retain_summary,
    "amplification": amplification_summary,
    "recurrence": recurrence_summary,
}
TABLES = {
    "lesions": lesion_table,
    "strongest": strongest_table,
    "retain_only": retain_table,
    "amplification": amplification_table,
    "recurrence": recurrence_table,
}
VERDICTS = {
    "lesions": lesion_verdict,
    "strongest": strongest_verdict,
    "retain_only": retain_verdict,
    "amplification": amplification_verdict,
    "recurrence": recurrence_verdict,
}


def markdown(table):
    """Format a data frame as a Markdown table, shares in percent."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + " --- |" * len(table.columns)]
    for row in table.itertuples(index=False):
        lines.append("| " + " | ".join(cell(v, c) for v, c in zip(row, table.columns)) + " |")
    return "\n".join(lines)


def cell(value, column):
    """Format one value."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return ""
    if column in ("share", "kept"):
        return f"{value:.1%}"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return f"{value:g}" if float(value).is_integer() else f"{value:.4f}" if abs(value) < 0.01 else f"{value:.3g}"


if __name__ == "__main__":
    main()
