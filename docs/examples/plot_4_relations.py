"""
Networks, layers and models together
====================================

Which networks and which layers are active together, and which networks of another model respond alike.
"""

# %%
import itertools

import numpy as np
import pandas as pd

from llmbrain import plotting
from llmbrain.networks.connectivity import functional_connectivity
from llmbrain.subjects import Comparison, match_courses

rng = np.random.default_rng(0)

# %%
# Functional connectivity
# -----------------------
# Time courses of twelve networks in three runs: four that are active together, four others that oppose them, and four
# that are independent.
group = np.repeat([0, 1, 2], 4)
runs = []
for _ in range(3):
    shared = rng.normal(size=(200, 2))
    own = rng.normal(size=(200, 12))
    own[:, group == 0] += 1.2 * shared[:, [0]]
    own[:, group == 1] += 0.9 * shared[:, [1]] - 0.6 * shared[:, [0]]
    runs.append(own)
connectivity = functional_connectivity(runs)
figure = plotting.plot_connectivity(connectivity.mean)

# %%
# Links between layers
# --------------------
# The strongest correlations between layers as arcs. In this made-up model, layer 2 correlates with layer 14, and layer
# 11 opposes layer 4.
layers = np.arange(18)
apart = np.abs(layers[:, None] - layers)
matrix = 0.5**apart + np.where(apart < 3, rng.uniform(0, 0.2, apart.shape), 0)
matrix[2, 14] = matrix[14, 2] = 0.85
matrix[4, 11] = matrix[11, 4] = -0.7
figure = plotting.plot_layer_graph(matrix, layers)

# %%
# Two models on the same words
# ----------------------------
# The second model shares two networks with the first, with noise and in another order, and has others of its own.
first = rng.laplace(size=(80, 5))
second = rng.laplace(size=(80, 5))
second[:, 3] = first[:, 0] + 0.4 * rng.normal(size=80)
second[:, 1] = -first[:, 1] + 0.8 * rng.normal(size=80)
figure = plotting.plot_coupling(first, second, names=("base", "fine-tuned"), n_pairs=3)

# %%
# Several models
# --------------
# Four made-up models that read eight documents: a fine-tuned one that keeps the networks of the base with some noise, a
# pruned one with more noise and two new networks, and one that shares nothing. :func:`llmbrain.compare_studies` makes
# the same comparison from recordings.
documents = np.repeat(np.arange(8), 60)
base = rng.laplace(size=(len(documents), 6))
courses = {
    "base": base,
    "fine-tuned": base + 0.3 * rng.laplace(size=base.shape),
    "pruned": np.where(np.arange(6) < 4, base, 0) + 0.7 * rng.laplace(size=base.shape),
    "other": rng.laplace(size=base.shape),
}
names, pairs = list(courses), []
similarity = pd.DataFrame(np.eye(4), index=names, columns=names)
for one, other in itertools.permutations(names, 2):
    found = match_courses(courses[one], courses[other], documents, n_draws=19)
    pairs.append(found.to_frame().assign(model=one, other=other))
    similarity.loc[one, other] = found.score.mean()
similarity = (similarity + similarity.T) / 2
comparison = Comparison(None, pd.concat(pairs), similarity, {"models": names})
figure = plotting.plot_models(comparison)
