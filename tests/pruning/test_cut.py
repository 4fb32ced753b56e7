"""The cut: refits against least squares by hand, and held-out tokens."""

import copy

import numpy as np
import pytest
import torch
from tiny import tiny_model

from llmbrain.models.linears import weight_of
from llmbrain.models.surgery import (
    prunable_mlps,
)
from llmbrain.pruning import Options
from llmbrain.pruning.calibration import calibration_blocks
from llmbrain.pruning.compensation import (
    compensate,
    output_error,
)
from llmbrain.pruning.cut import Cutter, cut
from llmbrain.pruning.survey import gather, survey
from llmbrain.pruning.walk import Walk
from llmbrain.stats.moments import Moments

TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]


def test_sequential_equals_one_shot_when_nothing_is_removed_upstream(tokenizer):
    """Only the last layer is cut, so what reaches it is dense in both modes."""
    weights = []
    for propagation in ("sequential", "one-shot"):
        model = tiny_model("llama")
        kept = [np.arange(48)] * 3 + [np.arange(20)]
        blocks = calibration_blocks(tokenizer, TEXTS, context=48)
        cut(model, blocks, kept, "affine", Options(propagation=propagation, ridge=0.01))
        weights.append(weight_of(prunable_mlps(model)[3].writer).detach().clone())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-4)


def test_sequential_refit_is_least_squares_on_the_pruned_prefix(tokenizer):
    """The second layer's weights, solved by hand from the activations of the model that was pruned up to it."""
    model = tiny_model("llama")
    blocks = calibration_blocks(tokenizer, [TEXTS[0]], context=32, batch_size=4)
    options = Options(ridge=1e-6, target="layer")
    kept = [np.arange(30), np.arange(25), np.arange(48), np.arange(48)]
    dense_weight = weight_of(prunable_mlps(model)[1].writer).detach().clone()
    reference = copy.deepcopy(model)
    cut(reference, blocks, [kept[0]] + [np.arange(48)] * 3, "affine", options)
    walk = Walk(reference, blocks)
    walk.advance(0)
    moments = gather(walk, 1, prunable_mlps(reference)[1].writer)[0]
    from llmbrain.pruning.compensation import compensate

    wanted = compensate(dense_weight, moments, torch.arange(25), "affine", 1e-6)
    cut(model, blocks, kept, "affine", options)
    torch.testing.assert_close(weight_of(prunable_mlps(model)[1].writer).double(), wanted.weight, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("compensation", ["affine", "ridge"])
@pytest.mark.parametrize("n_tokens", [24, 60, 400])
def test_no_refit_is_taken_that_held_out_tokens_speak_against(n_tokens, compensation, tokenizer):
    """Fewer tokens than unknowns: held-out error is never above that of mean bias or of the weights as they are."""
    model = tiny_model("llama")
    parts = prunable_mlps(model)
    blocks = calibration_blocks(tokenizer, TEXTS, context=24, max_tokens=n_tokens, batch_size=4)
    judged = []

    class Watched(Cutter):
        def _solve(self, linear, fit, held, keep, row):
            refit, gained = super()._solve(linear, fit, held, keep, row)
            weight = weight_of(linear).detach()
            methods = ("none", "bias") if self.compensation == "affine" else ("none",)
            limits = [output_error(weight, held, keep, compensate(weight, fit, keep, m)) for m in methods]
            if fit.n + held.n < 20 * len(keep):  # otherwise the last fit has seen these tokens too
                judged.append((output_error(weight, held, keep, refit), min(limits)))
            return refit, gained

    cutter = Watched(model, blocks, compensation, Options(context=24))
    for part in parts:
        cutter.layer(part, torch.arange(0, part.size, 2))
    assert len(judged) == 4 and all(error <= limit * 1.05 + 1e-12 for error, limit in judged)


def test_where_even_a_bias_does_harm_the_weights_stay(tokenizer):
    """The tokens that are fitted have another mean than those that judge."""
    model = tiny_model("llama")
    blocks = calibration_blocks(tokenizer, TEXTS, context=48)
    cutter = Cutter(model, blocks, "affine", Options(context=48))
    linear, g = torch.nn.Linear(40, 5, bias=False), torch.Generator().manual_seed(0)
    sides = [Moments(40), Moments(40)]
    sides[0].add(torch.randn(50, 40, generator=g) + 3)
    sides[1].add(torch.randn(50, 40, generator=g) - 1)
    refit, gained = cutter._solve(linear, *sides, torch.arange(20), {})
    assert not gained and refit.bias is None
    assert torch.equal(refit.weight.float(), linear.weight[:, :20])


def test_held_out_tokens_stay_out_while_there_are_few(tokenizer):
    """Behind the first layer, tokens that were fitted look better than others; so the judges are never fitted."""
    seen = []

    class Watched(Cutter):
        def _solve(self, linear, fit, held, keep, row):
            refit, gained = super()._solve(linear, fit, held, keep, row)
            weight = weight_of(linear).detach()
            alone = compensate(weight, fit, keep, "affine", row["ridge"])
            seen.append(torch.equal(alone.weight, refit.weight))
            return refit, gained

    for n_tokens, expected in ((100, True), (2000, False)):
        seen.clear()
        model = tiny_model("llama")
        blocks = calibration_blocks(tokenizer, TEXTS * 4, context=48, max_tokens=n_tokens, batch_size=4)
        cutter = Watched(model, blocks, "affine", Options(context=48))
        cutter.layer(prunable_mlps(model)[0], torch.arange(0, 48, 2))
        assert seen == [expected]


def test_one_window_is_held_out_in_part(tokenizer):
    blocks = calibration_blocks(tokenizer, TEXTS, context=64, max_tokens=64)
    model = tiny_model("llama")
    cutter = Cutter(model, blocks, "affine", Options(context=64))
    assert 0 < sum(int(h.sum()) for h in cutter.held) < 32
    assert np.isfinite(cutter.layer(prunable_mlps(model)[0], torch.arange(24))["error"])


def test_a_bias_from_the_means_of_the_dense_model_needs_no_second_reading(tokenizer, monkeypatch):
    blocks, kept = calibration_blocks(tokenizer, TEXTS, context=48), [np.arange(20)] * 4
    models, options = [tiny_model("llama"), tiny_model("llama")], Options(propagation="one-shot")
    scores = {"mean": lambda part, moments: moments.mean}
    known = survey(Walk(models[0], blocks), prunable_mlps(models[0]), scores, full=False)["mean"]
    cut(models[0], blocks, kept, "bias", options)
    monkeypatch.setattr("llmbrain.pruning.cut.Cutter", None)
    cut(models[1], blocks, kept, "bias", options, known=known)
    for read, new in zip(models[0].state_dict().values(), models[1].state_dict().values()):
        torch.testing.assert_close(new, read)
