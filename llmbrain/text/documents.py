"""Documents and corpora: texts before they are tokenized."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..exceptions import CorpusError, ParameterError


@dataclass(frozen=True)
class Document:
    """One text with an id and a kind.

    Parameters
    ----------
    text : str
        The text. It must hold more than white space.
    id : str
        Name that is unique in its corpus.
    kind : str or None, default=None
        Kind of text ("narrative", "code", ...), or the condition of a localizer item.

    Raises
    ------
    CorpusError
        If the text is not a string or holds only white space, or if a part is no valid Unicode.

    Examples
    --------
    >>> Document("Snow fell on the harbour.", id="harbour", kind="narrative").kind
    'narrative'
    """

    text: str
    id: str
    kind: str | None = None

    def __post_init__(self):
        if not isinstance(self.text, str):
            raise CorpusError(
                f"Document {self.id!r}: the text is of type {type(self.text).__name__}; it must be a string."
            )
        if not self.text.strip():
            raise CorpusError(f"Document {self.id!r} is empty or only white space. Remove it or give it a text.")
        # ids and kinds too: they come from file names, which need not be UTF-8, and are written into tables
        for part in filter(None, (self.id, self.kind, self.text)):
            _refuse_halves(self.id, part)

    @property
    def hash(self):
        """SHA-256 of the text, hexadecimal."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


