"""
Whether to believe a network
============================

ICA always returns as many networks as requested. Here the data hold three, and six are requested.
"""

# %%
import numpy as np

import llmbrain as lb
from llmbrain import plotting
from llmbrain.networks.evidence.matching import match_maps
from llmbrain.networks.evidence.order import split_half_curve
from llmbrain.networks.evidence.resampling import resampled_networks

rng = np.random.default_rng(0)
geometry = lb.NeuronGeometry.from_sizes([200] * 10)
planted = rng.laplace(size=(3, geometry.n_neurons)) * (rng.random((3, geometry.n_neurons)) < 0.15)
runs = [rng.laplace(size=(200, 3)) @ planted * 2 + 2 * rng.normal(size=(200, geometry.n_neurons)) for _ in range(6)]

# %%
# Stability
# ---------
# Runs are drawn with replacement and decomposed from new starting points, and the estimates are clustered (ICASSO).
# Three clusters are tight; the others are not.
clusters = resampled_networks(runs, 6, n_repeats=20, random_state=0)
figure = plotting.plot_stability(clusters)

# %%
# How many networks
# -----------------
# The number of networks that are found again in the other half of the runs, for each requested number.
curve = split_half_curve(runs, [1, 2, 3, 4, 6, 8, 12], random_state=0)
figure = plotting.plot_order(curve[["n_components", "n_reproduced", "mean_r"]], chosen=3)

# %%
# Two halves
# ----------
# One-to-one matches, best first. The three planted networks are in the upper left.
halves = [
    lb.CanICA(n_components=6, geometry=geometry, n_init=3, random_state=0).fit(half).components_
    for half in (runs[::2], runs[1::2])
]
figure = plotting.plot_matching(match_maps(*halves), names=("even runs", "odd runs"))
