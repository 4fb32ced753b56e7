"""Single networks and all networks silenced: the paper's main table, with correct hooks and matched controls.

    python benchmarks/replication/lesions.py                                     # the demo model, demo corpus
    python benchmarks/replication/lesions.py --wikitext DIR --components 20 --test-tokens 24000 --device cuda

Claim (Liu et al. 2025, section 4): silencing one functional network, or all ten (under 2 % of the units), breaks the
model, while silencing 15 % of the units at random does not. Here every network, and the union of all, is compared with
sets of equal size in every layer, and with sets of equal size and importance; the paper's own control, one random set
of 15 % of the neurons, stands beside them.
"""

import time

import numpy as np
import pandas as pd
from common import PAPER, activations, masks_of, networks, parser, statistics_of, subject, union_of, write

from llmbrain.lesions import Edit, LesionStudy
from llmbrain.lesions.running import Runner
from llmbrain.masks import NeuronMask


def main():
    """Run, print, write."""
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--components", type=int, default=10)
    p.add_argument("--controls", nargs="+", default=["layer", "layer+importance"])
    args = p.parse_args()
    begin = time.perf_counter()
    s = subject(args)
    runs = activations(s, s.fit, args.fit_tokens)
    maps, found = networks(s, args.components, runs)
    masks = masks_of(s, maps)
    union = union_of(masks)
    study = LesionStudy(
        [*masks, union],
        s.tasks(),
        n_controls=args.n_controls,
        controls=tuple(args.controls),
        reference=statistics_of(s, runs),
        random_state=args.seed,
        options=s.options,
    )
    print(study.forecast(s.model, s.tokenizer)["text"])
    result = study.run(s.model, s.tokenizer)
    result.info["variance"] = found.variance.tolist()
    result.save(args.out, desc="lesions")
    random = random_share(s, 0.15)
    write(s, "lesions", {"effects": result.table, "random15": random}, statement(result, random, union), begin)


def random_share(s, share, draws=5):
    """The paper's control: a share of all neurons at random."""
    tasks = [t.prepare(s.model, s.tokenizer) for t in s.tasks()]
    edits = []
    for draw in range(draws):
        rng = np.random.default_rng([s.args.seed, draw])
        edits.append(Edit(NeuronMask(rng.random(s.geometry.n_neurons) < share, s.geometry)))
    runner = Runner(s.model, s.tokenizer, s.sites, max_tokens=s.args.max_tokens, autocast=s.args.autocast)
    rows = []
    for task, values in zip(tasks, runner.run(tasks, edits)):
        effect = (values[1:] - values[0]) @ task.weights / task.weights.sum()
        rows.append(
            {"task": task.name, "share": share, "draws": draws, "effect": effect.mean(), "sd": effect.std(ddof=1)}
        )
    return pd.DataFrame(rows)


def statement(result, random, union):
    """What holds and what does not, in words."""
    lines = [f"Printed: {PAPER['union']}. {PAPER['single']}."]
    task = result.tasks[0]
    for family, table in result.table[result.table.task == task].groupby("family", sort=False):
        single, whole = table[table.network != union.name], table[table.network == union.name].iloc[0]
        above = single[single.effect > single.control_max]
        lines.append(
            f"Against {family}: {len(above)} of {len(single)} networks raise the loss more than each of their "
            f"{int(single.n_controls.max())} controls (effects {single.effect.min():.2f} to {single.effect.max():.2f} "
            f"nats, controls {single.control_mean.min():.2f} to {single.control_mean.max():.2f} on average)."
        )
        lines.append(
            f"All networks together, {whole.share:.1%} of the neurons: {whole.effect:.2f} nats, controls "
            f"{whole.control_mean:.2f} +- {whole.control_sd:.2f} (p = {whole.p:.3f})."
        )
    lines.append(f"15 % of all neurons at random: {random.effect.iloc[0]:.2f} +- {random.sd.iloc[0]:.2f} nats.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
