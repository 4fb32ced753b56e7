"""Classes of tokens from their text, and regressors that describe tokens."""

import re

import numpy as np

from ...arguments import checked
from ...exceptions import ParameterError

PATTERNS = {
    "number": r"\s*\d[\d.,]*\s*",
    "punctuation": r"\s*[.,;:!?…\-–—]+\s*",
    "bracket": r"\s*[()\[\]{}<>]+[,.;:]*\s*",
    "quote": "\\s*[\"'`“”‘’«»]+[,.;:!?]*\\s*",
    "operator": r"\s*[=+*/%&|^~@#$_\\<>\-]*[=+*/%&|^~@#$_\\][=+*/%&|^~@#$_\\<>\-]*\s*",
    "newline": r"(?s).*(\n|\\n).*",
    "word": r"\s*[^\W\d_]+('[^\W\d_]+)?\s*",
}  # each matches a whole token
CLASSES = (*PATTERNS, "word_start", "word_part", "capital", "space")
_COMPILED = {name: re.compile(pattern) for name, pattern in PATTERNS.items()}


def classify_tokens(tokens):
    """Classify tokens; a token can belong to several classes.

    Parameters
    ----------
    tokens : sequence of str
        Texts of consecutive tokens; a leading space means that a word begins. A newline may be written as ``\\n``.

    Returns
    -------
    DataFrame of bool, shape (n_tokens, n_classes)
        number, punctuation, bracket, quote, operator, newline, word; word_start and word_part (first and later pieces
        of a word); capital (a word that begins with a capital letter); space (only spaces).

    Examples
    --------
    >>> table = classify_tokens([" The", " cats", "kill", " 12", ".", "\\n"])
    >>> [", ".join(table.columns[row]) for row in table.to_numpy()][:3]
    ['word, word_start, capital', 'word, word_start', 'word, word_part']
    """
    import pandas as pd

    unique, inverse = np.unique(np.asarray([str(t) for t in tokens], dtype=object), return_inverse=True)
    table = {name: np.array([bool(p.fullmatch(t)) for t in unique]) for name, p in _COMPILED.items()}
    stripped = [t.strip() for t in unique]
    table["space"] = np.array([not s and "\n" not in t for s, t in zip(stripped, unique)])
    capital = np.array([s[:1].isupper() for s in stripped])
    table = {name: column[inverse] for name, column in table.items()}
    text = unique[inverse]
    begins = np.array([t[:1].isspace() for t in text])
    # without a space, a token continues a word only if a letter precedes it
    follows = np.concatenate([[False], [bool(t[-1:].isalpha()) and not t.endswith("\\n") for t in text[:-1]]])
    table["word_part"] = table["word"] & ~begins & follows
    table["word_start"] = table["word"] & ~table["word_part"]
    table["capital"] = table["word"] & capital[inverse]
    return pd.DataFrame({name: table[name] for name in CLASSES})


@checked()
def token_regressors(events):
    """Describe every token by numbers that time courses can be correlated with.

    Parameters
    ----------
    events : DataFrame of n_tokens rows
        The columns token, position, sink, surprisal, log_frequency and kind are used if present.

    Returns
    -------
    DataFrame of float, n_tokens rows
        position, log_position, sink, surprisal, log_frequency, the classes of :func:`classify_tokens`, and
        ``kind:NAME``. Missing values become the mean of their column; columns without variance are omitted.

    Raises
    ------
    ParameterError
        If no column describes the tokens.
    """
    import pandas as pd

    columns = {}
    if "position" in events:
        position = events["position"].to_numpy(np.float64)
        columns["position"] = position
        columns["log_position"] = np.log1p(position)
    for name in ("sink", "surprisal", "log_frequency"):
        if name in events:
            columns[name] = pd.to_numeric(events[name], errors="coerce").to_numpy(np.float64)
    if "token" in events:
        for name, column in classify_tokens(events["token"].fillna("")).items():
            columns[name] = column.to_numpy(np.float64)
    if "kind" in events:
        for kind in sorted(events["kind"].dropna().unique()):
            columns[f"kind:{kind}"] = (events["kind"] == kind).to_numpy(np.float64)
    table = pd.DataFrame(columns)
    table = table.fillna(table.mean())
    table = table.loc[:, table.std(ddof=0) > 0]
    if table.empty:
        raise ParameterError(
            "The events describe no token: expected some of the columns token, position, sink, surprisal, "
            f"log_frequency, kind, with more than one value; got {list(events.columns)}."
        )
    return table.reset_index(drop=True)
