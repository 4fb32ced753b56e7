"""Opening models: from every kind of source, with errors that say what was tried."""

import errno
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from llmbrain.exceptions import LLMBrainWarning, ModelNotFoundError, ParameterError
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


# -- damaged checkpoints ----------------------------------------------------------------------------------------------
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


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_copy_of_a_gguf_file_is_made_again(file, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    from llmbrain.models import loading

    monkeypatch.setenv("LLMBRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "_dequantise", lambda *_: (tiny_model("llama"), tiny_tokenizer()))
    (tmp_path / "x.gguf").write_bytes(b"the weights")
    first, _ = load_model(tmp_path / "x.gguf")
    copy = loading.cached_copy(tmp_path / "x.gguf") / file
    copy.unlink()  # the first model reads its weights from this file
    copy.write_bytes(b"damaged")
    with pytest.warns(LLMBrainWarning, match="copy of x.gguf .* is damaged. It is discarded and made again"):
        again, _ = load_model(tmp_path / "x.gguf")
    assert describe_model(again)["weights_hash"] == describe_model(first)["weights_hash"]


def test_a_copy_opens_with_the_tokenizer_of_its_file_and_without_a_pass(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    from llmbrain.models import loading, tokenizer_check

    given = tiny_tokenizer()
    given.add_tokens(["<think>"])
    monkeypatch.setenv("LLMBRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "_dequantise", lambda *_: (tiny_model("llama"), given))
    (tmp_path / "x.gguf").write_bytes(b"the weights")
    _, first = load_model(tmp_path / "x.gguf")
    monkeypatch.setattr(tokenizer_check, "_loss", lambda *_: pytest.fail("the passage was read again"))
    _, again = load_model(tmp_path / "x.gguf")
    for tokenizer in (first, again):
        assert loading._fingerprint(tokenizer) == loading._fingerprint(given)
        assert repr(tokenizer.added_tokens_decoder) == repr(given.added_tokens_decoder)
        assert tokenizer("a <think> b")["input_ids"] == given("a <think> b")["input_ids"]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_gguf_file_opens_without_a_cache_that_can_be_written(damaged, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    from llmbrain.models import loading

    def denied(path, *_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setenv("LLMBRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "_dequantise", lambda *_: (tiny_model("llama"), tiny_tokenizer()))
    (tmp_path / "x.gguf").write_bytes(b"the weights")
    if damaged:
        load_model(tmp_path / "x.gguf")
        (loading.cached_copy(tmp_path / "x.gguf") / "config.json").write_text("{")
        monkeypatch.setattr(loading.shutil, "rmtree", denied)
    else:
        (tmp_path / "cache").write_text("a file")
    with pytest.warns(LLMBrainWarning, match="cache .* cannot be used .*opened without a copy"):
        model, _ = load_model(tmp_path / "x.gguf")
    assert describe_model(model)["weights_hash"] == describe_model(tiny_model("llama"))["weights_hash"]


@pytest.mark.parametrize("content", ["", "[]", "null", "{"])
def test_a_damaged_description_of_a_pruned_folder_is_one_sentence(content, folder):
    (folder / "llmbrain_pruning.json").write_text(content)
    with pytest.raises(ModelNotFoundError, match="llmbrain_pruning.json"):
        load_model(folder)


@pytest.mark.parametrize("content", [b"GGUF", b"GGUFxxxx", b"nothing at all", b""])
def test_a_damaged_gguf_file_is_one_sentence(tmp_path, content):
    pytest.importorskip("gguf")
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ModelNotFoundError, match=r"x\.gguf"):
        load_model(tmp_path / "x.gguf", cache=False)


@pytest.mark.parametrize("device", ["gpu", "cpu:x", 3.5, "cuda:99", "meta"])
def test_wrong_devices_are_refused_before_the_model_is_read(device):
    with pytest.raises(ParameterError, match="device"):
        load_model("/no/such/place", device=device)


# -- code that comes with a model ------------------------------------------------------------------------------------
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


def test_copies_are_named_by_the_bytes_of_their_file(tmp_path, monkeypatch):
    """A file that is copied or installed again keeps its copy; a file that changes does not."""
    from llmbrain.models.loading import _drop_older_copies, cached_copy

    monkeypatch.setenv("LLMBRAIN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x.gguf").write_bytes(b"weights"), (tmp_path / "b" / "x.gguf").write_bytes(b"weights")
    folder = cached_copy(tmp_path / "a" / "x.gguf")
    os.utime(tmp_path / "b" / "x.gguf", (1, 1))
    assert folder == cached_copy(tmp_path / "b" / "x.gguf")
    (tmp_path / "b" / "x.gguf").write_bytes(b"Weights")
    other = cached_copy(tmp_path / "b" / "x.gguf")
    assert other != folder
    old = folder.with_name(folder.name[:-6] + "abcdef")
    mine = folder.with_name(folder.name[:-6] + "notes")
    for made in (folder, other, old, mine):
        made.mkdir(parents=True)
    _drop_older_copies(folder)
    assert sorted(folder.parent.iterdir()) == sorted([folder, other, mine])


SECOND = """
import sys
import torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from tiny import tiny_model
from llmbrain.models.loading import _save_model
dist.init_process_group("gloo")
if dist.get_rank() == 1:
    _save_model(tiny_model("llama"), sys.argv[2])
dist.barrier()
"""


def test_any_of_several_processes_can_make_the_copy(tmp_path):
    """transformers leaves writing to the first one; without weights in the folder, load_model refuses it."""
    (tmp_path / "second.py").write_text(SECOND)
    tests = str(Path(inspect.getfile(tiny_model)).parent)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*run, str(tmp_path / "second.py"), tests, str(tmp_path / "copy")], check=True, capture_output=True)
    tiny_tokenizer().save_pretrained(tmp_path / "copy")
    model, _ = load_model(tmp_path / "copy", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny_model("llama").parameters(), strict=True))
