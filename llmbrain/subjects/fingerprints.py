"""Fingerprints: a small file per model, from which :mod:`.descent` tells whether one model descends from another.

A neuron of the MLP follows the same words after fine-tuning, pruning, rounding or a rotation of the residual stream;
an unrelated model has no neuron like it. The file holds the courses of some neurons on the words of known texts. One
half of the texts finds the neuron of the other model that is most alike, and the other half scores the two. Courses
are word-aligned, so tokenizers may differ, and cleaned of position, word frequency and punctuation.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from ..exceptions import DatasetError, ParameterError, check_count
from ..files import KEY_HASHES, as_path, atomic_path, changed_key, with_hashes
from ..models import describe_model
from ..models.lesioned import refuse_lesioned
from ..text import as_corpus
from .activity import read_activity
from .alignment import align, find_units
from .confounds import regress_out, word_confounds

VERSION = "3"
PARTS = ("choose", "score")
SITE = "mlp"
N_FIRST = 3  # layers: changes of the weights add up with depth, so the first layers are the most alike
CKA_COMPONENTS = 64
CHARACTERS = 1200  # of each text that are read
LEAST_WORDS = 50  # of each part: correlations over fewer words are meaningless
STEPS = 127  # largest value of a course in the file


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Courses of some neurons of a model on the words of known texts; no weights and no text.

    Parameters
    ----------
    info : dict
        ``model``, ``texts`` (hash of each part), ``options`` and ``version``.
    courses : dict
        ``"choose"`` and ``"score"`` -> int8 array of shape (n_words, n_neurons), each neuron in units of its own.
    layers : int array of shape (n_neurons,)
        Layer of each neuron.
    activity : float32 array of shape (n_words, n_components)
        Principal components of the activity of all neurons on the score part, for linear CKA.
    words : dict
        part -> int array of shape (n_words, 2): number of the text, and of the word in it.
    """

    info: dict
    courses: dict
    layers: np.ndarray
    activity: np.ndarray
    words: dict

    def __repr__(self):
        return f"Fingerprint({self.info['model']['id']}: {len(self.layers)} neurons)"

    def save(self, path):
        """Write the fingerprint to one file (safetensors with a description in its header); returns the path.

        Raises
        ------
        ParameterError
            If the file exists and is no fingerprint, such as the weights of a model.
        """
        from safetensors.numpy import save_file

        path = check_fingerprint_file(path)
        tensors = {f"courses.{part}": x.astype(np.int8) for part, x in self.courses.items()}
        tensors |= {f"words.{part}": x.astype(np.int32) for part, x in self.words.items()}
        tensors |= {"layers": self.layers.astype(np.int32), "activity": self.activity.astype(np.float16)}
        tensors = {name: np.ascontiguousarray(x) for name, x in tensors.items()}  # save_file ignores strides
        info = with_hashes({**self.info, "content": _content_hash(tensors)})
        with atomic_path(path) as part:
            save_file(tensors, part, {"llmbrain_fingerprint": json.dumps(info, sort_keys=True)})
        return path

    @classmethod
    def load(cls, path):
        """Read a file of :meth:`save`.

        Raises
        ------
        DatasetError
            If the file is missing, damaged, not a fingerprint, or of another version of the format.
        """
        path = as_path(path)
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
            parts = _parts_in(tensors)
            if info.pop("content", None) != _content_hash(tensors):
                raise _Damaged("its content has changed since it was written")
            del info[KEY_HASHES]
            return cls(info, *parts)
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


def _content_hash(tensors):
    """Hash names, shapes, types and values of tensors."""
    digest = hashlib.sha256()
    for name, values in sorted(tensors.items()):
        digest.update(f"{name} {values.shape} {values.dtype}".encode() + values.tobytes())
    return digest.hexdigest()


def _check_info(info):
    """Refuse a description that was damaged or changed."""
    if not isinstance(info, dict) or "version" not in info:
        raise _Damaged("its description names no version")
    if info["version"] != VERSION:
        return
    changed = changed_key(info)
    if changed:
        raise _Damaged(f"{changed!r} of its description has changed since it was written")
    for name in ("model", "texts", "options"):
        if not isinstance(info.get(name), dict):
            raise _Damaged(f"its description has no {name}")
    name = info["model"].get("id")
    if not isinstance(name, str) or not name.isprintable():
        raise _Damaged("its model has no name")
    if type(info["options"].get("n_texts")) is not int or set(info["texts"]) != set(PARTS):
        raise _Damaged("its description does not name its texts")


