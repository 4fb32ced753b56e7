"""Minimal pairs by the likelihood of whole sentences."""

import pytest
from plain import plain_losses

from llmbrain.evaluation import minimal_pairs
from llmbrain.exceptions import ParameterError
from llmbrain.text import MinimalPair


def test_minimal_pairs_compare_whole_sentence_likelihoods(llama, tokenizer):
    pairs = [MinimalPair("the dogs run", "the dogs runs", "agree", "0"), MinimalPair("a b", "a c", "other", "1")]
    frame = minimal_pairs(llama, tokenizer, pairs)
    for row, pair in zip(frame.itertuples(), pairs):
        good = -plain_losses(llama, tokenizer(pair.good)["input_ids"]).sum()
        bad = -plain_losses(llama, tokenizer(pair.bad)["input_ids"]).sum()
        assert (row.good, row.bad) == (pytest.approx(good, abs=1e-4), pytest.approx(bad, abs=1e-4))
        assert row.correct == float(good > bad)


def test_minimal_pairs_of_the_package_load_and_limit(llama, tokenizer):
    frame = minimal_pairs(llama, tokenizer, n_pairs=2)
    assert frame.groupby("uid").size().eq(2).all()
    with pytest.raises(ParameterError, match="at least one"):
        minimal_pairs(llama, tokenizer, [])


def test_pairs_of_strings_are_pairs(llama, tokenizer):
    sentences = [("the dogs run", "the dogs runs"), ("a b", "a c")]
    named = [MinimalPair(good, bad, "pairs", str(i)) for i, (good, bad) in enumerate(sentences, 1)]
    assert minimal_pairs(llama, tokenizer, sentences).equals(minimal_pairs(llama, tokenizer, named))


@pytest.mark.parametrize("pair", [("one",), ("same", "same"), ("", "b"), (1, 2), "ab", {"good": "a", "bad": "b"}])
def test_what_is_no_pair_is_one_sentence(pair, llama, tokenizer):
    with pytest.raises(ParameterError, match="Pair 1 must be two different sentences"):
        minimal_pairs(llama, tokenizer, [pair])
