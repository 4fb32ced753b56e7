"""Recording on a CUDA device gives what recording on the CPU gives."""

import numpy as np
import pytest
import torch
from tiny import N_LAYERS, tiny_model, tiny_tokenizer

from llmbrain import NeuronGeometry, NeuronMask, lesion, perplexity
from llmbrain.exceptions import RecordingError
from llmbrain.lesions import neuron_statistics
from llmbrain.recording import record
from llmbrain.recording.cuda import CudaScanner
from llmbrain.recording.recorder import _scanner_for
from llmbrain.stats import Moments

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


@pytest.mark.parametrize("site", ["mlp_gate", "mlp_up", "attention"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_site_takes_the_quick_way_and_keeps_every_bit(site, dtype, tokenizer, tmp_path):
    """The same numbers, to the bit, as a hook that copies at once."""
    from llmbrain.recording import recorder
    from llmbrain.recording.capture import HostScanner

    model = tiny_model("llama").to(dtype).cuda()
    assert _scanner_for(model) is CudaScanner
    quick = quiet(model, tokenizer, TEXTS * 3, tmp_path / "quick", site=site, batch_size=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "_scanner_for", lambda model: HostScanner)
        plain = quiet(model, tokenizer, TEXTS * 3, tmp_path / "plain", site=site, batch_size=2)
    assert quick[0].path.read_bytes() == plain[0].path.read_bytes()


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
        if len(output) > 1:
            output[1, 20, 5] = float("nan")
        return output

    model.model.layers[2].mlp.act_fn.register_forward_hook(break_one)
    with pytest.raises(RecordingError, match="Layer 2 .* unit 5, is nan at token 20 .*'text-0004'"):
        quiet(model, tokenizer, TEXTS, tmp_path / "study")
    assert not list((tmp_path / "study").rglob("*bold*"))


def test_half_of_the_layers_on_a_gpu(tokenizer, tmp_path):
    """A model of which a part is on the CPU takes the way through main memory."""
    accelerate = pytest.importorskip("accelerate")
    expected = quiet(tiny_model("llama"), tokenizer, TEXTS, tmp_path / "plain")[0].to_array()
    places = {"model.embed_tokens": "cpu", "model.norm": 0, "model.rotary_emb": 0, "lm_head": 0}
    places |= {f"model.layers.{i}": 0 if i > 1 else "cpu" for i in range(N_LAYERS)}
    model = accelerate.dispatch_model(tiny_model("llama"), places, main_device=0)
    runs = quiet(model, tokenizer, TEXTS, tmp_path / "spread")
    np.testing.assert_allclose(runs[0].to_array(), expected, atol=1e-4)


def test_statistics_on_a_gpu(tokenizer):
    on_cpu, on_gpu = (
        neuron_statistics(model, tokenizer, TEXTS * 3, n_samples=7)
        for model in (tiny_model("llama"), tiny_model("llama").cuda())
    )
    for name in ("mean", "variance", "samples"):
        np.testing.assert_allclose(getattr(on_gpu, name), getattr(on_cpu, name), atol=1e-4)
    np.testing.assert_allclose(on_gpu.kurtosis, on_cpu.kurtosis, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("full", [True, False])
def test_moments_on_a_gpu_are_exact_and_move(full):
    g = torch.Generator().manual_seed(0)
    x = 100 + torch.randn(3000, 40, generator=g)
    torch.backends.cuda.matmul.allow_tf32 = True  # must not reach the products
    try:
        moments = Moments(40, full=full, device="cuda")
        for part in x.cuda().split(1000):
            moments.add(part)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    exact = x.double()
    torch.testing.assert_close(moments.variance.cpu(), exact.var(0, correction=0), rtol=1e-5, atol=0)
    if full:
        torch.testing.assert_close(moments.covariance.cpu(), torch.cov(exact.T, correction=0), rtol=1e-4, atol=1e-5)
    half = Moments(40, full=full)
    half.add(x[:500])
    merged = half.merge(moments.to("cpu")), moments.merge(half)  # the other comes to the device of the first
    assert [m.mean.device.type for m in merged] == ["cpu", "cuda"]
    expected = torch.cat([x[:500], x]).double().var(0, correction=0)
    for m in merged:
        torch.testing.assert_close(m.variance.cpu(), expected, rtol=1e-5, atol=0)


def spread_over_two():
    """A tiny model, half of it on each of two GPUs."""
    accelerate = pytest.importorskip("accelerate")
    places = {"model.embed_tokens": 0, "model.norm": 1, "model.rotary_emb": 0, "lm_head": 1}
    places |= {f"model.layers.{i}": 2 * i // N_LAYERS for i in range(N_LAYERS)}
    return accelerate.dispatch_model(tiny_model("llama"), places, main_device=0)


two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


@two
@pytest.mark.parametrize("storage", ["float32", "int16"])
def test_two_gpus_record_what_one_does(storage, tokenizer, tmp_path):
    options = {"storage": storage, "tokens_per_run": 150, "batch_size": 2, "site": ["mlp", "mlp_gate", "layer"]}
    expected = quiet(tiny_model("llama").cuda(), tokenizer, TEXTS * 3, tmp_path / "one", **options)
    model = spread_over_two()
    assert _scanner_for(model) is CudaScanner and {p.device.index for p in model.parameters()} == {0, 1}
    got = quiet(model, tokenizer, TEXTS * 3, tmp_path / "two", **options)
    for site in options["site"]:
        for a, b in zip(expected[site], got[site]):
            np.testing.assert_allclose(b.to_array(), a.to_array(), atol=2e-3 if storage == "int16" else 1e-5)
            np.testing.assert_allclose(b.events["surprisal"], a.events["surprisal"], atol=1e-4)


@two
def test_two_gpus_measure_and_lesion_as_one_does(tokenizer):
    values = np.zeros(N_LAYERS * 48, bool)
    values[::5] = True
    seen = []
    for model in (tiny_model("llama").cuda(), spread_over_two()):
        statistics = neuron_statistics(model, tokenizer, TEXTS * 3)
        mask = NeuronMask(values, NeuronGeometry.from_model(model))
        with lesion(model, mask):
            hurt = perplexity(model, tokenizer, TEXTS[2])
        with lesion(model, mask, how="mean", reference=statistics):
            moved = perplexity(model, tokenizer, TEXTS[2])
        intact = perplexity(model, tokenizer, TEXTS[2])
        seen.append((statistics.mean, statistics.variance, np.array([intact, hurt, moved])))
    for one, other in zip(*seen):
        np.testing.assert_allclose(other, one, atol=1e-4 * np.abs(one).max())
    assert len(set(np.round(seen[0][-1], 3))) == 3


@two
def test_two_gpus_name_what_is_not_finite(tokenizer, tmp_path):
    model = spread_over_two()
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight[5] = 3e38
    with pytest.raises(RecordingError, match="Layer 3 .* unit 5, is"):
        quiet(model, tokenizer, TEXTS, tmp_path / "study")
    with pytest.raises(RecordingError, match="Layer 3 has activations that are infinite"):
        neuron_statistics(model, tokenizer, TEXTS)
