"""Test whether networks recur between texts: the count of the paper, a strict count, and chance levels.

    python benchmarks/replication/recurrence.py
    python benchmarks/replication/recurrence.py --corpora news=news.jsonl wiki=wiki.jsonl math=math.jsonl --device cuda

Claim (Liu et al. 2025, section 3): templates found on some texts of a corpus overlap (IoU > 0.2) networks found in
single other texts. A corpus is a kind of text of the demo corpus, or a file named with --corpora; one half of its
documents gives the templates, each document of the other half is decomposed alone. The null permutes the neurons inside
layers, in the same way for all networks of a text.
"""

import argparse
import time

import pandas as pd
from common import PAPER, activations, networks, parser, subject, write

from llmbrain import load_corpus
from llmbrain.networks.evidence.recurrence import individual_networks, recurrence
from llmbrain.text import Corpus


def main():
    """Run, print, write."""
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--components", type=int, default=10)
    p.add_argument("--corpora", nargs="+", metavar="NAME=SOURCE", help="default: the kinds of the fitted text")
    p.add_argument("--texts", type=int, default=100, help="maximum number of single texts per corpus")
    p.add_argument("--text-tokens", type=int, default=256)
    p.add_argument("--iou", type=float, default=0.2)
    p.add_argument("--two-sided", action=argparse.BooleanOptionalAction, default=True)
    args = p.parse_args()
    begin = time.perf_counter()
    s = subject(args)
    tables = []
    for name, corpus in corpora(s, args).items():
        first, second = corpus.split(0.5, random_state=args.seed)
        runs = activations(s, first[: args.texts], 0, per_document=args.text_tokens)
        maps, _ = networks(s, min(args.components, sum(map(len, runs)) // 2), runs)
        reached = ((abs(maps) if args.two_sided else maps) > args.threshold).any(axis=1)
        if not reached.all():
            print(f"{name}: {int((~reached).sum())} templates have no neuron beyond {args.threshold:g}, left out")
        maps = maps[reached]
        texts = activations(s, second[: args.texts], 0, per_document=args.text_tokens)
        individual, _ = individual_networks(texts, args.components, random_state=args.seed)
        found = recurrence(
            maps,
            individual,
            threshold=args.threshold,
            two_sided=args.two_sided,
            iou=args.iou,
            layer_of=s.geometry.layer_of,
            random_state=args.seed,
        )
        table = found.table
        table.insert(0, "corpus", name)
        table.insert(1, "n_texts", len(individual))
        table.insert(2, "n_individual", sum(map(len, individual)))
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    write(s, "recurrence", {"templates": table}, statement(table), begin)


def corpora(s, args):
    """Return the corpora by name."""
    if args.corpora:
        return {name: load_corpus(source) for name, source in (c.split("=", 1) for c in args.corpora)}
    kinds = {kind: s.fit.select(kind=kind) for kind in s.fit.kinds} or {s.fit.name: s.fit}
    return {kind: Corpus(part.documents, kind) for kind, part in kinds.items() if len(part) > 3}


def statement(table):
    """Summarise the result in words."""
    printed = ", ".join(f"{model}: {count}" for model, count in PAPER["recurrence"].items())
    lines = [f"Printed (individual networks that overlap a template): {printed}."]
    for corpus, part in table.groupby("corpus", sort=False):
        cells, n_texts = len(part) * part.n_individual.iloc[0], part.n_texts.iloc[0]
        lines.append(
            f"{corpus}: {int(part.many.sum())} of {cells} pairs overlap ({part.many.sum() / cells:.2%}; chance "
            f"{part.null_many.sum() / cells:.2%}); one to one, a template is found again in {part.share.mean():.0%} of "
            f"{n_texts} texts (chance {part.null_texts.mean() / n_texts:.0%}), {int((part.q < 0.05).sum())} of "
            f"{len(part)} templates beyond chance (q < 0.05), mean |r| {part.mean_r.mean():.2f}."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
