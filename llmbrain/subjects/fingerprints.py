"""Fingerprints: does one model descend from another? A small file per model, and a score with error rates.

Networks are found on some texts (*fit*), paired between two models on other texts (*choose*), and the pairs are scored
on a third set (*score*). Courses are word-aligned, so tokenizers may differ, and cleaned of position, word frequency
and punctuation, which every language model follows. After Liu et al. (2026), arXiv 2601.22692, whose fingerprint
truncates the longer series, selects and scores pairs on the same texts, and has no negative pair.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..exceptions import DatasetError, ParameterError, check_count
from ..files import atomic_path
from ..networks.evidence.matching import matched_scores
from ..stats import permutation_p
from .activity import read_activity
from .alignment import align, find_units
from .confounds import regress_out, word_confounds
from .isc import _ends, shifted
from .matching import correlate_courses
from .similarity import linear_cka

__all__ = [
    "Fingerprint",
    "FingerprintComparison",
    "check_fingerprint_file",
    "compare_fingerprints",
    "fingerprint",
    "make_fingerprint",
    "network_score",
    "parts_of",
    "standard_texts",
]

VERSION = "1"
PARTS = ("fit", "choose", "score")
SITES = ("layer", "mlp")
CKA_COMPONENTS = 64
CHARACTERS = 1200  # of each text that are read
LEAST_WORDS = 50  # of each part: correlations over fewer words say nothing


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Courses of a model's networks on the words of known texts; no weights and no text.

    Parameters
    ----------
    info : dict
        ``model``, ``texts`` (hash of each part), ``options`` and ``version``.
    courses : dict
        ``(site, part)`` -> float32 array of shape (n_words, n_networks) for the parts ``"choose"`` and ``"score"``.
    activity : dict
        site -> float32 array of shape (n_words, n_components): principal components of the activity on the score part,
        for linear CKA.
    words : dict
        part -> int array of shape (n_words, 2): number of the text, and of the word in it.
    """

    info: dict
    courses: dict
    activity: dict
    words: dict

    @property
    def sites(self):
        """Sites with networks, a list of str."""
        return list(self.activity)

    def __repr__(self):
        model, options = self.info["model"], self.info["options"]
        return f"Fingerprint({model['id']}: {options['n_components']} networks at {', '.join(self.sites)})"

    def save(self, path):
        """Write the fingerprint to one file (safetensors with a description in its header); returns the path.

        Raises
        ------
        ParameterError
            If the file exists and is no fingerprint, such as the weights of a model.
        """
        from safetensors.numpy import save_file

        path = check_fingerprint_file(path)
        tensors = {f"{site}.{part}": x.astype(np.float16) for (site, part), x in self.courses.items()}
        tensors |= {f"{site}.activity": x.astype(np.float16) for site, x in self.activity.items()}
        tensors |= {f"words.{part}": x.astype(np.int32) for part, x in self.words.items()}
        with atomic_path(path) as part:
            save_file(tensors, part, {"llmbrain_fingerprint": json.dumps(self.info, sort_keys=True)})
        return path

    @classmethod
    def load(cls, path):
        """Read a file of :meth:`save`.

        Raises
        ------
        DatasetError
            If the file is missing, damaged, not a fingerprint, or of another version of the format.
        """
        path = Path(path)
        if not path.is_file():
            raise DatasetError(
                f"There is no fingerprint {path}. Make one with 'llmbrain fingerprint MODEL --out {path}'."
            )
        try:
            info, tensors = _read_file(path)
            _check_info(info)
            if info["version"] != VERSION:
                raise DatasetError(
                    f"{path} has version {info['version']} of the format; this llmbrain reads version {VERSION}. Make "
                    "it again with the same version of llmbrain for both models."
                )
            return cls(info, *_parts_in(tensors, info["options"]["sites"]))
        except _Damaged as error:
            raise DatasetError(
                f"{path} is not a fingerprint of llmbrain, or damaged: {error}. Make it again."
            ) from error


class _Damaged(ValueError):
    """What is wrong with the content of a file."""


