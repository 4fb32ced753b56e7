"""Make the pruning tables: baselines, compensations, allocations and this package's recipe, on WikiText-2.

    python benchmarks/pruning_grid.py --preset notes --device cuda --out results
    python benchmarks/pruning_grid.py --preset ablation --device cuda --out results
    python benchmarks/pruning_grid.py --preset final --device cuda --out results

Every preset adds each result to one TSV in --out. To resume an interrupted run, repeat the call. Calibration reads the
first --calibration-tokens tokens of --calibration, in windows of --context tokens. Perplexity is per token, in windows
of --context tokens that do not overlap. The default texts are wikitext-2/valid.unk.txt and wikitext-2/test.raw.txt in
the folder that the environment variable LLMBRAIN_BENCHMARK_DATA names.

notes              scores x compensations: one-shot statistics, ridge 0.01, first 200 windows of the test text, 20 %
notes30, notes50   the same at 30 and 50 %, in the same table
ablation           one change at a time, measured on the REST OF THE CALIBRATION FILE; the recipe is chosen from this
                   table alone
best               the package's default recipe, whole test text, 20, 30 and 50 %
fast               the recipe "fast" with shares by power, whole test text, 20, 30 and 50 %
final              the chosen recipe and the baselines, whole test text, 20, 30 and 50 %
heads              neurons and heads together, as a share of the decoder's parameters

pruning_networks.py tests whether networks help in any role; pruning_models.py makes the table of several models.
"""

import argparse
import os
import re
import time
from pathlib import Path

BASE = {"propagation": "sequential", "target": "stream", "ridge": "auto"}
FULL = {
    **BASE,
    "token_weights": "stream",
    "block_steps": 300,
    "refit_attention": True,
    "held_out": 0.2,
    "n_evaluations": 300,
}
ONE_SHOT = {"propagation": "one-shot", "ridge": 0.01, "floor": 0.0}
PRESETS = ("best", "fast", "notes", "notes30", "notes50", "ablation", "final", "heads")


def clean(text, how):
    """Keep or delete every <unk> of the word-level text, or drop the sentences that contain one."""
    if how == "keep":
        return text
    if how == "delete":
        return re.sub(r" ?<unk>", "", text)
    lines = []
    for line in text.split("\n"):
        lines.append(" ".join(s for s in re.split(r"(?<= \.) ", line) if "<unk>" not in s))
    return "\n".join(lines)


def data_file(given, name, option):
    """Return the given file, or the file of this name in the data folder."""
    folder = os.environ.get("LLMBRAIN_BENCHMARK_DATA")
    if given is None and folder is None:
        raise SystemExit(f"Pass {option}, or set LLMBRAIN_BENCHMARK_DATA to the folder that contains {name}.")
    return Path(given or Path(folder, name))


def tokens_of(tokenizer, text, start, stop):
    """Return the ids of the tokens from ``start`` to ``stop`` of a text."""
    return tokenizer(text, verbose=False)["input_ids"][start:stop]


def recipes_of(rows, variants, options, networks=None):
    """Make recipes from rows of (score, allocation, compensation, variant); a variant changes options or networks."""
    from llmbrain.pruning import Recipe

    found = []
    for *names, variant in rows:
        changes = dict(variants[variant])
        maps = changes.pop("networks", networks)
        found.append(Recipe(*names, {**options, **changes}, maps, name=variant))
    return found


