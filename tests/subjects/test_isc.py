"""Correlation between subjects: planted strengths, a plain computation, and nulls that keep what they should."""

import numpy as np
import pytest

from llmbrain.exceptions import ParameterError
from llmbrain.subjects.isc import (
    ISC_NULLS,
    inter_subject_correlation,
    inter_subject_functional_correlation,
    isc_test,
)


def planted(n_subjects=5, n_units=4000, strengths=(0.0, 1.0, 2.0), seed=0):
    """Courses with a shared part of the given strength under noise of variance 1."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n_units, len(strengths))) * strengths
    return shared + rng.standard_normal((n_subjects, n_units, len(strengths)))


def test_planted_correlations_are_recovered():
    strengths, n = np.array([0.0, 1.0, 2.0]), 5
    courses = planted(n, 40_000, strengths)
    pair = strengths**2 / (strengths**2 + 1)
    assert np.allclose(inter_subject_correlation(courses, pairwise=True).mean(axis=0), pair, atol=0.02)
    # of one subject with the mean of n - 1 others: the shared part stays, the noise shrinks
    one = strengths**2 / np.sqrt((strengths**2 + 1) * (strengths**2 + 1 / (n - 1)))
    assert np.allclose(inter_subject_correlation(courses).mean(axis=0), one, atol=0.02)


def test_against_numpy():
    courses = planted(3, 60, seed=1)
    pairs = inter_subject_correlation(courses, pairwise=True)
    for row, (i, j) in zip(pairs, [(0, 1), (0, 2), (1, 2)]):
        assert np.allclose(row, [np.corrcoef(courses[i, :, k], courses[j, :, k])[0, 1] for k in range(3)])
    z = (courses - courses.mean(axis=1, keepdims=True)) / courses.std(axis=1, keepdims=True)
    alone = inter_subject_correlation(courses)
    functional = inter_subject_functional_correlation(courses)
    for s in range(3):
        others = np.delete(z, s, axis=0).mean(axis=0)
        table = np.corrcoef(courses[s].T, others.T)[:3, 3:]
        assert np.allclose(alone[s], np.diag(table))
        assert np.allclose(functional[s], (table + table.T) / 2)


def test_functional_correlation_drops_what_one_subject_has_alone():
    """Two features that share noise within each subject, but nothing between subjects, are not connected."""
    rng = np.random.default_rng(0)
    noise = np.repeat(rng.standard_normal((4, 5000, 1)), 2, axis=2)
    shared = rng.standard_normal((5000, 1)) * [1.0, 1.0]
    within = np.corrcoef((noise + 0.1 * rng.standard_normal(noise.shape))[0].T)[0, 1]
    between = inter_subject_functional_correlation(noise + 0.1 * rng.standard_normal(noise.shape))[:, 0, 1]
    assert within > 0.9 and np.abs(between).max() < 0.1
    assert inter_subject_functional_correlation(noise + shared)[:, 0, 1].min() > 0.5


@pytest.mark.parametrize("null", ISC_NULLS)
def test_nulls_are_valid_for_slow_courses(null):
    """Autocorrelated courses without anything shared are found about as often as the level says; shared ones always."""
    rng, found = np.random.default_rng(0), []
    documents = np.repeat(np.arange(10), 30)
    for seed in range(40):
        courses = np.cumsum(rng.standard_normal((3, 300, 2)), axis=1)
        courses = courses - 0.7 * np.concatenate([np.zeros((3, 5, 2)), courses[:, :-5]], axis=1)
        courses[..., 1] += 4 * np.tile(np.sin(np.arange(300) / 3) + rng.standard_normal(300), (3, 1))
        isc = isc_test(courses, documents=documents, null=null, n_draws=39, random_state=seed)
        found.append(isc.p <= 0.05)
    false, true = np.mean(found, axis=0)
    assert true > 0.95
    assert false < 0.2  # 40 repeats: 0.2 is more than four standard errors above 0.05


@pytest.mark.parametrize("null", ISC_NULLS)
def test_nulls_keep_each_subjects_own_structure(null):
    courses = planted(3, 240, seed=2)
    moved = ISC_NULLS[null](courses, [60, 120, 180, 240], np.random.default_rng(0))
    assert not np.allclose(moved, courses)
    assert np.allclose(moved.mean(axis=1), courses.mean(axis=1)) and np.allclose(moved.std(axis=1), courses.std(axis=1))
    for before, after in zip(courses, moved):
        if null == "documents":
            assert np.allclose(np.sort(before, axis=0), np.sort(after, axis=0))
        else:  # the spectrum of every document, and the connections between features
            for start in range(0, 240, 60):
                part = slice(start, start + 60)
                spectra = [np.abs(np.fft.rfft(x[part], axis=0)) for x in (before, after)]
                assert np.allclose(*spectra)
                assert np.allclose(before[part].T @ before[part], after[part].T @ after[part])


def test_discoveries_are_corrected():
    isc = isc_test(planted(4, 300, (0, 0, 0, 2)), n_draws=99)
    assert isc.q[3] < 0.05 and (isc.q[:3] > 0.05).all()
    assert isc.p_fwe[3] == 0.01 and (isc.p_fwe >= isc.p).all()
    frame = isc.to_frame(["a", "b", "c", "d"])
    assert frame.loc[3, "feature"] == "d" and frame.loc[3, "isc"] > 0.8


def test_bad_input_is_refused():
    with pytest.raises(ParameterError, match="at least two models"):
        inter_subject_correlation(np.zeros((1, 50, 2)))
    with pytest.raises(ParameterError, match="NaN"):
        inter_subject_correlation(np.full((2, 50, 2), np.nan))
    with pytest.raises(ParameterError, match="three documents"):
        isc_test(planted(2, 50), null="documents")
    with pytest.raises(ParameterError, match="one label"):
        isc_test(planted(2, 50), documents=[1, 2])
    with pytest.raises(ParameterError, match="shift"):
        isc_test(planted(2, 50), null="shifts")
