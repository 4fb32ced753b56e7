"""Captured activations and surprisals: those of each text alone, on every architecture, type and device."""

import numpy as np
import pytest
import torch
from recorded import TEXTS, alone, quiet
from tiny import ARCHITECTURES, N_LAYERS, tiny_model, tiny_tokenizer

from llmbrain.exceptions import (
    NumericalError,
    RecordingError,
)
from llmbrain.models import describe_model
from llmbrain.recording.capture import surprisal
from llmbrain.text import encode


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("pad", ["<pad>", None, "</s>"])
def test_a_batch_of_unequal_texts_equals_one_by_one(name, pad, tmp_path):
    model, tokenizer = tiny_model(name), tiny_tokenizer(pad_token=pad)
    runs = quiet(model, tokenizer, TEXTS, tmp_path / "study")
    rows, nats = [], []
    for document in encode(TEXTS, tokenizer):
        values, surprise = alone(model, document.ids)
        rows.append(values[~document.is_special])
        nats.append(surprise[~document.is_special])
    np.testing.assert_allclose(runs[0].to_array(), np.concatenate(rows), atol=1e-5)
    np.testing.assert_allclose(runs.events["surprisal"], np.concatenate(nats), atol=1e-4)


def test_pad_token_id_zero(llama, tmp_path):
    """0 is a token id like any other; an `if pad_token_id` would take it for none."""
    tokenizer = tiny_tokenizer(pad_token="!")
    assert tokenizer.pad_token_id == 0
    runs = quiet(llama, tokenizer, ["It is so", "a long and restless note on the heron"], tmp_path / "study")
    values, _ = alone(llama, encode(["It is so"], tokenizer)[0].ids)
    np.testing.assert_allclose(runs[0].to_array()[: len(values) - 1], values[1:], atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_and_several_sites_in_one_pass(name, tokenizer, tmp_path):
    model = tiny_model(name)
    calls = []
    handle = model.register_forward_pre_hook(lambda module, args: calls.append(1))
    recordings = quiet(model, tokenizer, TEXTS, tmp_path / "study", site=["mlp", "attention", "mlp_output", "layer"])
    handle.remove()
    assert len(calls) == 1 and list(recordings) == ["mlp", "attention", "mlp_output", "layer"]
    document = encode(TEXTS, tokenizer)[2]
    at = recordings["mlp"].events["document"] == document.id
    for site, runs in recordings.items():
        assert runs.site == site
        values, _ = alone(model, document.ids, site)
        np.testing.assert_allclose(runs[0].to_array()[at], values[~document.is_special], atol=1e-5, rtol=1e-4)


def test_recording_changes_no_output(llama, tokenizer, tmp_path):
    ids = torch.arange(40)[None]
    before = llama(ids).logits
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llama.modules())
    llama.train()
    quiet(llama, tokenizer, TEXTS, tmp_path / "study")
    assert llama.training
    llama.eval()
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llama.modules())
    torch.testing.assert_close(llama(ids).logits, before, rtol=0, atol=0)


def test_dropout_is_off_while_recording(tokenizer, tmp_path):
    model = tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    model.train()
    runs = quiet(model, tokenizer, TEXTS, tmp_path / "study")
    values, _ = alone(model.eval(), encode(TEXTS, tokenizer)[0].ids)
    np.testing.assert_allclose(runs[0].to_array()[: len(values) - 1], values[1:], atol=1e-5)


