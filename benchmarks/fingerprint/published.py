"""The published fingerprint (arXiv 2601.22692) step by step, to compare with.

Layer outputs of ten texts; spatial ICA with 64 components; a network is where \\|z\\| > 3.6; its course is the mean of
the raw activity of its coordinates, per token; of two models, the longer course is cut to the length of the shorter;
Spearman correlations of all pairs of networks, averaged over the texts. Two models are called related if a pair exceeds
0.5. Fit and score are on the same texts.
"""

import numpy as np
from scipy.stats import rankdata

N_TEXTS, N_COMPONENTS, THRESHOLD, RELATED = 10, 64, 3.6, 0.5


def courses(activity, geometry, random_state=666):
    """Courses of the networks in each text, a list of (n_tokens, n_networks), from raw activity of each text."""
    import llmbrain as lb

    options = {"n_init": 1, "random_state": random_state, "solver_params": {"group": "tokens"}}
    canica = lb.CanICA(N_COMPONENTS, geometry=geometry, **options).fit([np.concatenate(activity)])
    masks = [mask for mask in np.abs(canica.networks_.z) > THRESHOLD if mask.any()]
    return [np.stack([run[:, mask].mean(axis=1) for mask in masks], axis=1) for run in activity]


class Ranks:
    """Standardised ranks of a model's courses in each text, kept for every length that they were cut to."""

    def __init__(self, courses):
        self.courses, self.known = courses, {}

    def of(self, text, n):
        """Ranks of the first ``n`` tokens of a text, so that products of two models are Spearman correlations."""
        if (text, n) not in self.known:
            z = rankdata(self.courses[text][:n], axis=0)
            self.known[text, n] = (z - z.mean(0)) / np.where(z.std(0) > 0, z.std(0), np.inf)
        return self.known[text, n]


def score(a, b):
    """Largest mean correlation of any pair, and the number of pairs above the published 0.5; ``a, b`` are Ranks."""
    lengths = [min(len(x), len(y)) for x, y in zip(a.courses, b.courses)]
    table = np.mean([a.of(i, n).T @ b.of(i, n) / n for i, n in enumerate(lengths)], axis=0)
    return float(table.max()), int((table > RELATED).sum())
