"""Losses of single tokens against whole logits, one window at a time."""

import numpy as np
import pytest
import torch
from plain import plain_losses
from tiny import ARCHITECTURES, tiny_model

from llmbrain.evaluation import losses as module
from llmbrain.evaluation import token_losses, window_losses
from llmbrain.evaluation.losses import hidden_losses
from llmbrain.evaluation.reader import LogitReader
from llmbrain.exceptions import NumericalError, ParameterError
from llmbrain.text import Window, encode

TEXTS = ["the cat sat on the mat and then it rained.", "short one here", "a much longer text " * 5]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_batched_losses_equal_whole_logits_one_by_one(name, tokenizer):
    model = tiny_model(name)
    got = token_losses(model, tokenizer, TEXTS, context=40)
    for losses, document in zip(got, encode(TEXTS, tokenizer)):
        head, text = document.ids[:1], document.ids[1:]
        expected = [plain_losses(model, np.append(head, text[i : i + 39])) for i in range(0, len(text), 39)]
        expected = np.concatenate(expected)
        np.testing.assert_allclose(losses, expected, atol=1e-5)


def test_only_counted_tokens_are_scored(llama):
    ids = np.arange(10, 20)
    counted = np.zeros(10, bool)
    counted[[0, 4, 9]] = True  # the first token has no loss and is dropped
    (losses,) = window_losses(llama, [Window(ids, counted)])
    np.testing.assert_allclose(losses, plain_losses(llama, ids)[[3, 8]], atol=1e-5)


def test_pieces_of_tokens_and_of_the_vocabulary_do_not_change_the_losses(monkeypatch):
    llama, ids = tiny_model("llama"), torch.arange(100)[None]
    reader = LogitReader(llama)
    with torch.no_grad():
        hidden = reader.read(ids)[0, :-1]
        whole = torch.nn.functional.cross_entropy(llama.lm_head(hidden), ids[0, 1:], reduction="none")
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 41)
        monkeypatch.setattr(module, "WORDS_AT_ONCE", 37)
        assert reader.n_words == len(llama.lm_head.weight)
        torch.testing.assert_close(hidden_losses(hidden, reader, ids[0, 1:]), whole, atol=1e-5, rtol=0)
        llama.lm_head.register_forward_hook(lambda module, args, output: None)  # what hooks do needs all words at once
        assert reader.n_words is None
        monkeypatch.setitem(module.LOGITS_AT_ONCE, "cpu", 7 * 300)
        torch.testing.assert_close(hidden_losses(hidden, reader, ids[0, 1:]), whole, atol=1e-5, rtol=0)


def test_half_precision_models_are_scored_in_float32(tokenizer):
    model = tiny_model("llama").to(torch.bfloat16)
    losses = np.concatenate(token_losses(model, tokenizer, TEXTS))
    exact = np.concatenate(token_losses(tiny_model("llama"), tokenizer, TEXTS))
    assert losses.dtype == np.float32
    assert abs(losses.mean() - exact.mean()) < 0.05


def test_special_tokens_are_read_but_not_scored(llama, tokenizer):
    document = encode(["a text </s> and another"], tokenizer)[0]
    (losses,) = token_losses(llama, tokenizer, ["a text </s> and another"])
    assert document.is_special.sum() == 2
    assert len(losses) == len(document) - 2


def test_progress_counts_all_tokens(llama, tokenizer):
    done = []
    sequences = [Window(np.arange(5, 5 + n), np.ones(n, bool)) for n in (9, 4, 6)]
    window_losses(llama, sequences, max_batch_tokens=9, progress=done.append)
    assert sum(done) == 19
    assert len(done) > 1


def test_bad_windows_are_refused(llama, tokenizer):
    with pytest.raises(ParameterError, match="context=1"):
        token_losses(llama, tokenizer, TEXTS, context=1)
    with pytest.raises(ParameterError, match="context=128"):
        token_losses(llama, tokenizer, ["x " * 400], context=400)


ATTENTION = "model.layers.1.self_attn.q_proj"  # whose NaN torch's attention takes for tokens that see nothing


@pytest.mark.parametrize("broken", ["model.layers.1.input_layernorm", "model.norm", "lm_head", ATTENTION])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_losses_that_are_not_finite_are_an_error_that_names_the_module(broken, value, tokenizer):
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_submodule(broken).weight.view(-1)[3] = value
    words = rf"The losses are not finite; .* {broken}\." if value == 3e38 else f"{broken}.weight hold nan or inf"
    with pytest.raises(NumericalError, match=words):
        token_losses(model, tokenizer, TEXTS[:1])
