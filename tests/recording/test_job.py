"""What is checked and decided before the first forward pass."""

import contextlib

import numpy as np
import pytest
from recorded import TEXTS, files_of, quiet
from tiny import HEADS, HIDDEN, N_LAYERS, tiny_model, tiny_tokenizer

from llmbrain.dataset import open_recording
from llmbrain.exceptions import (
    CorpusError,
    DatasetError,
    ParameterError,
    UnsupportedArchitectureError,
)
from llmbrain.recording.sources import Material
from llmbrain.text import TokenizedDocument


def test_fewer_tokens_and_layers(llama, tokenizer, tmp_path):
    full = quiet(llama, tokenizer, TEXTS, tmp_path / "full")[0].to_array()
    few = quiet(llama, tokenizer, TEXTS, tmp_path / "few", max_tokens=33)
    assert few.n_tokens == 33
    np.testing.assert_allclose(few[0].to_array(), full[:33], atol=1e-5)
    third = quiet(llama, tokenizer, TEXTS, tmp_path / "third", every=3, layers=[1, 3])
    assert third.geometry.layers == (1, 3) and set(third.events["position"] % 3) == {1}
    rows = (open_recording(tmp_path / "full").events["position"] - 1) % 3 == 0
    expected = np.concatenate([full[:, 48:96], full[:, 144:]], 1)[rows]
    np.testing.assert_allclose(third[0].to_array(), expected, atol=1e-5)


def test_head_labels_of_the_attention_site(tokenizer, tmp_path):
    runs = quiet(tiny_model("gpt2"), tokenizer, TEXTS[:1], tmp_path / "study", site="attention")
    assert runs.geometry.n_heads == (HEADS,) * N_LAYERS
    labels = runs.geometry.to_array(runs.study.path("heads_dseg", site="attention"))
    np.testing.assert_array_equal(labels, np.repeat(np.arange(1, 17), HIDDEN // HEADS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"site": []}, "pass one site"),
        ({"site": 5}, "Unknown site 5"),
        ({"special_tokens": "no"}, "special_tokens='no'"),
        ({"subject": ""}, "subject='': a label needs letters"),
        ({"session": "ä"}, "session='ä': a label needs letters"),
        ({"site": ["mlp", "mlp"]}, "a list of different sites"),
        ({"layers": [7]}, "layers 0 to 3"),
        ({"layers": []}, "layers 0 to 3"),
        ({"context": 4096}, "at most 128 tokens"),
        ({"context": 1}, "context=1"),
        ({"warmup": 128}, "warmup=128"),
        ({"warmup": -1}, "warmup=-1"),
        ({"tokens_per_run": 40000}, "at most 32767 volumes"),
        ({"tokens_per_run": 0}, "tokens_per_run=0"),
        ({"max_tokens": 1}, "max_tokens=1"),
        ({"every": 0}, "every=0"),
        ({"every": True}, "every=True"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"storage": "float16"}, "'int16'"),
        ({"run_index": 5}, "runs 1 to 1"),
        ({"run_index": []}, "runs 1 to 1"),
    ],
)
def test_bad_numbers_are_refused_before_anything_is_written(options, message, llama, tokenizer, tmp_path):
    with pytest.raises(ParameterError, match=message):
        quiet(llama, tokenizer, TEXTS, tmp_path / "study", **options)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "demo"}, "model is str; .*load_model"),
        ({"model": "base"}, r"LlamaModel does not predict the next token \(embed_tokens"),
        ({"model": "bert"}, "BertForMaskedLM does not predict"),
        ({"model": "few"}, "contain token 2[0-9]+, but the model has 260 tokens"),
        ({"tokenizer": None}, "tokenizer is NoneType"),
        ({"tokenizer": "model"}, "tokenizer is LlamaForCausalLM"),
        ({"site": None}, "Unknown site None"),
        ({"sites": 5}, "sites=5: give a regular"),
        ({"sites": [1, 2]}, "give a regular"),
        ({"run_index": "1"}, "runs 1 to 1"),
        ({"run_index": 1.0}, "runs 1 to 1"),
        ({"storage": "nothing"}, "'int16'"),
        ({"storage": np.float64}, "'int16'"),
    ],
)
def test_wrong_things_are_named(change, message, llama, tokenizer, tmp_path):
    import transformers

    use = {"model": llama, "tokenizer": tokenizer, **change}
    if use["model"] in ("base", "bert", "few"):
        sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
        use["model"] = {
            "base": lambda: llama.model,
            "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**sizes, num_hidden_layers=2)),
            "few": lambda: tiny_model("llama", vocab_size=260),
        }[use["model"]]()
    if use["tokenizer"] == "model":
        use["tokenizer"] = llama
    model, tokenizer = use.pop("model"), use.pop("tokenizer")
    with pytest.raises((ParameterError, UnsupportedArchitectureError), match=message):
        quiet(model, tokenizer, TEXTS, tmp_path / "study", **use)
    assert not (tmp_path / "study").exists()


def test_short_documents_are_refused(llama, tokenizer, tmp_path):
    with pytest.raises(CorpusError, match="at least 2"):
        quiet(llama, tokenizer, ["A good text.", "x"], tmp_path / "study")
    special = TokenizedDocument(np.array([256, 257]), ["", ""], np.ones(2, bool), "special")
    with pytest.raises(CorpusError, match="No token"):
        quiet(llama, tokenizer, Material([special], {"name": "x", "hash": "y"}), tmp_path / "study")


def other_tokens():
    """A tokenizer that cuts the same text into other tokens."""
    from tokenizers import models

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.model = models.BPE(vocab=tokenizer.get_vocab(), merges=[])
    return tokenizer


def test_another_study_in_the_folder_is_refused_untouched(llama, tokenizer, tmp_path):
    quiet(llama, tokenizer, TEXTS, tmp_path / "study")
    before = files_of(tmp_path / "study")
    other = tiny_model("llama", seed=1)
    for model, corpus, options, message in [
        (other, TEXTS, {}, "another model"),
        (llama, TEXTS[:2], {}, "another corpus"),
        (llama, TEXTS, {"tokens_per_run": 50}, "tokens_per_run=4096 there, 50 now"),
        (llama, TEXTS, {"layers": [1, 2]}, r"of the layers \[0, 1, 2, 3\] .* has the layers \[1, 2\]"),
        (llama, TEXTS, {"sites": r".*\.o_proj"}, "Use the same layers and modules"),
        (llama, TEXTS, {"storage": "int16"}, "storage='float32' there, 'int16' now"),
        (llama, TEXTS, {"tokenizer": tiny_tokenizer(add_bos=False, pad_token=None)}, None),  # the same tokens
        (llama, TEXTS, {"tokenizer": other_tokens()}, "tokens_hash"),
    ]:
        use = options.pop("tokenizer", tokenizer)
        with pytest.raises(DatasetError, match=message) if message else contextlib.nullcontext():
            quiet(model, use, corpus, tmp_path / "study", **options)
        assert files_of(tmp_path / "study") == before
