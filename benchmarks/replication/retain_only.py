"""Keep only the networks, and test whether a small share of the neurons is nearly enough.

    python benchmarks/replication/retain_only.py --components 10 64
    python benchmarks/replication/retain_only.py --wikitext DIR --components 10 64 128 256 512 --device cuda

Claim (Liu et al. 2025): keeping the neurons of a few networks, about 10 %, gives nearly the intact score. Conditions:
all other neurons zero, or at their mean; the published masking code, which applied the row of the last layer to every
layer ("late binding"); and instead of the networks' neurons, as many of the same layers at random or of equal
importance. A retained share is the share of all neurons, and the smallest and largest share of a layer.
"""

import time

import numpy as np
import pandas as pd
from common import PAPER, activations, masks_of, networks, parser, statistics_of, subject, union_of, write

from llmbrain.lesions import Edit
from llmbrain.lesions.comparison import compare
from llmbrain.lesions.scoring import Scorer
from llmbrain.masks import NeuronMask
from llmbrain.masks.controls import importance_matched, layer_matched, top_matched


def main():
    """Run, print, write."""
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--components", type=int, nargs="+", default=[10, 64])
    args = p.parse_args()
    begin = time.perf_counter()
    s = subject(args)
    runs = activations(s, s.fit, args.fit_tokens)
    statistics = statistics_of(s, runs)
    tasks = [t.prepare(s.model, s.tokenizer) for t in s.tasks()]
    conditions = []
    for k in args.components:
        maps, _ = networks(s, k, runs, n_init=1 if k > 64 else None)
        conditions += conditions_of(s, k, union_of(masks_of(s, maps)), statistics)
    edits = [edit for *_, edit in conditions]
    runner = Scorer(s.model, s.tokenizer, s.sites, max_batch_tokens=args.max_batch_tokens, autocast=args.autocast)
    values = runner.run(tasks, edits, progress=True)
    table = summarise(tasks, values, conditions)
    write(s, "retain_only", {"effects": table}, statement(table), begin)


def conditions_of(s, k, keep, statistics):
    """``(k, condition, draw, retained mask, edit)`` for one number of networks."""
    layer_of, importance = s.geometry.layer_of, statistics.importance()
    found = [
        (k, "networks", -1, keep, retaining(keep)),
        (k, "networks, rest at mean", -1, keep, Edit(~keep, "mean", reference=statistics)),
        (k, "strongest neurons", -1, *retained(s, top_matched(keep.values, layer_of, importance))),
    ]
    if len(set(s.geometry.sizes)) == 1:
        last = keep.values[s.geometry.layer_slice(s.geometry.n_layers - 1)]
        found.append((k, "published hook", -1, *retained(s, np.tile(last, s.geometry.n_layers))))
    for draw in range(s.args.n_controls):
        rng = np.random.default_rng([s.args.seed, k, draw])
        found.append((k, "same layers", draw, *retained(s, layer_matched(keep.values, layer_of, rng))))
        found.append(
            (k, "same importance", draw, *retained(s, importance_matched(keep.values, layer_of, importance, rng)))
        )
    return found


def retained(s, values):
    """Return a retained set and its edit."""
    mask = NeuronMask(values, s.geometry)
    return mask, retaining(mask)


def retaining(mask):
    """Silence everything except a set."""
    return Edit(~mask, allow_empty=True)


def summarise(tasks, values, conditions):
    """Summarise effects; draws of a control are averaged."""
    rows = []
    for task, value in zip(tasks, values):
        weights = task.weights
        means = value @ weights / weights.sum()
        effects = means[1:] - means[0]
        keys = list(dict.fromkeys((k, name) for k, name, *_ in conditions))
        for k, name in keys:
            chosen = [i for i, c in enumerate(conditions) if c[:2] == (k, name)]
            mask = conditions[chosen[0]][3]
            shares = mask.counts_per_layer / np.array(mask.geometry.sizes)
            own = effects[[i for i, c in enumerate(conditions) if c[:2] == (k, "networks")][0]]
            drawn = compare(own, effects[chosen], "less") if len(chosen) > 1 else {}
            rows.append(
                {
                    "task": task.name,
                    "networks": k,
                    "retained": name,
                    "share": mask.share,
                    "least_in_a_layer": shares.min(),
                    "most_in_a_layer": shares.max(),
                    "intact": means[0],
                    "score": effects[chosen].mean() + means[0],
                    "effect": effects[chosen].mean(),
                    "sd": effects[chosen].std(ddof=1) if len(chosen) > 1 else np.nan,
                    "networks_better_p": drawn.get("p", np.nan),
                }
            )
    return pd.DataFrame(rows)


def statement(table):
    """Summarise the result in words."""
    printed = ", ".join(f"K = {k}: {score:.3f} with {share:.1%}" for k, (score, share) in PAPER["retain"].items())
    lines = [f"Printed (GPT-2, AG News, intact {PAPER['retain_intact']}): {printed}."]
    task = table[table.task == table.task.iloc[0]]
    for k, part in task.groupby("networks"):
        part = part.set_index("retained")
        own = part.loc["networks"]
        text = f"K = {k}, {own.share:.1%} kept: loss {own.score:.2f} (intact {own.intact:.2f})"
        for name in ("networks, rest at mean", "published hook", "strongest neurons", "same layers", "same importance"):
            if name in part.index:
                text += f"; {name} {part.loc[name].score:.2f}"
        lines.append(text + ".")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
