"""What all language models follow, and its removal: position, word frequency, punctuation, surprisal."""

import numpy as np

from ..arguments import checked, finite, numbers
from ..exceptions import ParameterError
from ..registry import Registry
from .isc import document_ends

# A member takes the words of all documents, their documents and their surprisals, and returns one or several columns.
CONFOUNDS = Registry("confound", needs_surprisal=False)


@CONFOUNDS.register("position")
def position(words, documents, surprisal):
    """Place in the document and its logarithm, and whether a word is the first."""
    place = np.concatenate([np.arange(n) for n in np.diff([0, *document_ends(documents, len(words))])]).astype(float)
    return np.stack([place, np.log1p(place), place == 0], axis=1)


@CONFOUNDS.register("frequency")
def frequency(words, documents, surprisal):
    """Logarithm of the frequency of the word in these texts, and the length of the word."""
    _, index = np.unique([word.lower() for word in words], return_inverse=True)
    return np.stack([np.log(np.bincount(index)[index]), [len(word) for word in words]], axis=1)


@CONFOUNDS.register("punctuation")
def punctuation(words, documents, surprisal):
    """Whether a word is punctuation, a number, or capitalised, and whether the word before it is punctuation."""
    mark = np.array([not word[0].isalnum() for word in words], dtype=float)
    first = np.concatenate([[True], np.asarray(documents)[1:] != np.asarray(documents)[:-1]])
    after = np.where(first, 0.0, np.concatenate([[0.0], mark[:-1]]))
    columns = [mark, [word[0].isdigit() for word in words], [word[0].isupper() for word in words], after]
    return np.stack([np.asarray(column, dtype=float) for column in columns], axis=1)


@CONFOUNDS.register("surprisal", needs_surprisal=True)
def surprisal(words, documents, surprisal):
    """Surprisal of the word and of the word before it; missing ones are the mean."""
    values = np.asarray(surprisal, dtype=float)
    values = np.where(np.isfinite(values), values, values[np.isfinite(values)].mean())
    return np.stack([values, np.concatenate([values[:1], values[:-1]])], axis=1)


@checked(surprisal=numbers)
def word_confounds(words, documents, names=("position", "frequency", "punctuation"), surprisal=None):
    """Compute confounds of words.

    Parameters
    ----------
    words : list of str
    documents : array of shape (n_words,)
        Label of the document of each word.
    names : sequence of str
        Members of :data:`CONFOUNDS`.
    surprisal : array of shape (n_words,), optional
        For ``"surprisal"``: that of one model, or the mean over models.

    Returns
    -------
    array of shape (n_words, n_columns)

    Examples
    --------
    >>> word_confounds(["a", "sea", "a"], [0, 0, 0], ["frequency"]).round(2).tolist()
    [[0.69, 1.0], [0.0, 3.0], [0.69, 1.0]]
    """
    words = list(words)
    if not words or len(words) != len(documents):
        raise ParameterError(f"{len(words)} words, {len(documents)} documents; pass one label per word.")
    if not all(isinstance(word, str) and word for word in words):
        raise ParameterError("Every word must be a text of at least one character.")
    if surprisal is not None and (np.shape(surprisal) != (len(words),) or not np.isfinite(surprisal).any()):
        raise ParameterError(f"surprisal must hold one value for each of {len(words)} words, some of them finite.")
    missing = [name for name in names if CONFOUNDS[name].needs_surprisal and surprisal is None]
    if missing:
        raise ParameterError(f"The confound {missing[0]!r} needs surprisal=, one value per word.")
    return np.concatenate([CONFOUNDS[name](words, documents, surprisal) for name in names], axis=1).astype(float)


@checked(courses=finite, confounds=finite)
def regress_out(courses, confounds):
    """Remove from courses what confounds and a constant explain by least squares.

    Parameters
    ----------
    courses : array of shape (n_units, n_features) or (n_subjects, n_units, n_features)
    confounds : array of shape (n_units, n_confounds)
        Constant and collinear columns do no harm.

    Returns
    -------
    array of the shape of ``courses``

    Examples
    --------
    >>> x = np.arange(10.0)[:, None]
    >>> bool(np.allclose(regress_out(3 * x + 1, x), 0))
    True
    """
    courses, confounds = np.asarray(courses, dtype=np.float64), np.asarray(confounds, dtype=np.float64)
    if confounds.ndim != 2 or len(confounds) != courses.shape[-2]:
        raise ParameterError(f"Confounds {confounds.shape} do not fit courses {courses.shape}; pass one row per unit.")
    centred = confounds - confounds.mean(axis=0)
    scale = np.sqrt((centred**2).sum(axis=0))
    u, s, _ = np.linalg.svd(centred / np.where(scale > 0, scale, 1), full_matrices=False)
    u = u[:, s > 1e-8 * max(s.max(initial=0), 1e-300)]
    courses = courses - courses.mean(axis=-2, keepdims=True)
    return courses - u @ (u.T @ courses)
