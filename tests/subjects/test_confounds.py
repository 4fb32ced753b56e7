"""What all models follow is removed, and nothing else."""

import numpy as np
import pytest

from llmbrain.exceptions import ParameterError
from llmbrain.subjects.confounds import CONFOUNDS, regress_out, word_confounds
from llmbrain.subjects.isc import inter_subject_correlation

WORDS = ["The", "heron", ",", "12", "boats", "and", "the", "heron", "."]
DOCUMENTS = [0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_columns_are_what_they_say():
    place, log_place, first = word_confounds(WORDS, DOCUMENTS, ["position"]).T
    assert place.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4] and np.flatnonzero(first).tolist() == [0, 4]
    assert np.allclose(log_place, np.log1p(place))
    log_frequency, length = word_confounds(WORDS, DOCUMENTS, ["frequency"]).T
    assert np.allclose(np.exp(log_frequency), [2, 2, 1, 1, 1, 1, 2, 2, 1]) and length[1] == 5
    mark, number, capital, after = word_confounds(WORDS, DOCUMENTS, ["punctuation"]).T
    assert np.flatnonzero(mark).tolist() == [2, 8] and np.flatnonzero(number).tolist() == [3]
    assert np.flatnonzero(capital).tolist() == [0] and np.flatnonzero(after).tolist() == [3]


@pytest.mark.parametrize("name", CONFOUNDS)
def test_confounds_are_finite_numbers_of_every_word(name):
    surprisal = np.where(np.arange(9) == 0, np.nan, 2.0)
    columns = word_confounds(WORDS, DOCUMENTS, [name], surprisal)
    assert columns.shape[0] == 9 and columns.shape[1] >= 1 and np.isfinite(columns).all()


def test_what_is_shared_by_position_alone_is_removed():
    rng = np.random.default_rng(0)
    documents = np.repeat(np.arange(6), 100)
    confounds = word_confounds(["word"] * 600, documents, ["position"])
    own = rng.standard_normal((600, 1))
    courses = np.stack([confounds[:, 1:2] * 3 + rng.standard_normal((600, 2)) * 0.5 + own * [0, 1] for _ in range(3)])
    before = inter_subject_correlation(courses).mean(axis=0)
    after = inter_subject_correlation(regress_out(courses, confounds)).mean(axis=0)
    assert before.min() > 0.9
    assert abs(after[0]) < 0.1 and after[1] > 0.8


def test_regression_is_least_squares_and_stands_collinear_columns():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((80, 3)), rng.standard_normal((80, 2))
    design = np.column_stack([np.ones(80), x])
    expected = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    assert np.allclose(regress_out(y, x), expected)
    assert np.allclose(regress_out(y, np.column_stack([x, x[:, :1], np.ones(80)])), expected)


def test_missing_surprisals_are_filled_and_needed():
    values = np.array([np.nan, *range(1, 9)], dtype=float)
    now, before = word_confounds(WORDS, DOCUMENTS, ["surprisal"], values).T
    assert now[0] == np.nanmean(values) and before[3] == values[2]
    with pytest.raises(ParameterError, match="surprisal="):
        word_confounds(WORDS, DOCUMENTS, list(CONFOUNDS))
    with pytest.raises(ParameterError, match="frequency"):
        word_confounds(WORDS, DOCUMENTS, ["frequencies"])
