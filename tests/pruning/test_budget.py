"""Budgets in parameters, bytes and time."""

from functools import partial

import pytest
from tiny import tiny_model

import llmbrain as lb
from llmbrain.exceptions import (
    ParameterError,
)
from llmbrain.models.surgery import (
    prunable_mlps,
)

quick = partial(lb.prune, recipe="fast", measure=False, progress=False)
TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]
quiet = partial(lb.prune, progress=False)


def test_ratio_of_parameters(tokenizer):
    model = tiny_model("llama")
    for ratio_of, key in (("decoder", "decoder_parameters"), ("all", "total_parameters")):
        pruned = quick(model, tokenizer, TEXTS, 0.1, ratio_of=ratio_of, compensation="none", score="magnitude",
                          allocation="uniform", options={"context": 48})  # fmt: skip
        assert pruned.summary[key + "_removed"] == pytest.approx(0.1, abs=0.01)
    with pytest.raises(ParameterError, match="below"):
        quick(model, tokenizer, TEXTS, 0.95, ratio_of="all")


def test_bytes_and_latency_are_budgets(model, tokenizer, monkeypatch):
    fast = partial(quiet, model, tokenizer, TEXTS, recipe="wanda", measure=False)
    s = fast(0.1, ratio_of="bytes").summary
    assert s["bytes_removed"] == pytest.approx(0.1, abs=0.01)
    with pytest.raises(ParameterError, match="the bytes"):
        fast(0.9, ratio_of="bytes")
    # a machine whose forward pass takes 10 s, 6 of them in MLPs whose time is proportional to their width
    monkeypatch.setattr("llmbrain.pruning.budget.forward_seconds", lambda model: 10.0)
    monkeypatch.setattr("llmbrain.pruning.budget.layer_latency", lambda part, widths: [1.5 * w / 48 for w in widths])
    s = fast(0.3, ratio_of="latency").summary
    assert s["neurons_removed"] == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ParameterError, match="forward pass"):
        fast(0.7, ratio_of="latency")


def test_a_busy_moment_does_not_decide_about_the_budget(model, tokenizer, monkeypatch):
    """The narrowest width was measured while something else ran: the wider ones say what it takes at most."""
    monkeypatch.setattr("llmbrain.pruning.budget.forward_seconds", lambda model: 10.0)
    true = lambda part, widths: [1.5 * w / 48 for w in widths]  # noqa: E731
    monkeypatch.setattr("llmbrain.pruning.budget.layer_latency", lambda p, w: [9.0, *true(p, w)[1:]])
    s = quiet(model, tokenizer, TEXTS, 0.3, recipe="wanda", ratio_of="latency", measure=False).summary
    assert s["neurons_removed"] == pytest.approx(0.5, abs=0.02)


def test_latency_is_measured(model):
    from llmbrain.pruning.budget import forward_seconds, layer_latency

    wide = prunable_mlps(tiny_model("llama", hidden_size=256, intermediate_size=2048))[0]
    narrow, full = layer_latency(wide, [64, 2048], n_tokens=256)
    assert 0 < narrow < full and forward_seconds(model) > 0
