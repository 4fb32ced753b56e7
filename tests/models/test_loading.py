"""Opening models: from every kind of source, with errors that say what was tried."""

import shutil

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from llmbrain.exceptions import ModelNotFoundError, ParameterError
from llmbrain.models import describe_model, load_model
from llmbrain.models.identity import model_label, weights_hash


@pytest.mark.parametrize("name", ["./no-model", "/no/such/place", "nobody/nothing-of-this-name", "no.gguf", "a b"])
def test_what_is_not_there_is_said(name):
    with pytest.raises(ModelNotFoundError, match=name.replace(".", r"\.")):
        load_model(name)


def test_a_folder_without_a_model_is_said(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        load_model(tmp_path)


def test_unknown_types_and_devices_are_refused():
    with pytest.raises(ParameterError, match="float33"):
        load_model("demo", dtype="float33")


def test_a_folder_gives_the_same_model(tmp_path):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError, match="no tokenizer"):
        load_model(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, read = load_model(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert read.encode("words") == tokenizer.encode("words")
    assert not any(p.requires_grad for p in again.parameters())
    half, _ = load_model(tmp_path, dtype="bfloat16")
    assert half.dtype == torch.bfloat16


def test_a_loaded_model_is_taken_as_it_is():
    model, tokenizer = tiny_model("gpt2"), tiny_tokenizer()
    assert load_model(model, tokenizer=tokenizer) == (model, tokenizer)


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


@pytest.mark.demo
def test_the_demo_model_is_an_ordinary_float_model(demo_model, tmp_path):
    model, tokenizer = demo_model
    config = model.config
    assert (config.num_hidden_layers, config.intermediate_size) == (30, 1536)
    assert (config.num_attention_heads, config.num_key_value_heads) == (9, 3)
    assert model.dtype == torch.float32
    assert describe_model(model)["id"] == "SmolLM2-135M-Instruct"
    model.save_pretrained(tmp_path)
    again, _ = load_model(tmp_path, tokenizer=tokenizer)
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    assert "Paris" in tokenizer.decode(model.generate(**inputs, max_new_tokens=4, do_sample=False)[0])
    shutil.rmtree(tmp_path)
