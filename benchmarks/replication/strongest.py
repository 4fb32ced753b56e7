"""What the networks are whose lesion does more harm than every control: neurons, layers, tokens.

    python benchmarks/replication/strongest.py --out replication                  # after lesions.py, with its options

Reads ``lesions_effects.tsv`` in --out. For each network above all its importance-matched controls: the harm of its
strongest 1, 5 and 25 neurons alone, and of the network without them; the share of the network that lies in its three
main layers; the share of its neurons that are massive (standard deviation above 30 times the median of their layer);
and the tokens at which it is strongest. If a handful of neurons does the harm, the network is not needed to explain it.
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import activations, fitted, joined, masks_of, parser, subject, write

from llmbrain.lesions import Edit
from llmbrain.lesions.scoring import Scorer
from llmbrain.masks import NeuronMask
from llmbrain.text import text_windows

TOP = (1, 5, 25)


def main():
    """Run, print, write."""
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--components", type=int, default=20)
    p.add_argument("--most", type=int, default=5, help="networks to look at, the most harmful first")
    args = p.parse_args()
    begin = time.perf_counter()
    s = subject(args)
    effects = pd.read_csv(Path(args.out) / "lesions_effects.tsv", sep="\t")
    effects = effects[(effects.task == effects.task[0]) & (effects.family == "layer+importance")]
    effects = effects[(effects.effect > effects.control_max) & (effects.network != "all networks")]
    names = list(effects.sort_values("effect", ascending=False).network[: args.most])
    maps, statistics, _ = fitted(s, args.components)
    masks = {m.name: (m, z) for m, z in zip(masks_of(s, maps), maps[np.abs(maps).max(1) > args.threshold])}
    chosen = {name: masks[name] for name in names}
    edits = {
        f"{name}, {label}": Edit(m, allow_empty=True)
        for name, found in chosen.items()
        for label, m in parts(*found).items()
    }
    task = s.tasks()[0].prepare(s.model, s.tokenizer)
    runner = Scorer(s.model, s.tokenizer, s.sites, max_batch_tokens=args.max_batch_tokens, autocast=args.autocast)
    values = runner.run([task], list(edits.values()))[0]
    harm = dict(zip(edits, (values[1:] - values[0]) @ task.weights / task.weights.sum()))
    tokens = strongest_tokens(s, [z for _, z in chosen.values()])
    rows = [
        {**row(s, name, m, statistics), **{k: harm[f"{name}, {k}"] for k in parts(m, z)}, "tokens": t}
        for (name, (m, z)), t in zip(chosen.items(), tokens)
    ]
    write(s, "strongest", {"networks": pd.DataFrame(rows)}, f"{len(names)} networks above all controls.", begin)


def parts(mask, z):
    """The network, its strongest neurons alone, and the network without them."""
    order = np.argsort(-np.where(mask.values, np.abs(z), 0))
    found = {"whole": mask}
    for n in TOP:
        values = np.zeros(len(z), bool)
        values[order[:n]] = True
        found[f"top {n}"] = NeuronMask(values, mask.geometry, f"top {n}")
        found[f"without top {n}"] = NeuronMask(mask.values & ~values, mask.geometry, f"without top {n}")
    return found


def row(s, name, mask, statistics):
    """Size, main layers and massive neurons of a network."""
    per_layer = np.array([mask.values[s.geometry.layer_slice(i)].sum() for i in range(s.geometry.n_layers)])
    main = np.argsort(-per_layer)[:3]
    size = np.sqrt(statistics.variance)
    usual = np.concatenate([
        np.full(n, np.median(size[s.geometry.layer_slice(i)])) for i, n in enumerate(s.geometry.sizes)
    ])  # fmt: skip
    massive = mask.values & (size > 30 * usual)
    return {
        "network": name, "neurons": mask.count, "main layers": " ".join(map(str, sorted(main.tolist()))),
        "in them": per_layer[main].sum() / mask.count, "massive": massive.sum() / mask.count,
    }  # fmt: skip


def strongest_tokens(s, maps, n=12):
    """Tokens at which each map is strongest, with the sign of the course there, most frequent first."""
    each = max(16, -(-s.args.fit_tokens // len(s.fit)) + 1)
    windows, _ = text_windows(s.fit, s.tokenizer, s.args.context, per_document=each)
    runs = activations(s, s.fit, s.args.fit_tokens)
    ids = np.concatenate([np.asarray(w.ids)[np.asarray(w.scored)] for w in windows])[: len(joined(runs))]
    x = torch.from_numpy(joined(runs))
    courses = (x - x.mean(0)) / x.std(0).clamp_min(1e-6) @ torch.from_numpy(np.asarray(maps, np.float32)).T
    found = []
    for course in courses.numpy().T:
        top = np.argsort(-np.abs(course))[:200]
        words = pd.Series([s.tokenizer.decode([int(ids[t])]) + ("-" if course[t] < 0 else "+") for t in top])
        found.append(" ".join(f"{w!r}({k})" for w, k in words.value_counts()[:n].items()))
    return found


if __name__ == "__main__":
    main()
