"""Connectivity, against planted truth."""

import numpy as np
import pytest

from llmbrain.exceptions import NumericalWarning, ParameterError
from llmbrain.networks.connectivity import KINDS, functional_connectivity


def chain(n_tokens, seed):
    """Networks a -> b -> c: a and c are correlated, but not once b is known."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n_tokens)
    b = a + 0.7 * rng.normal(size=n_tokens)
    c = b + 0.7 * rng.normal(size=n_tokens)
    return np.column_stack([a, b, c, rng.normal(size=n_tokens)])


def test_partial_correlation_sees_through_a_chain():
    courses = [chain(800, s) for s in range(3)]
    full = functional_connectivity(courses)
    partial = functional_connectivity(courses, "partial")
    assert full.mean[0, 2] > 0.6 and abs(partial.mean[0, 2]) < 0.08 and partial.mean[0, 1] > 0.4
    assert np.allclose(full.matrices[0], np.corrcoef(courses[0].T), atol=0.03)
    assert np.allclose(np.diag(full.mean), 1) and abs(full.mean[0, 3]) < 0.1
    assert len(full.to_frame()) == 6


def test_tangent_deviates_where_a_run_differs():
    courses = [chain(500, s) for s in range(5)]
    odd = courses[4].copy()
    odd[:, 3] += 2 * odd[:, 0]
    result = functional_connectivity([*courses[:4], odd], "tangent")
    assert np.abs(result.matrices[4, 0, 3]) > 3 * np.abs(result.matrices[:4, 0, 3]).max()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_symmetric_matrices_and_their_group(kind):
    courses = [chain(300, s) for s in range(3)]
    found = functional_connectivity(courses, kind)
    assert found.matrices.shape == (3, 4, 4) and found.mean.shape == (4, 4) and found.kind == kind
    for table in (*found.matrices, found.mean):
        assert np.isfinite(table).all() and np.allclose(table, table.T, atol=1e-8)
    same = functional_connectivity([courses[0]] * 3, kind)
    assert np.allclose(same.mean, same.matrices[0]) or np.allclose(same.matrices, 0, atol=1e-6)  # deviations are 0


def test_confounds_leave_the_courses():
    rng = np.random.default_rng(1)
    position = np.arange(600.0)
    courses = rng.normal(size=(600, 2)) + 0.01 * position[:, None]
    assert functional_connectivity([courses]).mean[0, 1] > 0.5
    assert abs(functional_connectivity([courses], confounds=[position]).mean[0, 1]) < 0.15


def test_connectivity_speaks_up():
    with pytest.raises(ParameterError, match="2 of them"):
        functional_connectivity([chain(100, 0)], "tangent")
    with pytest.raises(ParameterError, match="Unknown"):
        functional_connectivity([chain(100, 0)], "mutual")
    flat = chain(100, 0)
    flat[:, 1] = 0
    with pytest.raises(ParameterError, match=r"\[1\]"):
        functional_connectivity([flat])
    with pytest.warns(NumericalWarning, match="tokens for 4 networks"):
        functional_connectivity([chain(10, 0)])
