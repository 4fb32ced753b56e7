"""Does one model descend from another: two fingerprints compared, with the error rates of the decision."""

import json
from dataclasses import dataclass, field

import numpy as np

from ..exceptions import ParameterError, check_count
from ..networks.evidence.matching import standardize_maps
from ..stats import permutation_p
from ..text import data_path
from .fingerprints import PARTS, Fingerprint, check_words
from .isc import document_ends, shifted_places
from .similarity import linear_cka

QUANTILE = 0.75  # of the neurons of a layer: pruning and noise may leave some of them without their counterpart


def neuron_score(first, second, layers):
    """Find each neuron's most similar one in the other model on the choosing part, and score both on the scoring part.

    ``first`` and ``second`` each hold the courses (n_words, n_neurons) of one model on the two parts, ``layers`` the
    layer of each neuron of both models. Returns the mean score of both directions (1 for the same model, around 0 by
    chance), and for each model a dict: layer -> upper quartile of the correlations of its neurons with their
    counterparts, each with the sign that it had on the choosing part. The score takes the best layer of each model.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a = rng.standard_normal((2, 100, 4))
    >>> score, by_layer = neuron_score(a, -a[:, :, ::-1], (np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])))
    >>> round(score, 6), sorted(by_layer[0])
    (1.0, [0, 1])
    """
    return _score(*_tables(*([_unit_norm(x) for x in courses] for courses in (first, second))), layers)


def _unit_norm(courses):
    """Courses whose products are correlations; in single precision, which is enough for a score."""
    return standardize_maps(np.transpose(courses), np.float32)


def _tables(first, second):
    """Correlations of all neurons of both models on each part."""
    return [np.clip(a @ b.T, -1, 1) for a, b in zip(first, second)]


def _score(there, here, layers):
    """Score of the correlations of all neurons of both models on the choosing part and on the scoring part."""
    found = []
    for chosen, scored, own in ((there, here, layers[0]), (there.T, here.T, layers[1])):
        rows, best = np.arange(len(chosen)), np.abs(chosen).argmax(axis=1)
        r = scored[rows, best] * np.sign(chosen[rows, best])
        found.append({int(layer): float(np.quantile(r[own == layer], QUANTILE)) for layer in np.unique(own)})
    return float(np.mean([max(one.values()) for one in found])), tuple(found)


@dataclass(frozen=True, eq=False)
class FingerprintComparison:
    """Two fingerprints compared.

    Parameters
    ----------
    models : tuple of str
    score : float
        Correlation of neurons with their counterparts, see :func:`neuron_score`; -1 to 1.
    by_layer : tuple of dict
        Layer -> upper quartile of these correlations, for each of the two models.
    cka : float
        Linear CKA of the activity of all neurons, as a reference.
    p : float
        p-value of the score against shifted courses: whether the models share anything at all. Unrelated language
        models usually do, so it does not decide about descent.
    threshold : float
        Score from which two models are taken to have one origin.
    rates : dict
        Error rates of that decision as measured on known pairs, with exact 95 % intervals; empty for fingerprints whose
        options were not measured.
    """

    models: tuple
    score: float
    by_layer: tuple
    cka: float
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
        for model, found in zip(self.models, self.by_layer):
            shown = ", ".join(f"{layer}: {r:.3f}" for layer, r in found.items())
            lines.append(f"  neurons of {model} by layer: {shown}")
        lines.append(f"  linear CKA of all neurons: {self.cka:.3f}")
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


def compare_fingerprints(a, b, *, n_draws=99, random_state=0):
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
    rows = {part: shared_words(a.words[part], b.words[part]) for part in PARTS}
    check_words({part: len(mine) for part, (mine, _) in rows.items()}, "the models share")
    ends = {part: document_ends(a.words[part][mine, 0], len(mine)) for part, (mine, _) in rows.items()}
    mine, theirs = shared_courses(a, b, rows)
    layers, rng, null = (a.layers, b.layers), np.random.default_rng(random_state), np.empty(n_draws)
    score, by_layer = neuron_score(mine, theirs, layers)
    mine, theirs = ([_unit_norm(x) for x in courses] for courses in (mine, theirs))
    for draw in range(n_draws):  # a shift within documents changes neither mean nor norm
        places = [shifted_places(ends[part], rng) for part in PARTS]
        null[draw] = _score(*_tables(mine, [x[:, moved] for x, moved in zip(theirs, places)]), layers)[0]
    cka = linear_cka(*(x.activity[rows["score"][i]] for i, x in enumerate((a, b))))
    models = (a.info["model"]["id"], b.info["model"]["id"])
    return FingerprintComparison(models, score, by_layer, cka, permutation_p(score, null), threshold, rates)


def shared_courses(a, b, rows):
    """Courses of two fingerprints on the words that both cover, as `neuron_score` takes them."""
    return tuple([x.courses[part][rows[part][i]].astype(np.float32) for part in PARTS] for i, x in enumerate((a, b)))


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
    known = json.loads(data_path("fingerprint", "rates.json").read_text(encoding="utf-8"))
    same = {name: known["options"][name] == options.get(name) for name in known["options"]}
    rates = known["rates"].get(str(options["n_texts"]), {}) if all(same.values()) else {}
    return known["threshold"], {**rates, "measured_on": known["measured_on"]} if rates else {}
