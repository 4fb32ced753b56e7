"""Does it help pruning to keep the networks whose lesion does more harm than every control?

    python benchmarks/replication/lesions.py --model MODEL --wikitext DIR --n-controls 100 --device cuda --out lesions
    python benchmarks/pruning_causal.py --model MODEL --wikitext DIR --device cuda --out lesions
    python benchmarks/pruning_causal.py --table benchmarks/results/replication/*/causal.tsv

Reads ``lesions_effects.tsv`` in --out: causal networks are those above all their controls of equal layers and
importance. Each recipe prunes with its own scores; then again with the same widths, but with the neurons of the causal
networks ahead of all others in their layer; with those of all networks; and with as many random neurons of the same
layers as the causal networks hold. All are paired within a draw of calibration windows, and draws share no window. The
interval of the difference of log perplexities is Student's t over draws. Networks are those of lesions.py, whose text
is not that of the calibration. Rows are added to ``causal.tsv`` in --out; to resume, repeat the call.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent / "replication"))
from common import fitted, masks_of, parser, subject
from pruning_grid import clean, data_file
from pruning_networks import draw_windows

import llmbrain as lb
from llmbrain.masks.controls import layer_matched
from llmbrain.pruning import Recipe
from llmbrain.text import text_windows

KEYS = ["draw", "ratio", "recipe", "kept first"]
BASE = "as scored"


def main():
    """Fill the table, and print the paired differences."""
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--components", type=int, default=20)
    p.add_argument("--recipes", nargs="+", default=["flap", "wanda", "fast"])
    p.add_argument("--ratios", type=float, nargs="+", default=[0.2, 0.5])
    p.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--tokens", type=int, default=16_384, help="calibration tokens of a draw")
    p.add_argument("--windows", type=int, default=80, help="windows of the test text")
    p.add_argument("--calibration-context", type=int, default=1024)
    p.add_argument("--table", nargs="+", help="print the differences of finished tables, one per model")
    args = p.parse_args()
    if args.table:
        print(side_by_side(args.table))
        return
    s = subject(args)
    chosen = sets(s, args)
    text = clean(data_file(None, "wikitext-2/valid.unk.txt", "LLMBRAIN_BENCHMARK_DATA").read_text("utf-8"), "drop")
    windows, _ = text_windows([text], s.tokenizer, args.calibration_context)
    test = data_file(None, "wikitext-2/test.raw.txt", "LLMBRAIN_BENCHMARK_DATA").read_text("utf-8")
    out = Path(args.out) / "causal.tsv"
    rows = pd.read_csv(out, sep="\t").to_dict("records") if out.is_file() else []
    for draw in args.draws:
        calibration = draw_windows(windows, args.tokens, args.calibration_context, draw)
        random = np.random.default_rng([args.seed, draw])
        drawn = {**chosen, "random": layer_matched(chosen["causal"], s.geometry.layer_of, random)}
        for ratio in args.ratios:
            for name in args.recipes:
                known = [r["kept first"] for r in rows if [r[k] for k in KEYS[:3]] == [draw, ratio, name]]
                if {BASE, *drawn} <= set(known):
                    continue
                rows = [r for r in rows if [r[k] for k in KEYS[:3]] != [draw, ratio, name]]
                for kept_first, found in measure(s, calibration, test, name, ratio, drawn, args):
                    rows.append({**dict(zip(KEYS, (draw, ratio, name, kept_first))), **found})
                    print(rows[-1], flush=True)
                pd.DataFrame(rows).to_csv(out, sep="\t", index=False)
    print(differences(pd.DataFrame(rows)).round(4).to_string(index=False))


def sets(s, args):
    """Bool arrays over all neurons: the union of the causal networks, and that of all."""
    effects = pd.read_csv(Path(args.out) / "lesions_effects.tsv", sep="\t")
    effects = effects[(effects.task == effects.task[0]) & (effects.family == "layer+importance")]
    causal = set(effects.network[effects.effect > effects.control_max]) - {"all networks"}
    masks = masks_of(s, fitted(s, args.components)[0])
    print(f"causal: {', '.join(sorted(causal))}", flush=True)
    if not causal:
        raise SystemExit("No network is above all its controls.")
    union = [
        np.any([m.values for m in masks if m.name in names], axis=0) for names in (causal, {m.name for m in masks})
    ]
    return dict(zip(("causal", "all networks"), union))


def measure(s, calibration, test, name, ratio, drawn, args):
    """Yield the perplexity of a recipe, and of the same widths with each set of neurons ahead of the others."""
    recipe = Recipe.named(name).with_(options={"context": args.calibration_context, "max_tokens": None})
    base = cut(s, calibration, ratio, recipe)
    widths, scores = lb.NeuronGeometry.from_model(base.model).sizes, [np.asarray(x) for x in base.scores]
    kept = [np.isin(np.arange(n), k) for n, k in zip(s.geometry.sizes, base.kept)]
    yield BASE, {"perplexity": perplexity(s, base, test, args), "share kept": 1.0}
    del base
    for kept_first, values in drawn.items():
        inside = [values[s.geometry.layer_slice(i)] for i in range(s.geometry.n_layers)]
        raised = [x + (x.max() - x.min() + 1) * chosen for x, chosen in zip(scores, inside)]
        pruned = cut(s, calibration, ratio, recipe.with_(score=raised, allocation=list(map(int, widths))))
        share = np.concatenate(kept)[values].mean()  # of these neurons, by the recipe alone
        yield kept_first, {"perplexity": perplexity(s, pruned, test, args), "share kept": share}


def cut(s, calibration, ratio, recipe):
    """Prune a copy."""
    return lb.prune(s.model, s.tokenizer, calibration, ratio, recipe=recipe, measure=False, progress=False)


def perplexity(s, pruned, test, args):
    """Perplexity on the first windows of the test text."""
    context = args.calibration_context
    return lb.perplexity(pruned.model, s.tokenizer, test, context=context, max_tokens=args.windows * context)


def differences(table):
    """Paired differences of log perplexity over draws, against the recipe alone and against random neurons."""
    from scipy import stats

    rows = []
    for (ratio, recipe), part in table.groupby(["ratio", "recipe"], sort=False):
        losses = np.log(part.pivot(index="draw", columns="kept first", values="perplexity"))
        already = part.groupby("kept first")["share kept"].mean()
        for name in [c for c in ("causal", "all networks", "random") if c in losses]:
            for other in [o for o in (BASE, "random") if o != name]:
                gap = (losses[name] - losses[other]).dropna()
                half = (
                    stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else np.inf
                )
                rows.append({
                    "ratio": ratio, "recipe": recipe, "kept first": name, "against": other,
                    "kept anyway": already[name], "change": gap.mean(),
                    "low": gap.mean() - half, "high": gap.mean() + half, "draws": len(gap),
                })  # fmt: skip
    return pd.DataFrame(rows)


def side_by_side(files):
    """Markdown with a row per model, ratio, recipe and set: the changes in % of the perplexity, and their intervals."""
    lines = [
        "| model | pruned | recipe | kept first | of these kept anyway | against the recipe | against random | draws |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for file in map(Path, files):
        table = differences(pd.read_csv(file, sep="\t"))
        for (ratio, recipe, name), part in table.groupby(["ratio", "recipe", "kept first"], sort=False):
            if name == "random":
                continue
            gaps = part.set_index("against")
            lines.append(
                f"| {file.parent.name} | {ratio:.0%} | {recipe} | {name} | {part['kept anyway'].iloc[0]:.0%} "
                f"| {percent(gaps.loc[BASE])} | {percent(gaps.loc['random'])} | {part['draws'].iloc[0]} |"
            )
    return "\n".join(lines)


def percent(gap):
    """A change of log perplexity as a change of the perplexity, with its interval if there is more than one draw."""
    change, low, high = (f"{100 * np.expm1(gap[name]):+.1f}" for name in ("change", "low", "high"))
    return f"{change} % ({low} to {high})" if gap["draws"] > 1 else f"{change} %"


if __name__ == "__main__":
    main()
