"""Fingerprints compared: pairs, scores and the rates of the decision."""

import numpy as np
import pytest

from llmbrain.subjects.descent import decision_of, neuron_score

LAYERS = np.repeat([0, 1, 2], 40)


def test_pairs_are_chosen_on_one_part_and_scored_on_the_other():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 2, 400, 120))
    score, by_layer = neuron_score(a, b, (LAYERS, LAYERS))
    assert abs(score) < 0.1 and set(by_layer[0]) == {0, 1, 2}  # the best of 120 by chance: nothing on the second part
    noisy = a[:, :, ::-1] * -1 + 0.5 * rng.standard_normal(a.shape)
    assert neuron_score(a, noisy, (LAYERS, LAYERS))[0] == pytest.approx(1 / np.sqrt(1.25), abs=0.03)


def test_one_layer_in_common_is_enough_and_its_number_does_not_matter():
    """Layers that were retrained or removed: one of three is the same, and a third of its neurons were pruned."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 2, 400, 120))
    b[:, :, 80:106] = a[:, :, 14:40]
    score, (first, second) = neuron_score(a, b, (LAYERS, LAYERS))
    assert score == pytest.approx(1, abs=1e-6)
    assert max(first, key=first.get) == 0 and max(second, key=second.get) == 2
    assert max(first[1], first[2], second[0], second[1]) < 0.2


def test_the_score_does_not_depend_on_the_order_of_the_models():
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 2, 100, 30))
    b[:, :, :20] += a[:, :, :20]
    layers = np.repeat([0, 5], 15), np.repeat([1, 2, 3], 10)
    assert neuron_score(a, b, layers)[0] == pytest.approx(neuron_score(b, a, layers[::-1])[0], abs=1e-12)


def test_measured_rates_are_used_only_for_the_options_they_belong_to():
    threshold, rates = decision_of({"n_texts": 10, "n_neurons": 3, "characters": 1200})
    assert 0 < threshold < 1 and rates == {}
    known = decision_of({"n_texts": 10, "n_neurons": 128, "characters": 1200})[1]
    assert known["false_positive"]["low"] <= known["false_positive"]["count"] / known["false_positive"]["n"]
    assert "models" in known["measured_on"]
