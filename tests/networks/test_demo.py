"""Parity of the fast engine with stock nilearn on a recording of the real demo model."""

import numpy as np
import pytest
from parity import parity

from llmbrain.networks import CanICA

pytestmark = pytest.mark.demo
K = 8


@pytest.fixture(scope="module")
def recording(demo_model, tmp_path_factory):
    import llmbrain

    model, tokenizer = demo_model
    corpus = llmbrain.load_corpus("demo")
    out = tmp_path_factory.mktemp("study")
    return llmbrain.record(model, tokenizer, corpus, out, max_tokens=700, tokens_per_run=100, progress=False)


def test_stable_components_are_those_of_stock_nilearn(recording):
    table = parity([str(path) for path in recording.paths], K, n_init=2, n_repeats=5)
    stable = table["stock"] >= 0.7
    assert stable.sum() >= 2
    assert table["r"][stable].min() > 0.99
    np.testing.assert_allclose(table["fast"], table["stock"], atol=0.15)  # what one calls unstable, so does the other


def test_default_networks_of_the_demo_model(recording):
    networks = CanICA(K).fit(recording).networks_
    assert networks.info["model"]["weights_hash"] == recording.study.info["model"]["weights_hash"]
    assert networks.metrics["n_neurons"].between(20, 5000).all()
    assert [len(c) for c in networks.time_courses] == [run.n_tokens for run in recording]
    again = CanICA(K).fit(recording.paths).networks_
    np.testing.assert_array_equal(networks.maps, again.maps)
