"""Curves of single layers."""

import numpy as np
import pytest
from tiny import tiny_model

from llmbrain.pruning import Recipe
from llmbrain.pruning.allocation.curves import fill_by_curves, measure_curves
from llmbrain.pruning.calibration import calibration_blocks
from llmbrain.pruning.measured import Measurements


def test_curves_are_what_cutting_one_layer_costs(tokenizer, texts):
    """The walk that goes on from a layer gives the divergence of the whole model with that layer cut."""
    model = tiny_model("llama")
    blocks = calibration_blocks(tokenizer, texts[:8], context=64)
    measured = Measurements(model, tokenizer, texts[:8]).of(Recipe("flap", options={"context": 64}))
    orders = [f.score.argsort(descending=True) for f in measured.survey()]
    curves = measure_curves(model, measured.parts, orders, blocks, blocks, levels=(0.5,), n_steps=8)
    losses, supernet, probe = curves.losses, curves.supernet, curves.probe
    for i in range(4):
        supernet.put(i, 24)
        assert probe.divergence() == pytest.approx(losses[i, 0], rel=1e-3)
        supernet.take(i)


def test_few_levels_do_not_take_all_layers_to_the_same_corners():
    """Between levels the counts follow the curves: a layer that costs a little more keeps a little more."""
    levels = [0.0, 0.2, 0.5, 0.8]
    curves = np.outer(np.linspace(1.0, 1.6, 7), np.square(levels))
    counts = fill_by_curves(curves, levels, [1000] * 7, 3500)
    assert counts.sum() == 3500
    assert (np.diff(counts) > 20).all()
