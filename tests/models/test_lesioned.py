"""What is made of a lesioned model does not pass for the intact model's."""

import copy

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.exceptions import ParameterError
from llmbrain.models.lesioned import is_lesioned

TEXTS = ["The cat sat on the mat and slept there for an hour.", "Snow fell on the harbour all night long."]


@pytest.fixture
def lesioned():
    model = tiny_model("llama")
    geometry = lb.NeuronGeometry.from_model(model)
    with lb.lesion(model, lb.NeuronMask(np.arange(geometry.n_neurons) < 20, geometry)):
        model(torch.tensor([[1, 2, 3]]))
        yield model
    assert not is_lesioned(model)


def test_a_copy_is_not_lesioned(lesioned):
    assert is_lesioned(lesioned) and not is_lesioned(copy.deepcopy(lesioned))


def test_no_study_is_written(lesioned, tmp_path):
    with pytest.raises(ParameterError, match="A lesion is active in the model, so it cannot be recorded into a study"):
        lb.record(lesioned, tiny_tokenizer(), TEXTS, tmp_path / "study", progress=False)
    assert not (tmp_path / "study").exists()
    runs = lb.record(lesioned, tiny_tokenizer(), TEXTS, progress=False)  # without a study: to look at
    assert not runs[0].to_array()[:, :20].any()


def test_there_is_no_fingerprint(lesioned):
    with pytest.raises(ParameterError, match="cannot be given a fingerprint"):
        lb.fingerprint(lesioned, tiny_tokenizer())
