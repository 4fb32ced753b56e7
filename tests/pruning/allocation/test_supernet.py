"""Layers at several widths, and models assembled from them."""

import numpy as np
import pytest
import torch
from tiny import tiny_model

from llmbrain.models.surgery import prunable_mlps
from llmbrain.pruning import Recipe
from llmbrain.pruning.allocation.curves import measure_curves
from llmbrain.pruning.allocation.supernet import Assembly
from llmbrain.pruning.calibration import calibration_blocks
from llmbrain.pruning.measured import Measurements

TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_a_supernet_puts_widths_in_and_takes_them_out(name, tokenizer, texts):
    model = tiny_model(name)
    blocks = calibration_blocks(tokenizer, texts[:8], context=64)
    measured = Measurements(model, tokenizer, texts[:8]).of(Recipe("flap", options={"context": 64}))
    orders = [f.score.argsort(descending=True) for f in measured.survey()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    curves = measure_curves(model, prunable_mlps(model), orders, blocks, blocks, n_steps=8)
    losses, supernet, probe = curves.losses, curves.supernet, curves.probe
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in before.items()}
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    for i, width in enumerate([24, 30, 48, 12]):
        supernet.put(i, width)
    assert [p.size for p in prunable_mlps(model)] == [24, 30, 48, 12]
    supernet.take_all()
    assert probe.divergence() == pytest.approx(0, abs=1e-6)
    assert (losses > 0).all()
    assert (losses[:, -1] > losses[:, 0]).all()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_an_assembly_measures_what_the_assembled_model_says(name, tokenizer, texts):
    model = tiny_model(name)
    curves = Measurements(model, tokenizer, TEXTS).of(Recipe(options={"context": 48})).curves
    supernet, probe = curves.supernet, curves.probe
    assembly, rng = Assembly(supernet, probe), np.random.default_rng(0)
    widths = [24] * len(supernet.parts)
    for _ in range(6):
        windows, trial = assembly.measure(widths)
        current = list(assembly.widths)
        for i, width in enumerate(widths):
            supernet.put(i, width)
        np.testing.assert_allclose(windows, probe.windows(), rtol=1e-4, atol=1e-6)
        for i, width in enumerate(current):
            supernet.put(i, width) if width else supernet.take(i)
        if rng.random() < 0.6:
            assembly.accept(trial)
        widths = list(assembly.widths if assembly.widths[0] else widths)
        widths[int(rng.integers(1, len(widths)))] = int(rng.choice([12, 24, 36, 48]))
    supernet.take_all()
    assert probe.divergence() == pytest.approx(0, abs=1e-6)
