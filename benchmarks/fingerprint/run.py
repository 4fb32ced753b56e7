"""Error rates of fingerprints on pairs whose relation is known.

    python benchmarks/fingerprint/train.py models --text wiki.txt --other news.txt
    python benchmarks/fingerprint/run.py models out --other news.txt                        small models alone
    python benchmarks/fingerprint/run.py models out --other news.txt --real demo gemma.gguf qwen.gguf
    python benchmarks/fingerprint/run.py none out --other news.txt --real demo gemma.gguf --real-bases demo
    python benchmarks/fingerprint/run.py models out --table --chosen-on real-demo,real-demo the tables of what is stored

``models`` is a folder of models that share a tokenizer but nothing else; relatives are derived from the first
``--bases`` of them, and from the real models in ``--real-bases``. A folder named ``base.kind`` holds a relative that
was made elsewhere. Every model is read once, and its fingerprints for all numbers of texts are stored in ``out``; to
resume, repeat the command. ``out/pairs.tsv`` has one row per pair and number of texts, without pairs of two copies;
``out/rates.json`` is what the package reads (``data/fingerprint/rates.json``). Pairs are negative if they have no
common ancestor. Pairs of models named by ``--chosen-on A,B`` and of their copies served to choose the rule and count in
no rate. ``--networks`` adds the score of an earlier version, which paired networks.
"""

import argparse
import itertools
import json
import time
from functools import partial
from pathlib import Path

import derive
import networks
import numpy as np
import pandas as pd
import published
import torch
from scipy.stats import binomtest, rankdata
from train import new_model

import llmbrain as lb
from llmbrain.subjects.activity import read_activity
from llmbrain.subjects.descent import neuron_score, shared_courses, shared_words
from llmbrain.subjects.fingerprints import CHARACTERS, PARTS, SITE, Fingerprint, make_fingerprint, standard_texts
from llmbrain.subjects.similarity import linear_cka

N_TEXTS = (2, 5, 10, 20, 40)
N_NEURONS = 128
THRESHOLD = 0.7
DEFEATS = ("distilled",)  # relatives with new weights, which no rule here recognises; they are counted apart


def relatives(base, name, options):
    """Yield ``(kind, make)`` for everything that is derived from a base; ``make()`` returns the model."""
    model, tokenizer = base
    calibration = [text for text in options.other.read_text(encoding="utf-8").split("\n = ")[:60] if len(text) > 200]
    for ratio in (0.2, 0.3, 0.5):
        yield f"pruned {ratio:.0%}", partial(derive.pruned, model, tokenizer, calibration, ratio, options.calibration)
    yield "int8", partial(derive.quantised, model, 8)
    yield "4-bit", partial(derive.quantised, model, 4)
    yield "noise 10%", partial(derive.noisy, model, 0.1)
    yield "noise 30%", partial(derive.noisy, model, 0.3)
    yield "permuted", partial(derive.permuted, model)
    yield "rotated", partial(derive.rotated, model)
    yield "scaled", partial(derive.scaled, model)
    if not options.steps:
        return
    training = {"steps": options.steps, "batch": options.batch}
    tune = partial(derive.finetuned, model, tokenizer, options.other, **training)
    yield "fine-tuned", tune
    yield "LoRA", partial(derive.lora, model, tokenizer, options.other, **training)
    yield "averaged", lambda: derive.averaged(model, tune(seed=1))
    if options.distil:
        yield "distilled", lambda: _distilled(base, name, options)


def _distilled(base, name, options):
    """Train a model with other initial weights on the probabilities of the base."""
    model, tokenizer = base
    config = model.config
    shape = {"vocabulary": config.vocab_size, "hidden": config.hidden_size, "layers": config.num_hidden_layers}
    student = new_model(argparse.Namespace(**shape, device=model.device), 5000 + int(name[-2:]))
    return derive.distilled(model, tokenizer, options.other, student, steps=3 * options.steps, batch=options.batch)


def read(model, tokenizer, name, out, options):
    """Store the fingerprints of a model for all numbers of texts, and the published one."""
    texts = standard_texts("demo", max(options.n_texts))
    activity, geometries = read_activity(model, tokenizer, texts, networks.SITES, surprisals=False)
    for n in options.n_texts:
        if not (out / f"{name}_{n:02d}.safetensors").is_file():
            made = make_fingerprint(activity[:n], geometries[SITE], texts[:n], {"id": name}, n_neurons=N_NEURONS)
            made.save(out / f"{name}_{n:02d}.safetensors")
    ten = activity[: published.N_TEXTS]
    if options.published and not (out / f"{name}_published.npz").is_file():
        runs = [one.values["layer"] for one in ten]
        np.savez(out / f"{name}_published.npz", *published.courses(runs, geometries["layer"]))
    if options.networks and not (out / f"{name}_networks.npz").is_file():
        np.savez(out / f"{name}_networks.npz", **networks.courses(ten, geometries, texts[: published.N_TEXTS]))