def test_surprisal_in_chunks_is_cross_entropy():
    torch.manual_seed(0)
    logits, ids = torch.randn(2, 100, 50), torch.randint(50, (2, 100))
    places = [np.array([0, 1, 40, 99]), np.arange(3, 90)]
    got = surprisal(logits, ids, places).numpy()
    whole = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 50), ids[:, 1:].reshape(-1), reduction="none")
    whole = np.concatenate([np.full((2, 1), np.nan), whole.reshape(2, 99).numpy()], 1)
    np.testing.assert_allclose(got, np.concatenate([whole[0, places[0]], whole[1, places[1]]]), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_to_the_bit(dtype, tokenizer, tmp_path):
    model = tiny_model("llama").to(dtype)
    runs = quiet(model, tokenizer, TEXTS[:1], tmp_path / "study")
    document = encode(TEXTS[:1], tokenizer)[0]
    values, _ = alone(model, document.ids)
    np.testing.assert_array_equal(runs[0].to_array(), values[1:])
    assert runs[0].sidecar["ModelDataType"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named_and_not_written(value, tokenizer, tmp_path):
    model = tiny_model("llama")

    def break_one(module, args, output):
        output = output.clone()
        output[1, 20, 5] = value  # the second row of the batch is the second longest text
        return output

    model.model.layers[2].mlp.act_fn.register_forward_hook(break_one)
    document = encode(TEXTS, tokenizer)[3]
    with pytest.raises(
        RecordingError, match=rf"Layer 2 \(model.layers.2.mlp.down_proj\), unit 5, is .*{value}"
    ) as error:
        quiet(model, tokenizer, TEXTS, tmp_path / "study")
    assert f"token 20 ({document.tokens[20]!r}) of document 'text-0004'" in str(error.value)
    assert not list((tmp_path / "study").rglob("*bold*"))


def test_overflow_in_float16_says_what_to_do(tokenizer, tmp_path):
    model = tiny_model("llama", scale=4.0).to(torch.float16)
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight *= 3e3
        model.model.layers[2].mlp.gate_proj.weight *= 3e3
    with pytest.raises(RecordingError, match=r"Layer 2 .*float16. Load the model with dtype='bfloat16'"):
        quiet(model, tokenizer, TEXTS, tmp_path / "study")


@pytest.mark.parametrize("broken", ["model.norm", "lm_head"])
def test_surprisals_that_are_not_finite_are_not_written(broken, tokenizer, tmp_path):
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_submodule(broken).weight.view(-1)[5] = 3e38
    with pytest.raises(NumericalError, match=rf"surprisals are not finite; .* {broken}\."):
        quiet(model, tokenizer, TEXTS, tmp_path / "study")
    assert not list((tmp_path / "study").rglob("*bold*"))


@pytest.mark.demo
def test_the_demo_model(demo_model, tmp_path):
    model, tokenizer = demo_model
    texts = ["The octopus has three hearts and blue blood.", "for i in range(3):\n    print(i)"]
    runs = quiet(model, tokenizer, texts, tmp_path / "study", site=["mlp", "attention"])
    document = encode(texts, tokenizer)[1]
    for site, n_neurons in (("mlp", 46080), ("attention", 30 * 576)):
        assert runs[site].geometry.n_neurons == n_neurons
        values, nats = alone(model, document.ids, site)
        at = runs[site].events["document"] == "text-0002"
        scale = np.abs(values).max()
        np.testing.assert_allclose(runs[site][0].to_array()[at], values[~document.is_special], atol=1e-5 * scale)
        np.testing.assert_allclose(runs[site].events["surprisal"][at], nats[~document.is_special], atol=1e-3)
    assert runs["attention"].geometry.n_heads == (9,) * 30


def test_cpu_offload_records_the_same(tokenizer, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = tiny_model("llama")
    expected = quiet(model, tokenizer, TEXTS, tmp_path / "plain")[0].to_array()
    accelerate.cpu_offload(model, execution_device="cpu")
    runs = quiet(model, tokenizer, TEXTS, tmp_path / "plain")  # the same model: nothing to do
    assert describe_model(model)["weights_hash"] == runs.study.info["model"]["weights_hash"]
    runs = quiet(model, tokenizer, TEXTS, tmp_path / "offloaded")
    np.testing.assert_array_equal(runs[0].to_array(), expected)


def test_a_device_map_with_disk_records_the_same(tokenizer, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = tiny_model("llama")
    expected = quiet(model, tokenizer, TEXTS, tmp_path / "plain")[0].to_array()
    places = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    places |= {f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(N_LAYERS)}
    model = accelerate.dispatch_model(model, places, offload_dir=str(tmp_path / "weights"), main_device="cpu")
    runs = quiet(model, tokenizer, TEXTS, tmp_path / "dispatched")
    np.testing.assert_array_equal(runs[0].to_array(), expected)


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="transformers compiles with torch 2.7 or later")
def test_a_compiled_model_is_recorded_all_the_same(llama, tokenizer, tmp_path):
    runs = quiet(torch.compile(llama, backend="eager"), tokenizer, TEXTS, tmp_path / "study")
    values, _ = alone(llama, encode(TEXTS, tokenizer)[0].ids)
    np.testing.assert_allclose(runs[0].to_array()[: len(values) - 1], values[1:], atol=1e-5)


def test_a_site_that_is_not_reached_is_named(tokenizer, tmp_path):
    model = tiny_model("llama")
    model.spare = torch.nn.ModuleList([torch.nn.Linear(4, 4)])
    with pytest.raises(RecordingError, match="spare.0 was not used"):
        quiet(model, tokenizer, TEXTS, tmp_path / "study", sites={0: "spare.0"})
