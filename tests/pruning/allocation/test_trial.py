"""Candidates that are cut before one is taken."""

import numpy as np
import pytest
import torch
from tiny import tiny_model

import llmbrain as lb
from llmbrain.models.surgery import prunable_mlps
from llmbrain.pruning import Recipe
from llmbrain.pruning.allocation import trial
from llmbrain.pruning.calibration import calibration_blocks
from llmbrain.pruning.cut import Cutter
from llmbrain.pruning.measured import Measurements

TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]


def _measured(model, tokenizer, **options):
    recipe = Recipe.named("fast").with_(options={"context": 48, "batch_size": 2, **options})
    return Measurements(model, tokenizer, TEXTS).of(recipe)


def test_curves_read_less_on_a_cpu():
    options, cpu, gpu = Recipe.named("fast").options, torch.device("cpu"), torch.device("cuda")
    most = [trial.most_probed(options, cpu, n) for n in (2_048, 65_536)] + [trial.most_probed(options, gpu, 2_048)]
    assert most == [512, 4_096, 8_192]
    assert trial.most_probed(options.with_(curve_tokens=100), cpu, 2_048) == 100


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_divergences_are_those_of_the_cut_models(name, tokenizer):
    model = tiny_model(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    measured = _measured(model, tokenizer)
    sizes = measured.sizes
    candidates = [[n // 2 for n in sizes], [n // 4 for n in sizes], list(sizes)]
    found = measured.measure_cuts(candidates)
    assert found[2] == pytest.approx(0, abs=1e-6) and 0 < found[0] < found[1]
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in before.items()}
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert [p.size for p in prunable_mlps(model)] == sizes


def test_streams_of_the_dense_model_are_shared_by_all_cuts(tokenizer, monkeypatch):
    """The divergences are those of cuts that run the dense model for themselves, as where memory is short."""
    model = tiny_model("llama")
    measured = _measured(model, tokenizer, refit_attention=True)
    candidates = [[n // 2 for n in measured.sizes], [n // 4 for n in measured.sizes]]
    steps, step = [], Cutter._dense_step
    monkeypatch.setattr(Cutter, "_dense_step", lambda self, *a: steps.append(self.streams is None) or step(self, *a))
    shared = measured.measure_cuts(candidates)
    monkeypatch.setattr(trial, "KEPT_VALUES", 0)
    alone = measured.measure_cuts(candidates)
    np.testing.assert_array_equal(shared, alone)
    n_steps = 2 * len(measured.sizes)
    assert steps == [False] * n_steps + [True] * n_steps


def test_a_failing_cut_leaves_the_model_whole(model, tokenizer, monkeypatch):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    measured = _measured(model, tokenizer)
    monkeypatch.setattr(trial.Probe, "divergence", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trial.measure_cuts(
            model, [measured.best([24] * 4)], *measured._split(), measured.recipe.compensation, measured.options
        )
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    model(torch.tensor([[1, 2, 3]]))


def test_the_lowest_candidate_is_taken():
    curves = type("Curves", (), {"losses": np.ones((2, 1)) * 0.1, "levels": (0.5,), "sizes": [100, 100]})()
    asked = []

    def measure(candidates):
        asked.extend(candidates)
        return np.array([2.0, 1.0, 3.0])

    found = trial.by_trial(curves, 0.3, [np.ones(100), np.ones(100) * 3], [1.0, 1.0], measure, 100)
    assert found.tolist() == asked[1].tolist() and found[1] > found[0]
    assert asked[0].tolist() == [50, 50] and [c.sum() for c in asked] == [100] * 3


def test_equal_candidates_are_not_measured(model, tokenizer, monkeypatch):
    monkeypatch.setattr("llmbrain.pruning.measured.measure_cuts", lambda *a, **k: 1 / 0)
    assert _measured(model, tokenizer).measure_cuts([[24] * 4, [24] * 4]).tolist() == [0, 0]


def test_the_last_short_window_is_not_held_out(model, tokenizer):
    """What remains of a text at its end may be a few tokens, on which nothing can be measured."""
    text = [" ".join(TEXTS)]
    many = calibration_blocks(tokenizer, text, context=16, max_tokens=16 * 20 + 3, batch_size=2)
    assert many[-1].n_tokens < 16
    held = lb.pruning.calibration.split_windows(many, 0.1)[1]
    assert sum(b.n_tokens for b in held) == 32
