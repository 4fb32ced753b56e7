"""Networks by consensus instead of from one start: do they reproduce better between random halves of the runs?

    python benchmarks/refuted/consensus.py STUDY                the variants below on the first 16 runs of a recording

All variants start from the rows of `../reproducibility.py` (5 rows per component of each run, `8 ridge` for comparison)
and use the runs of one half only. The result is in ../RESULTS.md, "Agreement between halves".
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import eigh

from llmbrain.networks.engines.ica import draw_rotations, fastica
from llmbrain.networks.engines.parallel import workers
from llmbrain.networks.evidence.matching import match_maps
from llmbrain.networks.evidence.stability import icasso
from llmbrain.networks.inputs import load_runs

sys.path.append(str(Path(__file__).parents[1]))
from reproducibility import Rows, halves_of, head, line

WIDE = 4  # dimensions of the subspace in which runs are drawn again, as a multiple of the components


def plain(rows, runs, c, model="5", n_init=3):
    """The model as it is: the sparsest of some starts."""
    return rows.maps(runs, c, model, n_init=n_init)


def of_starts(rows, runs, c, n_init=12):
    """Centres of the clusters of many starts."""
    z = rows.maps(runs, c, "5", n_init=1)  # white rows
    found = fastica(torch.from_numpy(z), draw_rotations(n_init, c, 0))
    return icasso(list(found.w.numpy()), c).maps @ z


def of_bootstraps(rows, runs, c, size=None, average=True, n_draws=12):
    """Centres, or means, of the clusters of fits to runs drawn with replacement, in a wide subspace of the half."""
    size, rng = size or c, np.random.default_rng(0)
    z = rows.maps(runs, WIDE * c, "5", n_init=1)  # its rows span the wide subspace and are white
    n = 5 * c
    parts = [(rows.rows[rows.first[r] : rows.first[r] + n] @ torch.from_numpy(z).T).double().numpy() for r in runs]
    products, estimates = np.stack([part.T @ part for part in parts]) / z.shape[1], []
    for draw in range(n_draws):
        counts = np.bincount(rng.integers(len(runs), size=len(runs)), minlength=len(runs))
        basis = eigh(np.tensordot(counts, products, 1), subset_by_index=(len(z) - size, len(z) - 1))[1].T
        found = fastica(torch.from_numpy((basis @ z).astype(np.float32)), draw_rotations(1, size, draw))
        estimates.append(found.w[0].numpy() @ basis)
    found, stacked = icasso(estimates, c), np.concatenate(estimates)
    if not average:
        return found.maps @ z
    members = [stacked[found.labels == k] for k in range(c)]
    return np.stack([(m * np.sign(m @ centre)[:, None]).mean(0) for m, centre in zip(members, found.maps)]) @ z


VARIANTS = {
    "5 rows, 3 starts, the sparsest": plain,
    "12 starts, the sparsest": lambda *half: plain(*half, n_init=12),
    "12 starts, centres of their clusters": of_starts,
    "12 bootstraps of the runs, centres": lambda *half: of_bootstraps(*half, average=False),
    "12 bootstraps of the runs, means": of_bootstraps,
    "the same with 15 components each": lambda *half: of_bootstraps(*half, size=15),
    "the same with 26 components each": lambda *half: of_bootstraps(*half, size=26),
    "8 rows, ridge": lambda *half: plain(*half, model="8 ridge"),
}


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="folder of a recording")
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--n-components", type=int, default=20)
    args = parser.parse_args()
    c = args.n_components
    with workers():
        rows = Rows(load_runs(args.study).sources[: args.runs], 8 * c)
        splits = [halves_of(np.arange(rows.n_runs), np.random.default_rng(seed)) for seed in range(4)]
        head("maps", c)
        for name, fit in VARIANTS.items():
            pairs = [(fit(rows, sorted(a), c), fit(rows, sorted(b), c)) for a, b in splits]
            print(line(name, [np.sort(np.abs(match_maps(*pair).score)) for pair in pairs]), flush=True)


if __name__ == "__main__":
    main()
