"""CanICA on planted networks, with nilearn as the oracle."""

import warnings

import numpy as np
import pytest
from nilearn import decomposition
from parity import parity
from planted import GEOMETRY, K, planted_runs, recovery

from llmbrain.exceptions import (
    NumericalWarning,
)
from llmbrain.networks import CanICA


def test_engines_agree_with_the_same_settings(planted):
    runs, _ = planted
    same = CanICA(K, geometry=GEOMETRY, solver_params={"group": "runs", "rows_per_run": 1}).fit(runs)
    stock = CanICA(K, geometry=GEOMETRY, engine="nilearn").fit(runs)
    assert recovery(stock.components_, same.components_).min() > 0.99
    np.testing.assert_allclose(same.variance_, stock.variance_, rtol=0.02)


@pytest.mark.parametrize("snr", [0.6, 1.0])
def test_parity_with_stock_of_stable_networks_and_of_unstable_ones(snr):
    runs, _ = planted_runs(GEOMETRY.n_neurons, K, (120,) * 6, snr=snr)
    table = parity(runs, K + 3, GEOMETRY)  # three components that are noise
    stable = table["stock"] >= 0.7
    assert stable.sum() == K
    assert table["r"][stable].min() > 0.99
    np.testing.assert_array_equal(table["fast"] >= 0.7, stable)
    np.testing.assert_allclose(table["fast"], table["stock"], atol=0.12)


def test_default_group_model_agrees_on_strong_networks(planted, fitted):
    stock = CanICA(K, geometry=GEOMETRY, engine="nilearn").fit(planted[0])
    assert recovery(stock.components_, fitted.components_).min() > 0.97


def test_stock_nilearn_itself_agrees(planted):
    """Our reference engine is nilearn's own estimator with a mask image and no more."""
    runs, _ = planted
    imgs = [GEOMETRY.to_img(run) for run in runs]
    stock = decomposition.CanICA(
        GEOMETRY.mask_img,
        K,
        smoothing_fwhm=None,
        threshold=None,
        n_init=2,
        random_state=0,
        detrend=False,
        standardize="zscore_sample",
    ).fit(imgs)
    ours = CanICA(K, engine="nilearn", n_init=2, geometry=GEOMETRY).fit(imgs)
    np.testing.assert_allclose(recovery(stock.components_, ours.components_), 1, atol=1e-6)


def test_threshold_is_nilearns(planted, fitted):
    runs, _ = planted
    cut = CanICA(K, geometry=GEOMETRY, threshold="auto").fit(runs)
    kept = cut.components_ != 0
    assert kept.sum() == GEOMETRY.n_neurons
    np.testing.assert_array_equal(cut.components_[kept], fitted.components_[kept])
    assert np.abs(fitted.components_[~kept]).max() <= np.abs(fitted.components_[kept]).min()


def test_sorted_by_variance_with_positive_peaks(fitted):
    assert (np.diff(fitted.variance_) <= 0).all()
    assert (fitted.components_.max(1) >= -fitted.components_.min(1)).all()
    np.testing.assert_allclose(np.linalg.norm(fitted.components_, axis=1), 1, rtol=1e-5)
    assert fitted.converged_.all() and (fitted.n_iter_ > 0).all()


def test_failure_to_converge_is_said_and_kept(planted):
    with pytest.warns(NumericalWarning, match="did not converge"):
        found = CanICA(K, geometry=GEOMETRY, n_init=2, solver_params={"max_iter": 1}).fit(planted[0])
    assert not found.converged_.any()
    assert found.networks_.info["converged"] == [False, False]


def test_unstable_networks_are_flagged():
    noise = np.random.default_rng(0).standard_normal((150, 800)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        found = CanICA(8).fit([noise])
    assert found.networks_.metrics["flagged"].any()


@pytest.mark.parametrize("solver", [{"group": "runs"}, {}])
def test_copies_of_a_run_give_a_warning_and_are_in_the_info(solver):
    (run,), truth = planted_runs(GEOMETRY.n_neurons, 4, (700,), snr=1.5, density=0.02)
    with pytest.warns(NumericalWarning, match="copies of each other"):
        found = CanICA(4, geometry=GEOMETRY, n_init=3, solver_params=solver).fit([run, run[::-1], run])
    assert found.networks_.info["flat_spectrum"] and found.networks_.info["group"] == solver.get("group", "tokens")
    assert recovery(truth, found.components_).min() > 0.9
    independent = CanICA(4, geometry=GEOMETRY, n_init=3, solver_params=solver).fit([run[:350], run[350:]])
    assert not independent.networks_.info["flat_spectrum"]
