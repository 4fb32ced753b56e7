"""Bootstrap intervals against scipy, and their coverage of clustered data."""

import numpy as np
import pytest
from scipy import stats as sps

from llmbrain import stats
from llmbrain.exceptions import ParameterError


def test_bootstrap_agrees_with_scipy_bca():
    x = np.random.default_rng(2).gamma(1.0, size=40)
    ours = stats.bootstrap_interval(x, n_draws=20000, random_state=0)
    ref = sps.bootstrap((x,), np.mean, n_resamples=20000, method="BCa", random_state=0).confidence_interval
    assert ours.estimate == pytest.approx(x.mean())
    assert ours.low == pytest.approx(ref.low, abs=0.01) and ours.high == pytest.approx(ref.high, abs=0.015)
    ours = stats.bootstrap_interval(x, n_draws=20000, method="percentile")
    ref = sps.bootstrap((x,), np.mean, n_resamples=20000, method="percentile", random_state=0).confidence_interval
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
