"""What a model takes in."""

import pytest
import torch
from tiny import ARCHITECTURES, tiny_model
from zoo import zoo_model

from llmbrain.models.inputs import input_device, longest_context


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_longest_context_is_read_from_any_config(name):
    model = tiny_model(name)
    assert longest_context(model, 7) == (7 if name == "bloom" else 128)  # Bloom has no limit
    assert input_device(model) == torch.device("cpu")


def test_multimodal_models_read_as_much_as_their_language_model():
    assert longest_context(zoo_model("llava")) == 128


def test_a_module_that_runs_elsewhere_takes_its_ids_there():
    model = tiny_model("llama")
    model.model.embed_tokens._hf_hook = type("Hook", (), {"execution_device": "meta"})()
    assert input_device(model) == torch.device("meta")
