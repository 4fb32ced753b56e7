"""False discovery rate against scipy and planted effects."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as sps

from llmbrain import stats
from llmbrain.exceptions import ParameterError


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_fdr_agrees_with_scipy_and_is_monotone(p):
    q = stats.fdr(p)
    assert np.allclose(q, sps.false_discovery_control(p, method="bh"))
    order = np.argsort(p, kind="stable")
    assert (np.diff(q[order]) >= -1e-12).all() and (q >= np.asarray(p) - 1e-12).all()


def test_fdr_ignores_nan_and_keeps_the_shape():
    p = np.array([[0.01, np.nan], [0.04, 0.03]])
    out = stats.fdr(p)
    assert out.shape == p.shape and np.isnan(out[0, 1])
    assert np.allclose(out[~np.isnan(p)], stats.fdr([0.01, 0.04, 0.03]))
    assert np.isnan(stats.fdr([np.nan, np.nan])).all() and stats.fdr([]).shape == (0,) and stats.fdr(0.2) == 0.2
    with pytest.raises(ParameterError, match=r"\[0, 1\]"):
        stats.fdr([0.2, 1.5])


def test_fdr_is_controlled_with_planted_effects():
    rng = np.random.default_rng(1)
    false_share, power = [], []
    for _ in range(200):
        z = rng.normal(size=200)
        z[:40] += 4.0
        found = stats.fdr(sps.norm.sf(z)) <= 0.1
        false_share.append(found[40:].sum() / max(1, found.sum()))
        power.append(found[:40].mean())
    assert np.mean(false_share) < 0.1 and np.mean(power) > 0.9
