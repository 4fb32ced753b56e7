"""Do networks reproduce? Group models and numbers of components, compared by random halves of the runs.

    python benchmarks/reproducibility.py                              records the demo corpus with the demo model first
    python benchmarks/reproducibility.py --model FILE.gguf            with another model
    python benchmarks/reproducibility.py --study FOLDER               uses an existing recording
    python benchmarks/reproducibility.py --study FOLDER --runs 16     uses its first runs

Every run is reduced once, to its leading rows at unit norm; all models are computed from these rows and their
products. `tokens` weighs the rows by their strength, which is the leading subspace of all tokens up to what the rows
leave out, `1` is nilearn's own model (one row per component of each run), and `5` is the default. With `ridge`, a row
of strength s has the weight s / sqrt(s^2 + 0.1 s_k^2), where s_k is the strength of row k, the number of components.
Figures are absolute correlations of maps that are matched one to one between two halves that share no run.

The second table is nested: the model is chosen by halves of one half of the runs, and the figure is that of halves of
the other half, which the choice did not see. These halves have a quarter of the runs, so the figure is lower than those
of the first table; the default and nilearn's model are measured on the same quarters.
"""

import argparse
import tempfile

import numpy as np
import torch
from scipy.linalg import eigh

from llmbrain.networks.engines.ica import draw_rotations, fastica, sparsest_start
from llmbrain.networks.engines.leading import from_tokens
from llmbrain.networks.engines.parallel import workers
from llmbrain.networks.engines.reduction import whiten_rows
from llmbrain.networks.engines.runs import CleanedRuns
from llmbrain.networks.evidence.matching import match_maps
from llmbrain.networks.inputs import load_runs

CANDIDATES = ("tokens", "1", "2", "3", "5", "5 ridge", "8", "8 ridge")
DEFAULT, RIDGE = "5", 0.1
SHORTEST = 100  # tokens of a run that counts


class Rows:
    """Leading rows of every run at unit norm, their strengths, and the products between all of them."""

    def __init__(self, sources, n_rows):
        self.rows, self.strengths, self.first = [], [], [0]
        data = CleanedRuns([s for s in sources if s.n_tokens >= SHORTEST])
        for r, n in enumerate(data.n_tokens):
            x = data.block(r, 0, data.n_neurons)
            found = from_tokens((x @ x.T).double(), min(n_rows, n - 1))
            self.rows.append((found.left / found.values.sqrt()).T.float() @ x)
            self.strengths.append(found.values.sqrt().numpy())
            self.first.append(self.first[-1] + len(found.values))
        self.rows = torch.cat(self.rows)
        self.products = (self.rows @ self.rows.T).double().numpy()
        self.n_runs = len(self.strengths)

    def maps(self, runs, n_components, model, n_init=3, seed=0):
        """Independent components of some runs in one of the ``CANDIDATES`` models, from the sparsest start."""
        rows, _, ridge = model.partition(" ")
        n = None if model == "tokens" else max(n_components, round(float(rows) * n_components))
        chosen, weights = [], []
        for r in sorted(runs):
            strengths = self.strengths[r][:n]
            chosen.append(self.first[r] + np.arange(len(strengths)))
            weakest = strengths[min(n_components, len(strengths)) - 1]
            plain = strengths / np.sqrt(strengths**2 + (RIDGE if ridge else 0.0) * weakest**2)
            weights.append(strengths if model == "tokens" else plain)
        chosen, weights = np.concatenate(chosen), np.concatenate(weights)
        table = self.products[np.ix_(chosen, chosen)] * weights * weights[:, None]
        values, vectors = eigh(table, subset_by_index=(len(table) - n_components, len(table) - 1))
        small = torch.from_numpy((vectors * weights[:, None] / np.sqrt(values)).T.astype(np.float32))
        z, _ = whiten_rows(small @ self.rows[chosen])
        found = fastica(z, draw_rotations(n_init, n_components, seed))
        return (found.w[sparsest_start(found.w, z)].float() @ z).numpy()

    def agreement(self, a, b, n_components, model, **search):
        """Sorted absolute correlations of the matched networks of two sets of runs."""
        return np.sort(np.abs(match_maps(*(self.maps(x, n_components, model, **search) for x in (a, b))).score))


