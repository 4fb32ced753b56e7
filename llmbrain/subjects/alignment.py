"""Values of tokens on units that all models share: characters and words.

Two models cut a text into different tokens. A value of a token is spread over the characters it covers, and the
characters of a word are then averaged (activity, time courses) or added up (surprisal, counts). The result depends on
the text and the values, not on where the tokens end.
"""

import re
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ..arguments import checked, flag, holds, numbers, whole
from ..exceptions import ParameterError
from ..registry import Registry

# A run of letters and digits, a run of punctuation, or one ideograph: languages without spaces have no longer words.
_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|(?:(?![{_IDEOGRAPH}])\w)+(?:['’]\w+)*|[^\w\s]+")

UNITS = Registry("unit")
UNITS_OF_TEXT = holds("spans", "text", what="units of a text, from find_units")


@dataclass(frozen=True, eq=False)
class Units:
    """Parts of a text that do not overlap, in their order.

    Parameters
    ----------
    text : str
    spans : int array of shape (n_units, 2)
        First character and one past the last of each unit.
    """

    text: str
    spans: np.ndarray

    def __len__(self):
        """Number of units."""
        return len(self.spans)

    @property
    def names(self):
        """The text of each unit, a list of str."""
        return [self.text[a:b] for a, b in self.spans.tolist()]


@UNITS.register("word")
def _words(text):
    """Runs of letters and digits, runs of punctuation, single ideographs; white space belongs to none."""
    return [match.span() for match in _WORD.finditer(text)]


@UNITS.register("character")
def _characters(text):
    """Every character, white space included."""
    return [(i, i + 1) for i in range(len(text))]


def find_units(text, unit="word"):
    """Cut a text into units.

    Parameters
    ----------
    text : str
    unit : {"word", "character"}
        A word is a run of letters and digits, a run of punctuation, or a single ideograph.

    Returns
    -------
    Units

    Examples
    --------
    >>> find_units("It isn't 3.5, is it?").names
    ['It', "isn't", '3', '.', '5', ',', 'is', 'it', '?']
    """
    return Units(text, np.array(UNITS[unit](text), dtype=np.int64).reshape(-1, 2))


@checked(spans=whole, units=UNITS_OF_TEXT, total=flag)
def alignment_matrix(spans, units, total=False):
    """Build the matrix that turns values of tokens into values of units.

    Parameters
    ----------
    spans : int array of shape (n_tokens, 2)
        From :func:`llmbrain.text.token_spans`; tokens outside of the text, (-1, -1), count nowhere.
    units : Units
    total : bool
        By default, values are averaged over the characters of a unit, so a course that is constant keeps its value
        (activity, time courses). With True, each character gets its share of its tokens and the shares are added up, so
        the sum over all tokens is kept (surprisal, counts).

    Returns
    -------
    matrix : scipy.sparse.csr_array of shape (n_units, n_tokens)
    covered : bool array of shape (n_units,)
        Units all of whose characters are covered by tokens.

    Examples
    --------
    >>> matrix, covered = alignment_matrix(np.array([[0, 2], [2, 5]]), Units("abcde", np.array([[0, 3], [3, 5]])))
    >>> matrix.toarray().round(3).tolist(), covered.tolist()
    ([[0.667, 0.333], [0.0, 1.0]], [True, True])
    """
    spans = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
    n_characters = len(units.text)
    if len(spans) and spans.max() > n_characters:
        raise ParameterError(f"A token ends at character {spans.max()} of a text of {n_characters}.")
    unit_of = np.full(n_characters, -1, dtype=np.int64)
    sizes = np.diff(units.spans, axis=1).ravel()
    inside = _counted(units.spans)
    unit_of[inside] = np.repeat(np.arange(len(units)), sizes)
    lengths = np.maximum(np.diff(spans, axis=1).ravel(), 0)
    characters, tokens = _counted(spans), np.repeat(np.arange(len(spans)), lengths)
    shared = np.bincount(characters, minlength=n_characters)
    chosen = unit_of[characters] >= 0
    characters, tokens = characters[chosen], tokens[chosen]
    rows = unit_of[characters]
    values = 1 / lengths[tokens] if total else 1 / (shared[characters] * sizes[rows])
    matrix = sparse.csr_array((values, (rows, tokens)), shape=(len(units), len(spans)))
    n_covered = np.bincount(unit_of[inside], weights=shared[inside] > 0, minlength=len(units))
    return matrix, n_covered == sizes


def _counted(spans):
    """All characters of all spans, one after the other."""
    lengths = np.maximum(np.diff(spans, axis=1).ravel(), 0)
    starts = np.repeat(spans[:, 0] - np.cumsum(lengths) + lengths, lengths)
    return starts + np.arange(lengths.sum())


@checked(values=numbers, spans=whole, units=UNITS_OF_TEXT, total=flag)
def align(values, spans, units, total=False):
    """Turn values of tokens into values of units of the text.

    Parameters
    ----------
    values : array of shape (n_tokens,) or (n_tokens, n_columns)
        NaN, such as the surprisal of a first token, makes the units it touches NaN.
    spans, units, total
        See :func:`alignment_matrix`.

    Returns
    -------
    array of shape (n_units,) or (n_units, n_columns), float64
        NaN where a unit is not covered completely, as after the end of a recording.

    Examples
    --------
    >>> align([1.0, 3.0], [[0, 2], [2, 5]], find_units("ab cd")).tolist()
    [1.0, 3.0]
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) != len(spans):
        raise ParameterError(f"{len(values)} values for {len(spans)} tokens; pass one per token.")
    matrix, covered = alignment_matrix(spans, units, total)
    found = matrix @ np.nan_to_num(values)
    bad = (matrix != 0) @ np.isnan(values).astype(float) > 0
    found[bad] = np.nan
    found[~covered] = np.nan
    return found


_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[ntr])")
UNKNOWN = "\N{REPLACEMENT CHARACTER}"


@checked(spans=whole)
def rebuild_text(tokens, spans, into=None):
    """Rebuild a text from the spellings of its tokens, as tables of events have them.

    Parameters
    ----------
    tokens : list of str
        On one line each: newlines and other characters that cannot be printed are escaped.
    spans : int array of shape (n_tokens, 2)
    into : str, optional
        The text as another model has it; only its unknown characters are filled in.

    Returns
    -------
    str
        Characters that no token spells completely are U+FFFD.

    Examples
    --------
    >>> rebuild_text(["a", r"\\n", r"\\xe6", r"\\x9c"], [[0, 1], [1, 2], [2, 3], [2, 3]])
    'a\\n\ufffd'
    """
    spans = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
    if len(tokens) != len(spans):
        raise ParameterError(f"{len(tokens)} tokens, {len(spans)} spans; pass one span for each token.")
    n = int(max(spans.max(initial=0), 0))
    text = list(into or "")
    text += [UNKNOWN] * (n - len(text))
    shared = np.bincount(_counted(spans), minlength=n) > 1  # parts of characters are spelled as bytes
    for token, (start, stop) in zip(tokens, spans.tolist()):
        for i, character in enumerate(_spelling(token, stop - start), start):
            if text[i] == UNKNOWN and not shared[i]:
                text[i] = character
    return "".join(text)


def _spelling(token, n):
    """The ``n`` characters of a token; nothing if its spelling has another length."""
    for spelled in (token, _ESCAPE.sub(lambda match: match[0].encode("ascii").decode("unicode_escape"), token)):
        if len(spelled) == n:
            return spelled
    # some tokenizers leave white space out, and token_spans adds it to the token after it
    return " " * (n - len(spelled)) + spelled if len(spelled) < n else ""
