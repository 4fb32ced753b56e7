"""The stimuli that ship with the package: minimal pairs and functional localizers."""

from dataclasses import dataclass

import numpy as np

from ..exceptions import CorpusError, check_count
from ..files import as_path
from .documents import Corpus, Document, first_names
from .reading import data_path, read_jsonl

LOCALIZERS = {
    "language": ("sentences", "shuffled"),
    "code": ("code", "prose"),
    "arithmetic": ("arithmetic", "prose"),
}
"""The two conditions of each localizer: the one to localize, and its control."""


@dataclass(frozen=True)
class MinimalPair:
    """Two sentences that differ in one respect, only one of them acceptable.

    Parameters
    ----------
    good, bad : str
        The acceptable and the unacceptable sentence.
    uid : str
        The phenomenon, such as ``"npi_licensing"``.
    pair_id : str
        Id of the pair within its phenomenon.
    field : str
        Branch of linguistics, or ``"arithmetic"``.
    term : str
        The wider linguistic term.
    """

    good: str
    bad: str
    uid: str
    pair_id: str
    field: str = ""
    term: str = ""


def list_minimal_pairs():
    """List the minimal-pair sets that ship with the package.

    Returns
    -------
    names : list of str
        Names for `load_minimal_pairs`.

    Examples
    --------
    >>> "npi_licensing" in list_minimal_pairs()
    True
    """
    return sorted(path.stem for path in data_path("minimal_pairs").glob("*.jsonl"))


def load_minimal_pairs(name_or_path="all", *, limit=None):
    """Load minimal pairs of this package, or in the format of BLiMP.

    Parameters
    ----------
    name_or_path : str or path, default="all"
        ``"all"`` for every set that ships with the package, the name of one of them (see `list_minimal_pairs`), a
        ``.jsonl`` file, or a folder of such files. Rows have ``sentence_good`` and ``sentence_bad``, and optionally
        ``UID``, ``pairID``, ``field`` and ``linguistics_term``.
    limit : int, optional
        Keep only the first ``limit`` pairs of each file.

    Returns
    -------
    pairs : list of MinimalPair
        In the order of the files.

    Raises
    ------
    CorpusError
        If there is no such set or file, or a row does not have two different sentences.
    ParameterError
        If ``limit`` is not a positive number.

    References
    ----------
    Warstadt et al. 2020, BLiMP: The Benchmark of Linguistic Minimal Pairs for English, TACL 8.

    Examples
    --------
    >>> pair = load_minimal_pairs("npi_licensing", limit=1)[0]
    >>> pair.uid, pair.good != pair.bad
    ('npi_licensing', True)
    """
    check_count("limit", limit, optional=True)
    pairs = []
    for path in _pair_files(name_or_path):
        pairs += [_pair(row, path, number) for number, row in read_jsonl(path)[:limit]]
    return pairs


def load_localizer(name="language", *, random_state=0):
    """Load the items of a functional localizer, one document each.

    Parameters
    ----------
    name : {"language", "code", "arithmetic"}, default="language"
        The contrast: sentences against the same words shuffled, program code against prose that says the same,
        worked arithmetic against prose. ``LOCALIZERS[name]`` gives the two conditions in that order.
    random_state : int, numpy Generator or None, default=0
        Seed of the word shuffling, used only by ``"language"``.

    Returns
    -------
    corpus : Corpus
        The condition of each item is the ``kind`` of its document. The two conditions alternate, and matched items
        follow each other.

    Raises
    ------
    CorpusError
        If there is no such localizer.

    References
    ----------
    Fedorenko et al. 2010, New method for fMRI investigations of language, J. Neurophysiol. 104 (the sentences
    contrast); AlKhamissi et al. 2025, The LLM language network, NAACL (the same contrast in language models).

    Examples
    --------
    >>> corpus = load_localizer("language")
    >>> corpus.kinds
    ['sentences', 'shuffled']
    >>> sorted(corpus[0].text.lower().rstrip(".").split()) == sorted(corpus[1].text.lower().rstrip(".").split())
    True
    """
    if name not in LOCALIZERS:
        raise CorpusError(f"There is no localizer {name!r}. Allowed: {first_names(LOCALIZERS)}.")
    rng = np.random.default_rng(random_state)
    documents = []
    for _, row in read_jsonl(data_path("localizers", f"{name}.jsonl")):
        documents.append(Document(row["text"], id=row["id"], kind=row["condition"]))
        if name == "language":
            text = shuffle_words(row["text"], rng)
            documents.append(Document(text, id=row["id"].replace("sentences", "shuffled"), kind="shuffled"))
    return Corpus(documents, name=f"{name}localizer")


def shuffle_words(text, random_state=0):
    """Put the words of a sentence into random order.

    Every word is kept. Commas stay with the word before them, the full stop stays at the end, and the capital of the
    first word moves to the new first word, unless the word is always written with a capital.

    Parameters
    ----------
    text : str
        A sentence, or several.
    random_state : int, numpy Generator or None, default=0
        Seed.

    Returns
    -------
    shuffled : str
        The same words. With three words or more, at least one is in another place.

    Examples
    --------
    >>> shuffle_words("The old ferry left before dawn.", random_state=1)
    'Before the ferry old dawn left.'
    """
    rng = np.random.default_rng(random_state)
    body, stop = (text[:-1], text[-1]) if text[-1:] in ".?!" else (text, "")
    words = body.split()
    if len(words) > 1 and not _keeps_capital(words[0], words[1:]):
        words[0] = words[0][:1].lower() + words[0][1:]
    order = list(range(len(words)))
    while len(words) > 2 and order == sorted(order):
        order = rng.permutation(len(words)).tolist()
    shuffled = " ".join(words[i] for i in order)
    return shuffled[:1].upper() + shuffled[1:] + stop


def _keeps_capital(word, others):
    """Whether the first word is "I", or occurs again with its capital."""
    return word == "I" or word.startswith("I'") or word in others


def _pair_files(name_or_path):
    """Find the files that hold the requested pairs."""
    names = list_minimal_pairs()
    if name_or_path == "all":
        return [data_path("minimal_pairs", f"{name}.jsonl") for name in names]
    if name_or_path in names:
        return [data_path("minimal_pairs", f"{name_or_path}.jsonl")]
    path = as_path(name_or_path).expanduser()
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise CorpusError(
            f"No minimal pairs under {str(name_or_path)!r}. Allowed: 'all', {first_names(names, 20)}, a .jsonl file in "
            "BLiMP's format, or a folder of such files."
        )
    return files


def _pair(row, path, number):
    """Check one row and turn it into a pair."""
    good, bad = row.get("sentence_good"), row.get("sentence_bad")
    if not (isinstance(good, str) and isinstance(bad, str) and good.strip() and bad.strip()):
        raise CorpusError(
            f"{path}, line {number}: needs the fields 'sentence_good' and 'sentence_bad', both with a sentence "
            f"(fields: {first_names(row)})."
        )
    if good == bad:
        raise CorpusError(f"{path}, line {number}: the good and the bad sentence are the same: {good!r}.")
    return MinimalPair(
        good=good,
        bad=bad,
        uid=str(row.get("UID", path.stem)),
        pair_id=str(row.get("pairID", number - 1)),
        field=str(row.get("field", "")),
        term=str(row.get("linguistics_term", "")),
    )
