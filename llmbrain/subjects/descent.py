"""Does one model descend from another: two fingerprints compared, with the error rates of the decision."""

import json
from dataclasses import dataclass, field

import numpy as np

from ..exceptions import ParameterError, check_count
from ..networks.evidence.matching import matched_scores
from ..stats import permutation_p
from .fingerprints import PARTS, Fingerprint, check_words
from .isc import _ends, shifted
from .matching import correlate_courses
from .similarity import linear_cka

__all__ = ["FingerprintComparison", "compare_fingerprints", "network_score"]


def network_score(first, second):
    """Pair networks one to one on the choosing part, and average the correlation of the pairs on the scoring part.

    Parameters
    ----------
    first, second : tuple of arrays of shape (n_words, n_networks)
        Courses of a model on the choosing part and on the scoring part.

    Returns
    -------
    score : float
        Mean over pairs, each with the sign that it had on the choosing part: 1 for the same model, around 0 by chance.
    pairs : array of shape (n_networks,)
        Correlation of each pair; NaN without a partner.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a = rng.standard_normal((2, 100, 3))
    >>> score, pairs = network_score(a, -a[:, :, ::-1])
    >>> round(score, 6)
    1.0
    """
    index, there = matched_scores(correlate_courses(first[0], second[0]), missing=np.nan)
    here = correlate_courses(first[1], second[1])[np.arange(len(index)), np.maximum(index, 0)]
    pairs = np.where(index < 0, np.nan, here * np.sign(there))
    return float(np.nanmean(pairs)), pairs


@dataclass(frozen=True, eq=False)
class FingerprintComparison:
    """Two fingerprints compared.

    Parameters
    ----------
    models : tuple of str
    score : float
        Largest score of the sites; -1 to 1.
    sites : dict
        site -> ``score``, ``p`` and ``cka``, floats.
    p : float
        p-value of the score against shifted courses, for the largest score of all sites: whether the models share
        anything at all. Unrelated language models usually do, so this is not the decision.
    threshold : float
        Score from which two models are taken to have one origin.
    rates : dict
        Error rates of that decision as measured on known pairs, with exact 95 % intervals; empty for fingerprints whose
        options were not measured.
    """

    models: tuple
    score: float
    sites: dict
    p: float
    threshold: float
    rates: dict = field(default_factory=dict)

    @property
    def same_origin(self):
        """Whether one model is taken to descend from the other, or both from a third."""
        return self.score >= self.threshold

    def __str__(self):
        decision = "one origin" if self.same_origin else "no common origin shown"
        lines = [
            f"{self.models[0]} and {self.models[1]}: {decision}",
            f"score {self.score:.3f} (threshold {self.threshold:.2f}; by chance p = {self.p:.3g})",
        ]
        lines += [
            f"  {site}: score {found['score']:.3f}, linear CKA {found['cka']:.3f}" for site, found in self.sites.items()
        ]
        for name, words in (
            ("false_positive", "unrelated models called related"),
            ("false_negative", "relatives missed"),
        ):
            if name in self.rates:
                rate = self.rates[name]
                lines.append(
                    f"{words}: {rate['count']} of {rate['n']} pairs, "
                    f"{100 * rate['low']:.1f} to {100 * rate['high']:.1f} %"
                )
        if "measured_on" in self.rates:
            lines.append(
                f"measured on {self.rates['measured_on']}; pairs share models, so the intervals are too narrow"
            )
        return "\n".join(lines)


def compare_fingerprints(a, b, *, n_draws=199, random_state=0):
    """Compare two fingerprints.

    Parameters
    ----------
    a, b : Fingerprint or path-like
    n_draws : int
        Circular shifts within each text for the p-value.
    random_state : int, numpy Generator or None

    Returns
    -------
    FingerprintComparison

    Raises
    ------
    ParameterError
        If the fingerprints are of other texts or options, or share fewer than 50 words to choose or to score on.
    """
    a, b = (x if isinstance(x, Fingerprint) else Fingerprint.load(x) for x in (a, b))
    check_count("n_draws", n_draws)
    refuse_unequal(a.info, b.info, f"{a.info['model']['id']} and {b.info['model']['id']}")
    threshold, rates = decision_of(a.info["options"])
    rng, sites, largest = np.random.default_rng(random_state), {}, np.full(n_draws, -np.inf)
    rows = {part: shared_words(a.words[part], b.words[part]) for part in PARTS[1:]}
    check_words({part: len(mine) for part, (mine, _) in rows.items()}, "the models share")
    ends = {part: _ends(a.words[part][mine, 0], len(mine)) for part, (mine, _) in rows.items()}
    for site in a.sites:
        mine, theirs = ([x.courses[site, part][rows[part][i]] for part in PARTS[1:]] for i, x in enumerate((a, b)))
        null = np.empty(n_draws)
        for draw in range(n_draws):
            moved = [shifted(x[None], ends[part], rng)[0] for part, x in zip(PARTS[1:], theirs)]
            null[draw] = network_score(mine, moved)[0]
        largest = np.maximum(largest, null)
        score = network_score(mine, theirs)[0]
        cka = linear_cka(*(x.activity[site][rows["score"][i]] for i, x in enumerate((a, b))))
        sites[site] = {"score": score, "p": permutation_p(score, null), "cka": cka}
    score = max(found["score"] for found in sites.values())
    models = (a.info["model"]["id"], b.info["model"]["id"])
    return FingerprintComparison(models, score, sites, permutation_p(score, largest), threshold, rates)


def refuse_unequal(a, b, names):
    """Raise an error if two fingerprints are of other texts or options; ``a`` and ``b`` hold what `described` does."""
    for name in ("options", "texts"):
        differ = [key for key in a[name] if a[name][key] != b[name].get(key)]
        if differ:
            raise ParameterError(
                f"The fingerprints of {names} are of other {name} ({differ[0]}: {a[name][differ[0]]} and "
                f"{b[name].get(differ[0])}). Make both on the same texts with the same options."
            )


def shared_words(a, b):
    """Rows of the words that two models cover, in each of two lists of words."""
    first, second = (x[:, 0] * 2**32 + x[:, 1] for x in (a, b))
    return np.intersect1d(first, second, assume_unique=True, return_indices=True)[1:]


def decision_of(options):
    """Threshold and measured error rates for fingerprints of some options; see ``benchmarks/fingerprint``."""
    from ..text import data_path

    known = json.loads(data_path("fingerprint", "rates.json").read_text(encoding="utf-8"))
    same = {name: known["options"][name] == options.get(name) for name in known["options"]}
    rates = known["rates"].get(str(options["n_texts"]), {}) if all(same.values()) else {}
    return known["threshold"], {**rates, "measured_on": known["measured_on"]} if rates else {}