def read_all(options):
    """Read every model that is not stored yet."""
    folders = sorted(path.parent for path in options.models.glob("*/config.json"))
    bases = [folder for folder in folders if "." not in folder.name]
    prints = options.out / "fingerprints"
    prints.mkdir(parents=True, exist_ok=True)

    def missing(name):
        files = [f"{name}_{n:02d}.safetensors" for n in options.n_texts]
        files += [f"{name}_{kind}.npz" for kind in ("published", "networks") if getattr(options, kind)]
        return not all((prints / file).is_file() for file in files)

    def keep(model, tokenizer, name):
        start = time.perf_counter()
        read(model, tokenizer, name, prints, options)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)

    def keep_relatives(base, name):
        for kind, make in relatives(base, name, options):
            if (not options.relatives or kind in options.relatives) and missing(f"{name}.{kind}"):
                keep(make(), base[1], f"{name}.{kind}")

    for folder in folders:
        if missing(folder.name):
            keep(*lb.load_model(str(folder)), folder.name)
    for folder in bases[: options.bases]:
        keep_relatives(lb.load_model(str(folder)), folder.name)
    for source in options.real or ():
        name = "real-" + Path(source).stem.replace(".", "_").replace("_", "-")
        if missing(name):
            keep(*lb.load_model(source, dtype="float32"), name)
        if source in options.real_bases:
            keep_relatives(lb.load_model(source, dtype="float32"), name)


def compare_all(options):
    """Score every pair of stored models for every number of texts."""
    prints, rows = options.out / "fingerprints", []
    file = options.out / "pairs.tsv"
    known = pd.read_csv(file, sep="\t").to_dict("records") if file.is_file() else []
    known = {(row["a"], row["b"], row["n_texts"]): row for row in known}
    names = sorted({p.name.rpartition("_")[0] for p in prints.glob("*.safetensors")})
    public = {name: published.Ranks(_published(file)) for name, file in _stored(prints, names, "published")}
    nets = {name: np.load(file) for name, file in _stored(prints, names, "networks")}
    for n in options.n_texts:
        loaded = {name: Fingerprint.load(file) for name, file in _stored(prints, names, f"{n:02d}", "safetensors")}
        for a, b in itertools.combinations(loaded, 2):
            if "." in a and "." in b:
                continue  # one of the two is an original: a copy and its base, or a copy and another model
            if (a, b, n) in known:
                rows.append(known[a, b, n])
                continue
            row = {"a": a, "b": b, "n_texts": n, **relation(a, b), **scores(loaded[a], loaded[b])}
            if n == published.N_TEXTS and a in public and b in public:
                row["published_max"], row["published_pairs"] = published.score(public[a], public[b])
            if n == published.N_TEXTS and a in nets and b in nets:
                row |= networks.score(nets[a], nets[b])
            rows.append(row)
    table = pd.DataFrame(rows)
    table.to_csv(file, sep="\t", index=False, float_format="%.4f")
    return table


def _stored(folder, names, kind, ending="npz"):
    """Models with a stored file of one kind, and the file."""
    files = [(name, folder / f"{name}_{kind}.{ending}") for name in names]
    return [(name, file) for name, file in files if file.is_file()]


def _published(path):
    """Courses of a file of `read`, one array per text in the order of the texts."""
    with np.load(path) as file:
        return [file[f"arr_{i}"] for i in range(len(file.files))]


def relation(a, b):
    """Whether two models have a common ancestor, and what lies between them."""
    (first, _, kind), (second, _, other) = a.partition("."), b.partition(".")
    related = first == second
    n_real = a.startswith("real") + b.startswith("real")
    unrelated = ("small, same tokenizer", "small and large", "large")[n_real]
    between = " and ".join(sorted(filter(None, (kind, other)))) if related else unrelated
    return {"related": related, "between": between, "direct": related and not (kind and other)}


def scores(a, b):
    """Score and linear CKA, without the p-value."""
    rows = {part: shared_words(a.words[part], b.words[part]) for part in PARTS}
    score, by_layer = neuron_score(*shared_courses(a, b, rows), (a.layers, b.layers))
    cka = linear_cka(*(x.activity[rows["score"][i]] for i, x in enumerate((a, b))))
    return {"score": score, "layers": "/".join(str(max(one, key=one.get)) for one in by_layer), "cka": cka}


def auc(positive, negative):
    """Area under the ROC curve: the chance that a relative scores higher than a stranger."""
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)]
    return (ranks.sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative))


def rate(count, n):
    """A share with its exact (Clopper-Pearson) 95 % interval; all of it without pairs."""
    if not n:
        return {"count": 0, "n": 0, "low": 0.0, "high": 1.0}
    interval = binomtest(int(count), int(n)).proportion_ci(method="exact")
    return {"count": int(count), "n": int(n), "low": interval.low, "high": interval.high}


def shown(found):
    return f"{found['count']}/{found['n']} ({100 * found['low']:.1f} to {100 * found['high']:.1f} %)"


