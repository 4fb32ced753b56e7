"""Networks of two models, matched by their time courses on one half of the texts and scored on the other.

Maps of two models cannot be compared, because their neurons differ. Courses on shared units of text can.
"""

from dataclasses import dataclass

import numpy as np

from ..arguments import checked, finite
from ..exceptions import ParameterError, check_count, is_number
from ..networks.evidence.matching import matched_scores, standardize_maps
from ..stats import permutation_p
from .isc import document_ends, shifted_places

KEPT = 0.7  # a network whose match correlates at least this much on held-out texts is kept, as a stable one is found


def correlate_courses(a, b):
    """Pearson correlation over units of every course of ``a`` (n_units, n_a) and ``b``; 0 for constant courses.

    Examples
    --------
    >>> correlate_courses([[1.0], [2.0], [4.0]], [[-1.0], [-2.0], [-4.0]]).round(6).tolist()
    [[-1.0]]
    """
    return np.clip(_standardized(a).T @ _standardized(b), -1.0, 1.0)


def _standardized(courses):
    return standardize_maps(np.transpose(courses), np.float64).T


def alternate_documents(documents):
    """Mark the units of every other document: the half of the texts on which networks are matched.

    Examples
    --------
    >>> alternate_documents(["a", "a", "b", "c"]).tolist()
    [True, True, False, True]
    """
    ends = document_ends(documents, len(documents))
    if len(ends) < 2:
        raise ParameterError("Matching needs at least two documents: one to match on, another to score on.")
    return np.repeat(np.arange(len(ends)) % 2 == 0, np.diff([0, *ends]))


@dataclass(frozen=True, eq=False)
class CourseMatching:
    """Networks of one model and their matches in another.

    Parameters
    ----------
    index : int array of shape (n_a,)
        Match of each network of the first model; -1 if there are too few.
    score : array of shape (n_a,)
        Correlation with the match on the texts that were not used for matching, with the sign that the match had on
        the others; NaN without a match.
    chosen : array of shape (n_a,)
        Absolute correlation on the texts used for matching.
    explained, explained_back : arrays of shape (n_a,) and (n_b,)
        Correlation on held-out texts of each network with its best combination of all networks of the other model; the
        combination is fitted on the texts used for matching.
    fate : list of str
        ``"kept"``, ``"split"`` or ``"lost"`` for each network of the first model.
    new : list of int
        Networks of the second model that neither match nor are explained by the first.
    null : array of shape (n_draws,)
        Largest absolute score of the whole matching when the second model is shifted against the first.
    p : array of shape (n_a,)
        Family-wise p-value of each score.
    """

    index: np.ndarray
    score: np.ndarray
    chosen: np.ndarray
    explained: np.ndarray
    explained_back: np.ndarray
    fate: list
    new: list
    null: np.ndarray
    p: np.ndarray

    def to_frame(self):
        """One row per network of the first model: network, match, chosen, score, explained, fate, p."""
        import pandas as pd

        return pd.DataFrame(
            {
                "network": np.arange(len(self.index)),
                "match": self.index,
                "chosen": self.chosen,
                "score": self.score,
                "explained": self.explained,
                "fate": self.fate,
                "p": self.p,
            }
        )


def check_kept_at(kept_at):
    """Refuse a correlation that is not between 0 and 1."""
    if not is_number(kept_at) or not 0 < kept_at < 1:
        raise ParameterError(f"kept_at={kept_at!r} must lie between 0 and 1.")


def match_courses(a, b, documents, *, kept_at=KEPT, n_draws=99, random_state=0):
    """Match networks of two models one to one, and say which are kept, split and lost.

    A network is *kept* if the correlation with its match is at least ``kept_at`` on held-out texts, *split* if only a
    combination of several networks of the other model reaches that, and *lost* otherwise.

    Parameters
    ----------
    a, b : arrays of shape (n_units, n_a) and (n_units, n_b)
        Courses of both models on the same units.
    documents : array of shape (n_units,)
        Label of the document of each unit. Networks are matched on the first, third, ... document and scored on the
        others.
    kept_at : float
        Correlation from 0 to 1.
    n_draws : int
        Circular shifts of the second model within each document, for the null of the largest score.
    random_state : int, numpy Generator or None

    Returns
    -------
    CourseMatching

    Raises
    ------
    ParameterError
        If there are fewer than two documents, lengths differ, or a half has too few units.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a = rng.standard_normal((400, 3))
    >>> b = np.stack([-a[:, 2], a[:, 0], rng.standard_normal(400)], axis=1)
    >>> matching = match_courses(a, b, np.repeat(range(4), 100))
    >>> matching.fate, matching.index[[0, 2]].tolist(), matching.new
    (['kept', 'lost', 'kept'], [1, 0], [2])
    """
    options = {"kept_at": kept_at, "n_draws": n_draws, "random_state": random_state}
    return match_both_ways(a, b, documents, **options)[0]


