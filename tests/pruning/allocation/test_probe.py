"""Divergence of a changed model."""

import pytest
import torch
from tiny import tiny_model

from llmbrain.pruning.allocation.probe import Probe, Words
from llmbrain.pruning.calibration import calibration_blocks


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