def _parts_in(tensors):
    """Courses, layers, activity and words of a fingerprint, after a check that they belong together."""
    tensors = dict(tensors)

    def take(name, dtype, n_rows=None, n_columns=None):
        found = tensors.pop(name, None)
        if found is None:
            raise _Damaged(f"{name} is missing")
        if found.ndim != 2 or not found.size or n_rows not in (None, len(found)):
            raise _Damaged(f"{name} has the shape {found.shape}")
        if n_columns not in (None, found.shape[1]):
            raise _Damaged(f"{name} has the shape {found.shape}")
        if not np.isfinite(found).all():
            raise _Damaged(f"{name} holds values that are not finite")
        return found.astype(dtype)

    words = {part: take(f"words.{part}", np.int64, n_columns=2) for part in PARTS}
    for part, found in words.items():
        if len(np.unique(found, axis=0)) < len(found) or found.min() < 0:
            raise _Damaged(f"words.{part} does not number the words")
    layers = tensors.pop("layers", np.zeros(0))
    if layers.ndim != 1 or not len(layers) or layers.dtype.kind != "i":
        raise _Damaged("it does not say in which layers its neurons lie")
    courses = {part: take(f"courses.{part}", np.int8, len(words[part]), len(layers)) for part in PARTS}
    activity = take("activity", np.float32, len(words["score"]))
    if tensors:
        raise _Damaged(f"{min(tensors)} does not belong to it")
    return courses, layers, activity, words


def check_fingerprint_file(path):
    """Refuse to replace a file that is no fingerprint, such as the weights of a model; returns the path.

    Raises
    ------
    ParameterError
    """
    path = as_path(path)
    if path.exists():
        try:
            if not path.is_file():
                raise _Damaged("it is not a file")
            _read_file(path, tensors=False)
        except _Damaged as error:
            raise ParameterError(
                f"{path} exists and is no fingerprint; it is not replaced. Choose another file."
            ) from error
    return path


