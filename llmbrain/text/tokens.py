"""From documents to token ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..exceptions import CorpusError, ParameterError
from .documents import Corpus, Document


@dataclass(frozen=True, eq=False)
class TokenizedDocument:
    """A document as the model reads it.

    Parameters
    ----------
    ids : ndarray of int64, shape (n_tokens,)
        Token ids, special ones included.
    tokens : list of str
        A readable form of each token on one line: spaces as they are, a newline as ``\\n``, a tab as ``\\t``; a piece
        of a character that spans several tokens in the spelling of the vocabulary. The ids are what is exact.
    is_special : ndarray of bool, shape (n_tokens,)
        True at BOS, EOS and every other special token.
    id : str
        Id of the document.
    kind : str or None
        Kind of the document.
    """

    ids: np.ndarray
    tokens: list[str]
    is_special: np.ndarray
    id: str
    kind: str | None = None

    def __len__(self) -> int:
        """Count the tokens, special ones included."""
        return len(self.ids)


def encode(documents, tokenizer, *, add_special_tokens=True, max_tokens=None) -> list[TokenizedDocument]:
    """Turn documents into token ids, one document at a time.

    Parameters
    ----------
    documents : Corpus, Document or sequence of Document or str
        What to encode.
    tokenizer : transformers tokenizer
        Needs no padding token.
    add_special_tokens : bool, default=True
        Begin every document with BOS if the tokenizer has one, also where the tokenizer would not add it by itself,
        and let the tokenizer add what else it adds. The first token of a text is then predicted like any other, and
        the large activations of the first position fall on a token that is left out of the analysis.
    max_tokens : int, optional
        Cut each document to so many tokens, special ones included.

    Returns
    -------
    tokenized : list of TokenizedDocument
        In the order of the documents.

    Raises
    ------
    CorpusError
        If a document has fewer than two tokens, special ones not counted.
    ParameterError
        If ``max_tokens`` leaves fewer than two tokens of text.

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
    if max_tokens is not None and (
        isinstance(max_tokens, bool) or not isinstance(max_tokens, (int, np.integer)) or max_tokens < 2
    ):
        raise ParameterError(f"max_tokens={max_tokens!r}: it must be a whole number of at least 2, or None.")
    special = _special_ids(tokenizer)
    spelling = _Spelling(tokenizer)
    return [
        _encode_one(document, tokenizer, special, spelling, add_special_tokens, max_tokens)
        for document in _as_documents(documents)
    ]


def _as_documents(documents) -> list[Document]:
    """Accept a corpus, a document, or a list of documents or strings."""
    if isinstance(documents, Corpus):
        return list(documents.documents)
    from .corpus import as_corpus

    return list(as_corpus(documents).documents)


def _encode_one(document, tokenizer, special, spelling, add_special_tokens, max_tokens) -> TokenizedDocument:
    """Encode one document and mark its special tokens."""
    # verbose=False: the tokenizer's own warning about length knows nothing of the windows used later.
    ids = list(tokenizer(document.text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])
    bos = getattr(tokenizer, "bos_token_id", None)
    if add_special_tokens and bos is not None and (not ids or ids[0] != bos):
        ids.insert(0, int(bos))
    n_text = sum(i not in special for i in ids)
    if n_text < 2:
        raise CorpusError(
            f"Document {document.id!r} has {n_text} token{'' if n_text == 1 else 's'} ({document.text[:40]!r}); at "
            "least 2 are needed. Remove it, or join it with another."
        )
    ids = np.asarray(ids[:max_tokens], dtype=np.int64)
    is_special = np.isin(ids, list(special))
    if (~is_special).sum() < 2:
        raise ParameterError(
            f"max_tokens={max_tokens} leaves {int((~is_special).sum())} token(s) of text in document "
            f"{document.id!r}, for special tokens count too; at least 2 are needed. Raise max_tokens."
        )
    return TokenizedDocument(ids, spelling(ids), is_special, document.id, document.kind)


def _special_ids(tokenizer) -> set[int]:
    """Ids of BOS, EOS, PAD and every added token that is declared special."""
    special = {int(i) for i in getattr(tokenizer, "all_special_ids", [])}
    # all_special_ids lists the named ones only; a vocabulary may declare more (file separators, chat marks).
    for token_id, token in getattr(tokenizer, "added_tokens_decoder", {}).items():
        if getattr(token, "special", False):
            special.add(int(token_id))
    return special


class _Spelling:
    """Readable one-line spellings of token ids, remembered."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer
        # A token is decoded after another one, for at the start of a text some tokenizers drop its space.
        self.anchor = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        self.prefix = self._decode(self.anchor)
        self.known: dict[int, str] = {}

    def __call__(self, ids: np.ndarray) -> list[str]:
        """Spell each id."""
        return [self._spell(int(i)) for i in ids]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _spell(self, token_id: int) -> str:
        if token_id not in self.known:
            text = self._decode([*self.anchor, token_id])
            text = text[len(self.prefix) :] if text.startswith(self.prefix) else ""
            if not text or "\N{REPLACEMENT CHARACTER}" in text:  # a part of a character
                text = str(self.tokenizer.convert_ids_to_tokens([token_id])[0])
            self.known[token_id] = "".join(_visible(c) for c in text)
        return self.known[token_id]


def _visible(character: str) -> str:
    """Escape what would break a line or a table; everything else, the space included, stays."""
    if character == " " or character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")
