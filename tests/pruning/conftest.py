"""Fixtures that the tests of pruning share."""

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "mat",
    "and",
    "then",
    "rain",
    "in",
    "spain",
    "fell",
    "or",
    "dog",
    "ran",
    "over",
    "hills",
    "while",
    "birds",
    "sang",
    "quiet",
    "songs",
    "at",
    "noon",
]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 256, (2, 17), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, 60)) for _ in range(40)]