def parts_of(n_texts):
    """Part of each of at least two texts: choose and score take turns, so that both parts get every kind of text.

    Examples
    --------
    >>> parts_of(8)
    ['choose', 'score', 'choose', 'score', 'choose', 'score', 'score', 'choose']
    """
    if n_texts < len(PARTS):
        raise ParameterError(f"{n_texts} texts are too few: choosing and scoring need one text each.")
    return [PARTS[(i + i // 6) % 2] for i in range(n_texts)]


def fingerprint(model, tokenizer, text="demo", *, n_texts=10, n_neurons=128):
    """Make the fingerprint of a model.

    Parameters
    ----------
    model, tokenizer : transformers model and tokenizer
        See :func:`llmbrain.load_model`.
    text : Corpus, list of str or source
        See :func:`llmbrain.load_corpus`. Only fingerprints on the same texts can be compared, so keep the default
        unless you make all fingerprints yourself. The first 1,200 characters of each text are read.
    n_texts : int
        Number of texts, at least 2; half of them to choose pairs of neurons, half to score them.
    n_neurons : int
        Neurons of each of four layers, the first three and the middle one: those whose courses have the lightest tails.

    Returns
    -------
    Fingerprint

    Raises
    ------
    ParameterError
        If there are too few texts or words.
    NumericalError
        If an activity or a logit is not finite.

    Examples
    --------
    >>> fingerprint(model, tokenizer).save("model.safetensors")  # doctest: +SKIP
    """
    check_count("n_neurons", n_neurons, 2)
    refuse_lesioned(model, "given a fingerprint")
    chosen = standard_texts(text, n_texts)
    activity, geometries = read_activity(model, tokenizer, chosen, (SITE,), surprisals=False)
    known = {name: describe_model(model)[name] for name in ("id", "architecture", "weights_hash")}
    return make_fingerprint(activity, geometries[SITE], chosen, known, n_neurons=n_neurons)


def standard_texts(text="demo", n_texts=10):
    """The texts of a fingerprint: the beginnings of the first ``n_texts`` documents, a list of str."""
    check_count("n_texts", n_texts, len(PARTS))
    corpus = as_corpus(text)
    if len(corpus) < n_texts:
        raise ParameterError(f"n_texts={n_texts}, but there are only {len(corpus)} texts. Use fewer, or more text.")
    return [document.text[:CHARACTERS] for document in corpus[:n_texts]]


def make_fingerprint(activity, geometry, texts, model_info, *, n_neurons=128):
    """Make a fingerprint from the activity of the MLP neurons on these texts; ``model_info`` holds at least ``id``."""
    units = [find_units(text) for text in texts]
    kept = _kept_words(activity, units)
    words, part_of = np.concatenate(kept), np.array(parts_of(len(texts)))
    parts = {part: part_of[words[:, 0]] == part for part in PARTS}
    check_words({part: int(rows.sum()) for part, rows in parts.items()}, "the texts have")
    names = [one.names for one in units]
    confounds = word_confounds([names[text][word] for text, word in words.tolist()], words[:, 0])
    middle, similar = geometry.n_layers // 2, 0.0
    courses, layers = [], []
    for layer in range(geometry.n_layers):
        where = geometry.layer_slice(layer)
        pieces = [align(one.values[SITE][:, where], one.spans, u)[k[:, 1]] for one, u, k in zip(activity, units, kept)]
        on_words = np.concatenate(pieces)
        similar += _gram(on_words[parts["score"]])
        if layer < N_FIRST or layer == middle:
            found = _specific(on_words, confounds, parts, n_neurons)
            courses.append(found)
            layers += [layer] * found.shape[1]
    courses = np.concatenate(courses, axis=1)
    info = {"version": VERSION, "model": dict(model_info), **described(texts, n_neurons)}
    in_parts = {part: courses[rows] for part, rows in parts.items()}
    return Fingerprint(
        info, in_parts, np.array(layers), _components(similar), {part: words[rows] for part, rows in parts.items()}
    )


def _specific(values, confounds, parts, n_neurons):
    """Cleaned courses of the neurons with the lightest tails, as whole numbers.

    Neurons with heavy tails follow single words or marks, and unrelated models have the same ones; a neuron that varies
    over all words is the model's own. The kurtosis depends neither on the order nor on sign and scale of the neurons,
    so two relatives choose the same ones.
    """
    z = np.empty(values.shape, dtype=np.float32)
    for rows in parts.values():
        z[rows] = _standardized(regress_out(values[rows], confounds[rows]))
    kurtosis = np.mean(z**4, axis=0)
    kurtosis[kurtosis < 1] = np.inf  # constant in a part: the kurtosis of any course is at least 1
    z = z[:, np.argsort(kurtosis, kind="stable")[:n_neurons]]
    return np.rint(z * (STEPS / np.maximum(np.abs(z).max(axis=0), 1e-12))).astype(np.int8)


def check_words(counts, whose):
    """Refuse parts with so few words that any two neurons may correlate."""
    for part, n in counts.items():
        if n < LEAST_WORDS:
            raise ParameterError(
                f"To {part} neurons, {whose} {n} words; at least {LEAST_WORDS} are needed. Use more or longer texts "
                "(n_texts=, --n-texts)."
            )


def described(texts, n_neurons):
    """What two fingerprints must have in common: the options, and a hash of the texts of each part, a dict."""
    options = {"n_texts": len(texts), "n_neurons": n_neurons, "characters": CHARACTERS}
    names = parts_of(len(texts))
    hashes = {part: _hash([text for text, name in zip(texts, names) if name == part]) for part in PARTS}
    return {"options": options, "texts": hashes}


def _kept_words(activity, units):
    """Words of each text that count, ``(number of the text, number of the word)``: covered ones, without the first."""
    kept = []
    for number, (one, words) in enumerate(zip(activity, units)):
        covered = np.isfinite(align(np.zeros(len(one.spans)), one.spans, words))
        covered[:1] = False  # for every model: some have no token before it, so that it acts as an attention sink
        kept.append(np.stack([np.full(covered.sum(), number), np.flatnonzero(covered)], axis=1))
    return kept


def _gram(rows):
    """Products of the words over z-scored neurons."""
    z = _standardized(rows)
    return z @ z.T


def _components(gram):
    """Leading principal components of the activity on words, which give its linear CKA."""
    from scipy.linalg import eigh
    from scipy.sparse.linalg import eigsh

    n_words, gram = len(gram), gram.astype(np.float64)
    if n_words > 8 * CKA_COMPONENTS:  # with many words, all eigenvectors would take most of the time
        values, vectors = eigsh(gram, CKA_COMPONENTS, v0=np.ones(n_words))
    else:
        values, vectors = eigh(gram, subset_by_index=[max(n_words - CKA_COMPONENTS, 0), n_words - 1])
    found = vectors[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0))
    return (found / np.sqrt(np.mean(found**2))).astype(np.float32)


def _standardized(x):
    x = np.asarray(x, dtype=np.float64)
    sd = x.std(axis=0)
    return ((x - x.mean(axis=0)) / np.where(sd > 1e-12, sd, 1)).astype(np.float32)


def _hash(texts):
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
