"""Test whether networks help in any role in pruning: each recipe with networks against the same one without.

    python benchmarks/pruning_networks.py --tokens 2048 --draws 0 1 2 --device cuda --out results
    python benchmarks/pruning_networks.py --tokens 8192 --draws 0 1 2 --device cuda --out results
    python benchmarks/pruning_networks.py --tokens 65536 --core --draws 0 1 2 --device cuda --out results
    python benchmarks/pruning_networks.py --table --out results

A draw is a set of calibration windows; draws of the same size share no window (at 65,536 tokens the text is long enough
for three). Within a draw all recipes read the same windows, and the networks are found on them too. Each draw therefore
gives one paired difference: the logarithm of the perplexity with networks over that without. The interval is Student's
t over draws. The answer for a role is "yes" if the interval lies below zero against every recipe it is compared with.

Unless a row says otherwise, weights are refitted by affine least squares after earlier layers were pruned, with tokens
weighted by their residual stream. Perplexity is per token, on the first --windows windows of the test text. Each draw
has a TSV in --out, to which every result is added. To resume an interrupted run, repeat the call. --table joins the
draws in networks_paired.tsv, and reads that file if there are no draws. The texts are those of pruning_grid.py.
"""

import argparse
import re
import time
from pathlib import Path

OPTIONS = {"propagation": "sequential", "target": "stream", "ridge": "auto", "token_weights": "stream", "exponent": 0.3}
VARIANTS = {
    "stream": {},
    "equal": {"token_weights": "equal"},
    "joint": {"networks": "joint"},
    "exponent 0.6": {"exponent": 0.6},
    "exponent 1": {"exponent": 1.0},
}
CORE = {
    "uniform": ("flap", "uniform", "affine", "stream"),
    "schur": ("flap", "schur", "affine", "stream"),
    "schur, equal tokens": ("flap", "schur", "affine", "equal"),
    "power allocates": ("flap", "power", "affine", "stream"),
    "networks allocate": ("flap", "networks", "affine", "stream"),
    "joint networks allocate": ("flap", "networks", "affine", "joint"),
    "network x FLAP": ("network_flap", "uniform", "affine", "stream"),
    "joint network x FLAP": ("network_flap", "uniform", "affine", "joint"),
    "network x FLAP, schur": ("network_flap", "schur", "affine", "stream"),
}
REST = {
    "network": ("network", "uniform", "affine", "stream"),
    "obs": ("obs", "uniform", "affine", "stream"),
    "uniform, bias": ("flap", "uniform", "bias", "stream"),
    "network x FLAP, bias": ("network_flap", "uniform", "bias", "stream"),
}
# Allocations without networks, which an allocation by networks must beat.
ALLOCATIONS = {
    "global": ("flap", "global", "affine", "stream"),
    "power, exponent 0.6": ("flap", "power", "affine", "exponent 0.6"),
    "power, exponent 1": ("flap", "power", "affine", "exponent 1"),
    "power, equal tokens": ("flap", "power", "affine", "equal"),
}
ROWS = {**CORE, **REST, **ALLOCATIONS}
OTHERS = ("uniform", "schur", "global", "power allocates", "power, exponent 0.6", "power, exponent 1")
# role, row with networks, rows without them that it must beat
PAIRS = (
    ("selection: largest z", "network", ("uniform",)),
    ("selection: z x FLAP", "network x FLAP", ("uniform",)),
    ("selection: z x FLAP, Schur allocation", "network x FLAP, schur", ("schur",)),
    ("selection: z x FLAP, mean bias", "network x FLAP, bias", ("uniform, bias",)),
    ("allocation: threshold on maps", "networks allocate", OTHERS),
    ("joint layers: selection, z x FLAP", "joint network x FLAP", ("uniform",)),
    ("joint layers: allocation, threshold", "joint networks allocate", OTHERS),
)
# Comparisons without a role of networks, from the same rows.
ASIDE = (
    ("joint against layer by layer, z x FLAP", "joint network x FLAP", ("network x FLAP",)),
    ("joint against layer by layer, allocation", "joint networks allocate", ("networks allocate",)),
    ("tokens weighted by the stream", "schur", ("schur, equal tokens",)),
    ("power for Schur, exponent 0.3, equal tokens", "power, equal tokens", ("schur, equal tokens",)),
    ("power for Schur, exponent 0.3", "power allocates", ("schur",)),
    ("recipe fast: power, exponent 1, tokens weighted", "power, exponent 1", ("schur, equal tokens", "schur")),
)
DRAWS = "networks_*_draw*.tsv"


