"""Prune one model by several recipes, with 2,048 and with 65,536 calibration tokens: the table of the three models.

    python benchmarks/pruning_models.py --model demo --device cuda
    python benchmarks/pruning_models.py --model qwen2.5-coder-0.5b.gguf --device cuda --rows best --seeds 0 1 2
    python benchmarks/pruning_models.py --model demo --device cuda --rows best --widths "best, single blocks"
    python benchmarks/pruning_models.py --table results/pruning_models_*.tsv

Calibration reads the first tokens of WikiText-2's validation text without the sentences that hold <unk>, in windows of
--context tokens. Recipes are chosen by the perplexity on the **development** text alone: the tokens of the same file
after the first 65,536. Perplexity on the test text takes its first --windows windows. Both texts are in the folder that
the environment variable LLMBRAIN_BENCHMARK_DATA names. --widths cuts to the widths that another row of the table has
found, without a search; such rows are named so. With --share, rows after the first use what was measured on the dense
model before, and their seconds leave that out. One table for each model in --out; to resume, repeat the call.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
from pruning_grid import clean, data_file

REST = 65_536  # the development text begins after these tokens, whatever the calibration reads
KEYS = ["calibration_tokens", "ratio", "recipe", "seed"]


def recipes():
    """Recipes by name; those of the package are taken from there."""
    from llmbrain.pruning import Recipe

    fast, best = Recipe.named("fast"), Recipe.named("best")
    return {
        "flap": Recipe.named("flap"),
        "wanda": Recipe.named("wanda"),
        "power": fast.with_(allocation="power"),
        "uniform": fast.with_(allocation="uniform"),
        "curves": fast.with_(allocation="curves"),
        "fast": fast,
        "fast, attention": fast.with_(refit_attention=True),
        "fast, blocks": fast.with_(refit_attention=True, block_steps=best.options.block_steps),
        "best": best,
        "best, single blocks": best.with_(block_span=1),
        "best, two blocks": best.with_(block_span=2),
        "best, least squares": best.with_(block_steps=0),
        "best, 100 steps": best.with_(block_steps=100),
        "best, trained for 2 minutes": best.with_(recover=2.0),
        "best, trained for 5 minutes": best.with_(recover=5.0),
    }


def label(name, args):
    """Name of the rows of a recipe."""
    return f"{name}, widths of {args.widths}" if args.widths else name


def measure(pruner, texts, recipe, ratio, seed, args):
    """Cut a copy of the model, and return seconds, kept neurons and perplexities."""
    import torch

    import llmbrain as lb

    recipe = recipe.with_(options={"context": args.context, "batch_size": args.batch_size, "max_tokens": None})
    start = time.perf_counter()
    pruned = pruner.prune(recipe, ratio, random_state=seed)
    if args.device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    widths = lb.NeuronGeometry.from_model(pruned.model).sizes
    return {
        "seconds": round(seconds, 1),
        **perplexities(pruned.model, pruned.tokenizer, texts, args),
        "kept": " ".join(map(str, widths)),
    }


def perplexities(model, tokenizer, texts, args):
    """Perplexity on each text."""
    import llmbrain as lb

    options = {"context": args.context, "max_tokens": args.windows * args.context, "batch_size": args.batch_size}
    return {name: round(lb.perplexity(model, tokenizer, text, **options), 3) for name, text in texts.items()}


def run(args):
    """Fill the table of one model, row by row."""
    import torch

    import llmbrain as lb

    model, tokenizer = lb.load_model(args.model, device=args.device)
    text = clean(data_file(args.calibration, "wikitext-2/valid.unk.txt", "--calibration").read_text("utf-8"), "drop")
    ids = tokenizer(text, verbose=False, add_special_tokens=False)["input_ids"]
    test = data_file(args.test, "wikitext-2/test.raw.txt", "--test").read_text("utf-8")
    print(f"{len(ids) / len(text):.3f} tokens per character")
    texts = {"development": tokenizer.decode(ids[REST:]), "test": test}
    out = Path(args.out) / f"pruning_models_{args.name or Path(args.model).stem}.tsv"
    rows = pd.read_csv(out, sep="\t").to_dict("records") if out.is_file() else []
    known, pruners = recipes(), {}
    wanted = [(n, r, name, s) for n in args.calibration_tokens for r in args.ratios for name in args.rows
              for s in (args.seeds if name == "best" else [0])]  # fmt: skip
    if not any(row["recipe"] == "dense" for row in rows):
        dense = perplexities(model, tokenizer, texts, args)
        rows.append({**dict(zip(KEYS, (0, 0.0, "dense", 0))), "seconds": 0.0, **dense, "kept": ""})
    for n, ratio, name, seed in wanted:
        place = n, ratio, label(name, args), seed
        if any((r["calibration_tokens"], r["ratio"], r["recipe"], r["seed"]) == place for r in rows):
            continue
        recipe = known[name]
        if args.widths:
            of = next(r for r in rows if (r["calibration_tokens"], r["ratio"], r["recipe"]) == (n, ratio, args.widths))
            recipe = recipe.with_(allocation=[int(width) for width in of["kept"].split()])
        if n not in pruners or not args.share:
            pruners = {n: lb.pruning.Pruner(model, tokenizer, tokenizer.decode(ids[:n]))}
        found = measure(pruners[n], texts, recipe, ratio, seed, args)
        rows.append({**dict(zip(KEYS, place)), **found})
        print({k: v for k, v in rows[-1].items() if k != "kept"}, flush=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(out, sep="\t", index=False)
    device = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    print(f"{device}; table at {out}")
    return out


def show(files):
    """Print the tables of several models side by side: ratios to the dense model, or perplexities if it is missing."""
    columns = {}
    for file in files:
        table, model = pd.read_csv(file, sep="\t"), Path(file).stem.removeprefix("pruning_models_")
        of_dense = table[table.recipe == "dense"].mean(numeric_only=True)
        table = table[table.recipe != "dense"]
        groups = table.groupby(KEYS[:3], sort=False)
        for text in ("development", "test"):
            unit = 1.0 if pd.isna(of_dense[text]) else of_dense[text]
            columns[model, text] = groups[text].agg(lambda x, unit=unit: "/".join(f"{v / unit:.3f}" for v in x))
        columns[model, "seconds"] = groups["seconds"].mean().round(1)
        print(f"{model}, dense: development {of_dense.development:.3f}, test {of_dense.test:.3f}")
    print(pd.DataFrame(columns).sort_index().to_string(na_rep=""))


def main():
    """Fill or print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="what load_model takes")
    parser.add_argument("--name", help="name of the model in the table's file (default: that of its file)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", nargs="+", default=["flap", "wanda", "fast", "best"], help="names of recipes")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.2, 0.5])
    parser.add_argument("--calibration-tokens", type=int, nargs="+", default=[2048, 65_536])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the search of best")
    parser.add_argument("--widths", help="name of the rows of the table whose widths are used again")
    parser.add_argument("--share", action="store_true", help="measure the dense model once for all rows")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=80)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--calibration", help="text file")
    parser.add_argument("--test", help="text file")
    parser.add_argument("--out", default="results")
    parser.add_argument("--table", nargs="+", help="print these tables, and measure nothing")
    args = parser.parse_args()
    if not args.table and (unknown := set(args.rows) - set(recipes())):
        parser.error(f"no recipes of the names {', '.join(sorted(unknown))}; there are {', '.join(recipes())}")
    show(args.table or [run(args)])


if __name__ == "__main__":
    main()
