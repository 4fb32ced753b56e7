"""Parity of the fast engine with stock nilearn on a recording of the real demo model."""

import warnings

import numpy as np
import pytest

from llmbrain.networks import CanICA

pytestmark = pytest.mark.demo
K = 8


@pytest.fixture(scope="module")
def recording(demo_model, tmp_path_factory):
    import llmbrain

    model, tokenizer = demo_model
    corpus = llmbrain.load_corpus("demo")
    out = tmp_path_factory.mktemp("study")
    return llmbrain.record(model, tokenizer, corpus, out, max_tokens=700, tokens_per_run=350, progress=False)


def best_matches(a, b):
    """For every map of ``a`` the largest absolute correlation with a map of ``b``."""
    return np.abs(np.corrcoef(a, b)[: len(a), len(a) :]).max(1)


@pytest.fixture(scope="module")
def stock(recording):
    """Maps of stock nilearn from two seeds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [CanICA(K, engine="nilearn", n_init=3, random_state=s).fit(recording).components_ for s in (0, 1)]


def test_stable_components_are_those_of_stock_nilearn(recording, stock):
    fast = CanICA(K, solver_params={"group": "runs", "rows_per_run": 1}).fit(recording)
    stable = best_matches(*stock) > 0.99
    assert stable.sum() >= 2
    assert best_matches(stock[0], fast.components_)[stable].min() > 0.99


def test_default_networks_of_the_demo_model(recording):
    networks = CanICA(K).fit(recording).networks_
    assert networks.info["model"]["weights_hash"] == recording.study.info["model"]["weights_hash"]
    assert networks.metrics["n_neurons"].between(20, 5000).all()
    assert [len(c) for c in networks.time_courses] == [run.n_tokens for run in recording]
    again = CanICA(K).fit(recording.paths).networks_
    np.testing.assert_array_equal(networks.maps, again.maps)
