"""stats: every number against a hand computation, an independent library, or a planted null."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as sps

from llmbrain import stats
from llmbrain.exceptions import ParameterError


# ------------------------------------------------------------------------------------------- permutation p
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
    with pytest.raises(ParameterError, match="unknown"):
        stats.permutation_p(1.0, [1.0], alternative="both")


@pytest.mark.parametrize(("alpha", "n_tests"), [(0.05, 1), (0.05, 20), (0.01, 3), (0.1, 7)])
def test_minimum_draws_is_exactly_enough(alpha, n_tests):
    n = stats.minimum_draws(alpha, n_tests)
    family = np.full(n_tests, 0.9)
    for draws, passes in ((n, True), (n - 1, False)):
        family[0] = 1 / (draws + 1)
        assert (stats.fdr(family)[0] <= alpha + 1e-12) == passes
        assert (stats.holm(family)[0] <= alpha + 1e-12) == passes


# --------------------------------------------------------------------------------------------------- FDR
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_fdr_agrees_with_scipy_and_is_monotone(p):
    q = stats.fdr(p)
    assert np.allclose(q, sps.false_discovery_control(p, method="bh"))
    order = np.argsort(p, kind="stable")
    assert (np.diff(q[order]) >= -1e-12).all() and (q >= np.asarray(p) - 1e-12).all()
    assert (stats.holm(p) >= q - 1e-12).all()


def test_corrections_ignore_nan_and_keep_the_shape():
    p = np.array([[0.01, np.nan], [0.04, 0.03]])
    for correct in (stats.fdr, stats.holm):
        out = correct(p)
        assert out.shape == p.shape and np.isnan(out[0, 1])
        assert np.allclose(out[~np.isnan(p)], correct([0.01, 0.04, 0.03]))
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


# --------------------------------------------------------------------------------------------- bootstrap
def test_bootstrap_agrees_with_scipy_bca():
    x = np.random.default_rng(2).gamma(1.0, size=40)
    ours = stats.bootstrap_interval(x, n_draws=20000, random_state=0)
    ref = sps.bootstrap((x,), np.mean, n_resamples=20000, method="BCa", rng=0).confidence_interval
    assert ours.estimate == pytest.approx(x.mean())
    assert ours.low == pytest.approx(ref.low, abs=0.01) and ours.high == pytest.approx(ref.high, abs=0.015)
    ours = stats.bootstrap_interval(x, n_draws=20000, method="percentile")
    ref = sps.bootstrap((x,), np.mean, n_resamples=20000, method="percentile", rng=0).confidence_interval
    assert ours.low == pytest.approx(ref.low, abs=0.01) and ours.high == pytest.approx(ref.high, abs=0.015)


def test_cluster_bootstrap_covers_and_the_token_bootstrap_does_not():
    rng = np.random.default_rng(3)
    documents = np.repeat(np.arange(30), 20)
    hits = {"clusters": 0, "tokens": 0}
    for trial in range(200):
        x = np.repeat(rng.normal(size=30), 20) + 0.5 * rng.normal(size=600)
        for name, clusters in (("clusters", documents), ("tokens", None)):
            _, low, high = stats.bootstrap_interval(x, clusters=clusters, n_draws=400, random_state=trial)
            hits[name] += low <= 0.0 <= high
    assert hits["clusters"] / 200 > 0.88
    assert hits["tokens"] / 200 < 0.6


def test_bootstrap_is_paired_weighted_and_columnwise():
    rng = np.random.default_rng(4)
    base, clusters = rng.normal(size=60), np.repeat(np.arange(12), 5)
    shifted = base + 0.3 + 0.01 * rng.normal(size=60)
    paired = stats.bootstrap_interval(shifted, base, clusters=clusters)
    assert paired.high - paired.low < 0.02 and paired.low < 0.3 + 0.005 and paired.high > 0.3 - 0.005
    # per-document means with token counts as weights are the same statistic as the tokens themselves
    d = (shifted - base).reshape(12, 5).mean(axis=1)
    assert np.allclose(stats.bootstrap_interval(d, weights=np.full(12, 5.0)), paired)
    both = stats.bootstrap_interval(np.stack([shifted - base, base], axis=1), clusters=clusters)
    assert np.allclose([both.estimate[0], both.low[0], both.high[0]], paired)
    assert np.isnan(stats.bootstrap_interval(base, clusters=np.zeros(60)).low)


@pytest.mark.parametrize(
    "bad",
    [
        {"values": []},
        {"values": [1.0, np.nan]},
        {"values": [1.0, 2.0], "other": [1.0]},
        {"values": [1.0, 2.0], "weights": [1.0, 0.0]},
        {"values": [1.0, 2.0], "clusters": [0]},
        {"values": [1.0, 2.0], "method": "t"},
        {"values": [1.0, 2.0], "level": 95},
    ],
)
def test_bootstrap_refuses_bad_input(bad):
    with pytest.raises(ParameterError):
        stats.bootstrap_interval(**bad)


# -------------------------------------------------------------------------------------------------- ICC
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


# ---------------------------------------------------------------------------------------------- overlap
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
def test_overlap_is_symmetric_and_matches_sets(pairs):
    a, b = np.array(pairs).T
    sa, sb = set(np.flatnonzero(a)), set(np.flatnonzero(b))
    if not sa and not sb:
        assert np.isnan(stats.dice(a, b)) and np.isnan(stats.jaccard(a, b))
        return
    assert stats.dice(a, b) == pytest.approx(2 * len(sa & sb) / (len(sa) + len(sb)))
    assert stats.jaccard(a, b) == pytest.approx(len(sa & sb) / len(sa | sb))
    assert stats.dice(a, b) == stats.dice(b, a) and stats.jaccard(a, b) == stats.jaccard(b, a)


def test_overlap_of_all_pairs():
    rng = np.random.default_rng(6)
    a, b = rng.random((4, 300)) < 0.2, rng.random((3, 300)) < 0.3
    for kind, one in (("dice", stats.dice), ("jaccard", stats.jaccard)):
        table = stats.overlap(a, b, kind)
        assert np.allclose(table, [[one(x, y) for y in b] for x in a])
    with pytest.raises(ParameterError):
        stats.overlap(a, b[:, :-1])
