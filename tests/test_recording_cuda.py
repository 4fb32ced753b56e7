"""Recording on a CUDA device gives what recording on the CPU gives."""

import numpy as np
import pytest
import torch
from tiny import N_LAYERS, tiny_model, tiny_tokenizer

from llmbrain.exceptions import RecordingError
from llmbrain.recording import Moments, Sketch, accumulate, record

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

TEXTS = [
    "The other hero entered the house.",
    "It is a note.",
    "On the third morning the old heron stood in the river and ate one more of the restless fish, as ever.",
    "def add(a, b):\n\treturn a + b\n",
]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def quiet(model, tokenizer, corpus, out=None, **options):
    return record(model, tokenizer, corpus, out, progress=False, **options)


@pytest.mark.parametrize("storage", ["float32", "int16"])
def test_a_gpu_records_what_the_cpu_does(storage, tokenizer, tmp_path):
    options = {"storage": storage, "tokens_per_run": 150, "batch_size": 2, "site": ["mlp", "layer"]}
    expected = quiet(tiny_model("llama"), tokenizer, TEXTS * 3, tmp_path / "cpu", **options)
    got = quiet(tiny_model("llama").cuda(), tokenizer, TEXTS * 3, tmp_path / "gpu", **options)
    for site in options["site"]:
        for a, b in zip(expected[site], got[site]):
            np.testing.assert_allclose(b.to_array(), a.to_array(), atol=2e-3 if storage == "int16" else 1e-4)
            np.testing.assert_allclose(b.events["surprisal"], a.events["surprisal"], atol=1e-3)


def test_a_gpu_names_what_is_not_finite(tokenizer, tmp_path):
    model = tiny_model("llama").cuda()

    def break_one(module, args, output):
        output = output.clone()
        output[1, 20, 5] = float("nan")
        return output

    model.model.layers[2].mlp.act_fn.register_forward_hook(break_one)
    with pytest.raises(RecordingError, match="Layer 2 .* unit 5, is nan at token 20 .*'text-0004'"):
        quiet(model, tokenizer, TEXTS, tmp_path / "study")
    assert not list((tmp_path / "study").rglob("*bold*"))


def test_half_of_the_layers_on_a_gpu(tokenizer, tmp_path):
    """A model spread over devices takes the way through main memory."""
    accelerate = pytest.importorskip("accelerate")
    expected = quiet(tiny_model("llama"), tokenizer, TEXTS, tmp_path / "plain")[0].to_array()
    places = {"model.embed_tokens": "cpu", "model.norm": 0, "model.rotary_emb": 0, "lm_head": 0}
    places |= {f"model.layers.{i}": 0 if i > 1 else "cpu" for i in range(N_LAYERS)}
    model = accelerate.dispatch_model(tiny_model("llama"), places, main_device=0)
    runs = quiet(model, tokenizer, TEXTS, tmp_path / "spread")
    np.testing.assert_allclose(runs[0].to_array(), expected, atol=1e-4)


def test_accumulators_on_a_gpu(tokenizer):
    on_cpu, on_gpu = (
        accumulate(model, tokenizer, TEXTS * 3, [Moments(), Sketch(32)], progress=False)
        for model in (tiny_model("llama"), tiny_model("llama").cuda())
    )
    np.testing.assert_allclose(on_gpu[0].mean, on_cpu[0].mean, atol=1e-4)
    a, b = on_cpu[1].to_array().astype(float), on_gpu[1].to_array().astype(float)
    np.testing.assert_allclose(b.T @ b, a.T @ a, atol=1e-3 * np.abs(a.T @ a).max())
