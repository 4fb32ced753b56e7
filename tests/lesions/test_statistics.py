"""Statistics of neurons on a reference text."""

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from llmbrain.exceptions import GeometryMismatchError, ParameterError, RecordingError
from llmbrain.geometry import NeuronGeometry
from llmbrain.lesions import LesionStudy, MinimalPairTask, lesion, neuron_statistics
from llmbrain.lesions.statistics import IMPORTANCES, _Samples, output_norms
from llmbrain.masks import NeuronMask
from llmbrain.models.sites import find_sites


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def activations(model, tokenizer, texts):
    from llmbrain.models.hooks import site_hooks
    from llmbrain.text import text_windows

    rows = []
    for part in text_windows(texts, tokenizer)[0]:
        seen = [None] * 4

        def keep(i, x, seen=seen):
            seen[i] = x.reshape(-1, x.shape[-1]).numpy().copy()

        with site_hooks(find_sites(model), keep), torch.no_grad():
            model(torch.from_numpy(part.ids)[None])
        rows.append(np.concatenate(seen, axis=1)[part.scored])
    return np.concatenate(rows).astype(np.float64)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_statistics_are_the_moments_of_the_activations(name, tokenizer):
    from scipy.stats import kurtosis

    model, texts = tiny_model(name), ["one text about something", "and a second, longer text about other things"]
    x = activations(model, tokenizer, texts)
    got = neuron_statistics(model, tokenizer, texts, n_samples=5)
    assert got.n_tokens == len(x)
    np.testing.assert_allclose(got.mean, x.mean(0), atol=1e-5)
    np.testing.assert_allclose(got.variance, x.var(0), rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(got.kurtosis, np.nan_to_num(kurtosis(x, axis=0)), rtol=1e-2, atol=1e-2)
    for sample in got.samples:
        assert np.abs(x - sample).max(axis=1).min() < 1e-4
    np.testing.assert_allclose(got.importance(), got.variance * got.output_norm**2)
    np.testing.assert_allclose(got.importance("power"), (x**2).mean(0) * got.output_norm**2, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", IMPORTANCES)
def test_importances_are_one_finite_number_per_neuron(name, tokenizer):
    got = neuron_statistics(tiny_model("llama"), tokenizer, ["a text of a few words, and some more"])
    before = got.variance.copy()
    importance = got.importance(name)
    assert importance.shape == got.variance.shape
    assert np.isfinite(importance).all()
    importance += 1  # a copy: the statistics stay as they are
    np.testing.assert_array_equal(got.variance, before)


def test_statistics_refuse_what_is_not_finite(tokenizer):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[5] = 3e38
    with pytest.raises(RecordingError, match="Layer 1 has activations that are infinite"):
        neuron_statistics(model, tokenizer, ["a text of a few words"])


def test_samples_are_drawn_evenly(tokenizer):
    """Every token has the same chance to be kept, whatever the blocks."""
    counts = np.zeros(60)
    for seed in range(400):
        samples = _Samples(6, 1, seed)
        for block in np.split(np.arange(60), [7, 31]):
            rows, places = samples.draw(len(block))
            samples.values[places, 0] = block[rows]
        kept = samples.result()[:, 0].astype(int)
        assert len(set(kept)) == 6
        counts[kept] += 1
    assert counts.min() > 15 and counts.max() < 70  # 40 expected, standard deviation 6


def test_output_norms_are_those_of_the_weights_that_write():
    llama, gpt2 = tiny_model("llama"), tiny_model("gpt2")
    for model, weight in (
        (llama, llama.model.layers[1].mlp.down_proj.weight),
        (gpt2, gpt2.transformer.h[1].mlp.c_proj.weight.T),
    ):
        norms = output_norms(find_sites(model))
        np.testing.assert_allclose(norms[48:96], weight.detach().norm(dim=0).numpy(), rtol=1e-5)
    assert (output_norms(find_sites(llama, "mlp_output")) == 1).all()


def test_statistics_of_a_recording_equal_those_of_the_text(tokenizer, tmp_path):
    import llmbrain as lb

    model, texts = tiny_model("llama"), ["one text about something", "and a second, longer text about other things"]
    recording = lb.record(model, tokenizer, texts, out=tmp_path / "study", progress=False)
    direct = neuron_statistics(model, tokenizer, texts, max_tokens=None)
    read = neuron_statistics(model, text=recording, max_tokens=None)
    assert read.n_tokens == direct.n_tokens
    np.testing.assert_allclose(read.mean, direct.mean, atol=1e-5)
    np.testing.assert_allclose(read.variance, direct.variance, rtol=1e-3, atol=1e-7)
    assert read.info["corpus_hash"] == direct.info["corpus_hash"]


def test_unknown_importances_and_foreign_statistics_are_refused(tokenizer):
    model = tiny_model("llama")
    got = neuron_statistics(model, tokenizer, ["some text here"])
    with pytest.raises(ParameterError, match="fluctuation"):
        got.importance("size")
    other = tiny_model("llama", intermediate_size=40)
    mask = NeuronMask(np.ones(160, bool), NeuronGeometry.from_model(other))
    with pytest.raises(GeometryMismatchError):
        lesion(other, mask, "mean", reference=got)
    with pytest.raises(ParameterError, match="n_samples"):
        lesion(model, NeuronMask(np.ones(192, bool), got.geometry), "resample", reference=got)


def test_no_more_is_read_at_once_than_the_model_reads(tokenizer):
    """Statistics, and pairs in a study, of a model that reads 128 tokens."""
    model, long = tiny_model("gpt2"), "the cat sat on the mat and then " * 20
    neuron_statistics(model, tokenizer, [long])
    with pytest.raises(ParameterError, match="at most 128 tokens"):
        neuron_statistics(model, tokenizer, [long], context=512)
    geometry = NeuronGeometry.from_model(model)
    mask = NeuronMask(np.arange(geometry.n_neurons) < 5, geometry)
    pairs = MinimalPairTask([(long, long + "a")])
    study = LesionStudy([mask], [pairs], controls=("layer",), n_controls=1)
    with pytest.raises(ParameterError, match="reads at most 128"):
        study.run(model, tokenizer, progress=False)


def test_a_lesioned_model_is_not_studied_as_the_intact_one(tokenizer):
    model = tiny_model("llama")
    geometry = NeuronGeometry.from_model(model)
    mask = NeuronMask(np.arange(geometry.n_neurons) < 5, geometry)
    with lesion(model, mask):
        model(torch.arange(5)[None])
        with pytest.raises(ParameterError, match="A lesion is active"):
            LesionStudy([mask], ["the cat sat"], controls=("layer",), n_controls=1).run(model, tokenizer)