def presets(args):
    """Return the recipes, variants, ratios and measurements of the chosen preset."""
    grid = [
        (s, a, c)
        for s in ("wanda", "flap", "obs", "magnitude")
        for a in ("global",)
        for c in ("none", "bias", "affine")
    ]
    grid += [(s, "uniform", c) for s in ("random", "wanda", "flap", "obs") for c in ("none", "bias", "affine")]
    network = [("network", "threshold", c, "published") for c in ("none", "bias", "affine")]
    ablation = {
        "base": BASE,
        "weights": {**BASE, "token_weights": "stream"},
        "attention": {**BASE, "refit_attention": True},
        "blocks": {**BASE, "block_steps": 300},
        "blocks+weights": {**BASE, "block_steps": 300, "token_weights": "stream"},
        "blocks+attention": {**BASE, "block_steps": 300, "refit_attention": True},
        "full": FULL,
        "extremes0": {**BASE, "held_out": 0.2, "extremes": 0.0},
        "extremes1": {**BASE, "held_out": 0.2, "extremes": 1.0},
        "held": {**BASE, "held_out": 0.2, "n_evaluations": 300},
        "exponent0.15": {**BASE, "exponent": 0.15},
        "exponent0.5": {**BASE, "exponent": 0.5},
    }
    order = [
        ("flap", "schur", "affine", "base"),
        ("flap", "search", "affine", "full"),
        ("flap", "schur", "affine", "blocks"),
        ("flap", "search", "affine", "held"),
        ("flap", "curves", "affine", "held"),
        ("flap", "schur", "affine", "weights"),
        ("flap", "schur", "affine", "attention"),
        ("flap", "uniform", "affine", "base"),
        ("flap", "schur", "affine", "blocks+weights"),
        ("flap", "schur", "affine", "blocks+attention"),
        ("greedy_obs", "schur", "affine", "blocks"),
        ("wanda", "schur", "affine", "blocks"),
        ("leverage", "schur", "affine", "blocks"),
        ("greedy_obs", "search", "affine", "full"),
        ("flap", "curves", "affine", "extremes0"),
        ("flap", "curves", "affine", "extremes1"),
        ("flap", "schur", "affine", "exponent0.15"),
        ("flap", "schur", "affine", "exponent0.5"),
    ]
    published = {**ONE_SHOT, "exempt": (0, 1, 2, -2, -1)}
    full = {"full": FULL} if args.networks is None else {"full, networks": {**FULL, "networks": args.networks}}
    measured = {"variants": {"one-shot": ONE_SHOT, "published": published}, "networks": "published", "max_windows": 200}
    steps = ("none", "bias", "affine")
    at_30 = [(s, "global", c, "one-shot") for s in ("wanda", "flap") for c in steps] + network
    at_50 = [(s, "uniform", c, "one-shot") for s in ("wanda", "flap", "obs") for c in steps]
    at_50 += [("flap", "global", c, "one-shot") for c in steps] + network
    table = {
        "notes": [{"recipes": [(*r, "one-shot") for r in grid] + network, **measured, "ratios": (0.2,)}],
        "notes30": [{"recipes": at_30, **measured, "ratios": (0.3,), "table": "notes"}],
        "notes50": [{"recipes": at_50, **measured, "ratios": (0.5,), "table": "notes"}],
        "ablation": [{"recipes": order, "variants": ablation, "on": "dev", "ratios": (0.5, 0.2), "max_windows": 60}],
        "final": [
            {
                "recipes": [
                    ("flap", "search", "affine", "full"),
                    ("flap", "schur", "affine", "base"),
                    ("flap", "global", "bias", "one-shot"),
                    ("flap", "uniform", "bias", "one-shot"),
                    ("wanda", "uniform", "none", "one-shot"),
                    ("wanda", "global", "none", "one-shot"),
                    ("network", "threshold", "none", "published"),
                    ("random", "uniform", "affine", "base"),
                ],
                "variants": {"full": FULL, "base": BASE, "one-shot": ONE_SHOT, "published": published},
                "networks": "published",
                "seeds": (0, 1, 2),
            }
        ],
        "best": [
            {
                "recipes": [("flap", a, "affine", v) for a in args.allocation for v in full],
                "variants": full,
            }
        ],
        "fast": [{"recipes": [("flap", "power", "affine", "fast")], "variants": {"fast": {"token_weights": "stream"}}}],
        "heads": [
            {
                "recipes": [
                    ("flap", "global", "bias", "one-shot"),
                    ("wanda", "uniform", "none", "one-shot"),
                    ("flap", "search", "affine", "full"),
                    ("flap", "global", "affine", "full"),
                    ("flap", "schur", "affine", "full"),
                    ("wanda", "global", "none", "one-shot"),
                ],
                "variants": {
                    "one-shot": {**ONE_SHOT, "heads": True},
                    "full": {**FULL, "heads": True},
                },
                "ratio_of": "decoder",
            }
        ],
    }  # fmt: skip
    return table[args.preset]


