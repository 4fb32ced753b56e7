"""The same decomposition by both engines: how alike the maps are, and how stable each map is by either engine."""

import warnings

import numpy as np

from llmbrain.networks import CanICA, icasso, match_maps
from llmbrain.networks.evidence.stability import score_networks

SAME = {"group": "runs", "rows_per_run": 1}  # nilearn's model step by step


def parity(runs, n_components, geometry=None, n_init=3, n_repeats=10):
    """``r`` with the fast engine's map, and ``stock`` and ``fast`` stability, for every map of stock nilearn.

    Stability is that of ICASSO over bootstrapped runs, the same draws for both engines.
    """

    def fit(runs, engine, n_init, seed):
        options = {"engine": engine, "geometry": geometry, "n_init": n_init, "random_state": seed}
        if engine == "torch":
            options["solver_params"] = SAME
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return CanICA(n_components, **options).fit(runs).components_

    maps, stability = {}, {}
    for engine in ("nilearn", "torch"):
        maps[engine] = fit(runs, engine, n_init, 0)
        rng = np.random.default_rng(0)
        drawn = [[runs[i] for i in rng.integers(len(runs), size=len(runs))] for _ in range(n_repeats)]
        clusters = icasso([fit(d, engine, 1, seed) for seed, d in enumerate(drawn)], n_networks=n_components)
        stability[engine] = score_networks(maps[engine], clusters)["stability"].to_numpy()
    matched = match_maps(maps["nilearn"], maps["torch"])
    return {"r": np.abs(matched.score), "stock": stability["nilearn"], "fast": stability["torch"][matched.index]}
