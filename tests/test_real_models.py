"""The whole path on other real models than the demo, when their files are in the folder LLMBRAIN_TEST_MODELS."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import llmbrain as lb

MODELS = ("gemma-3-270m.gguf", "qwen2.5-coder-0.5b.gguf")
LARGEST_LOSS = 5.0  # nats per token of a working model on the demo corpus in short windows; by chance it is 12


@pytest.fixture(scope="module", params=MODELS)
def real(request):
    path = Path(os.environ.get("LLMBRAIN_TEST_MODELS", "")) / request.param
    if not path.is_file():
        pytest.skip(f"{request.param} (in the folder LLMBRAIN_TEST_MODELS) is not there")
    return lb.load_model(path, device="cpu")


@pytest.mark.slow
def test_every_station_works(real, tmp_path):
    model, tokenizer = real
    text, held_out = lb.load_corpus("demo"), lb.load_corpus("demo", split="heldout")
    runs = lb.record(model, tokenizer, text, out=tmp_path / "study", max_tokens=600, context=200, progress=False)
    networks = lb.CanICA(4, random_state=0, n_init=2).fit(runs).networks_
    masks = networks.masks(threshold=3.0)
    task = lb.lesions.LossTask(held_out, max_tokens=120, passage=64)
    study = lb.LesionStudy(masks[0], [task], n_controls=2, controls=("layer",), random_state=0)
    table = study.run(model, tokenizer, progress=False).table
    assert 0 < table.intact.iloc[0] < LARGEST_LOSS and np.isfinite(table.effect).all()

    dense = lb.perplexity(model, tokenizer, held_out, max_tokens=300)
    everything = lb.NeuronMask(np.ones(masks[0].geometry.n_neurons, bool), masks[0].geometry, name="everything")
    with lb.lesion(model, everything):
        assert lb.perplexity(model, tokenizer, held_out, max_tokens=300) > 20 * dense
    assert lb.perplexity(model, tokenizer, held_out, max_tokens=300) == dense

    options = {"max_tokens": 600, "context": 200}
    pruned = lb.prune(model, tokenizer, text, 0.1, recipe="wanda", options=options, measure=False, progress=False)
    assert 0.8 * dense < lb.perplexity(pruned.model, tokenizer, held_out, max_tokens=300) < 3 * dense
    pruned.save_pretrained(tmp_path / "smaller")
    again, _ = lb.load_model(tmp_path / "smaller", device="cpu")
    ids = tokenizer("The cat sat on the mat", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, pruned.model(ids).logits)
