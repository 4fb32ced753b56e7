"""Token ids of texts: leading special tokens, and tokenizing up to a budget.

`leading_tokens` is the BOS policy of the whole package. Every function that reads text passes its ``bos`` there.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

import numpy as np

from ..exceptions import CorpusError, ParameterError, check_count
from .corpus import as_corpus
from .spans import NOWHERE, fill_gaps
from .spelling import Speller, Spellings

# Tokens at the end of a tokenized prefix that are not used, because the text after the cut may change them.
MARGIN = 64
AHEAD = 1 << 18  # characters of further documents that are tokenized in the same call, by all cores


@dataclass(frozen=True, eq=False)
class TokenizedDocument:
    """A document as token ids.

    Parameters
    ----------
    ids : ndarray of int64, shape (n_tokens,)
        Token ids, special tokens included.
    tokens : sequence of str
        Readable spelling of each token, on one line: newlines and tabs are escaped, and a byte of a character that
        spans several tokens is written as ``\\xe6``. Only the ids are exact. Spelled when it is read.
    is_special : ndarray of bool, shape (n_tokens,)
        True at BOS, EOS and every other special token.
    id : str
        Id of the document.
    kind : str or None
        Kind of the document.
    """

    ids: np.ndarray
    tokens: list
    is_special: np.ndarray
    id: str
    kind: str = None

    def __len__(self):
        """Number of tokens, special tokens included."""
        return len(self.ids)

    @property
    def n_head(self):
        """Number of special tokens before the text; 0 if there is no text."""
        return int(np.argmin(self.is_special)) if len(self.ids) else 0

    @property
    def head(self):
        """The special tokens before the text as one string for tables and sidecars: ``"<s>"``, or ``"none"``."""
        return " ".join(self.tokens[: self.n_head]) or "none"


def leading_tokens(tokenizer, bos="auto"):
    """Ids of the special tokens at the head of every window: the BOS policy.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    bos : {"auto", True, False}
        ``"auto"`` gives what the tokenizer adds before a text, and BOS if the tokenizer has one but does not add it.
        True requires BOS. With False, texts have no leading special token.

    Returns
    -------
    tuple of int
        Empty for a tokenizer without BOS that adds nothing.

    Raises
    ------
    ParameterError
        If ``bos`` has another value, or is True and the tokenizer has no BOS token.
    """
    if not (isinstance(bos, bool) or bos == "auto"):
        raise ParameterError(f"bos={bos!r}: choose 'auto', True or False.")
    token = getattr(tokenizer, "bos_token_id", None)
    if bos is True and token is None:
        raise ParameterError("bos=True: this tokenizer has no BOS token. Use bos='auto', or set tokenizer.bos_token.")
    if bos is False:
        return ()
    own = _added_tokens(tokenizer)[0]
    return own if token is None or token in own else (int(token), *own)


def describe_bos(tokenizer, bos="auto"):
    """Spell the `leading_tokens` as one string for tables and sidecars: ``"<s>"``, or ``"none"``.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    bos : {"auto", True, False}
        See `leading_tokens`.

    Returns
    -------
    str
    """
    return _join(tokenizer, leading_tokens(tokenizer, bos))


def describe_head(tokenizer, ids):
    """Spell the special tokens at the head of a prompt, as `describe_bos` does."""
    return _join(tokenizer, takewhile(special_ids(tokenizer).__contains__, map(int, ids)))


def _join(tokenizer, ids):
    return " ".join(tokenizer.convert_ids_to_tokens(list(ids))) or "none"


def encode(documents, tokenizer, *, bos="auto", per_document=None, max_tokens=None):
    """Turn documents into token ids, one document at a time.

    Parameters
    ----------
    documents : Corpus, Document or sequence of Document or str
    tokenizer : transformers tokenizer
        Needs no padding token.
    bos : {"auto", True, False}
        Special tokens before every document, see `leading_tokens`. With False, those after a text are left out, too.
    per_document : int, optional
        Cut each document to ``per_document`` tokens, special tokens included.
    max_tokens : int, optional
        Stop after ``max_tokens`` tokens of text. Documents that are not reached are left out, and the last one is cut.

    Returns
    -------
    list of TokenizedDocument
        In the order of the documents. Long texts are tokenized only as far as the limits require.

    Raises
    ------
    CorpusError
        If a document has fewer than two tokens, special tokens not counted.
    ParameterError
        If ``per_document`` leaves fewer than two tokens of text.

    Examples
    --------
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import PreTrainedTokenizerFast
    >>> words = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "calm": 2, "sea": 3}, unk_token="a"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")
    >>> (document,) = encode(["a calm sea"], tokenizer)
    >>> document.ids.tolist(), document.is_special.tolist()
    ([0, 1, 2, 3], [True, False, False, False])
    """
    limits = {"bos": bos, "per_document": per_document, "max_tokens": max_tokens}
    return [document for document, _ in encode_with_spans(documents, tokenizer, **limits, spans=False)]


def encode_with_spans(documents, tokenizer, *, bos="auto", per_document=None, max_tokens=None, spans=True):
    """Turn documents into token ids like `encode`, and find the characters of each token in the same pass.

    Returns
    -------
    list of (TokenizedDocument, int array or None)
        The array is that of `token_spans`, or None if the tokenizer does not return positions.
    """
    for name, value in (("per_document", per_document), ("max_tokens", max_tokens)):
        check_count(name, value, 2, optional=True)
    reader, found, left = Reader(documents, tokenizer, bos, spans=spans), [], max_tokens
    for number in range(len(reader)):
        limit = per_document
        if left is not None:
            limit = min(max(left, 2) + len(reader.encoder.head), per_document or np.inf)
        found.append(reader.read(number, limit, left))
        if left is not None:
            left -= int((~found[-1][0].is_special).sum())
            if left <= 0:
                break
    return found


def encode_prompts(texts, tokenizer, bos="auto"):
    """Turn texts to be continued into token ids: leading special tokens and the text, with nothing after it.

    Parameters
    ----------
    texts : list of str
        A text may be empty.
    tokenizer : transformers tokenizer
    bos : {"auto", True, False}
        See `leading_tokens`.

    Returns
    -------
    list of int64 arrays of shape (n_tokens,)
    """
    encoder = Encoder(tokenizer, bos)
    return [encoder.prompt(text) for text in texts]


def refuse_no_tokenizer(tokenizer):
    """Refuse what is no tokenizer, such as a model or a name."""
    if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise ParameterError(
            f"tokenizer is {type(tokenizer).__name__}; it must be the model's own tokenizer: model, tokenizer = "
            "llmbrain.load_model(...)."
        )


class Encoder:
    """Turns texts into ids with one tokenizer and one BOS policy."""

    def __init__(self, tokenizer, bos="auto"):
        refuse_no_tokenizer(tokenizer)
        self.tokenizer = tokenizer
        self.head = leading_tokens(tokenizer, bos)
        self.tail = _added_tokens(tokenizer)[1] if bos is not False else ()

    @cached_property
    def special(self):
        """Ids of all special tokens."""
        return np.array(sorted(special_ids(self.tokenizer)), dtype=np.int64)

    @cached_property
    def spell(self):
        """The `Speller` of the tokenizer."""
        return Speller(self.tokenizer)

    def prompt(self, text, limit=None):
        """Leading special tokens and the text as int64 ids, at most ``limit`` of them."""
        return self._with_head(_text_ids(self.tokenizer, text, self.room(limit)))[0][:limit]

    def room(self, limit):
        """Most tokens of the text that are needed: a text may bring its leading special tokens itself."""
        return None if limit is None else max(0, limit)

    def _with_head(self, ids):
        """Ids with the leading special tokens before them, and the number of these."""
        # a text that already begins with its special tokens, such as a rendered chat, does not get them twice
        head = () if self.head and tuple(ids[: len(self.head)]) == self.head else self.head
        return np.concatenate([np.asarray(part, dtype=np.int64) for part in (head, ids)]), len(head)

    def document(self, document, limit=None):
        """Turn one document into a `TokenizedDocument` of at most ``limit`` tokens."""
        return self.finish(document, _text_ids(self.tokenizer, document.text, self.room(limit)), limit)[0]

    def finish(self, document, ids, limit=None):
        """Make a `TokenizedDocument` of the ids of its text; return it and the number of ids added before them."""
        ids, n_before = self._with_head(ids)
        ids = ids[:limit]
        if limit is None or len(ids) < limit:  # the whole text
            ids = np.append(ids, np.asarray(self.tail, dtype=np.int64))
            limit = None
        is_special = np.isin(ids, self.special)
        n_text = int((~is_special).sum())
        if n_text < 2:
            if limit is not None and len(self.prompt(document.text, limit + 2)) > limit:
                raise ParameterError(
                    f"per_document={limit} leaves {n_text} token(s) of text in document {document.id!r}, as special "
                    "tokens count too; at least 2 are needed. Raise per_document."
                )
            raise CorpusError(
                f"Document {document.id!r} has {n_text} token{'' if n_text == 1 else 's'} ({document.text[:40]!r}); "
                "at least 2 are needed. Remove it, or join it with another."
            )
        return TokenizedDocument(ids, Spellings(self.spell, ids), is_special, document.id, document.kind), n_before


class Reader:
    """Turns the documents of a corpus into ids, one after the other; later ones are tokenized in the same call."""

    def __init__(self, texts, tokenizer, bos="auto", spans=False):
        self.encoder, self.corpus = Encoder(tokenizer, bos), as_corpus(texts)
        self._fast = getattr(tokenizer, "is_fast", False)
        self.spans = spans and self._fast
        self._known = {}

    def __len__(self):
        """Number of documents."""
        return len(self.corpus)

    def read(self, number, limit=None, left=None):
        """Return a `TokenizedDocument` of at most ``limit`` tokens, and the spans of its tokens or None.

        Of this and later documents together, about ``left`` tokens will be read; None for all.
        """
        document, room = self.corpus[number], self.encoder.room(limit)
        if number not in self._known:
            self._read_ahead(number, room, left)
        ids, places = self._known.pop(number)
        tokenized, n_before = self.encoder.finish(document, ids[:room], limit)
        if places is None:
            return tokenized, None
        spans = np.full((len(tokenized), 2), NOWHERE, np.int64)
        n = min(len(ids[:room]), len(tokenized) - n_before)
        spans[n_before : n_before + n] = fill_gaps(places, document.text)[:n]
        return tokenized, spans

    def _read_ahead(self, number, room, left):
        """Tokenize a document and those after it that are short enough to be tokenized whole and fit what is left."""
        tokenizer, text = self.encoder.tokenizer, self.corpus[number].text
        longest = np.inf if room is None else 8 * (room + MARGIN)
        if not self._fast or len(text) > longest:
            self._known[number] = _beginning(text, room, self._alone)
            return
        texts, n_left = [text], (AHEAD if left is None else min(AHEAD, 4 * left)) - len(text)
        for other in range(number + 1, len(self.corpus)):
            text = self.corpus[other].text
            n_left -= len(text)
            if n_left < 0 or len(text) > longest:
                break
            texts.append(text)
        self._known.update(enumerate(_tokenize(tokenizer, texts, self.spans), number))

    def _alone(self, text):
        if not self._fast:
            return _ids(self.encoder.tokenizer, text), None
        return _tokenize(self.encoder.tokenizer, [text], self.spans)[0]


def special_ids(tokenizer):
    """Ids of BOS, EOS, PAD and all added tokens that are declared special, as a set."""
    special = {int(i) for i in getattr(tokenizer, "all_special_ids", [])}
    # all_special_ids holds only the named ones; a vocabulary may declare more (file separators, chat marks)
    for token_id, token in getattr(tokenizer, "added_tokens_decoder", {}).items():
        if getattr(token, "special", False):
            special.add(int(token_id))
    return special


def _added_tokens(tokenizer):
    """Ids that the tokenizer itself adds before and after a text, two tuples."""
    plain, whole = _ids(tokenizer, "a", False), _ids(tokenizer, "a", True)
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return tuple(whole[:start]), tuple(whole[start + len(plain) :])
    raise ParameterError(f"{type(tokenizer).__name__} changes the ids of a text when it adds special tokens.")


def _ids(tokenizer, text, add_special_tokens=False):
    # verbose=False: the tokenizer would warn about long texts, which are cut into windows later
    return [int(i) for i in tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]]


def _tokenize(tokenizer, texts, spans=False):
    """Ids of whole texts, and the characters of each token or None; a fast tokenizer works on them side by side."""
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False, return_offsets_mapping=spans)
    places = [np.reshape(p, (-1, 2)) for p in encoded["offset_mapping"]] if spans else [None] * len(texts)
    return list(zip(encoded["input_ids"], places))


def _text_ids(tokenizer, text, limit=None):
    """The first ``limit`` ids of a text; little more of the text than that is tokenized."""
    return _beginning(text, limit, lambda part: (_ids(tokenizer, part), None))[0][:limit]


def _beginning(text, limit, tokenize):
    """What ``tokenize`` returns for a text, or for a part of it that has at least the first ``limit`` ids."""
    n_characters = len(text) if limit is None else 8 * (limit + MARGIN)
    while n_characters < len(text):
        ids, places = tokenize(text[: _gap_before(text, n_characters)])
        if len(ids) >= limit + MARGIN:
            return ids, places
        n_characters *= 4
    return tokenize(text) if text else ([], None)


def _gap_before(text, stop):
    """The last place up to ``stop`` where white space follows a word; ``stop`` if none is near."""
    for place in range(stop, max(stop - 2000, 1), -1):
        if text[place].isspace() and not text[place - 1].isspace():
            return place
    return stop
