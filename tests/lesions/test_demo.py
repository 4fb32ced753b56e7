"""Lesions of the real demo model: exactness, and a small study."""

import copy

import numpy as np
import pytest
import torch

from llmbrain.geometry import NeuronGeometry
from llmbrain.lesions import LesionStudy, LossTask, lesion
from llmbrain.lesions.batched import Passes, condition_losses, row_mode
from llmbrain.lesions.kinds import Edit
from llmbrain.masks import NeuronMask
from llmbrain.models.sites import find_sites
from llmbrain.text import load_corpus

pytestmark = pytest.mark.demo
TEXT = "The harbour lay quiet under the first snow, and nobody"


def scattered(geometry, share, seed, layers=None):
    values = np.random.default_rng(seed).random(geometry.n_neurons) < share
    if layers is not None:
        values &= np.isin(geometry.layer_of, layers)
    return NeuronMask(values, geometry, f"scattered-{seed}")


def test_zero_lesion_equals_weights_without_the_neurons(demo_model):
    model, tokenizer = demo_model
    mask = scattered(NeuronGeometry.from_model(model), 0.02, 0)
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    cut = copy.deepcopy(model)
    for site, units in zip(find_sites(cut), mask.units):
        mlp = cut.get_submodule(site.name.rsplit(".", 1)[0])
        keep = np.setdiff1d(np.arange(site.size), units)
        for linear in (mlp.gate_proj, mlp.up_proj):
            linear.weight = torch.nn.Parameter(linear.weight[keep], requires_grad=False)
        mlp.down_proj.weight = torch.nn.Parameter(mlp.down_proj.weight[:, keep], requires_grad=False)
    with torch.no_grad():
        intact = model(ids).logits
        with lesion(model, mask):
            lesioned = model(ids).logits
            written = model.generate(ids, max_new_tokens=20, do_sample=False)
        # float32 products of 1536 and of 1505 terms are summed in another order: 1e-5 of the logits' scale
        torch.testing.assert_close(lesioned, cut(ids).logits, atol=1e-5 * float(intact.abs().max()), rtol=0)
        assert torch.equal(written, cut.generate(ids, max_new_tokens=20, do_sample=False))
        assert torch.equal(intact, model(ids).logits)
    assert (lesioned - intact).abs().max() > 0.1


def test_batched_lesions_equal_single_ones(demo_model):
    model, tokenizer = demo_model
    sites, geometry = find_sites(model), NeuronGeometry.from_model(model)
    edits = [Edit(scattered(geometry, 0.02, 1)), Edit(scattered(geometry, 0.3, 2, range(20, 30)), "scale", value=1.5)]
    task = LossTask(load_corpus("demo", split="heldout")[:3], max_tokens=40).prepare(model, tokenizer)
    assert row_mode(model, sites, edits) == "prefix"
    batched, single = (
        condition_losses(model, sites, task.sequences, edits, Passes(mode=m)) for m in ("prefix", "single")
    )
    assert np.abs(batched - single).sum(axis=1).max() / task.weights.sum() < 1e-5  # nats per token


def test_a_lesion_of_the_strongest_neurons_stands_out(demo_model):
    model, tokenizer = demo_model
    geometry = NeuronGeometry.from_model(model)
    from llmbrain.lesions import neuron_statistics

    statistics = neuron_statistics(model, tokenizer, max_tokens=300)
    strong = NeuronMask.top(statistics.importance(), 460, geometry, name="strongest")
    study = LesionStudy(
        [strong, scattered(geometry, 0.01, 3)],
        [LossTask(load_corpus("demo", split="heldout")[:4], max_tokens=60)],
        n_controls=3,
        controls=("layer",),
        reference=statistics,
    )
    table = study.run(model, tokenizer, progress=False).table.query("task == 'loss'").set_index("network")
    assert table.loc["strongest", "effect"] > table.loc["strongest", "control_max"] + 0.1
    assert table.loc["scattered-3", "effect"] < 0.3
