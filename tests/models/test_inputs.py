"""What a model takes in."""

import pytest
import torch
from tiny import ARCHITECTURES, tiny_model, tiny_tokenizer
from zoo import zoo_model

import llmbrain as lb
from llmbrain.evaluation import generate_texts, minimal_pairs
from llmbrain.exceptions import ParameterError
from llmbrain.lesions import LossTask
from llmbrain.models.inputs import input_device, longest_context
from llmbrain.subjects.fingerprints import fingerprint


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


def lesions(model, tokenizer):
    mask = lb.NeuronMask.from_names([(0, 1)], lb.NeuronGeometry.from_model(model), name="one")
    study = lb.LesionStudy([mask], tasks=[LossTask(TEXTS, max_tokens=30)], controls=["layer"], n_controls=1)
    return study.run(model, tokenizer, progress=False)


TEXTS = ["The old heron ate the fish in the river, and nobody saw it."] * 4
READERS = {
    "perplexity": lambda *both: lb.perplexity(*both, TEXTS, context=32),
    "pairs": lambda *both: minimal_pairs(*both, [("The heron eats.", "The heron eat.")]),
    "generation": lambda *both: generate_texts(*both, ["The heron"], max_new_tokens=2),
    "pruning": lambda *both: lb.prune(*both, TEXTS, ratio=0.2, recipe="flap", progress=False),
    "lesions": lesions,
    "fingerprint": lambda *both: fingerprint(*both, TEXTS, n_texts=4, n_neurons=2),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_tokens_that_the_model_does_not_have_are_refused(read):
    with pytest.raises(ParameterError, match="contain token 2[0-9]+, but the model has 259 tokens"):
        read(tiny_model("llama", vocab_size=259), tiny_tokenizer())
