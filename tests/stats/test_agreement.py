"""Intraclass correlation and overlap against hand computations and planted truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbrain import stats
from llmbrain.exceptions import ParameterError


def test_icc_by_hand():
    # 2 x 2 by hand: grand 2.5, rows +-1, columns +-.5, no residual -> B = 4, J = 1, E = 0
    table = np.array([[3.0, 4.0], [1.0, 2.0]])
    assert stats.icc(table, "ICC(3,1)") == pytest.approx(1.0)
    assert stats.icc(table, "ICC(2,1)") == pytest.approx(4 / (4 + 2 * (1 - 0) / 2))


def test_icc_of_shrout_and_fleiss_table_two():
    table = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert stats.icc(table, "ICC(2,1)") == pytest.approx(0.29, abs=0.005)
    assert stats.icc(table, "ICC(3,1)") == pytest.approx(0.71, abs=0.006)


def test_icc_recovers_the_planted_reliability():
    rng = np.random.default_rng(5)
    truth = rng.normal(size=(20000, 1))
    noisy = truth + np.sqrt(0.5) * rng.normal(size=(20000, 3))
    assert stats.icc(noisy) == pytest.approx(2 / 3, abs=0.01)
    biased = noisy + np.array([0.0, 1.0, 2.0])
    assert stats.icc(biased) == pytest.approx(stats.icc(noisy))
    assert stats.icc(biased, "ICC(2,1)") < stats.icc(noisy, "ICC(2,1)") - 0.1
    assert np.isnan(stats.icc(np.ones((5, 2))))
    with pytest.raises(ParameterError):
        stats.icc([1.0, 2.0])


def one(a, b, kind):
    return stats.overlap(a[None], b[None], kind)[0, 0]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
def test_overlap_is_symmetric_and_matches_sets(pairs):
    a, b = np.array(pairs).T
    sa, sb = set(np.flatnonzero(a)), set(np.flatnonzero(b))
    if not sa and not sb:
        assert np.isnan(one(a, b, "dice")) and np.isnan(one(a, b, "jaccard"))
        return
    assert one(a, b, "dice") == pytest.approx(2 * len(sa & sb) / (len(sa) + len(sb)))
    assert one(a, b, "jaccard") == pytest.approx(len(sa & sb) / len(sa | sb))
    assert one(a, b, "dice") == one(b, a, "dice") and one(a, b, "jaccard") == one(b, a, "jaccard")


def test_overlap_of_all_pairs():
    rng = np.random.default_rng(6)
    a, b = rng.random((4, 300)) < 0.2, rng.random((3, 300)) < 0.3
    for kind in ("dice", "jaccard"):
        table = stats.overlap(a, b, kind)
        assert np.allclose(table, [[one(x, y, kind) for y in b] for x in a])
    with pytest.raises(ParameterError):
        stats.overlap(a, b[:, :-1])
