"""Recording on a CUDA device gives what recording on the CPU gives."""

import numpy as np
import pytest
import torch
from tiny import N_LAYERS, tiny_model, tiny_tokenizer

from llmbrain import NeuronGeometry, NeuronMask, lesion, perplexity
from llmbrain.exceptions import RecordingError
from llmbrain.recording import Gram, Moments, Sketch, accumulate, record
from llmbrain.recording.cuda import CudaScanner
from llmbrain.recording.recorder import _scanner_for

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


def test_accumulators_on_a_gpu(tokenizer):
    on_cpu, on_gpu = (
        accumulate(model, tokenizer, TEXTS * 3, [Moments(), Sketch(32)], progress=False)
        for model in (tiny_model("llama"), tiny_model("llama").cuda())
    )
    np.testing.assert_allclose(on_gpu[0].mean, on_cpu[0].mean, atol=1e-4)
    a, b = on_cpu[1].to_array().astype(float), on_gpu[1].to_array().astype(float)
    np.testing.assert_allclose(b.T @ b, a.T @ a, atol=1e-3 * np.abs(a.T @ a).max())


def test_half_precision_loses_nothing_in_a_gram_matrix(tokenizer):
    """On a GPU the products are formed from half precision numbers, but added up in float32."""
    model = tiny_model("llama").to(torch.bfloat16).cuda()
    rows = []

    class Keep:
        def begin(self, geometry, n_tokens):
            pass

        def update(self, layer, part, first):
            if layer == 1:
                rows.append(part.double().cpu().numpy())

    gram, _ = accumulate(model, tokenizer, TEXTS * 6, [Gram(), Keep()], progress=False)
    rows = np.concatenate(rows)
    np.testing.assert_allclose(gram.matrix(1), rows.T @ rows, atol=1e-5 * np.abs(rows.T @ rows).max())


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
def test_two_gpus_accumulate_and_lesion_as_one_does(tokenizer):
    values = np.zeros(N_LAYERS * 48, bool)
    values[::5] = True
    seen = []
    for model in (tiny_model("llama").cuda(), spread_over_two()):
        moments = accumulate(model, tokenizer, TEXTS * 3, Moments(), progress=False)
        gram, sketch = accumulate(model, tokenizer, TEXTS * 3, [Gram(), Sketch(32, moments)], progress=False)
        rows = sketch.to_array().astype(float)
        mask = NeuronMask(values, NeuronGeometry.from_model(model))
        with lesion(model, mask):
            hurt = perplexity(model, tokenizer, TEXTS[2])
        with lesion(model, mask, how="mean", reference=moments.mean):
            moved = perplexity(model, tokenizer, TEXTS[2])
        intact = perplexity(model, tokenizer, TEXTS[2])
        seen.append((moments.mean, moments.variance, gram.matrix(0), gram.matrix(N_LAYERS - 1), rows.T @ rows,
                     np.array([intact, hurt, moved])))  # fmt: skip
    for one, other in zip(*seen):
        np.testing.assert_allclose(other, one, atol=1e-4 * np.abs(one).max())
    assert len(set(np.round(seen[0][-1], 3))) == 3


@two
def test_two_gpus_name_what_is_not_finite(tokenizer, tmp_path):
    model = spread_over_two()
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight[5] = float("inf")
    with pytest.raises(RecordingError, match="Layer 3 .* unit 5, is"):
        quiet(model, tokenizer, TEXTS, tmp_path / "study")
    with pytest.raises(RecordingError, match="Layer 3 .* unit 5, is"):
        accumulate(model, tokenizer, TEXTS, Moments(), progress=False)
