"""Fingerprints compared: pairs, scores and the rates of the decision."""

import numpy as np
import pytest

from llmbrain.subjects.descent import decision_of, network_score


def test_pairs_are_chosen_on_one_part_and_scored_on_the_other():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 2, 300, 30))
    score, pairs = network_score(a, b)
    assert abs(score) < 0.03 and len(pairs) == 30  # matched by chance on the first part: nothing on the second
    noisy = a[:, :, ::-1] * -1 + 0.5 * rng.standard_normal(a.shape)
    assert network_score(a, noisy)[0] == pytest.approx(1 / np.sqrt(1.25), abs=0.02)


def test_measured_rates_are_used_only_for_the_options_they_belong_to():
    threshold, rates = decision_of({"n_texts": 10, "n_components": 3, "sites": ["layer"], "characters": 1200})
    assert 0 < threshold < 1 and rates == {}
    measured = {"n_texts": 10, "n_components": 20, "sites": ["layer", "mlp"], "characters": 1200}
    known = decision_of(measured)[1]
    assert known["false_positive"]["low"] <= known["false_positive"]["count"] / known["false_positive"]["n"]
    assert "models" in known["measured_on"]
