"""Statistics of walks."""

import torch
from tiny import tiny_model

from llmbrain.models.surgery import prunable_mlps
from llmbrain.pruning.calibration import calibration_blocks, held_out_masks
from llmbrain.pruning.survey import gather, writes_to_stream
from llmbrain.pruning.walk import Walk

TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]


def test_statistics_leave_padding_out(tokenizer):
    model = tiny_model("llama")
    part = prunable_mlps(model)[2]
    found = []
    for batch_size in (1, 4):
        walk = Walk(model, calibration_blocks(tokenizer, TEXTS, context=48, batch_size=batch_size))
        for layer in range(2):
            walk.advance(layer)
        found.append(gather(walk, 2, part.writer)[0])
    assert found[0].n == found[1].n
    torch.testing.assert_close(found[0].covariance, found[1].covariance, rtol=1e-3, atol=1e-5)


def test_where_a_norm_stands_between_the_target_is_the_layer(tokenizer):
    blocks = calibration_blocks(tokenizer, TEXTS, context=48)
    for name, direct in (("llama", True), ("gpt2", True), ("gemma2", False), ("granite", False)):
        model = tiny_model(name, **({"residual_multiplier": 0.3} if name == "granite" else {}))
        walk = Walk(model, blocks)
        assert writes_to_stream(walk, 0, prunable_mlps(model)[0].writer) == direct, name
        walk.run = None  # another layer of the same modules is not run
        assert writes_to_stream(walk, 1, prunable_mlps(model)[1].writer) == direct, name


def test_moments_of_the_two_sides_add_up(tokenizer):
    model = tiny_model("llama")
    blocks = calibration_blocks(tokenizer, TEXTS, context=64, batch_size=3)
    part = prunable_mlps(model)[0]
    walk = Walk(model, blocks)
    whole, _ = gather(walk, 0, part.writer)
    fit, held = gather(walk, 0, part.writer, held=held_out_masks(walk.masks))
    assert fit.n + held.n == whole.n and held.n > 0
    torch.testing.assert_close(fit.merge(held).covariance, whole.covariance, rtol=1e-4, atol=1e-7)
