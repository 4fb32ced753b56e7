"""Fingerprints: a small file per model, from which :mod:`.descent` tells whether one model descends from another.

Networks are found on some texts (*fit*), paired between two models on other texts (*choose*), and the pairs are scored
on a third set (*score*). Courses are word-aligned, so tokenizers may differ, and cleaned of position, word frequency
and punctuation, which every language model follows. After Liu et al. (2026), arXiv 2601.22692, whose fingerprint
truncates the longer series, selects and scores pairs on the same texts, and has no negative pair.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..exceptions import DatasetError, ParameterError, check_count
from ..files import atomic_path
from .activity import read_activity
from .alignment import align, find_units
from .confounds import regress_out, word_confounds

__all__ = [
    "Fingerprint",
    "check_fingerprint_file",
    "fingerprint",
    "make_fingerprint",
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
        If an activity or a logit is not finite.

    Examples
    --------
    >>> fingerprint(model, tokenizer).save("model.safetensors")  # doctest: +SKIP
    """
    from ..models import describe_model

    check_count("n_components", n_components, 2)
    chosen = standard_texts(text, n_texts)
    activity, geometries = read_activity(model, tokenizer, chosen, sites, surprisals=False)
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
    check_words({part: len(found) for part, found in words.items()}, "the texts have")
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


def check_words(counts, whose):
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