def draw_windows(windows, n_tokens, context, draw, seed=0):
    """Choose the windows of one draw, in an order that a seed fixes; draws share none.

    Parameters
    ----------
    windows : list of llmbrain.text.Window
        The whole text; windows shorter than ``context`` are not drawn.

    Returns
    -------
    list of llmbrain.text.Window
    """
    import numpy as np

    windows, each = [window for window in windows if len(window) == context], n_tokens // context
    n = len(windows)
    if not each or (draw + 1) * each > n:
        raise SystemExit(f"The text holds {n} windows of {context} tokens: no draw {draw} of {n_tokens} tokens.")
    order = np.random.default_rng(seed).permutation(n)[draw * each : (draw + 1) * each]
    return [windows[i] for i in sorted(order)]


def paired(table, ratio, with_row, without):
    """Paired differences over draws.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of one calibration size, with a column ``draw``.
    ratio : float
    with_row, without : str
        Names in :data:`ROWS`.

    Returns
    -------
    dict or None
        ``mean, low, high`` (logarithm of a ratio of perplexities; no interval from one draw) and ``n`` draws.
    """
    import numpy as np
    from scipy import stats

    names = ["score", "allocation", "compensation", "variant"]
    at = table[np.isclose(table.ratio, ratio)]

    def losses(name):
        rows = at[(at[names] == list(ROWS[name])).all(axis=1)]
        return np.log(rows.set_index("draw").perplexity.astype(float))

    gap = (losses(with_row) - losses(without)).dropna()
    if not len(gap):
        return None
    mean, half = float(gap.mean()), np.inf
    if len(gap) > 1:
        half = float(stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap)))
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": len(gap)}


def verdict(found):
    """Combine the comparisons of one role into an answer."""
    known = [f for f in found if f is not None]
    if not known:
        return "not run"
    if any(f["low"] > 0 for f in known):
        return "no, worse"
    if all(f["n"] == 1 for f in known):
        return "one draw, worse" if any(f["mean"] > 0 for f in known) else "one draw, better"
    if all(f["high"] < 0 for f in known):
        return "yes" if len(known) == len(found) else "yes, so far"
    return "no"


def markdown(table):
    """Format the table of differences and the table of answers.

    Parameters
    ----------
    table : pandas.DataFrame
        All rows of all draws and sizes: columns of ``run_grid``, ``tokens`` and ``draw``.

    Returns
    -------
    str
    """
    sizes, ratios = sorted(table.tokens.unique()), sorted(r for r in table.ratio.unique() if r > 0)
    lines, answers, n_intervals = [], {}, 0
    head = [f"{n:,} tokens, {r:.0%}" for n in sizes for r in ratios]
    lines += ["| role | against | " + " | ".join(head) + " |", "| --- " * (len(head) + 2) + "|"]
    for role, name, without in (*PAIRS, *ASIDE):
        for other in without:
            cells = []
            for n in sizes:
                for r in ratios:
                    found = paired(table[table.tokens == n], r, name, other)
                    answers.setdefault(role, {}).setdefault((n, r), []).append(found)
                    n_intervals += found is not None and found["n"] > 1
                    cells.append(_cell(found))
            lines.append(f"| {role} | {other} | " + " | ".join(cells) + " |")
    lines += ["", "| does it help? | " + " | ".join(head) + " |", "| --- " * (len(head) + 1) + "|"]
    for role, found in answers.items():
        lines.append(f"| {role} | " + " | ".join(verdict(found[n, r]) for n in sizes for r in ratios) + " |")
    draws = ", ".join(f"{table[table.tokens == n].draw.nunique()} at {n:,}" for n in sizes)
    lines += ["", f"Change of the perplexity, 95 % interval over draws ({draws}). {n_intervals} intervals: by chance"]
    lines += [f"about {0.025 * n_intervals:.0f} of them would lie below zero if nothing helped."]
    return "\n".join(lines)


