"""Where tokens lie in their text, in characters: the coordinates that models with different tokenizers share."""

import numpy as np

from ..exceptions import ParameterError

NOWHERE = -1  # start and stop of a token that is not part of the text, such as an added BOS


def token_spans(tokenizer, text, ids):
    """Find the characters that each token covers.

    Tokens that are parts of one character (byte-level vocabularies, byte fallback) all cover that character. White
    space that a tokenizer leaves out of its tokens belongs to the token after it, and a character that it joins with
    the one before (a combining accent) to the token of that one.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        It must return the positions of its tokens, as fast tokenizers do.
    text : str
    ids : int array of shape (n_tokens,)
        Tokens of the text, or of its beginning, with any special tokens added before and after.

    Returns
    -------
    int array of shape (n_tokens, 2)
        First character and one past the last. Both are -1 for tokens that were added to the text.

    Raises
    ------
    ParameterError
        If the tokenizer has no positions, or the ids are not those of the text.

    Examples
    --------
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import PreTrainedTokenizerFast
    >>> words = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "calm": 2, "sea": 3}, unk_token="a"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")
    >>> token_spans(tokenizer, "a calm sea", [0, 1, 2, 3]).tolist()
    [[-1, -1], [0, 1], [1, 6], [6, 10]]
    """
    ids = np.asarray(ids, dtype=np.int64)
    encoded = encode_with_places(tokenizer, text, "models cannot be aligned")
    own = np.asarray(encoded["input_ids"], dtype=np.int64)
    first, n = _place(ids, own)
    spans = np.full((len(ids), 2), NOWHERE, dtype=np.int64)
    whole = fill_gaps(np.reshape(encoded["offset_mapping"], (-1, 2)), text)
    spans[first : first + n] = whole[:n]
    return spans


def encode_with_places(tokenizer, text, otherwise):
    """Encode a text without special tokens; the entry ``offset_mapping`` holds the characters of each token.

    A tokenizer without positions raises :class:`ParameterError`; ``otherwise`` says what does not work then.
    """
    try:
        return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    except NotImplementedError as error:
        raise ParameterError(
            f"{type(tokenizer).__name__} does not return the positions of its tokens in the text, so {otherwise}. Load "
            "a fast tokenizer (AutoTokenizer prefers one)."
        ) from error


def _place(ids, own):
    """Where the tokens of the text begin in ``ids``, and how many there are."""
    for first in range(len(ids)):
        n = min(len(own), len(ids) - first)
        # a text that is cut ends with the ids; a whole one may be followed by special tokens
        if np.array_equal(ids[first : first + n], own[:n]) and (n == len(own) or first + n == len(ids)):
            return first, n
    raise ParameterError(
        f"The {len(ids)} token ids are not those of the text with this tokenizer. Pass the tokenizer that made them."
    )


def fill_gaps(spans, text):
    """Cover the characters that no token covers: white space goes to the token after it, others to the one before.

    The others are those that a normalizer joins with the character before, such as a combining accent.
    """
    spans = np.array(spans, dtype=np.int64)
    ends = np.maximum.accumulate(np.append(0, spans[:-1, 1]))[: len(spans)]  # of the text before each token
    for i in np.flatnonzero(spans[:, 0] > ends):
        end, start = ends[i], spans[i, 0]
        joined = len(text[end:start].rstrip()) if i else 0
        if joined:
            spans[:i, 1][spans[:i, 1] == end] += joined
        spans[i, 0] = end + joined
    return spans