def halves_of(runs, rng):
    """Random halves of runs, of equal size."""
    order, n = rng.permutation(runs), len(runs) // 2
    return order[:n], order[n : 2 * n]


def line(name, r):
    """One row of a table from the correlations of every split."""
    r = np.array(r)
    cells = [f"{r.mean():.3f}", f"{(r >= 0.5).sum(1).mean():.1f}", f"{(r >= 0.7).sum(1).mean():.1f}"]
    return f"| {name} | " + " | ".join(cells) + f" | {', '.join(f'{x:.3f}' for x in r.mean(1))} |"


def head(first, n):
    """Head of a table."""
    print(f"\n| {first} | mean \\|r\\| | of {n}: at least 0.5 | at least 0.7 | every split |\n{'| --- ' * 5}|")


def main():
    """Print the tables."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        sources = _recording(args, folder)
        print(f"{len(sources)} runs, {sum(s.n_tokens for s in sources)} tokens, {sources[0].n_neurons} neurons")
        largest = max(float(m.split()[0]) for m in args.models if m != "tokens")
        with workers():
            rows = Rows(sources, round(largest * max([args.n_components, *args.grid])))
            _compare(rows, args)
            _nested(rows, args)
            _orders(rows, args)


def _compare(rows, args):
    head("rows per run", args.n_components)
    splits = [halves_of(np.arange(rows.n_runs), np.random.default_rng(seed)) for seed in range(args.splits)]
    for model in args.models:
        print(line(model, [rows.agreement(a, b, args.n_components, model) for a, b in splits]), flush=True)


def _nested(rows, args):
    found, before, stock, names = [], [], [], []
    for seed in range(args.splits):
        rng = np.random.default_rng(seed)
        parts = halves_of(np.arange(rows.n_runs), rng)
        for own, other in (parts, parts[::-1]):
            inner = [halves_of(own, rng) for _ in range(args.inner)]
            means = {
                m: np.mean([rows.agreement(a, b, args.n_components, m, n_init=1) for a, b in inner])
                for m in args.models
            }
            best = max(means, key=means.get)
            a, b = halves_of(other, rng)
            names.append(best)
            found.append(rows.agreement(a, b, args.n_components, best))
            before.append(rows.agreement(a, b, args.n_components, DEFAULT))
            stock.append(rows.agreement(a, b, args.n_components, "1"))
    head("nested", args.n_components)
    print(line(f"chosen ({', '.join(names)})", found))
    print(line(f"default, {DEFAULT}", before))
    print(line("nilearn's model", stock), flush=True)


def _orders(rows, args):
    head(f"components, {args.model_of_grid} rows per run", "them")
    splits = [halves_of(np.arange(rows.n_runs), np.random.default_rng(seed)) for seed in range(args.splits)]
    for n in args.grid:
        print(line(n, [rows.agreement(a, b, n, args.model_of_grid) for a, b in splits]), flush=True)


def _recording(args, folder):
    import llmbrain as lb

    if args.study:
        return load_runs(args.study).sources[: args.runs]
    model, tokenizer = lb.load_model(args.model)
    options = {"max_tokens": args.max_tokens, "tokens_per_run": args.tokens_per_run}
    lb.record(model, tokenizer, lb.load_corpus("demo"), out=f"{folder}/study", **options)
    return load_runs(f"{folder}/study").sources[: args.runs]


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="name or file of the model that is recorded")
    parser.add_argument("--study", help="folder of a recording")
    parser.add_argument("--runs", type=int, help="number of runs that are used")
    parser.add_argument("--max-tokens", type=int, default=10_000, help="of the recording that is made")
    parser.add_argument("--tokens-per-run", type=int, default=625)
    parser.add_argument("--n-components", type=int, default=20)
    parser.add_argument("--models", nargs="+", choices=CANDIDATES, default=CANDIDATES)
    parser.add_argument("--model-of-grid", choices=CANDIDATES, default=DEFAULT)
    parser.add_argument("--grid", nargs="*", type=int, default=[5, 10, 15, 20, 30])
    parser.add_argument("--splits", type=int, default=4)
    parser.add_argument("--inner", type=int, default=2, help="splits of each half by which the nested choice is made")
    return parser.parse_args()


if __name__ == "__main__":
    main()
