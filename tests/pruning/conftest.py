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


@pytest.fixture(scope="module")
def data():
    """Correlated, non-centred activations of very different scales, weights, a target, and kept columns."""
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(12, 30, generator=g)
    x = torch.randn(900, 12, generator=g) @ mixing + 0.3 * torch.randn(900, 30, generator=g)
    x = (x + 2 * torch.randn(30, generator=g)) * torch.logspace(-1, 1, 30)
    y = 0.2 * x[:, :5] @ torch.randn(5, 7, generator=g) + torch.randn(900, 7, generator=g) + 1.5
    kept = torch.arange(0, 30, 2)
    return {"x": x, "y": y, "w": torch.randn(7, 30, generator=g), "kept": kept, "removed": torch.arange(1, 30, 2)}
