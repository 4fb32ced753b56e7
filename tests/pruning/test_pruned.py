"""Folders of pruned models load exactly and are never half written."""

from functools import partial

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from zoo import zoo_model

import llmbrain as lb
from llmbrain.exceptions import (
    ModelNotFoundError,
    ParameterError,
)
from llmbrain.models.surgery import (
    prunable_mlps,
)
from llmbrain.pruning.pruned import load_pruned

quick = partial(lb.prune, recipe="fast", measure=False, progress=False)
TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]
EXACT = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gpt2")
SENTENCES = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(16)]


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


@pytest.fixture(scope="module")
def pruned_models(tokenizer):
    return {n: quick(tiny_model(n), tokenizer, TEXTS, 0.3, allocation="power", options={"context": 48}) for n in EXACT}


@pytest.fixture(scope="module")
def files(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    model.save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    (folder / "text.txt").write_text("\n".join(SENTENCES))
    (folder / "test.txt").write_text("\n".join(SENTENCES[:4]))
    return folder


@pytest.mark.parametrize("name", EXACT)
def test_hetero_folders_load_exactly(name, pruned_models, ids, tmp_path):
    import transformers

    pruned = pruned_models[name]
    pruned.save_pretrained(tmp_path / "m")
    want = logits(pruned.model, ids)
    ours, tokenizer = lb.load_model(tmp_path / "m")
    assert torch.equal(logits(ours, ids), want)
    assert tokenizer("the cat")["input_ids"] == tiny_tokenizer()("the cat")["input_ids"]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", trust_remote_code=True).eval()
    assert torch.equal(logits(theirs, ids), want)
    config = theirs.config.to_dict()
    assert len(config["per_layer_config"]) == 4
    kwargs = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 258}
    assert torch.equal(theirs.generate(ids, **kwargs), pruned.model.generate(ids, **kwargs))
    back = load_pruned(tmp_path / "m")
    assert all(np.array_equal(a, b) for a, b in zip(back.kept, pruned.kept))
    assert all(np.array_equal(a, b) for a, b in zip(back.scores, pruned.scores))
    assert back.geometry == pruned.geometry
    back.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(lb.load_model(tmp_path / "again")[0], ids), want)


@pytest.mark.parametrize(
    ("name", "config"),
    [("phi3", {}), ("gpt_neox", {"tie_word_embeddings": False}), ("opt", {"word_embed_proj_dim": 16}), ("mpt", {})],
)
def test_unusual_models_load_exactly(name, config, tokenizer, ids, tmp_path):
    """Attention that cannot be cut has a new bias, a class renames weights, a head is narrow, a config is strict."""
    import transformers

    model = zoo_model(name) if name == "mpt" else tiny_model(name, **config)
    options = {"context": 48, "refit_attention": True}
    pruned = quick(model, tokenizer, TEXTS, 0.3, allocation="curves", options=options)
    pruned.save_pretrained(tmp_path / "m")
    want = logits(pruned.model, ids)
    assert torch.equal(logits(lb.load_model(tmp_path / "m")[0], ids), want)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", trust_remote_code=True).eval()
    assert torch.equal(logits(theirs, ids), want)


def test_stock_loading_without_remote_code_fails_loudly(pruned_models, tmp_path):
    import transformers

    pruned_models["llama"].save_pretrained(tmp_path / "m")
    with pytest.raises((RuntimeError, ValueError)):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("format", ["padded", "uniform"])
def test_stock_folders_load_exactly(name, format, tokenizer, ids, tmp_path):
    import transformers

    allocation = "uniform" if format == "uniform" else "schur"
    pruned = quick(tiny_model(name), tokenizer, TEXTS, 0.3, allocation=allocation, compensation="ridge",
                      options={"context": 48})  # fmt: skip
    pruned.save_pretrained(tmp_path / "m", format=format)
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    assert type(stock) is type(tiny_model(name))
    torch.testing.assert_close(logits(stock, ids), logits(pruned.model, ids), rtol=0, atol=1e-6)
    assert torch.equal(logits(lb.load_model(tmp_path / "m")[0], ids), logits(stock, ids))


