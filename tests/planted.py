"""Runs with planted networks: sparse, heavy-tailed, scattered maps with Gaussian courses, under Gaussian noise."""

import numpy as np
from scipy.optimize import linear_sum_assignment

from llmbrain.geometry import NeuronGeometry

GEOMETRY = NeuronGeometry.from_sizes([97] * 20)  # a prime width: sheets with padding
K = 6  # planted networks of the estimators' tests


def planted_runs(n_neurons=3000, n_networks=6, n_tokens=(200, 200), snr=0.6, density=0.03, seed=0):
    """Runs ``(n_tokens, n_neurons)`` float32 and their maps ``(n_networks, n_neurons)``; SNR is of root mean squares.

    The maps are what z-scoring leaves of the planted weights: each neuron's over the square root of its variance.
    """
    rng = np.random.default_rng(seed)
    maps = rng.laplace(size=(n_networks, n_neurons)) * (rng.random((n_networks, n_neurons)) < density)
    maps *= snr / np.sqrt((maps**2).sum() / n_neurons)
    runs = [
        (rng.standard_normal((n, n_networks)) @ maps + rng.standard_normal((n, n_neurons))).astype(np.float32)
        for n in n_tokens
    ]
    return runs, maps / np.sqrt(1 + (maps**2).sum(0))


def recovery(truth, found):
    """Best one-to-one absolute correlation of each true map with a found one."""
    table = np.abs(np.corrcoef(truth, found)[: len(truth), len(truth) :])
    rows, cols = linear_sum_assignment(-np.nan_to_num(table))
    return table[rows, cols]