def main():
    """Run one preset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="final", choices=PRESETS)
    parser.add_argument("--model", default="demo", help="what load_model takes")
    parser.add_argument("--calibration", help="text file")
    parser.add_argument("--evaluation", help="text file")
    parser.add_argument(
        "--clean",
        default="keep",
        choices=["keep", "delete", "drop"],
        help="what happens to <unk> in the calibration text",
    )
    parser.add_argument("--calibration-tokens", type=int, default=65536)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--bos", default="auto", choices=["auto", "yes", "no"], help="at the head of every window")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--allocation", nargs="+", default=["search"], help="allocations of the preset best")
    parser.add_argument(
        "--networks", help="networks of the preset best, if an allocation reads them: published, layers or joint"
    )
    parser.add_argument("--ratios", type=float, nargs="+")
    parser.add_argument("--max-windows", type=int)
    parser.add_argument("--max-seconds", type=float)
    parser.add_argument("--pairs", help="folder of minimal pairs")
    parser.add_argument("--out", default="results")
    args = parser.parse_args()

    import torch

    from llmbrain.models import load_model
    from llmbrain.pruning import GridSettings, run_grid

    calibration = data_file(args.calibration, "wikitext-2/valid.unk.txt", "--calibration")
    evaluation_file = data_file(args.evaluation, "wikitext-2/test.raw.txt", "--evaluation")
    plans, bos = presets(args), {"yes": True, "no": False}.get(args.bos, args.bos)
    start = time.perf_counter()
    model, tokenizer = load_model(args.model, device=args.device)
    text = clean(calibration.read_text(encoding="utf-8"), args.clean)
    ids = tokenizer(text, verbose=False)["input_ids"]
    test = evaluation_file.read_text(encoding="utf-8")
    device = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    print(f"{device}, loaded in {time.perf_counter() - start:.0f} s")
    for plan in plans:
        evaluation = tokenizer.decode(ids[args.calibration_tokens :]) if plan.get("on") == "dev" else test
        windows = args.max_windows or plan.get("max_windows")
        out = Path(args.out) / f"{plan.get('table', args.preset)}_{args.clean}_{args.calibration_tokens}.tsv"
        left = args.max_seconds and max(0.0, args.max_seconds - (time.perf_counter() - start))
        options = {"context": args.context, "max_tokens": args.calibration_tokens, "batch_size": args.batch_size}
        options["bos"] = bos
        settings = GridSettings(
            ratio_of=plan.get("ratio_of", "neurons"), seeds=plan.get("seeds", (0,)), context=args.context,
            max_tokens=windows and windows * args.context, max_seconds=left, minimal_pairs=args.pairs, bos=bos,
        )  # fmt: skip
        table = run_grid(
            model, tokenizer, tokenizer.decode(ids[: args.calibration_tokens]), evaluation,
            recipes_of(plan["recipes"], plan["variants"], options, plan.get("networks")),
            ratios=args.ratios or plan.get("ratios", (0.2, 0.3, 0.5)), out=out, settings=settings,
        )  # fmt: skip
    print(table.drop(columns=["calibration_hash", "minimal_pairs", "context"]).to_string(index=False))
    print(f"{time.perf_counter() - start:.0f} s; table at {out}")
    if args.device == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
