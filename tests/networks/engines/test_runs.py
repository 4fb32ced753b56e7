"""Cleaning of runs, against nilearn and scipy."""

import numpy as np
import pytest
from scipy.signal import detrend

from llmbrain.exceptions import ParameterError
from llmbrain.networks.engines import runs as blocks


@pytest.mark.parametrize("with_trend", [False, True])
@pytest.mark.parametrize("n_confounds", [0, 2])
def test_cleaning_is_nilearns(with_trend, n_confounds):
    from nilearn.signal import clean

    rng = np.random.default_rng(0)
    run = (1 + rng.standard_normal((80, 700)) * (0.3 + rng.gamma(1, size=700))).astype(np.float32)
    confounds = rng.standard_normal((80, n_confounds)) if n_confounds else None
    expected = clean(run, detrend=with_trend, standardize="zscore_sample", confounds=confounds)
    data = blocks.CleanedRuns([run], [confounds], detrend=with_trend)
    for _ in range(2):  # the second pass uses what the first one stored
        found = np.hstack([data.block(0, *b).numpy() for b in data.blocks(4096)])
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_trend_is_scipys():
    run = np.cumsum(np.random.default_rng(0).standard_normal((60, 50)), 0).astype(np.float32)
    data = blocks.CleanedRuns([run], detrend=True, standardize=False)
    np.testing.assert_allclose(data.block(0, 0, 50).numpy(), detrend(run, axis=0), atol=1e-4)


def test_bad_confounds():
    run = np.random.default_rng(0).standard_normal((20, 30)).astype(np.float32)
    with pytest.raises(ParameterError, match="finite"):
        blocks.CleanedRuns([run], [np.full((20, 1), np.nan)])
    with pytest.raises(ParameterError, match="as many confounds"):
        blocks.CleanedRuns([run], [None, None])
    with pytest.raises(ParameterError, match="same neurons"):
        blocks.CleanedRuns([run, run[:, :9]])
