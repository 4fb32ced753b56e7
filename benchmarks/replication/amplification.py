"""Does amplifying a network help? Gains chosen on one text, scored on another, beside amplified controls.

    python benchmarks/replication/amplification.py
    python benchmarks/replication/amplification.py --wikitext DIR --device cuda

Claim (abstract of the paper's second version): amplifying functional networks improves the model. For every network the
best gain is chosen on one half of the held-out text and its effect read on the other half, which was not seen; the same
is done for every control. The paper's own form, a constant 1 added to each neuron, is run too.
"""

import time

import numpy as np
import pandas as pd
from common import PAPER, activations, masks_of, networks, parser, statistics_of, subject, write

from llmbrain.lesions import LossTask, dose_response
from llmbrain.lesions.result import compare
from llmbrain.stats import fdr


def main():
    """Run, print, write."""
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--components", type=int, default=10)
    p.add_argument("--gains", type=float, nargs="+", default=[0.5, 0.75, 1.1, 1.25, 1.5, 2.0, 3.0])
    args = p.parse_args()
    begin = time.perf_counter()
    s = subject(args)
    runs = activations(s, s.fit, args.fit_tokens)
    maps, _ = networks(s, args.components, runs)
    masks, statistics = masks_of(s, maps), statistics_of(s, runs)
    curves = {
        part: curve(s, masks, corpus, statistics, args) for part, corpus in (("choose", s.choose), ("test", s.test))
    }
    chosen = pick(curves, masks, args.gains)
    added = additive(s, masks, statistics, args)
    tables = {"chosen": chosen, "curves": curves["test"].table, "added": added}
    write(s, "amplification", tables, statement(chosen, added), begin)


def curve(s, masks, corpus, statistics, args):
    """Effect of every gain on one text."""
    return dose_response(
        s.model,
        s.tokenizer,
        masks,
        "gain",
        args.gains,
        task=LossTask(corpus, "loss", n_tokens=args.test_tokens, context=args.context, by_kind=False),
        n_controls=args.n_controls,
        reference=statistics,
        random_state=args.seed,
        options={"max_tokens": args.max_tokens, "autocast": args.autocast, "alternative": "less"},
    )


def pick(curves, masks, gains):
    """Best gain of each network and control on the first text, its effect on the second."""
    rows = []
    gains = [g for g in gains if g > 1]
    for mask in masks:
        best, effects = {}, {}
        for part, result in curves.items():
            own = result.table[result.table.network == mask.name].set_index("gain").effect
            drawn = result.controls[result.controls.network == mask.name].pivot(
                index="draw", columns="gain", values="effect"
            )
            effects[part] = np.vstack([own[gains], drawn[gains]])  # row 0 is the network
        at = effects["choose"].argmin(axis=1)
        best = effects["test"][np.arange(len(at)), at]
        rows.append(
            {
                "network": mask.name,
                "n_neurons": mask.count,
                "gain": gains[at[0]],
                "effect_choose": effects["choose"][0, at[0]],
                "effect": best[0],
                **compare(best[0], best[1:], "less"),
            }
        )
    table = pd.DataFrame(rows).rename(columns={"control_max": "control_worst"})
    table["q"] = fdr(table.p)
    return table


def additive(s, masks, statistics, args):
    """The paper's form: a constant 1 is added to every neuron of the network."""
    from llmbrain.lesions import LesionStudy

    study = LesionStudy(
        masks,
        [LossTask(s.test, "loss", n_tokens=args.test_tokens, context=args.context, by_kind=False)],
        n_controls=args.n_controls,
        controls=("layer", "layer+importance"),
        how="add",
        reference=statistics,
        random_state=args.seed,
        options={**s.options, "value": 1.0, "alternative": "less"},
    )
    return study.run(s.model, s.tokenizer).table


def statement(chosen, added):
    """What holds and what does not, in words."""
    helped = chosen[chosen.effect < 0]
    sure = chosen[(chosen.effect < 0) & (chosen.q < 0.05)]
    plus = added[added.family == added.family.iloc[0]]
    return (
        f"Printed: {PAPER['amplify']}.\n"
        f"With a gain chosen on other text, {len(helped)} of {len(chosen)} networks lower the loss on the test text "
        f"(best {chosen.effect.min():+.4f} nats), {len(sure)} of them beyond their amplified controls at q < 0.05.\n"
        f"Adding 1 to every neuron: {int((plus.effect < 0).sum())} of {len(plus)} lower the loss "
        f"(from {plus.effect.min():+.3f} to {plus.effect.max():+.3f} nats)."
    )


if __name__ == "__main__":
    main()