def _cell(found):
    if found is None:
        return ""
    import numpy as np

    mean, low, high = (100 * np.expm1(found[k]) for k in ("mean", "low", "high"))
    if found["n"] == 1:
        return f"{mean:+.1f} %"
    text = f"{mean:+.1f} % ({low:+.1f} to {high:+.1f})"
    return f"**{text}**" if found["high"] < 0 else text


def collect(folder):
    """Join the tables of all draws in a folder."""
    import pandas as pd

    from llmbrain.files import read_tsv

    tables = []
    for path in sorted(Path(folder).glob(DRAWS)):
        tokens, draw = re.fullmatch(r"networks_[a-z]+_(\d+)_draw(\d+)\.tsv", path.name).groups()
        tables.append(read_tsv(path).assign(tokens=int(tokens), draw=int(draw)))
    if not tables and (Path(folder) / "networks_paired.tsv").is_file():
        return read_tsv(Path(folder) / "networks_paired.tsv")
    if not tables:
        raise SystemExit(f"There is no networks_*_draw*.tsv in {folder}.")
    return pd.concat(tables, ignore_index=True)


def arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="what load_model takes")
    parser.add_argument("--calibration", help="text file")
    parser.add_argument("--evaluation", help="text file")
    parser.add_argument(
        "--clean",
        default="delete",
        choices=["keep", "delete", "drop"],
        help="what happens to <unk> in the calibration text",
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 8192, 65536], help="calibration tokens")
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.5, 0.2])
    parser.add_argument(
        "--core",
        action="store_true",
        help="leave out selection by maps alone, OBS, the mean bias, and the other allocations",
    )
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), help="run only these")
    parser.add_argument("--windows", type=int, default=40, help="windows of the test text")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-seconds", type=float)
    parser.add_argument("--table", action="store_true", help="only print the tables of the results in --out")
    parser.add_argument("--out", default="results")
    return parser.parse_args()


def main():
    """Run the rows that are not in the tables yet, or print the tables."""
    args = arguments()
    if args.table:
        from llmbrain.files import write_tsv

        table = collect(args.out)
        if any(Path(args.out).glob(DRAWS)):
            write_tsv(Path(args.out) / "networks_paired.tsv", table)
        print(markdown(table))
        return
    from pruning_grid import clean, data_file, recipes_of

    from llmbrain.models import load_model
    from llmbrain.pruning import run_grid
    from llmbrain.text import text_windows

    calibration = data_file(args.calibration, "wikitext-2/valid.unk.txt", "--calibration")
    evaluation = data_file(args.evaluation, "wikitext-2/test.raw.txt", "--evaluation")
    start = time.perf_counter()
    model, tokenizer = load_model(args.model, device=args.device)
    text = clean(calibration.read_text(encoding="utf-8"), args.clean)
    fit, _ = text_windows([text], tokenizer, args.context)
    n_test = args.windows * args.context
    test = evaluation.read_text(encoding="utf-8")
    test = tokenizer.decode(tokenizer(test[: 10 * n_test], verbose=False)["input_ids"][:n_test])
    rows = {name: ROWS[name] for name in args.rows} if args.rows else CORE if args.core else ROWS
    options = {**OPTIONS, "context": args.context, "batch_size": args.batch_size}
    Path(args.out).mkdir(parents=True, exist_ok=True)
    n_fit = sum(map(len, fit))
    print(f"loaded in {time.perf_counter() - start:.0f} s; {n_fit:,} tokens of calibration text", flush=True)
    for tokens in args.tokens:
        for draw in args.draws:
            began = time.perf_counter()
            if args.max_seconds and began - start > args.max_seconds:
                continue
            print(f"{tokens} tokens, draw {draw}", flush=True)
            settings = {
                "seeds": (draw,), "context": args.context,
                "max_seconds": args.max_seconds and args.max_seconds - (began - start),
            }  # fmt: skip
            table = run_grid(
                model, tokenizer, draw_windows(fit, tokens, args.context, draw), test,
                recipes_of(rows.values(), VARIANTS, options, "layers"), ratios=args.ratios,
                out=Path(args.out) / f"networks_{args.clean}_{tokens}_draw{draw}.tsv", settings=settings,
            )  # fmt: skip
            print(f"{len(table) - 1} rows, {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