class Corpus(Sequence):
    """An ordered, named, immutable collection of documents.

    Parameters
    ----------
    documents : iterable of Document
        At least one document; ids must be unique.
    name : str, default="corpus"
        Short name, which becomes the task label of a study.

    Raises
    ------
    CorpusError
        If there is no document, or two share an id.

    Examples
    --------
    >>> from llmbrain.text import load_corpus
    >>> corpus = load_corpus(["One sentence.", "Another sentence."], name="pair")
    >>> len(corpus), corpus[0].id, corpus.texts[1], corpus[:1]
    (2, 'text-0001', 'Another sentence.', Corpus('pair', 1 document))
    """

    def __init__(self, documents, name="corpus"):
        documents = tuple(documents)
        for i, document in enumerate(documents):
            if not isinstance(document, Document):
                raise CorpusError(
                    f"Corpus {name!r}: item {i} is of type {type(document).__name__}, not a Document. "
                    "Use load_corpus or as_corpus to turn strings into documents."
                )
        if not documents:
            raise CorpusError(f"Corpus {name!r} has no document; at least one is needed.")
        twice = [key for key, n in Counter(d.id for d in documents).items() if n > 1]
        if twice:
            raise CorpusError(
                f"Corpus {name!r}: document ids must be unique, but {first_names(twice)} occur(s) more than once. "
                "Rename the documents."
            )
        self.name = str(name)
        self.documents = documents

    def __len__(self):
        """Number of documents."""
        return len(self.documents)

    def __getitem__(self, item):
        """Return a document (integer) or a smaller corpus (slice)."""
        if isinstance(item, slice):
            return Corpus(self.documents[item], self.name)
        return self.documents[item]

    def __eq__(self, other):
        """Whether the documents are the same, in the same order."""
        return isinstance(other, Corpus) and self.documents == other.documents

    def __hash__(self):
        """Hash of the documents."""
        return hash(self.documents)

    def __repr__(self):
        """Name, size, and documents of each kind."""
        counts = Counter(d.kind for d in self.documents if d.kind is not None)
        kinds = "".join(f", {n} {kind}" for kind, n in counts.items())
        return f"Corpus({self.name!r}, {len(self)} document{'s' if len(self) > 1 else ''}{kinds})"

    @property
    def texts(self):
        """The texts, in order."""
        return [d.text for d in self.documents]

    @property
    def ids(self):
        """The document ids, in order."""
        return [d.id for d in self.documents]

    @property
    def kinds(self):
        """The different kinds, in order of first appearance (documents without a kind are left out)."""
        return list(dict.fromkeys(d.kind for d in self.documents if d.kind is not None))

    @property
    def hash(self):
        """SHA-256 over the texts in their order, hexadecimal. It does not depend on names and ids."""
        return hashlib.sha256("".join(d.hash for d in self.documents).encode()).hexdigest()

    def overlap(self, other):
        """Find the documents whose text also occurs in another corpus.

        Parameters
        ----------
        other : Corpus

        Returns
        -------
        list of str
            Ids of the shared texts in this corpus.
        """
        known = {d.text for d in other}
        return [d.id for d in self.documents if d.text in known]

    def select(self, kind=None, ids=None):
        """Keep documents of the given kinds, or with the given ids, in the order of the corpus.

        Parameters
        ----------
        kind, ids : str or list of str, optional
            Keep every kind, or every id, by default.

        Returns
        -------
        Corpus
            With the same name.

        Raises
        ------
        CorpusError
            If a kind or an id does not occur, or no document remains.
        """
        keep = list(self.documents)
        for wanted, field in ((kind, "kind"), (ids, "id")):
            if wanted is None:
                continue
            wanted = {wanted} if isinstance(wanted, str) else set(wanted)
            present = {getattr(d, field) for d in self.documents}
            if wanted - present:
                raise CorpusError(
                    f"Corpus {self.name!r} has no document of {field} {first_names(sorted(wanted - present))}. "
                    f"There is: {first_names(sorted(str(p) for p in present))}."
                )
            keep = [d for d in keep if getattr(d, field) in wanted]
        return Corpus(keep, self.name)

    def sample(self, n, random_state=0):
        """Draw documents at random, without replacement; they keep the order of the corpus.

        Parameters
        ----------
        n : int
            Number of documents, from 1 to ``len(self)``.
        random_state : int, numpy Generator or None, default=0
            Seed of the draw.

        Returns
        -------
        Corpus
            With the same name.
        """
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= len(self):
            raise ParameterError(f"n={n!r}: a sample of corpus {self.name!r} has between 1 and {len(self)} documents.")
        drawn = np.random.default_rng(random_state).choice(len(self), size=int(n), replace=False)
        return Corpus([self.documents[i] for i in sorted(drawn)], self.name)

    def split(self, fraction=0.5, random_state=0):
        """Split into two corpora at random, with the kinds in the same proportions where possible.

        Parameters
        ----------
        fraction : float, default=0.5
            Share of documents in the first part, above 0 and below 1.
        random_state : int, numpy Generator or None, default=0
            Seed of the split.

        Returns
        -------
        first, second : Corpus
            Two parts without a common document, neither empty, each in the order of the corpus.

        Raises
        ------
        CorpusError
            If there is only one document.

        Examples
        --------
        >>> from llmbrain.text import load_corpus
        >>> first, second = load_corpus("demo").split(0.5, random_state=0)
        >>> first.overlap(second)
        []
        """
        if not isinstance(fraction, (float, np.floating)) or not 0 < fraction < 1:
            raise ParameterError(f"fraction={fraction!r}: it must be a number between 0 and 1, such as 0.5.")
        if len(self) < 2:
            raise CorpusError(f"Corpus {self.name!r} has one document; at least two are needed to split it.")
        shuffled = np.random.default_rng(random_state).permutation(len(self)).tolist()
        # The rank of a document within its kind, as a share of the kind: taking the lowest shares first draws evenly
        # from all kinds, and the total is exact.
        totals, seen, place = Counter(d.kind for d in self.documents), Counter(), {}
        for i in shuffled:
            kind = self.documents[i].kind
            place[i] = (seen[kind] + 0.5) / totals[kind]
            seen[kind] += 1
        n_first = min(max(round(fraction * len(self)), 1), len(self) - 1)
        order = sorted(shuffled, key=place.__getitem__)
        parts = sorted(order[:n_first]), sorted(order[n_first:])
        return tuple(Corpus([self.documents[i] for i in part], self.name) for part in parts)


def first_names(names, n=6):
    """List a few names for an error message."""
    names = list(names)
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(repr(name) for name in names[:n]) + more


def _refuse_halves(name, part):
    """Refuse a string that cannot be written: JSON and file names may hold half of a surrogate pair."""
    try:
        str(part).encode()
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"Document {name!a} holds half of a character ({part[error.start]!a}), which no file or tokenizer takes. "
            "Read it again in its own encoding, rename it, or remove it."
        ) from error
