"""Inter-subject correlation: what the courses of several models share while they read one text.

Hasson et al. (2004), Science 303, 1634-1640; Nastase et al. (2019), Soc. Cogn. Affect. Neurosci. 14, 667-685;
Simony et al. (2016), Nat. Commun. 7, 12141 (functional correlation between subjects).
"""

from dataclasses import dataclass

import numpy as np

from ..arguments import checked, numbers
from ..exceptions import ParameterError, check_count
from ..registry import Registry
from ..stats import fdr, permutation_p

# A null takes courses (n_subjects, n_units, n_features), the ends of the documents and a generator, and returns
# courses without what the subjects share. Features of a subject are treated alike, and each keeps its mean and norm.
ISC_NULLS = Registry("null", needs_documents=False)


@checked(courses=numbers)
def inter_subject_correlation(courses, pairwise=False):
    """Correlate the course of every subject with that of the others, for each feature.

    Parameters
    ----------
    courses : array of shape (n_subjects, n_units, n_features)
        Aligned courses, such as those of matched networks or of layers on the words of a text.
    pairwise : bool
        Correlate each pair of subjects, instead of each subject with the mean of the others (courses z-scored first).

    Returns
    -------
    array of shape (n_subjects, n_features) or (n_pairs, n_features)
        Pairs in the order (0, 1), (0, 2), ..., (1, 2), ... NaN for a course that is constant.

    Raises
    ------
    ParameterError
        If there are fewer than two subjects or three units, or a value is not finite.

    Examples
    --------
    >>> shared = np.random.default_rng(0).standard_normal((1, 200, 1))
    >>> inter_subject_correlation(np.repeat(shared, 3, axis=0), pairwise=True).ravel().round(6).tolist()
    [1.0, 1.0, 1.0]
    """
    return _correlation(_unit_norm(_checked(courses)), pairwise)


def _correlation(z, pairwise):
    """Correlation of courses of unit norm, of all pairs or of each with the mean of the others."""
    if pairwise:
        first, second = np.triu_indices(len(z), k=1)
        return np.einsum("sut,rut->srt", z, z, optimize=True)[first, second]
    others = z.sum(axis=0) - z
    norm = np.sqrt(np.einsum("sut,sut->st", others, others))
    return np.einsum("sut,sut->st", z, others) / np.where(norm > 1e-12, norm, np.nan)


@checked(courses=numbers)
def inter_subject_functional_correlation(courses):
    """Correlate every feature of a subject with every feature of the mean of the others.

    Unlike in functional connectivity within a subject, what is not shared, such as noise of one model, cancels out.

    Parameters
    ----------
    courses : array of shape (n_subjects, n_units, n_features)

    Returns
    -------
    array of shape (n_subjects, n_features, n_features)
        Symmetric: the mean of both directions. The diagonal is the leave-one-out inter-subject correlation.

    Examples
    --------
    >>> courses = np.random.default_rng(0).standard_normal((3, 500, 2))
    >>> isfc = inter_subject_functional_correlation(courses)
    >>> isfc.shape, bool(np.allclose(isfc[0].diagonal(), inter_subject_correlation(courses)[0]))
    ((3, 2, 2), True)
    """
    z = _unit_norm(_checked(courses))
    others = z.sum(axis=0) - z
    norm = np.sqrt((others**2).sum(axis=1))
    table = np.einsum("sut,suv->stv", z, others / np.where(norm > 1e-12, norm, np.nan)[:, None], optimize=True)
    return (table + table.transpose(0, 2, 1)) / 2


@dataclass(frozen=True, eq=False)
class ISC:
    """Inter-subject correlation with a test.

    Parameters
    ----------
    values : array of shape (n_subjects or n_pairs, n_features)
    mean : array of shape (n_features,)
        Mean over subjects or pairs, of Fisher's z, as a correlation.
    null : array of shape (n_draws, n_features)
        The same without anything shared.
    p, q : arrays of shape (n_features,)
        One-sided p-value, and false discovery rate over features.
    p_fwe : array of shape (n_features,)
        Family-wise: against the largest feature of each draw.
    """

    values: np.ndarray
    mean: np.ndarray
    null: np.ndarray
    p: np.ndarray
    q: np.ndarray
    p_fwe: np.ndarray

    def to_frame(self, names=None):
        """One row per feature: feature, isc, null_mean, null_max, p, p_fwe, q."""
        import pandas as pd

        names = np.arange(len(self.mean)) if names is None else names
        columns = {"isc": self.mean, "null_mean": self.null.mean(axis=0), "null_max": self.null.max(axis=0)}
        return pd.DataFrame({"feature": names, **columns, "p": self.p, "p_fwe": self.p_fwe, "q": self.q})


