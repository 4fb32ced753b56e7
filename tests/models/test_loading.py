"""Opening models: from every kind of source, with errors that say what was tried."""

import shutil

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from llmbrain.exceptions import ModelNotFoundError, ParameterError
from llmbrain.models import describe_model, load_model

NOT_THERE = ["./no-model", "/no/such/place", "nobody/nothing-of-this-name", "no.gguf", "a b", "x" * 300]


@pytest.mark.parametrize("name", NOT_THERE)
def test_what_is_not_there_is_said(name):
    with pytest.raises(ModelNotFoundError, match=name.replace(".", r"\.")):
        load_model(name)


@pytest.mark.parametrize("name", [None, 5, b"demo", ["demo"]])
def test_what_can_be_no_model_is_said(name):
    with pytest.raises(ParameterError, match=f"The model is {type(name).__name__}; it must be a name, a path or"):
        load_model(name)


def test_a_folder_without_a_model_is_said(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        load_model(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match=r"adapter of PEFT.*merge_and_unload\(\)"):
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


@pytest.mark.parametrize("device", ["gpu", "cpu:x", 3.5, "cuda:99", "meta"])
def test_wrong_devices_are_refused_before_the_model_is_read(device):
    with pytest.raises(ParameterError, match="device"):
        load_model("/no/such/place", device=device)