def _read_file(path, tensors=True):
    """Description and tensors of a file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            info = (file.metadata() or {}).get("llmbrain_fingerprint")
            if info is None:
                raise _Damaged("it has no description of a fingerprint")
            found = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
            return json.loads(info), found
    except (SafetensorError, ValueError) as error:
        raise _Damaged(str(error).rstrip(".")) from error


def _check_info(info):
    """Refuse a description that was damaged or changed."""
    if not isinstance(info, dict) or "version" not in info:
        raise _Damaged("its description names no version")
    if info["version"] != VERSION:
        return
    for name in ("model", "texts", "options"):
        if not isinstance(info.get(name), dict):
            raise _Damaged(f"its description has no {name}")
    name, sites = info["model"].get("id"), info["options"].get("sites")
    if not isinstance(name, str) or not name.isprintable():
        raise _Damaged("its model has no name")
    if not isinstance(sites, list) or not sites or not all(isinstance(site, str) for site in sites):
        raise _Damaged("its description names no sites")
    if type(info["options"].get("n_texts")) is not int or set(info["texts"]) != set(PARTS):
        raise _Damaged("its description does not name its texts")


def _parts_in(tensors, sites):
    """Courses, activity and words of a fingerprint, after a check that they belong together."""
    tensors = dict(tensors)

    def take(name, n_rows=None, dtype=np.float32):
        found = tensors.pop(name, None)
        if found is None:
            raise _Damaged(f"{name} is missing")
        if found.ndim != 2 or not found.size or n_rows not in (None, len(found)):
            raise _Damaged(f"{name} has the shape {found.shape}")
        if not np.isfinite(found).all():
            raise _Damaged(f"{name} holds values that are not finite")
        return found.astype(dtype)

    words = {part: take(f"words.{part}", dtype=np.int64) for part in PARTS[1:]}
    for part, found in words.items():
        if found.shape[1] != 2 or len(np.unique(found, axis=0)) < len(found) or found.min() < 0:
            raise _Damaged(f"words.{part} does not number the words")
    activity = {site: take(f"{site}.activity", len(words["score"])) for site in sites}
    courses = {(site, part): take(f"{site}.{part}", len(words[part])) for site in sites for part in words}
    if tensors:
        raise _Damaged(f"{min(tensors)} does not belong to it")
    return courses, activity, words


def check_fingerprint_file(path):
    """Refuse to replace a file that is no fingerprint, such as the weights of a model; returns the path.

    Raises
    ------
    ParameterError
    """
    path = Path(path)
    if path.exists():
        try:
            if not path.is_file():
                raise _Damaged("it is no file")
            _read_file(path, tensors=False)
        except _Damaged as error:
            raise ParameterError(
                f"{path} exists and is no fingerprint; it is not replaced. Choose another file."
            ) from error
    return path


def parts_of(n_texts):
    """Part of each text: fit, choose and score in turn, so that every part has every kind of text in time.

    Parameters
    ----------
    n_texts : int
        At least 3.

    Returns
    -------
    list of str

    Examples
    --------
    >>> parts_of(7)
    ['fit', 'choose', 'score', 'fit', 'choose', 'score', 'choose']
    """
    if n_texts < 3:
        raise ParameterError(f"{n_texts} texts are too few: fitting, choosing and scoring need one text each.")
    return [PARTS[(i + i // 6) % 3] for i in range(n_texts)]


def fingerprint(model, tokenizer, text="demo", *, n_texts=10, n_components=20, sites=SITES, random_state=0):
    """Make the fingerprint of a model.

    Parameters
    ----------
    model, tokenizer : transformers model and tokenizer
        See :func:`llmbrain.load_model`.
    text : Corpus, list of str or source
        See :func:`llmbrain.load_corpus`. Only fingerprints on the same texts can be compared, so keep the default
        unless you make all of them. The first 1,200 characters of each text are read.
    n_texts : int
        Number of texts, at least 3; a third each to fit, to choose and to score.
    n_components : int
        Networks at each site.
    sites : sequence of str
        ``"layer"`` is the residual stream, as published; ``"mlp"`` does not change when the stream is rotated.
    random_state : int

    Returns
    -------
    Fingerprint

    Raises
    ------
    ParameterError
        If there are too few texts or words, or too few tokens for the networks.
    NumericalError
        If an activity or a surprisal is not finite.

    Examples
    --------
    >>> fingerprint(model, tokenizer).save("model.safetensors")  # doctest: +SKIP
    """
    from ..models import describe_model

    check_count("n_components", n_components, 2)
    chosen = standard_texts(text, n_texts)
    activity, geometries = read_activity(model, tokenizer, chosen, sites)
    known = {name: describe_model(model)[name] for name in ("id", "architecture", "weights_hash")}
    return make_fingerprint(activity, geometries, chosen, known, n_components=n_components, random_state=random_state)


def standard_texts(text="demo", n_texts=10):
    """The texts of a fingerprint: the beginnings of the first ``n_texts`` documents, a list of str."""
    from ..text import as_corpus

    check_count("n_texts", n_texts, len(PARTS))
    corpus = as_corpus(text)
    if len(corpus) < n_texts:
        raise ParameterError(f"n_texts={n_texts}, but there are only {len(corpus)} texts. Use fewer, or more text.")
    return [document.text[:CHARACTERS] for document in corpus[:n_texts]]


def make_fingerprint(activity, geometries, texts, model_info, *, n_components=20, random_state=0):
    """Make a fingerprint from activity that was read already; the parameters are those of :func:`fingerprint`.

    Parameters
    ----------
    activity, geometries
        From :func:`llmbrain.subjects.activity.read_activity`, of these texts.
    texts : list of str
    model_info : dict
        At least ``id``.

    Returns
    -------
    Fingerprint
    """
    n_texts, sites = len(texts), list(geometries)
    parts = {part: [i for i, name in enumerate(parts_of(n_texts)) if name == part] for part in PARTS}
    units = [find_units(text) for text in texts]
    kept = _kept_words(activity, units)
    words = {part: np.concatenate([kept[i] for i in parts[part]]) for part in PARTS[1:]}
    _check_words({part: len(found) for part, found in words.items()}, "the texts have")
    confounds = {part: _confounds_of(units, words[part]) for part in words}
    courses, components = {}, {}
    for site in sites:
        canica = _networks(
            [activity[i].values[site] for i in parts["fit"]], geometries[site], n_components, random_state
        )
        for part in words:
            rows = canica.transform([np.concatenate([activity[i].values[site] for i in parts[part]])])[0]
            pieces = np.split(rows, np.cumsum([len(activity[i].spans) for i in parts[part]])[:-1])
            rows = _on_words(pieces, activity, units, kept, parts[part])
            courses[site, part] = _standardized(regress_out(rows, confounds[part]))
        rows = [activity[i].values[site] for i in parts["score"]]
        components[site] = _components(_on_words(rows, activity, units, kept, parts["score"]))
    info = {"version": VERSION, "model": dict(model_info), "random_state": random_state}
    info |= described(texts, n_components, sites)
    return Fingerprint(info, courses, components, words)


def _check_words(counts, whose):
    """Refuse parts with so few words that any two networks may correlate."""
    for part, n in counts.items():
        if n < LEAST_WORDS:
            raise ParameterError(
                f"To {part} networks, {whose} {n} words; at least {LEAST_WORDS} are needed. Use more or longer texts "
                "(n_texts=, --n-texts)."
            )


def described(texts, n_components, sites=SITES):
    """What two fingerprints must have in common: the options, and a hash of the texts of each part, a dict."""
    options = {"n_texts": len(texts), "n_components": n_components, "sites": list(sites), "characters": CHARACTERS}
    names = parts_of(len(texts))
    hashes = {part: _hash([text for text, name in zip(texts, names) if name == part]) for part in PARTS}
    return {"options": options, "texts": hashes}


def _on_words(rows, activity, units, kept, numbers):
    """Values of tokens of some texts on their kept words, all texts together."""
    words = [align(x, activity[i].spans, units[i])[kept[i][:, 1]] for i, x in zip(numbers, rows)]
    return np.concatenate(words)


def _networks(runs, geometry, n_components, random_state):
    from ..networks import CanICA

    n_tokens = sum(map(len, runs))
    if n_tokens < 2 * n_components:
        raise ParameterError(
            f"n_components={n_components} needs {2 * n_components} tokens to fit, but there are {n_tokens}. "
            "Use more texts (n_texts=), or fewer networks."
        )
    options = {"n_init": 10, "random_state": random_state, "solver_params": {"group": "tokens"}}
    return CanICA(n_components, geometry=geometry, **options).fit([np.concatenate(runs)])


def _kept_words(activity, units):
    """Words of each text that count, ``(number of the text, number of the word)``: covered ones, without the first."""
    kept = []
    for number, (one, words) in enumerate(zip(activity, units)):
        covered = np.isfinite(align(np.zeros(len(one.spans)), one.spans, words))
        covered[:1] = False  # for every model: some have no token before it, so that it acts as an attention sink
        kept.append(np.stack([np.full(covered.sum(), number), np.flatnonzero(covered)], axis=1))
    return kept


def _confounds_of(units, words):
    names = [units[text].names for text in range(len(units))]
    return word_confounds([names[text][word] for text, word in words.tolist()], words[:, 0])


def _components(rows):
    """Leading principal components of z-scored activity on words, which give its linear CKA."""
    z = _standardized(rows)
    values, vectors = np.linalg.eigh(z @ z.T)
    values, vectors = values[::-1][:CKA_COMPONENTS], vectors[:, ::-1][:, :CKA_COMPONENTS]
    found = vectors * np.sqrt(np.maximum(values, 0))
    return (found / np.sqrt(np.mean(found**2))).astype(np.float32)


def _standardized(x):
    x = np.asarray(x, dtype=np.float64)
    sd = x.std(axis=0)
    return ((x - x.mean(axis=0)) / np.where(sd > 1e-12, sd, 1)).astype(np.float32)


def _hash(texts):
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


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
    rows = {part: _shared(a.words[part], b.words[part]) for part in PARTS[1:]}
    _check_words({part: len(mine) for part, (mine, _) in rows.items()}, "the models share")
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


def _shared(a, b):
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