@checked(courses=numbers)
def isc_test(courses, *, documents=None, pairwise=False, null="shift", n_draws=199, random_state=0):
    """Compute inter-subject correlation and test it for each feature.

    Parameters
    ----------
    courses : array of shape (n_subjects, n_units, n_features)
    documents : array of shape (n_units,), optional
        Label of the document of each unit; the same label is one block. By default all units are one document.
    pairwise : bool
        See :func:`inter_subject_correlation`.
    null : {"shift", "phase", "documents"}
        How the alignment between subjects is broken while each keeps its autocorrelation: circular shifts within each
        document, random phases within each document (which keep the spectrum, but not the distribution), or documents
        in another order for each subject.
    n_draws : int
    random_state : int, numpy Generator or None

    Returns
    -------
    ISC

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> shared = np.stack([rng.standard_normal(300), np.zeros(300)], axis=1)
    >>> isc = isc_test(shared + rng.standard_normal((4, 300, 2)), n_draws=99)
    >>> (isc.q < 0.05).tolist()
    [True, False]
    """
    check_count("n_draws", n_draws)
    courses = _checked(courses)
    draw, ends = ISC_NULLS[null], document_ends(documents, courses.shape[1])
    if draw.needs_documents and len(ends) < 3:
        raise ParameterError(f"null={null!r} needs at least three documents; there are {len(ends)}. Use null='shift'.")
    z, rng = _unit_norm(courses), np.random.default_rng(random_state)
    values = _correlation(z, pairwise)
    mean = _fisher_mean(values)
    draws = np.stack([_fisher_mean(_correlation(draw(z, ends, rng), pairwise)) for _ in range(n_draws)])
    largest = np.broadcast_to(np.nanmax(draws, axis=1, keepdims=True), draws.shape)
    p = permutation_p(mean, draws)
    return ISC(values, mean, draws, p, fdr(p), permutation_p(mean, largest))


def _fisher_mean(values):
    return np.tanh(np.arctanh(np.clip(values, -1 + 1e-12, 1 - 1e-12)).mean(axis=0))


@ISC_NULLS.register("shift")
def shifted(courses, ends, rng):
    """Shift every subject circularly by another number of units within each document."""
    return np.stack([course[shifted_places(ends, rng)] for course in courses])


def shifted_places(ends, rng):
    """Draw the unit that stands at each place after a circular shift of every document."""
    starts = np.array([0, *ends[:-1]])
    lengths = np.asarray(ends) - starts
    moved = np.repeat(starts + rng.integers(lengths), lengths)
    return np.repeat(starts, lengths) + (np.arange(ends[-1]) - moved) % np.repeat(lengths, lengths)


@ISC_NULLS.register("phase")
def phase_scrambled(courses, ends, rng):
    """Give every frequency of each document another phase, the same for all features of a subject."""
    out = np.empty_like(courses)
    for start, stop in zip([0, *ends[:-1]], ends):
        n = stop - start
        spectrum = np.fft.rfft(courses[:, start:stop], axis=1)
        turn = np.exp(2j * np.pi * rng.random((len(courses), spectrum.shape[1], 1)))
        turn[:, 0] = 1  # the mean stays
        if n % 2 == 0:
            turn[:, -1] = 1  # a real spectrum has a real value there
        out[:, start:stop] = np.fft.irfft(spectrum * turn, n=n, axis=1)
    return out


@ISC_NULLS.register("documents", needs_documents=True)
def shuffled_documents(courses, ends, rng):
    """Put the documents of every subject in another order."""
    spans = list(zip([0, *ends[:-1]], ends))
    out = np.empty_like(courses)
    for s, course in enumerate(courses):
        order = rng.permutation(len(spans))
        out[s] = np.concatenate([course[slice(*spans[i])] for i in order])
    return out


def document_ends(documents, n_units):
    """One past the last unit of each document."""
    if documents is None:
        return [n_units]
    labels = np.asarray(documents)
    if labels.shape != (n_units,):
        raise ParameterError(f"documents must hold one label for each of the {n_units} units; got {labels.shape}.")
    return [*(np.flatnonzero(labels[1:] != labels[:-1]) + 1).tolist(), n_units]


def _checked(courses):
    courses = np.asarray(courses, dtype=np.float64)
    if courses.ndim != 3 or courses.shape[0] < 2 or courses.shape[1] < 3 or not courses.shape[2]:
        raise ParameterError(
            f"courses must be (n_subjects >= 2, n_units >= 3, n_features); got {courses.shape}. "
            "Between subjects, at least two models must have read the text."
        )
    if not np.isfinite(courses).all():
        raise ParameterError("The courses hold NaN or infinite values. Keep only units that all models cover.")
    return courses


def _unit_norm(courses):
    """Centre courses over units and scale them to unit norm; constant ones become NaN."""
    z = courses - courses.mean(axis=1, keepdims=True)
    norm = np.sqrt(np.einsum("sut,sut->st", z, z))[:, None]
    return z / np.where(norm > 1e-12 * np.sqrt(courses.shape[1]), norm, np.nan)
