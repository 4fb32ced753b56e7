"""The score of an earlier version: networks instead of neurons. Large models that are unrelated share most networks.

Networks are found on a third of the texts, paired one to one on another third and scored on the last; the score is the
mean correlation of the pairs, and the larger one of the sites ``layer`` and ``mlp`` counts.
"""

import numpy as np

import llmbrain as lb
from llmbrain.networks.evidence.matching import matched_scores
from llmbrain.subjects import align, find_units, regress_out, word_confounds
from llmbrain.subjects.matching import correlate_courses

SITES, N_COMPONENTS, PARTS = ("layer", "mlp"), 20, 3


def part_of(text):
    """0 to fit, 1 to choose and 2 to score."""
    return (text + text // 6) % PARTS


def courses(activity, geometries, texts):
    """Courses of networks on all words of the texts, NaN for words that are not covered: ``site`` -> array."""
    units = [find_units(text) for text in texts]
    names = [name for one in units for name in one.names]
    numbers = np.repeat(np.arange(len(texts)), [len(one) for one in units])
    confounds, found = word_confounds(names, numbers), {"text": numbers}
    for site in SITES:
        fit = np.concatenate([one.values[site] for i, one in enumerate(activity) if part_of(i) == 0])
        options = {"n_init": 10, "random_state": 0, "solver_params": {"group": "tokens"}}
        canica = lb.CanICA(N_COMPONENTS, geometry=geometries[site], **options).fit([fit])
        rows = canica.transform([np.concatenate([one.values[site] for one in activity])])[0]
        pieces = np.split(rows, np.cumsum([len(one.spans) for one in activity])[:-1])
        rows = np.concatenate([align(x, one.spans, u) for x, one, u in zip(pieces, activity, units)])
        rows[np.diff(numbers, prepend=-1) > 0] = np.nan  # the first word of a text may be an attention sink
        covered = np.isfinite(rows).all(axis=1)
        for part in range(1, PARTS):
            mine = covered & (part_of(numbers) == part)
            rows[mine] = regress_out(rows[mine], confounds[mine])
        found[site] = rows
    return found


def score(a, b):
    """Mean correlation of matched networks at each site; ``a, b`` are from `courses`."""
    found = {}
    for site in SITES:
        both = np.isfinite(a[site]).all(axis=1) & np.isfinite(b[site]).all(axis=1)
        choose, last = (both & (part_of(a["text"]) == part) for part in (1, 2))
        index, there = matched_scores(correlate_courses(a[site][choose], b[site][choose]), missing=np.nan)
        here = correlate_courses(a[site][last], b[site][last])[np.arange(len(index)), np.maximum(index, 0)]
        found[f"networks_{site}"] = float(np.nanmean(np.where(index < 0, np.nan, here * np.sign(there))))
    return found | {"networks": max(found.values())}
