"""Recurrence: planted networks recur, permuted ones do not, and the published count is reproduced by hand."""

import numpy as np
import pytest

from llmbrain.exceptions import ParameterError
from llmbrain.networks.evidence import recurrence as rec

LAYERS = np.repeat(np.arange(4), 500)


def planted(n=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.choice([-1, 1], (n, 2000)) * rng.gamma(8, 1, (n, 2000)) * (rng.random((n, 2000)) < 0.03)


def noisy(maps, rng, noise=0.3):
    return (maps + noise * rng.normal(size=maps.shape)) * rng.choice([-1, 1], (len(maps), 1))


def test_planted_networks_recur_and_strangers_do_not():
    rng = np.random.default_rng(1)
    truth = planted()
    texts = []
    for i in range(6):
        own = rng.normal(size=(2, 2000))
        present = truth[:3] if i % 2 else truth[:2]  # network 2 in half of the texts, network 3 in none
        texts.append(np.concatenate([noisy(present, rng), own])[rng.permutation(len(present) + 2)])
    found = rec.recurrence(truth, texts, n_draws=39, layer_of=LAYERS)
    assert found.table["texts"].tolist() == [6, 6, 3, 0]
    assert found.table["share"].tolist() == [1, 1, 0.5, 0]
    assert (found.table["q"][:3] < 0.05).all() and found.table["p"][3] == 1
    assert (found.table["mean_r"][:2] > 0.9).all() and (found.table["null_texts"] == 0).all()
    assert found.overlaps.shape == (6, 4) and found.correlations.shape == (6, 4)


def test_the_published_count_by_hand():
    # one text whose two networks both overlap template 0: counted twice one-to-many, once one-to-one
    a = np.zeros(2000)
    a[:40] = 10.0
    b, c = a.copy(), a.copy()
    b[:15], c[25:40] = 0, 0
    other = np.roll(a, 900)
    found = rec.recurrence(np.stack([a, other]), [np.stack([b, c])], n_draws=5)
    assert found.table["many"].tolist() == [2, 0] and found.table["texts"].tolist() == [1, 0]
    assert found.overlaps[0, 0] == pytest.approx(25 / 40)


def test_individual_networks_of_texts_recur():
    rng = np.random.default_rng(5)
    truth = planted(3)
    texts = [(rng.normal(size=(n, 3)) @ truth + rng.normal(size=(n, 2000))).astype("float32") for n in (60, 80, 3, 90)]
    maps, kept = rec.individual_networks(texts, 5)
    assert kept == [0, 1, 3] and [len(m) for m in maps] == [5, 5, 5]
    assert rec.recurrence(truth, maps, n_draws=19, threshold=2.0).table["texts"].tolist() == [3, 3, 3]


def test_layer_null_of_layer_bound_networks():
    # networks that fill most of one layer overlap by chance, and the null within layers knows it
    rng = np.random.default_rng(6)

    def layer_network():
        return np.where(LAYERS == 1, 5.0 * (rng.random(2000) < 0.6), 0.0)[None] + 0.01 * rng.normal(size=(1, 2000))

    template, texts = layer_network(), [layer_network() for _ in range(4)]
    loose = rec.recurrence(template, texts, threshold=1.0, n_draws=39).table
    strict = rec.recurrence(template, texts, threshold=1.0, n_draws=39, layer_of=LAYERS).table
    assert loose["texts"][0] == 4 and loose["p"][0] < 0.05
    assert strict["null_texts"][0] == 4 and strict["p"][0] == 1


def test_recurrence_speaks_up():
    with pytest.raises(ParameterError, match="at least one"):
        rec.recurrence(planted(), [])
    with pytest.raises(ParameterError, match="no neuron above"):
        rec.recurrence(np.random.default_rng(0).normal(size=(2, 500)), [planted()[:, :500]], threshold=9)