@checked(a=finite, b=finite)
def match_both_ways(a, b, documents, *, kept_at=KEPT, n_draws=99, random_state=0):
    """Match networks of two models in both directions, in little more time than in one; see :func:`match_courses`.

    Returns two :class:`CourseMatching`: of the first model's networks in the second, and of the second's in the first.
    """
    check_count("n_draws", n_draws)
    check_kept_at(kept_at)
    a, b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise ParameterError(f"Courses must be (n_units, n_networks) on the same units; got {a.shape} and {b.shape}.")
    if len(documents) != len(a):
        raise ParameterError(f"{len(documents)} documents for {len(a)} units; pass one label for each unit.")
    half = alternate_documents(documents)
    least = max(a.shape[1], b.shape[1]) + 3
    if min(half.sum(), (~half).sum()) < least:
        raise ParameterError(
            f"The halves have {half.sum()} and {(~half).sum()} units; {least} are needed for these networks. Use more "
            "text."
        )
    explained, back = _explained(a, b, half), _explained(b, a, half)
    ends = document_ends(documents, len(a))
    a, b = (np.where(half[:, None], _standardized_in(x, half), _standardized_in(x, ~half)) for x in (a, b))
    tables = a[half].T @ b[half], a[~half].T @ b[~half]
    null = _null(a.astype(np.float32), b.astype(np.float32), half, ends, n_draws, random_state)
    there = _matching(*tables, explained, back, null, kept_at)
    return there, _matching(*(table.T for table in tables), back, explained, null, kept_at)


def _standardized_in(courses, part):
    """Courses, standardised by their mean and norm in one part of the units."""
    mean = courses[part].mean(axis=0)
    norm = np.linalg.norm(courses[part] - mean, axis=0)
    tiny = norm <= 1e-12 * np.sqrt(part.sum()) * np.maximum(1.0, np.abs(mean))
    return (courses - mean) / np.where(tiny, np.inf, norm)


def _null(a, b, half, ends, n_draws, random_state):
    """Largest absolute score of the whole matching in each draw; the same in both directions.

    A shift within documents changes neither mean nor norm of a half, so the courses stay standardised.
    """
    rng, null = np.random.default_rng(random_state), np.empty(n_draws)
    first, second = a[half], a[~half]
    for draw in range(n_draws):
        places = shifted_places(ends, rng)
        tables = first.T @ b[places[half]], second.T @ b[places[~half]]
        null[draw] = np.nanmax(np.abs(_scores(*tables)[2]))
    return null


def _matching(here, held_out, explained, back, null, kept_at):
    """Put a matching together from the correlations of both halves."""
    index, chosen, score = _scores(here, held_out)
    fate = [
        "kept" if s >= kept_at else "split" if e >= kept_at else "lost" for s, e in zip(np.nan_to_num(score), explained)
    ]
    taken = {int(i) for i, f in zip(index, fate) if f == "kept"}
    new = [k for k in range(held_out.shape[1]) if k not in taken and back[k] < kept_at]
    p = permutation_p(score, np.broadcast_to(null[:, None], (len(null), len(score))))
    return CourseMatching(index, score, chosen, explained, back, fate, new, null, p)


def _scores(here, held_out):
    """Match by the correlations of one half; the match, its absolute correlation, and the signed one on the other."""
    index, there = matched_scores(here, missing=np.nan)
    score = held_out[np.arange(len(index)), np.maximum(index, 0)] * np.sign(there)
    return index, np.clip(np.abs(there), 0, 1), np.where(index < 0, np.nan, np.clip(score, -1, 1))


def _explained(a, b, half):
    """Held-out correlation of each course of ``a`` with its least-squares combination of the courses of ``b``."""
    x = _standardized(b[half])
    usable = x.any(axis=0)
    x, y = x[:, usable], _standardized(a[half])
    weights = np.linalg.solve(x.T @ x + 1e-3 * np.eye(x.shape[1]), x.T @ y)  # a small penalty: courses may be collinear
    scale = (b[half] - b[half].mean(axis=0)).std(axis=0)[usable] * np.sqrt(half.sum())
    made = (b[~half][:, usable] / scale) @ weights
    return np.einsum("ij,ij->j", _standardized(made), _standardized(a[~half]))
