"""Broken tokenizers are noticed, and those that work raise no warning."""

import warnings

import pytest
from tiny import tiny_tokenizer

from llmbrain.exceptions import LLMBrainWarning
from llmbrain.models.tokenizer_check import SAMPLE, check_tokenizer


def big_tokenizer(pieces, **normalisation):
    """A tokenizer with a large vocabulary that knows letters and some pieces."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*letters, *pieces])}
    vocabulary |= {f"<{i}>": i for i in range(len(vocabulary), 6000)}
    merges = [(piece[:-1], piece[-1]) for piece in pieces]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalisation:
        tokenizer.normalizer = normalizers.Replace(*normalisation["replace"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def prefixes(words):
    return sorted({word[:n] for word in words for n in range(2, len(word) + 1)}, key=len)


def test_a_tokenizer_that_spells_letter_by_letter_is_noticed():
    with pytest.warns(LLMBrainWarning, match="spells letter by letter"):
        check_tokenizer(big_tokenizer([]))


def test_a_tokenizer_that_loses_text_is_noticed():
    words = [f"Ġ{word}" for word in SAMPLE.split()]
    with pytest.warns(LLMBrainWarning, match="does not return the text"):
        check_tokenizer(big_tokenizer(prefixes(words), replace=("e", "")))


def test_tokenizers_that_work_raise_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = tiny_tokenizer()
        assert check_tokenizer(tokenizer) is tokenizer
        check_tokenizer(big_tokenizer(prefixes([f"Ġ{word}" for word in SAMPLE.split()])))


@pytest.mark.demo
def test_the_tokenizer_of_the_demo_works(demo_model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_tokenizer(demo_model[1])
