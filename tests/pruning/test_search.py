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
from llmbrain.pruning import Recipe, search
from llmbrain.pruning.calibration import calibration_blocks
from llmbrain.pruning.measured import Measurements
from llmbrain.pruning.search import Assembly, Probe, Words, _fit_budget, measure_curves, search_counts

quick = partial(lb.prune, recipe="fast", measure=False, progress=False)
TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]


def test_a_failing_trial_leaves_the_model_whole(model, tokenizer):
    curves = Measurements(model, tokenizer, TEXTS).of(Recipe(options={"context": 48})).curves
    supernet, probe = curves.supernet, curves.probe
    probe.windows = lambda finals: 1 / 0
    with pytest.raises(ZeroDivisionError):
        search_counts(supernet, probe, [np.array([24] * 4)], 96, floors=[4] * 4)
    assert [p.size for p in prunable_mlps(model)] == [48] * 4


def test_divergence_is_kullback_leibler(tokenizer, texts):
    model = tiny_model("llama")
    blocks = calibration_blocks(tokenizer, texts[:3], context=64, batch_size=3)
    probe = Probe(model, blocks)
    assert probe.divergence() == pytest.approx(0, abs=1e-7)
    other = tiny_model("llama", seed=1)
    total = count = 0
    with torch.no_grad():
        for block in blocks:
            for ids, mask in zip(block.ids, block.mask):
                p = torch.log_softmax(model(ids[mask][None]).logits[0], -1)
                q = torch.log_softmax(other(ids[mask][None]).logits[0], -1)
                total += float((p.exp() * (p - q)).sum())
                count += int(mask.sum())
    probe.model = other
    assert probe.divergence() == pytest.approx(total / count, rel=1e-4)
    assert len(probe._wanted) == sum(
        len(b.ids) for b in blocks
    )  # what the dense model says is worked out once, where it is little enough
    lean = Probe(model, blocks)
    lean._keeps, lean.model = False, other
    assert lean.divergence() == probe.divergence() and not lean._wanted


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


def _divergence_by_hand(dense, other, blocks):
    total = 0.0
    with torch.no_grad():
        for block in blocks:
            for ids, mask in zip(block.ids, block.mask):
                p, q = (torch.log_softmax(m(ids[mask][None]).logits[0], -1) for m in (dense, other))
                total += float((p.exp() * (p - q)).sum())
    return total / sum(block.n_tokens for block in blocks)


def test_capped_logits_are_compared_as_the_model_gives_them(tokenizer, texts):
    cap = {"final_logit_softcapping": 0.05}
    dense, other = tiny_model("gemma2", **cap), tiny_model("gemma2", seed=1, **cap)
    blocks = calibration_blocks(tokenizer, texts[:3], context=64, batch_size=3)
    probe = Probe(dense, blocks)
    probe.model = other
    assert probe.divergence() == pytest.approx(_divergence_by_hand(dense, other, blocks), rel=1e-4)


def test_leading_words_give_the_divergence_of_a_coarser_prediction(tokenizer, texts):
    dense, other = tiny_model("llama"), tiny_model("llama", seed=1)
    blocks = calibration_blocks(tokenizer, texts[:4], context=48, batch_size=2)
    whole, coarse = Probe(dense, blocks, n_leading=None), Probe(dense, blocks)
    n_words = dense.config.vocab_size
    with torch.no_grad():
        predictions = [coarse.predict(coarse._dense_head, hidden, None) for hidden in coarse._hidden(coarse._last)]
    coarse._words = [Words.of(p, n_leading=1, n_sampled=n_words // 4) for p in predictions]
    assert all(words is not None and len(words.all) < n_words for words in coarse._words)
    coarse._wanted.clear()
    assert coarse.divergence() == pytest.approx(0, abs=1e-7)
    whole.model = coarse.model = other
    assert 0 < coarse.divergence() < whole.divergence()
    # With all other words in the sample, the last class has their exact probability.
    words = coarse._words[0]
    others = torch.tensor([i for i in range(n_words) if i not in set(words.leading.tolist())])
    exact = Words(words.leading, others, 1.0)
    given = exact.log_probabilities(predictions[0][:, exact.all] + 3.0)  # a constant changes nothing
    torch.testing.assert_close(given[:, :-1], predictions[0][:, words.leading], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(given[:, -1], predictions[0][:, others].logsumexp(-1), rtol=1e-4, atol=1e-5)


def test_small_vocabularies_are_compared_whole():
    assert Words.of(torch.zeros(4, 300).log_softmax(-1)) is None
    assert Words.of(torch.randn(4, 5000).log_softmax(-1)) is not None


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


def test_an_allocation_is_taken_only_if_it_is_clearly_better():
    rng = np.random.default_rng(0)
    hard = rng.normal(3, 1, 8)  # some windows are harder than others, for every allocation
    first, better, same = hard, hard - 0.2 + rng.normal(0, 0.05, 8), hard - 0.02 + rng.normal(0, 0.1, 8)
    assert search.clearly_lowest([first, better, same]) == 1
    assert search.clearly_lowest([first, same]) == 0
    assert search.clearly_lowest([first, first]) == 0 == search.clearly_lowest([[0.0], [0.0]])
    assert search.clearly_lowest([[1.0], [0.1]]) == 0  # one window says nothing


def test_few_held_out_windows_cost_nothing(model, tokenizer, monkeypatch):
    """With fewer than three of them the trial keeps shares by power, without measuring."""
    from llmbrain.pruning import measured

    def fail(*args, **kwargs):
        raise AssertionError("measured")

    def kept(allocation, max_tokens):
        options = {"context": 16, "max_tokens": max_tokens, "batch_size": 1}
        return lb.prune(model, tokenizer, TEXTS, 0.5, recipe="fast", allocation=allocation, options=options,
                        measure=False, progress=False).summary["n_kept"]  # fmt: skip

    monkeypatch.setattr(measured, "measure_counts", fail)
    assert kept("trial", 64) == kept("power", 64)
    with pytest.raises(AssertionError, match="measured"):
        kept("trial", 640)