def test_biases_go_where_the_stock_config_has_room(pruned_models, ids, tmp_path):
    import transformers

    for name in ("llama", "gpt2"):
        pruned = pruned_models[name]
        assert prunable_mlps(pruned.model)[0].writer.bias is not None
        pruned.save_pretrained(tmp_path / name, format="padded")
        stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        # zeros add nothing, but a wider sum may be added up in another order
        torch.testing.assert_close(logits(stock, ids), logits(pruned.model, ids), rtol=0, atol=1e-6)
    with pytest.raises(ParameterError, match="ridge"):
        pruned_models["qwen3"].save_pretrained(tmp_path / "q", format="padded")
    assert not (tmp_path / "q").exists()
    with pytest.raises(ParameterError, match="padded"):
        pruned_models["llama"].save_pretrained(tmp_path / "q", format="uniform")
    with pytest.raises(ParameterError, match="hetero"):
        pruned_models["llama"].save_pretrained(tmp_path / "q", format="zip")


def test_interrupted_saving_leaves_the_old_folder(pruned_models, ids, tmp_path, monkeypatch):
    pruned = pruned_models["llama"]
    pruned.save_pretrained(tmp_path / "m")
    import llmbrain.pruning.pruned as checkpoint

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "model_card", stop)
    with pytest.raises(KeyboardInterrupt):
        pruned_models["gpt2"].save_pretrained(tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert torch.equal(logits(lb.load_model(tmp_path / "m")[0], ids), logits(pruned.model, ids))


def test_saving_leaves_the_model_as_it_is(pruned_models, ids, tmp_path):
    pruned = pruned_models["qwen2"]
    before, config = logits(pruned.model, ids), pruned.model.config.to_dict()
    pruned.save_pretrained(tmp_path / "m")
    assert torch.equal(logits(pruned.model, ids), before)
    assert pruned.model.config.to_dict() == config


@pytest.mark.parametrize("change", [lambda kept: kept[:-1], lambda kept: np.r_[kept[:-1], kept[-1] ^ 1], None])
def test_other_kept_neurons_are_refused(pruned_models, tmp_path, change):
    from safetensors.numpy import load_file, save_file

    pruned_models["llama"].save_pretrained(tmp_path / "m")
    arrays = load_file(path := tmp_path / "m" / "llmbrain_subnetwork.safetensors")
    kept = arrays.pop("layers.1.kept")
    save_file(arrays if change is None else {**arrays, "layers.1.kept": change(kept)}, path)
    with pytest.raises(ModelNotFoundError, match="subnetwork.safetensors has changed since it was written"):
        load_pruned(tmp_path / "m")


@pytest.mark.parametrize("content", [b"", b"null", b"noise" * 99])
def test_damaged_kept_neurons_are_named_with_what_to_do(pruned_models, tmp_path, content):
    pruned_models["llama"].save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "llmbrain_subnetwork.safetensors").write_bytes(content)
    with pytest.raises(ModelNotFoundError, match="subnetwork.safetensors cannot be read .*Prune the model again"):
        load_pruned(tmp_path / "m")


def test_a_folder_without_a_pruned_model_is_refused(tmp_path):
    with pytest.raises(ModelNotFoundError, match="llmbrain_pruning"):
        load_pruned(tmp_path)


def test_a_pruned_model_is_not_saved_into_its_dense_folder(files, tokenizer):
    dense, _ = lb.load_model(files / "tiny")
    pruned = quick(dense, tokenizer, SENTENCES, 0.5, options={"context": 32})
    with pytest.raises(ParameterError, match="overlaps the input"):
        pruned.save_pretrained(files / "tiny")
