"""A small model and two networks in it."""

import numpy as np
import pytest
from tiny import tiny_model, tiny_tokenizer

from llmbrain.geometry import NeuronGeometry
from llmbrain.masks import masks_from_maps


@pytest.fixture(scope="module")
def tiny():
    return tiny_model("llama"), tiny_tokenizer()


@pytest.fixture(scope="module")
def maps(tiny):
    return np.random.default_rng(0).standard_normal((2, NeuronGeometry.from_model(tiny[0]).n_neurons))


@pytest.fixture(scope="module")
def masks(tiny, maps):
    return masks_from_maps(maps, NeuronGeometry.from_model(tiny[0]), 1.5)
