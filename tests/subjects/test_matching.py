"""Networks that are kept, split, lost and new are told apart, on texts that did not choose them."""

import numpy as np
import pytest

from llmbrain.exceptions import ParameterError
from llmbrain.subjects.matching import alternate_documents, correlate_courses, match_courses

DOCUMENTS = np.repeat(np.arange(8), 100)


def test_the_planted_fates_are_found():
    rng = np.random.default_rng(0)
    n = len(DOCUMENTS)
    kept, split, lost = rng.standard_normal((3, n))
    parts = rng.standard_normal((2, n))
    split = parts.sum(axis=0) / np.sqrt(2)
    a = np.stack([split, kept, lost], axis=1)
    b = np.stack([-kept + 0.3 * rng.standard_normal(n), *parts, rng.standard_normal(n)], axis=1)
    matching = match_courses(a, b, DOCUMENTS, kept_at=0.8)
    assert matching.fate == ["split", "kept", "lost"]
    assert matching.index[1] == 0 and matching.score[1] > 0.9  # with the sign taken out
    assert matching.explained[0] > 0.95 and matching.score[0] < 0.8
    assert 3 in matching.new and 0 not in matching.new
    assert matching.p[1] == 0.01 and matching.p[2] > 0.05
    assert matching.to_frame().loc[1, "match"] == 0


def test_a_match_by_chance_on_one_half_does_not_score():
    """Twenty networks of pure noise: the best match of the choosing half is worth nothing on the other."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 200, 20))
    matching = match_courses(a, b, np.repeat(np.arange(4), 50))
    assert matching.chosen.mean() > 0.15
    assert abs(matching.score.mean()) < 0.07
    assert set(matching.fate) == {"lost"} and (matching.p > 0.01).all()


def test_scores_do_not_depend_on_order_sign_and_scale():
    rng = np.random.default_rng(2)
    a = rng.standard_normal((800, 4))
    b = a + rng.standard_normal((800, 4))
    order = [2, 0, 3, 1]
    plain, changed = match_courses(a, b, DOCUMENTS), match_courses(a, 5 - 3 * b[:, order], DOCUMENTS)
    assert np.allclose(plain.score, changed.score) and np.allclose(plain.explained, changed.explained)
    assert [order[i] for i in changed.index] == plain.index.tolist()


def test_correlations_are_those_of_numpy():
    a, b = np.random.default_rng(3).standard_normal((2, 50, 3))
    assert np.allclose(correlate_courses(a, b), np.corrcoef(a.T, b.T)[:3, 3:])
    assert (correlate_courses(np.ones((5, 1)), b[:5]) == 0).all()


def test_bad_input_is_refused():
    a = np.random.default_rng(0).standard_normal((30, 12))
    with pytest.raises(ParameterError, match="two documents"):
        match_courses(a, a, np.zeros(30))
    with pytest.raises(ParameterError, match="15 are needed"):
        match_courses(a, a, np.repeat([0, 1, 2], 10))
    with pytest.raises(ParameterError, match="same units"):
        match_courses(a, a[:20], np.repeat([0, 1, 2], 10))
    assert alternate_documents([0, 0, 1, 2]).tolist() == [True, True, False, True]
