"""Candidate names of networks: what their courses do, with the sign, or no name."""

import re

import numpy as np

UNNAMED = "unnamed"
LEAST_R = 0.3  # smallest correlation that gives a name
LEAST_N = 5  # occurrences of a token in a name,
LEAST_MEAN = 1.0  # and its mean on the engaged side, in standard deviations of the course
# A word that begins with a space, a long piece of a word, a number, or punctuation. Other pieces are no words.
_READABLE = re.compile(r"\s(?:[^\W\d_]{2,}|[aAI])|[^\W\d_]{4,}|\s?\d+|\s?[^\w\s]{1,3}|\n|\\n")
_PLURAL = {
    "number": "numbers", "bracket": "brackets", "quote": "quotes", "operator": "operators", "newline": "line breaks",
    "word": "words", "word_start": "beginnings of words", "word_part": "later parts of words",
    "capital": "capitalised words", "space": "spaces",
}  # fmt: skip
_ENDS = {  # what large and small values of a graded regressor are
    "surprisal": ("surprising tokens", "predictable tokens"), "log_frequency": ("frequent words", "rare words"),
}  # fmt: skip
_NOT_NAMES = ("position", "log_position", "sink", *_ENDS)


def engaged_side(z):
    """The sign of the heavier tail of each course ``(n_tokens, n_networks)``: +1 or -1.

    The sign of a component is arbitrary, but its map and its course have it in common: at tokens where the course is
    negative, neurons of negative weight are active.
    """
    return np.where(np.mean(np.asarray(z, float) ** 3, axis=0) >= 0, 1, -1)


def regressor_name(name):
    """A regressor in words.

    Examples
    --------
    >>> regressor_name("newline"), regressor_name("kind:code"), regressor_name("log_frequency")
    ('line breaks', 'code text', 'frequent words')
    """
    if name.startswith("kind:"):
        return f"{name.partition(':')[2]} text"
    return _ENDS[name][0] if name in _ENDS else _PLURAL.get(name, name.replace("_", " "))


def candidate_name(side, artefact, correlations, tokens):
    """Name a network by what its course does; :data:`UNNAMED` if nothing is found.

    Such as ``"fires at numbers"``, ``"silent at frequent words"``, ``"fires (negative) at ' the', ' a'"`` or
    ``"artefact: sink"``. ``side`` is its engaged side (1 or -1), ``artefact`` what it is an artefact of or "", and the
    tables are its rows in :class:`Interpretation`.
    """
    if artefact:
        return f"artefact: {artefact}"
    fires = "fires at" if side > 0 else "fires (negative) at"
    own = correlations[(correlations["p_fwe"] <= 0.05) & (correlations["r"].abs() >= LEAST_R)]
    named = own[~own["regressor"].isin(_NOT_NAMES)]
    if len(named):
        best = named.loc[named["r"].abs().idxmax()]
        return f"{fires if best['r'] * side > 0 else 'silent at'} {regressor_name(best['regressor'])}"
    words = _words(side, tokens)
    graded = own[own["regressor"].isin(tuple(_ENDS))]
    if len(graded):
        best = graded.loc[graded["r"].abs().idxmax()]
        if best["r"] * side < 0:
            return f"silent at {_ENDS[best['regressor']][0]}"
        return f"{fires} {words or _ENDS[best['regressor']][0]}"
    return f"{fires} {words}" if words else UNNAMED


def _words(side, tokens):
    """The two strongest readable tokens of the engaged side, or "" if there are not two of them."""
    own = tokens[(tokens["side"] == side) & (tokens["n"] >= LEAST_N) & (tokens["mean"] * side >= LEAST_MEAN)]
    found = [token for token in own["token"] if _READABLE.fullmatch(str(token))][:2]
    return ", ".join(map(repr, found)) if len(found) == 2 else ""
