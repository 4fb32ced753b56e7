"""Names and hashes of models: they change with any weight, and with nothing else."""

import pytest
import torch
from tiny import tiny_model
from zoo import zoo_model

from llmbrain.models import describe_model
from llmbrain.models.identity import model_label, weights_hash


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_change_of_any_single_weight_changes_the_hash(dtype):
    """Also of one that is not sampled, of one in an odd number of values, and of one in a part of another tensor."""
    big = torch.nn.Linear(333, 333).to(dtype)
    big.odd = torch.nn.Parameter(torch.randn(7, dtype=dtype))
    big.part = torch.nn.Parameter(torch.randn(20_001, dtype=dtype)[1:])
    seen = {weights_hash(big)}
    assert weights_hash(big) in seen
    for values, place in ((big.weight.view(-1), 12_345), (big.odd, 6), (big.part, 17_771)):
        with torch.no_grad():
            values[place] += 1
        seen.add(weights_hash(big))
    assert len(seen) == 4


def test_models_that_differ_in_weights_differ_in_hash():
    model = tiny_model("llama")
    before = describe_model(model)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] += 1
    after = describe_model(model)
    assert before["weights_hash"] != after["weights_hash"]
    assert {k: v for k, v in before.items() if k != "weights_hash"} == {
        k: v for k, v in after.items() if k != "weights_hash"
    }
    assert model_label("org/My-Model.v2") == "MyModelv2"


def test_a_multimodal_model_is_described_by_its_language_model():
    described = describe_model(zoo_model("llava"))
    assert (described["n_layers"], described["hidden_size"]) == (4, 32)
    assert described["architecture"] == "LlavaForConditionalGeneration"


def test_paths_are_left_out(tmp_path):
    model = tiny_model("llama")
    model.config._name_or_path = str(tmp_path / "my-model")
    assert describe_model(model)["id"] == "my-model" and describe_model(model)["label"] == "mymodel"
