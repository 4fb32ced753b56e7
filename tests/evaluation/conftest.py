"""A small model and its tokenizer."""

import pytest
from tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def tiny(llama, tokenizer):
    return llama, tokenizer
