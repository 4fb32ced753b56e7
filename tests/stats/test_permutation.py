"""Permutation p-values against their formula and a planted null."""

import numpy as np
import pytest
from scipy import stats as sps

from llmbrain import stats
from llmbrain.exceptions import ParameterError


def test_permutation_p_is_the_formula():
    null = [0.0, 1.0, 2.0, 3.0]
    assert stats.permutation_p(2.0, null) == (1 + 2) / 5
    assert stats.permutation_p(9.0, null) == 1 / 5
    assert stats.permutation_p(2.0, null, "less") == (1 + 3) / 5
    assert stats.permutation_p(9.0, null, "two-sided") == 2 / 5
    assert stats.permutation_p(1.5, null, "two-sided") == 1.0


def test_permutation_p_is_uniform_under_the_null():
    rng = np.random.default_rng(0)
    # 99 draws: p takes the values 1/100 ... 100/100 with equal probability
    p = stats.permutation_p(rng.normal(size=4000), rng.normal(size=(99, 4000)))
    jittered = p - rng.uniform(0, 0.01, size=p.size)
    assert sps.kstest(jittered, "uniform").pvalue > 0.01
    assert abs((p <= 0.05).mean() - 0.05) < 0.012


def test_permutation_p_keeps_nan_and_refuses_nonsense():
    p = stats.permutation_p(np.array([1.0, np.nan, 1.0]), np.array([[0.0, 0.0, np.nan], [2.0, 2.0, 2.0]]))
    assert p[0] == pytest.approx(2 / 3) and np.isnan(p[1:]).all()
    with pytest.raises(ParameterError, match="no draw"):
        stats.permutation_p(1.0, [])
    with pytest.raises(ParameterError, match="shape"):
        stats.permutation_p(np.zeros(3), np.zeros((10, 2)))
    with pytest.raises(ParameterError, match="Unknown alternative"):
        stats.permutation_p(1.0, [1.0], alternative="both")


@pytest.mark.parametrize(("alpha", "n_tests"), [(0.05, 1), (0.05, 20), (0.01, 3), (0.1, 7)])
def test_minimum_draws_is_exactly_enough(alpha, n_tests):
    n = stats.minimum_draws(alpha, n_tests)
    family = np.full(n_tests, 0.9)
    for draws, passes in ((n, True), (n - 1, False)):
        family[0] = 1 / (draws + 1)
        assert (stats.fdr(family)[0] <= alpha + 1e-12) == passes
