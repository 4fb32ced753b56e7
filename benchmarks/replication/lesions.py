"""Silence single networks and all networks: the main table of the paper, with correct hooks and matched controls.

    python benchmarks/replication/lesions.py                                     # the demo model, demo corpus
    python benchmarks/replication/lesions.py --wikitext DIR --test-tokens 24000 --autocast bfloat16 --device cuda
    torchrun --nproc-per-node 4 benchmarks/replication/lesions.py ...            # conditions shared by four GPUs

Claim (Liu et al. 2025, section 4): silencing one functional network, or all ten (under 2 % of the units), breaks the
model, while silencing 15 % of the units at random does not. Here every network, and the union of all, is compared with
sets of equal size in every layer, and with sets of equal size and importance; the control of the
paper, one random set of 15 % of the neurons, is added. In half precision the networks are run again in float32, and the
largest difference is reported. To resume an interrupted run, repeat the command.
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from common import PAPER, fitted, masks_of, parser, subject, union_of, write

from llmbrain.lesions import Edit, LesionStudy
from llmbrain.lesions.scoring import Scorer
from llmbrain.masks import NeuronMask
from llmbrain.parallel import alone, main_process, processes


def main():
    """Run the experiment and write its tables."""
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--components", type=int, default=20)
    p.add_argument("--controls", nargs="+", default=["layer", "layer+importance"])
    args = p.parse_args()
    with processes():
        run(args)


def run(args):
    """Find the networks, lesion them, and write; several processes share the conditions."""
    begin = time.perf_counter()
    s = subject(args)
    with alone():  # the same networks in every process
        maps, statistics, again = fitted(s, args.components)
    masks = masks_of(s, maps)
    union = union_of(masks)
    print(f"networks after {time.perf_counter() - begin:.0f} s", flush=True)
    study = LesionStudy(
        [*masks, union],
        s.tasks(),
        n_controls=args.n_controls,
        controls=tuple(args.controls),
        reference=statistics,
        random_state=args.seed,
        options=s.options,
    )
    result = study.run(s.model, s.tokenizer, checkpoint=Path(args.out) / "lesions_checkpoint.npz")
    if not main_process():
        return
    with alone():
        result.save(args.out, name="lesions")
        random = random_share(s, 0.15)
        lines = [recurrence(again), *statement(result, random, union)]
        if args.autocast:
            lines.append(precision(s, result, [*masks, union]))
        write(s, "lesions", {"effects": result.table, "random15": random}, "\n".join(lines), begin)


def effects(s, edits, autocast):
    """Compute mean effects ``(n_edits,)`` on every task, outside of a study."""
    tasks = [t.prepare(s.model, s.tokenizer) for t in s.tasks()]
    runner = Scorer(s.model, s.tokenizer, s.sites, max_batch_tokens=s.args.max_batch_tokens, autocast=autocast)
    values = runner.run(tasks, edits)
    return {t.name: (v[1:] - v[0]) @ t.weights / t.weights.sum() for t, v in zip(tasks, values)}


def random_share(s, share, draws=5):
    """Lesion a random share of all neurons, the control of the paper."""
    rngs = [np.random.default_rng([s.args.seed, draw]) for draw in range(draws)]
    edits = [Edit(NeuronMask(rng.random(s.geometry.n_neurons) < share, s.geometry)) for rng in rngs]
    rows = [
        {"task": name, "share": share, "draws": draws, "effect": found.mean(), "sd": found.std(ddof=1)}
        for name, found in effects(s, edits, s.args.autocast).items()
    ]
    return pd.DataFrame(rows)


def precision(s, result, masks):
    """Measure how much half precision changes the effects of the networks."""
    found = effects(s, [Edit(m) for m in masks], None)[result.tasks[0]]
    half = result.matrix("effect")[result.tasks[0]].loc[[m.name for m in masks]].to_numpy()
    return (
        f"Run in {s.args.autocast}; in float32 the {len(masks)} effects differ by at most "
        f"{np.abs(half - found).max():.4f} nats."
    )


def recurrence(again):
    """Describe how well the networks recur from another seed."""
    return (
        f"Found again from another seed: {int((again > 0.9).sum())} of {len(again)} networks with |r| > 0.9 "
        f"(least {again.min():.2f}, median {np.median(again):.2f})."
    )


def statement(result, random, union):
    """Summarise the result in words."""
    lines = [f"Printed: {PAPER['union']}. {PAPER['single']}."]
    task = result.tasks[0]
    table = result.table[result.table.task == task]
    lines.append(f"Intact: {table.intact.iloc[0]:.3f} nats per token.")
    for family, rows in table.groupby("family", sort=False):
        single, whole = rows[rows.network != union.name], rows[rows.network == union.name].iloc[0]
        above = single[single.effect > single.control_max]
        top = single.loc[single.effect.idxmax()]
        lines.append(
            f"Against {family}: {len(above)} of {len(single)} networks raise the loss more than each of their "
            f"{int(single.n_controls.max())} controls, {int((single.q_pooled < 0.05).sum())} at q < 0.05 over pooled "
            f"controls. Effects {single.effect.min():.2f} to {single.effect.max():.2f} nats, controls "
            f"{single.control_mean.min():.2f} to {single.control_mean.max():.2f} on average; the largest effect, "
            f"{top.network}: {top.effect:.2f} against {top.control_mean:.2f} +- {top.control_sd:.2f}; the worst "
            f"control set of any network: {single.control_max.max():.2f}."
        )
        lines.append(
            f"All networks together, {whole.share:.1%} of the neurons: {whole.effect:.2f} nats, controls "
            f"{whole.control_mean:.2f} +- {whole.control_sd:.2f} ({family}, p = {whole.p:.3f})."
        )
    lines.append(f"15 % of all neurons at random: {random.effect.iloc[0]:.2f} +- {random.sd.iloc[0]:.2f} nats.")
    lines.append(result.info["power"]["note"])
    return lines


if __name__ == "__main__":
    main()
