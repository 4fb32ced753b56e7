"""Keep one kind of text: networks or a localizer as guides, against calibration alone, at the same size.

    python benchmarks/pruning_domain.py --device cuda --out results

For each domain of the demo corpus (code, arithmetic) its documents are split into folds; calibration reads the other
folds of the domain and as many tokens of the other kinds, perplexity is measured on the fold that was left out, and on
documents of every other kind that were left out too. Every way removes the same number of neurons with the same
recipe; those that share a calibration differ in the score alone. The table is written fold by fold and resumed.
"""

import argparse
import time
from pathlib import Path


def folds_of(corpus, kind, n_folds):
    """Documents of a kind, dealt out into folds."""
    documents = [d for d in corpus.documents if d.kind == kind]
    return [documents[i::n_folds] for i in range(n_folds)]


def main():
    """Run every domain, fold and way that is not in the table yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="what load_model takes")
    parser.add_argument("--domains", nargs="+", default=["code", "arithmetic"])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--only-folds", type=int, nargs="+", help="run these alone")
    parser.add_argument("--n-components", type=int, default=32)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-seconds", type=float)
    parser.add_argument("--out", default="results")
    args = parser.parse_args()

    import pandas as pd
    from refuted.domain import compare_domains

    from llmbrain.files import read_tsv, write_tsv
    from llmbrain.models import load_model
    from llmbrain.text import LOCALIZERS, load_corpus, load_localizer

    start = time.perf_counter()
    model, tokenizer = load_model(args.model, device=args.device)
    corpus = load_corpus("demo", split="all")
    out = Path(args.out) / "domain.tsv"
    out.parent.mkdir(parents=True, exist_ok=True)
    tables = [read_tsv(out)] if out.is_file() else []
    done = {(r.domain, int(r.fold)) for t in tables for r in t.itertuples()}
    for fold in args.only_folds or range(args.folds):
        for domain in args.domains:
            if (domain, fold) in done or (args.max_seconds and time.perf_counter() - start > args.max_seconds):
                continue
            parts = {kind: folds_of(corpus, kind, args.folds) for kind in corpus.kinds}
            fit = {k: [d.text for i, f in enumerate(p) for d in f if i != fold] for k, p in parts.items()}
            test = {k: [d.text for d in p[fold]] for k, p in parts.items()}
            items = load_localizer(domain)
            localizer = [[d.text for d in items.documents if d.kind == c] for c in LOCALIZERS[domain]]
            others = [text for texts in zip(*(fit[k] for k in corpus.kinds if k != domain)) for text in texts]
            print(f"{domain}, fold {fold}", flush=True)
            table = compare_domains(
                model, tokenizer, fit[domain], others, test, ratio=args.ratios, localizer=localizer,
                n_components=args.n_components, options={"context": args.context}, context=args.context,
                random_state=fold,
            )  # fmt: skip
            tables.append(table.assign(domain=domain, fold=fold))
            write_tsv(out, pd.concat(tables, ignore_index=True))
    if tables:
        print(summary(pd.concat(tables, ignore_index=True)).to_string(index=False))
    print(f"{time.perf_counter() - start:.0f} s; table at {out}")


def summary(table):
    """Perplexity relative to the dense model in the domain and elsewhere: geometric means over folds (and kinds)."""
    import numpy as np
    import pandas as pd

    kinds = [c for c in table.columns if c not in ("way", "ratio", "domain", "fold")]
    rows = []
    for (domain, fold), part in table.groupby(["domain", "fold"]):
        dense = np.log(part[part.way == "dense"][kinds].to_numpy(dtype=float)[0])
        for row in part[part.way != "dense"].itertuples():
            gap = np.log([float(getattr(row, k)) for k in kinds]) - dense
            inside = np.array([k == domain for k in kinds])
            rows.append((domain, row.ratio, row.way, fold, gap[inside].mean(), gap[~inside].mean()))
    frame = pd.DataFrame(rows, columns=["domain", "ratio", "way", "fold", "inside", "elsewhere"])
    grouped = frame.groupby(["domain", "ratio", "way"], sort=False)[["inside", "elsewhere"]]
    found = np.exp(grouped.mean()).round(3)
    base = frame[frame.way == "mixed"].set_index(["domain", "ratio", "fold"])["inside"]
    frame["gain"] = [r.inside - base.get((r.domain, r.ratio, r.fold), np.nan) for r in frame.itertuples()]
    wins = frame.groupby(["domain", "ratio", "way"], sort=False)["gain"].agg(lambda g: f"{(g < 0).sum()} of {len(g)}")
    return found.assign(folds_better_than_mixed=wins).reset_index()


if __name__ == "__main__":
    main()