def summarise(table, threshold, chosen_on=()):
    """Tables as markdown, and the rates that the package reads."""
    chosen_on = {frozenset(pair.split(",")) for pair in chosen_on}
    bases = [frozenset(name.partition(".")[0] for name in pair) for pair in zip(table["a"], table["b"])]
    chosen = np.array([pair in chosen_on for pair in bases])
    positive = table["direct"] & ~table["between"].isin(DEFEATS) & ~chosen
    table = table.assign(positive=positive, negative=~table["related"] & ~chosen)
    lines = ["| texts | AUC | AUC of CKA | false positives | false negatives |", "| --- | --- | --- | --- | --- |"]
    rates = {}
    for n, group in table.groupby("n_texts"):
        yes, no = group[group["positive"]], group[group["negative"]]
        found = {
            "false_positive": rate((no["score"] >= threshold).sum(), len(no)),
            "false_negative": rate((yes["score"] < threshold).sum(), len(yes)),
        }
        rates[str(n)] = {**found, "auc": auc(yes["score"], no["score"])}
        cka = auc(yes["cka"], no["cka"])
        lines.append(f"| {n} | {rates[str(n)]['auc']:.4f} | {cka:.4f} | {' | '.join(map(shown, found.values()))} |")
    ten = table[table["n_texts"] == published.N_TEXTS]
    lines += ["", "| between (10 texts) | pairs | score | recognised | linear CKA | published |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for where, between, group in _groups(ten, chosen_on):
        edges = [f"{group[name].min():.2f} to {group[name].max():.2f}" for name in ("score", "cka", "published_max")]
        recognised = f"{(group['score'] >= threshold).sum()}"
        lines.append(f"| {where}: {between} | {len(group)} | {edges[0]} | {recognised} | {edges[1]} | {edges[2]} |")
    lines += [""]
    for name, least in (("published_max", published.RELATED), ("networks", None)):
        known = ten[ten[name].notna()] if name in ten else ten[:0]
        yes, no = known[known["positive"]], known[known["negative"]]
        if len(yes) and len(no):
            line = f"{name}: AUC {auc(yes[name], no[name]):.4f} on {len(yes)} and {len(no)} pairs"
            if least is not None:
                line += ", false positives " + shown(rate((no[name] > least).sum(), len(no)))
                line += ", false negatives " + shown(rate((yes[name] <= least).sum(), len(yes)))
            same = f"; score {auc(yes['score'], no['score']):.4f}, CKA {auc(yes['cka'], no['cka']):.4f} on these"
            lines.append(line + same + ".")
    return "\n".join(lines), rates


def _groups(ten, chosen_on):
    """Pairs by what lies between them, for relatives by their base, the unrelated ones last."""
    ten = ten.assign(base=ten["a"].str.split(".").str[0].where(ten["a"].str.startswith("real"), "small"))
    for (base, between), group in ten[ten["direct"]].groupby(["base", "between"]):
        yield base + " (chosen on)" * (frozenset([base]) in chosen_on), between, group
    for between, group in ten[~ten["related"]].groupby("between"):
        yield "unrelated", between, group


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--other", type=Path, help="text to fine-tune and calibrate on")
    parser.add_argument("--bases", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150, help="of training the relatives; 0 leaves those out")
    parser.add_argument("--batch", type=int, default=16, help="of training the relatives")
    parser.add_argument("--n-texts", type=int, nargs="*", default=list(N_TEXTS))
    parser.add_argument("--distil", action="store_true")
    parser.add_argument("--real", nargs="*", help="further models: demo, folders, .gguf files")
    parser.add_argument("--real-bases", nargs="*", default=[], help="those of --real from which relatives are derived")
    parser.add_argument(
        "--relatives", nargs="*", help="kinds of relatives, such as int8 or 'pruned 20%%'; all if left out"
    )
    parser.add_argument("--calibration", type=int, help="tokens that pruning reads; by default those of the recipe")
    parser.add_argument("--threshold", type=float, default=THRESHOLD)
    parser.add_argument("--measured-on", default="small models", help="words that say which models these are")
    parser.add_argument("--networks", action="store_true", help="also the score of an earlier version")
    parser.add_argument("--no-published", dest="published", action="store_false", help="without the published rule")
    parser.add_argument("--chosen-on", nargs="*", default=[], help="pairs A,B on which the rule was chosen")
    parser.add_argument("--read-only", action="store_true", help="store fingerprints and compare nothing")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    if not options.table:
        read_all(options)
    if options.read_only:
        return
    table = pd.read_csv(options.out / "pairs.tsv", sep="\t") if options.table else compare_all(options)
    text, rates = summarise(table, options.threshold, options.chosen_on)
    settings = {"n_neurons": N_NEURONS, "characters": CHARACTERS}
    content = {"threshold": options.threshold, "options": settings, "rates": rates, "measured_on": options.measured_on}
    (options.out / "rates.json").write_text(json.dumps(content, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
