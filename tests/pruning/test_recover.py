"""Distillation of a cut model."""

import copy

import pytest
import torch
from tiny import tiny_model

import llmbrain as lb
from llmbrain.exceptions import ParameterError
from llmbrain.pruning.allocation.probe import Probe
from llmbrain.pruning.calibration import calibration_blocks, split_windows
from llmbrain.pruning.recover import recover

TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(12)]


@pytest.fixture(scope="module")
def pruned(tokenizer):
    model = tiny_model("llama", initializer_range=0.3)
    options = {"context": 48, "recover": 0.05}
    return model, lb.prune(model, tokenizer, TEXTS, 0.5, recipe="wanda", options=options, measure=False, progress=False)


def test_training_brings_the_predictions_closer(pruned, tokenizer):
    model, smaller = pruned
    found = smaller.summary["recovery"]
    assert found["steps"] > 5 and found["tokens"] > 0
    assert found["divergence_after"] < found["divergence_before"]
    blocks = calibration_blocks(tokenizer, TEXTS, context=48)
    probe = Probe(model, split_windows(blocks, 0.125)[1])
    probe.model = smaller.model
    assert probe.divergence() == pytest.approx(found["divergence_after"], rel=1e-4)
    assert not any(p.grad is not None for p in smaller.model.parameters())


def test_the_dense_model_and_the_embeddings_stay(pruned):
    model, smaller = pruned
    fresh = tiny_model("llama", initializer_range=0.3)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), fresh.state_dict().values()))
    assert torch.equal(smaller.model.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_training_that_does_not_help_is_undone(tokenizer):
    """A copy of the dense model cannot be improved."""
    dense = tiny_model("llama", initializer_range=0.3)
    model = copy.deepcopy(dense)
    flags = [p.requires_grad for p in model.parameters()]
    found = recover(model, dense, calibration_blocks(tokenizer, TEXTS, context=48), 0.01)
    assert found["divergence_after"] == found["divergence_before"] == pytest.approx(0, abs=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(dense.state_dict().values(), model.state_dict().values()))
    assert [p.requires_grad for p in model.parameters()] == flags


def test_half_precision_keeps_its_type_and_still_learns(tokenizer):
    model = tiny_model("llama", initializer_range=0.3).to(torch.bfloat16)
    options = {"context": 48, "recover": 0.05}
    smaller = lb.prune(model, tokenizer, TEXTS, 0.5, recipe="wanda", options=options, measure=False, progress=False)
    assert smaller.model.dtype == torch.bfloat16
    assert smaller.summary["recovery"]["divergence_after"] < smaller.summary["recovery"]["divergence_before"]


def test_bad_minutes_and_inplace_are_refused(model, tokenizer):
    for minutes in (-1, float("nan"), "5", True):
        with pytest.raises(ParameterError, match="recover="):
            lb.prune(model, tokenizer, TEXTS, 0.5, recipe="wanda", recover=minutes)
    with pytest.raises(ParameterError, match="inplace=False"):
        lb.prune(model, tokenizer, TEXTS, 0.5, recipe="wanda", recover=1, inplace=True)
