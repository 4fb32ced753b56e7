"""Divergence, curves and the search."""

from functools import partial

import numpy as np
import pytest
import torch
from tiny import tiny_model

import llmbrain as lb
from llmbrain.models.surgery import (
    prunable_mlps,
)
from llmbrain.pruning import Recipe
from llmbrain.pruning.allocation.curves import measure_curves
from llmbrain.pruning.allocation.search import _fit_budget, search_counts
from llmbrain.pruning.calibration import calibration_blocks
from llmbrain.pruning.measured import Measurements

quick = partial(lb.prune, recipe="fast", measure=False, progress=False)
TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]


def test_a_failing_trial_leaves_the_model_whole(model, tokenizer):
    curves = Measurements(model, tokenizer, TEXTS).of(Recipe(options={"context": 48})).curves
    supernet, probe = curves.supernet, curves.probe
    probe.windows = lambda finals: 1 / 0
    with pytest.raises(ZeroDivisionError):
        search_counts(supernet, probe, [np.array([24] * 4)], 96, floors=[4] * 4)
    assert [p.size for p in prunable_mlps(model)] == [48] * 4


def test_search_keeps_the_budget_and_never_gets_worse(tokenizer, texts):
    model = tiny_model("llama")
    blocks = calibration_blocks(tokenizer, texts[:8], context=64)
    measured = Measurements(model, tokenizer, texts[:8]).of(Recipe("flap", options={"context": 64}))
    orders = [f.score.argsort(descending=True) for f in measured.survey()]
    curves = measure_curves(model, measured.parts, orders, blocks, blocks, levels=(0.5,), n_steps=12)
    supernet, probe = curves.supernet, curves.probe
    counts, value, history = search_counts(
        supernet, probe, [np.array([12, 20, 28, 36])], 96, floors=[4] * 4, n_evaluations=60, seed=0
    )
    assert counts.sum() == 96
    assert (counts >= 4).all()
    assert all(b <= a for a, b in zip(history, history[1:]))
    assert value < history[0]
    again = search_counts(supernet, probe, [np.array([12, 20, 28, 36])], 96, floors=[4] * 4, n_evaluations=60, seed=0)
    assert again[0].tolist() == counts.tolist()


def test_prices_hold_a_budget_of_parameters():
    prices = np.array([1.0, 2.0, 4.0])
    state = _fit_budget(np.array([8, 8, 8]), np.array([1, 1, 1]), prices, 30.0, 10)
    assert abs(prices @ state - 30) <= 2


@pytest.mark.parametrize("allocation", ["curves", "search"])
def test_measured_allocations_meet_the_budget(allocation, tokenizer, texts):
    model = tiny_model("llama")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    pruned = quick(
        model, tokenizer, texts[:10], 0.5, allocation=allocation, options={"context": 64, "n_evaluations": 10}
    )
    assert sum(pruned.summary["n_kept"]) == 96
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
