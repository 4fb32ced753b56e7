"""Checkpoints in folders: complete, damaged, pruned, or with code."""

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from llmbrain.exceptions import ModelNotFoundError
from llmbrain.models import load_model


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change_weights(folder, change):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


KEY = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(KEY), f"it lacks {KEY}"),
        (lambda w: w.update(extra=torch.zeros(3)), "it has unknown weights: extra"),
        (lambda w: w.update({KEY: w[KEY][:, :5].contiguous()}), f"requires other shapes of {KEY}"),
        (lambda w: w.update({KEY: w[KEY].to(torch.int8)}), f"whole numbers or booleans as weights.*{KEY}"),
        (lambda w: w.update({KEY: w[KEY] > 0}), f"whole numbers or booleans as weights.*{KEY}"),
    ],
)
def test_a_checkpoint_must_hold_exactly_the_weights_of_the_model(folder, change, message):
    """Transformers would complete it with random weights."""
    change_weights(folder, change)
    with pytest.raises(ModelNotFoundError, match=message):
        load_model(folder)


def test_tied_weights_may_be_left_out(tmp_path):
    model = tiny_model("gpt2")
    model.save_pretrained(tmp_path)
    again, _ = load_model(tmp_path, tokenizer=tiny_tokenizer())
    assert again.lm_head.weight is again.transformer.wte.weight
    assert torch.equal(again(torch.tensor([[1, 2]])).logits, model(torch.tensor([[1, 2]])).logits)


def test_a_pruned_folder_must_be_complete_too(folder, tmp_path):
    import llmbrain as lb

    model, tokenizer = load_model(folder)
    small = lb.prune(model, tokenizer, calibration=["some words " * 50], ratio=0.2, recipe="fast", measure=False,
                     progress=False, options={"context": 32})  # fmt: skip
    small.save_pretrained(tmp_path / "small")
    again, _ = load_model(tmp_path / "small", tokenizer=tokenizer)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(again(ids).logits, small.model(ids).logits)
    change_weights(tmp_path / "small", lambda w: w.pop(KEY))
    with pytest.raises(ModelNotFoundError, match=f"lacks {KEY}"):
        load_model(tmp_path / "small")


def test_a_missing_file_of_a_checkpoint_is_named(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    files = sorted(tmp_path.glob("model-*.safetensors"))
    files[2].unlink()
    with pytest.raises(ModelNotFoundError, match=f"incomplete: of .* it lacks {files[2].name}"):
        load_model(tmp_path)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": {"a": 5}}', '{"weight_map": {"a": null}}'])
def test_a_damaged_index_of_a_checkpoint_is_one_sentence(tmp_path, index):
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelNotFoundError, match="No model was found under"):
        load_model(tmp_path)


def test_a_pickle_that_holds_more_than_tensors_is_refused(folder):
    class Evil:
        def __reduce__(self):
            return open, (str(folder / "ran"), "w")

    (folder / "model.safetensors").unlink()
    torch.save({**tiny_model("llama").state_dict(), "x": Evil()}, folder / "pytorch_model.bin")
    # before torch 2.6 transformers reads no pickles at all
    refused = "pickle that holds more than tensors.*as safetensors|upgrade torch to at least v2.6"
    with pytest.raises(ModelNotFoundError, match=refused):
        load_model(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("content", [b"garbage", b"\x00" * 100, None])
def test_damaged_weights_are_one_sentence(folder, content):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000] if content is None else content)
    with pytest.raises(ModelNotFoundError, match="No model was found under"):
        load_model(folder)


@pytest.mark.parametrize("content", ["", "[]", "null", "{"])
def test_a_damaged_description_of_a_pruned_folder_is_one_sentence(content, folder):
    (folder / "llmbrain_pruning.json").write_text(content)
    with pytest.raises(ModelNotFoundError, match="llmbrain_pruning.json"):
        load_model(folder)


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_code_in_a_folder_does_not_run(folder, monkeypatch, pruned, known):
    """Neither for the config, the tokenizer nor the model, with or without the marker of a pruned folder."""
    import json

    ran = folder / "ran"
    code = f"open({str(ran)!r}, 'w').close()\nfrom transformers import LlamaConfig as C, LlamaForCausalLM as M\n"
    (folder / "evil.py").write_text(code + "class E(C):\n    pass\nclass F(M):\n    pass\nclass G:\n    pass\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.E", "AutoModelForCausalLM": "evil.F", "AutoTokenizer": ["evil.G", None]}
    config["model_type"] = "llama" if known else "evil"
    (folder / "config.json").write_text(json.dumps(config))
    described = json.loads((folder / "tokenizer_config.json").read_text())
    described["auto_map"] = {"AutoTokenizer": ["evil.G", "evil.G"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    if pruned:
        (folder / "llmbrain_pruning.json").write_text("{}")
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("asked whether to run the code"))
    if known:
        load_model(folder)
        load_model(tiny_model("llama"), tokenizer=folder)
    else:
        with pytest.raises(ModelNotFoundError):
            load_model(folder)
    assert not ran.exists()
