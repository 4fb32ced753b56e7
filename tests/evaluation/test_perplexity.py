"""Perplexity: its protocol, and BOS at the head of every window."""

import os
from pathlib import Path

import numpy as np
import pytest
from plain import plain_losses
from tiny import tiny_tokenizer

from llmbrain.evaluation import perplexity, perplexity_report
from llmbrain.exceptions import CorpusError

TEXTS = ["the cat sat on the mat and then it rained.", "short one here", "a much longer text " * 5]


def test_perplexity_is_exp_of_the_mean_over_all_windows(llama, tokenizer):
    text = "Some words, one after the other. " * 12
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    headed = [[256, *ids[i : i + 49]] for i in range(0, len(ids), 49)]
    bare = [ids[i : i + 50] for i in range(0, len(ids), 50)]
    for windows, bos in ((headed, "auto"), (bare, False)):
        expected = np.exp(np.concatenate([plain_losses(llama, w) for w in windows if len(w) > 1]).mean())
        assert perplexity(llama, tokenizer, text, context=50, bos=bos) == pytest.approx(expected, rel=1e-5)


def test_perplexity_report_states_its_protocol(llama, tokenizer):
    report = perplexity_report(llama, tokenizer, "Some words. " * 30, context=64, max_tokens=100)
    assert (report["n_windows"], report["n_tokens"], report["context"], report["bos"]) == (2, 98, 64, "<s>")
    assert report["perplexity"] == pytest.approx(np.exp(report["nats_per_token"]))
    own = perplexity_report(llama, tiny_tokenizer(add_bos=False), "Some words. " * 30, context=64, max_tokens=100)
    assert own["perplexity"] == report["perplexity"]  # BOS does not depend on whether the tokenizer adds it
    without = perplexity_report(llama, tokenizer, "Some words. " * 30, context=64, bos=False)
    assert without["bos"] == "none"


def test_perplexity_pools_tokens_of_several_texts(llama, tokenizer):
    pooled = np.concatenate([plain_losses(llama, tokenizer(t)["input_ids"]) for t in TEXTS])
    assert perplexity(llama, tokenizer, TEXTS, context=128) == pytest.approx(np.exp(pooled.mean()), rel=1e-5)


@pytest.mark.parametrize("text", ["", [], "<s>", 3])
def test_perplexity_of_nothing_is_an_error(llama, text):
    with pytest.raises((CorpusError, TypeError)):
        perplexity(llama, tiny_tokenizer(add_bos=False), text)


def plain_perplexity(model, windows):
    """By the textbook, one window at a time; the mean is over tokens, not over windows."""
    return float(np.exp(np.concatenate([plain_losses(model, window) for window in windows]).mean(dtype=np.float64)))


def test_windows_of_256_do_not_ruin_gemma():
    """The values of benchmarks/RESULTS.md, by hand and by `perplexity`.

    The text is the first 12,000 characters of WikiText-2 test, if it is in the folder LLMBRAIN_TEST_DATA.
    """
    path = Path(os.environ.get("LLMBRAIN_TEST_MODELS", "")) / "gemma-3-270m.gguf"
    if not path.is_file():
        pytest.skip("gemma-3-270m.gguf (in the folder LLMBRAIN_TEST_MODELS) is not there")
    from llmbrain import load_corpus, load_model

    model, tokenizer = load_model(path)
    wikitext = Path(os.environ.get("LLMBRAIN_TEST_DATA", "")) / "wikitext-2" / "test.raw.txt"
    if wikitext.is_file():
        text = wikitext.read_text(encoding="utf-8")[:12_000]
        ids, bos = tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.bos_token_id
        by_hand = {
            "auto": plain_perplexity(model, [[bos, *ids[i : i + 255]] for i in range(0, len(ids), 255)]),
            False: plain_perplexity(model, [ids[i : i + 256] for i in range(0, len(ids), 256)]),
        }
        assert len(ids) == 2720 and list(by_hand.values()) == pytest.approx([31.852, 136.32], rel=1e-3)
        for policy, expected in by_hand.items():
            assert perplexity(model, tokenizer, text, 256, bos=policy) == pytest.approx(expected, rel=1e-3)
        return
    texts = load_corpus("demo", split="heldout").texts[:2]
    short = perplexity_report(model, tokenizer, texts, 128, max_tokens=512)
    long = perplexity_report(model, tokenizer, texts, 512, max_tokens=512)
    bare = perplexity_report(model, tokenizer, texts, 128, max_tokens=512, bos=False)
    assert short["bos"] == long["bos"] == "<bos>"
    assert long["perplexity"] < short["perplexity"] < 2 * long["perplexity"]
    assert bare["perplexity"] > 1.5 * short["perplexity"]
