"""Test whether amplifying a network helps: gains are chosen on one text and scored on another, with controls.

    python benchmarks/replication/amplification.py
    python benchmarks/replication/amplification.py --wikitext DIR --autocast bfloat16 --device cuda

Claim (abstract of the paper's second version): amplifying functional networks improves the model. For every network the
best gain is chosen on one half of the held-out text, and its effect is measured on the other half. The same is done for
every control (matched by layer and importance). The form in the paper, a constant 1 added to each neuron, is run too.
To resume an interrupted run, repeat the command.
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from common import PAPER, fitted, masks_of, parser, subject, write

from llmbrain.lesions import Edit, LossTask
from llmbrain.lesions.comparison import compare, pooled_p
from llmbrain.lesions.scoring import Scorer
from llmbrain.masks import NeuronMask
from llmbrain.masks.controls import importance_matched
from llmbrain.stats import bootstrap_interval, fdr


def main():
    """Run the experiment and write its tables."""
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--components", type=int, default=20)
    p.add_argument("--gains", type=float, nargs="+", default=[1.1, 1.25, 1.5, 2.0, 3.0])
    p.add_argument("--choose-tokens", type=int, help="tokens for choosing the gain (4096; 300 on a CPU)")
    p.set_defaults(n_controls=10)
    args = p.parse_args()
    begin = time.perf_counter()
    s = subject(args)
    maps, statistics, _ = fitted(s, args.components)
    masks = masks_of(s, maps)
    print(f"networks after {time.perf_counter() - begin:.0f} s", flush=True)
    conditions = conditions_of(s, masks, statistics.importance())
    choose, test = texts(s)
    runner = Scorer(s.model, s.tokenizer, s.sites, max_batch_tokens=args.max_batch_tokens, autocast=args.autocast)
    tokens = sum(len(q) for task in (choose, test) for q in task.sequences)
    print(f"{len(conditions)} conditions on {tokens:,} tokens: {(len(conditions) + 1) * tokens:,}", flush=True)
    values = runner.run(
        [choose, test],
        [edit for *_, edit in conditions],
        progress=True,
        checkpoint=Path(args.out) / "amplification_checkpoint.npz",
    )
    curves = curve(choose, test, values, conditions)
    chosen = pick(test, values[1], masks, curves, conditions, args)
    added = additive(masks, curves)
    tables = {"chosen": chosen, "added": added, "curves": curves}
    write(s, "amplification", tables, statement(chosen, added, args), begin)


def texts(s):
    """Return the text for choosing gains and the text for testing them."""
    parts = (("choose", s.choose, s.args.choose_tokens), ("test", s.test, s.args.test_tokens))
    tasks = [LossTask(c, name, max_tokens=n, context=s.args.context, by_kind=False) for name, c, n in parts]
    return [t.prepare(s.model, s.tokenizer) for t in tasks]


def conditions_of(s, masks, importance):
    """``(network, draw, gain, edit)``; draw -1 is the network itself, gain NaN the constant added."""
    found = []
    for k, mask in enumerate(masks):
        for draw in range(-1, s.args.n_controls):
            values = mask.values
            if draw >= 0:
                rng = np.random.default_rng([s.args.seed, k, draw])
                values = importance_matched(values, s.geometry.layer_of, importance, rng)
            drawn = NeuronMask(values, s.geometry)
            found += [(mask.name, draw, gain, Edit(drawn, "scale", value=gain)) for gain in s.args.gains]
            found.append((mask.name, draw, np.nan, Edit(drawn, "add", value=1.0)))
    return found


def curve(choose, test, values, conditions):
    """Compute the effect of every condition on both texts."""
    table = pd.DataFrame([c[:3] for c in conditions], columns=["network", "draw", "gain"])
    for task, value in zip((choose, test), values):
        table[f"effect_{task.name}"] = (value[1:] - value[0]) @ task.weights / task.weights.sum()
    return table


def pick(test, values, masks, curves, conditions, args):
    """Choose the best gain of each network and control on the first text; return its effect on the second."""
    rows, every = [], []
    best = curves[curves.gain.notna()].copy()
    best["row"] = best.index
    best = best.loc[best.groupby(["network", "draw"]).effect_choose.idxmin()].set_index(["network", "draw"])
    for mask in masks:
        own, drawn = best.loc[(mask.name, -1)], best.loc[mask.name].drop(-1)
        items = values[1 + int(own.row)] - values[0]
        interval = bootstrap_interval(items, weights=test.weights, random_state=args.seed)
        every.append(drawn.effect_test.to_numpy())
        rows.append(
            {
                "network": mask.name,
                "n_neurons": mask.count,
                "gain": own.gain,
                "effect_choose": own.effect_choose,
                "effect": own.effect_test,
                "ci_low": interval.low,
                "ci_high": interval.high,
                **compare(own.effect_test, every[-1], "less"),
            }
        )
    table = pd.DataFrame(rows).drop(columns="control_max")
    table["control_best"] = [e.min() for e in every]
    table["q"], table["q_pooled"] = fdr(table.p), fdr(pooled_p(table.effect.to_numpy(), every, "less"))
    return table


def additive(masks, curves):
    """Add a constant 1 to every neuron of the network, or of a control, as in the paper."""
    curves = curves[curves.gain.isna()].set_index(["network", "draw"]).effect_test
    own = {m.name: curves[(m.name, -1)] for m in masks}
    drawn = {m.name: curves[m.name].drop(-1).to_numpy() for m in masks}
    table = pd.DataFrame([{"network": n, "effect": own[n], **compare(own[n], drawn[n], "less")} for n in own])
    table["q_pooled"] = fdr(pooled_p(table.effect.to_numpy(), list(drawn.values()), "less"))
    return table.drop(columns="control_max")


def statement(chosen, added, args):
    """Summarise the result in words."""
    helped = chosen[chosen.effect < 0]
    sure = chosen[chosen.ci_high < 0]
    beyond = chosen[(chosen.effect < 0) & (chosen.q_pooled < 0.05)]
    on_average = "{:+.3f} to {:+.3f} nats on average"
    amplified = on_average.format(chosen.control_mean.min(), chosen.control_mean.max())
    plus = on_average.format(added.control_mean.min(), added.control_mean.max())
    gains = ", ".join(f"{g:g}" for g in args.gains)
    return (
        f"Printed: {PAPER['amplify']}.\n"
        f"With a gain of {gains} chosen on other text, {len(helped)} of {len(chosen)} networks lower the loss on the "
        f"test text (best {chosen.effect.min():+.4f} nats, worst {chosen.effect.max():+.4f}; {len(sure)} with a 95 % "
        f"interval below zero), {len(beyond)} of them beyond their amplified controls (pooled, q < 0.05). Controls "
        f"with gains chosen in the same way: {amplified}.\n"
        f"Adding 1 to every neuron: {int((added.effect < 0).sum())} of {len(added)} lower the loss "
        f"(from {added.effect.min():+.3f} to {added.effect.max():+.3f} nats; controls {plus})."
    )


if __name__ == "__main__":
    main()
