"""Hooks: they change nothing by themselves, do exactly what they are told, and are gone on every way out."""

import sys

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, HIDDEN, N_LAYERS, tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.evaluation import generate_texts, minimal_pairs
from llmbrain.models import SITES, Site, find_sites, site_hooks

IDS = torch.tensor([[256, 5, 17, 200, 44, 9], [256, 8, 8, 31, 2, 90]])


def n_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_looking_changes_nothing(name):
    model = tiny_model(name)
    before = logits(model)
    sites = [s for site in ("mlp", "attention", "mlp_output", "layer") for s in find_sites(model, site)]
    with site_hooks(sites, lambda i, x: None):
        torch.testing.assert_close(logits(model), before, rtol=0, atol=0)
    with site_hooks(sites, lambda i, x: x.clone()):  # putting back what was there
        torch.testing.assert_close(logits(model), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "phi3", "falcon"])
@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_an_edit_reaches_its_own_layer_only(name, layer):
    """Guards against closures that all see the last layer."""
    model = tiny_model(name)
    sites = find_sites(model)
    clean, edited = {}, {}
    with torch.no_grad():
        with site_hooks(sites, lambda i, x: clean.__setitem__(i, x.clone())):
            model(input_ids=IDS, use_cache=False)
        with site_hooks(sites, lambda i, x: torch.zeros_like(x) if i == layer else None):  # noqa: SIM117
            with site_hooks(sites, lambda i, x: edited.__setitem__(i, x.clone())):
                model(input_ids=IDS, use_cache=False)
    for i in range(N_LAYERS):
        if i < layer:
            torch.testing.assert_close(edited[i], clean[i], rtol=0, atol=0)
        elif i == layer:
            assert not edited[i].any()
        else:
            assert edited[i].any() and not torch.equal(edited[i], clean[i])


def test_gone_after_a_normal_end_an_error_and_an_interrupt():
    model = tiny_model("llama")
    sites = [s for site in SITES for s in find_sites(model, site)]
    before, output = n_hooks(model), logits(model)
    with site_hooks(sites, lambda i, x: None):
        assert n_hooks(model) == before + len(sites)
    assert n_hooks(model) == before
    for error in (ValueError, KeyboardInterrupt, GeneratorExit):

        def fail(i, x, error=error):
            raise error

        with pytest.raises(error), site_hooks(sites, fail):
            logits(model)
        assert n_hooks(model) == before
    torch.testing.assert_close(logits(model), output, rtol=0, atol=0)


def test_gone_after_a_bad_site_half_way():
    model = tiny_model("llama")
    before = n_hooks(model)
    bad = Site(2, "model.layers.2.nothing", None, "input", 4, 0, 4)
    with pytest.raises(AttributeError), site_hooks([*find_sites(model)[:2], bad], lambda i, x: None):
        pass
    assert n_hooks(model) == before


def test_gone_after_a_generator_is_closed():
    model = tiny_model("llama")
    before = n_hooks(model)

    def steps():
        with site_hooks(find_sites(model), lambda i, x: None):
            yield 1
            yield 2

    running = steps()
    next(running)
    assert n_hooks(model) == before + N_LAYERS
    running.close()
    assert n_hooks(model) == before


def test_foreign_hooks_survive():
    model = tiny_model("llama")
    calls = []
    handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda m, a: calls.append(1))
    with site_hooks(find_sites(model), lambda i, x: None):
        logits(model)
    logits(model)
    assert len(calls) == 2
    handle.remove()


def test_nested_blocks_act_in_the_order_of_entry():
    model = tiny_model("llama")
    site = find_sites(model)[:1]
    seen = []
    with (
        site_hooks(site, lambda i, x: torch.full_like(x, 2.0)),
        site_hooks(site, lambda i, x: seen.append(x.max())),
    ):
        logits(model)
    assert seen[0] == 2.0


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gemma3"])
def test_generation_with_a_cache_equals_step_by_step(name):
    model = tiny_model(name)
    sites = find_sites(model)
    rows = {i: [] for i in range(N_LAYERS)}
    prompt = IDS[:1]
    with site_hooks(sites, lambda i, x: rows[i].append(x.reshape(-1, x.shape[-1]).clone())), torch.no_grad():
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    whole = {}
    with (
        site_hooks(sites, lambda i, x: whole.__setitem__(i, x.reshape(-1, x.shape[-1]).clone())),
        torch.no_grad(),
    ):
        model(input_ids=out[:, :-1], use_cache=False)
    for i in range(N_LAYERS):
        torch.testing.assert_close(torch.cat(rows[i]), whole[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_type_is_kept(dtype):
    model = tiny_model("llama").to(dtype)
    seen = []
    with site_hooks(find_sites(model), lambda i, x: seen.append(x.dtype)):
        assert logits(model).dtype == dtype
    assert set(seen) == {dtype}


def test_flattened_activations_and_tuples():
    """OPT flattens (batch, tokens); falcon's blocks return tuples: the rest of the tuple must survive."""
    shapes = []
    model = tiny_model("opt")
    with site_hooks(find_sites(model), lambda i, x: shapes.append(tuple(x.shape))):
        logits(model)
    assert shapes[0] in [(12, 48), (2, 6, 48)]
    model = tiny_model("falcon")
    before = logits(model)
    with site_hooks(find_sites(model, "layer")[-1:], lambda i, x: x * 0):
        after = logits(model)
    assert before.shape == after.shape and not torch.equal(before, after)


def test_edits_pass_through_disk_and_cpu_offload(tmp_path):
    """Under accelerate a module's weights are on the meta device between calls; activations are what counts."""
    accelerate = pytest.importorskip("accelerate")
    model = tiny_model("llama")
    zero = lambda i, x: torch.zeros_like(x) if i == 1 else None  # noqa: E731
    with site_hooks(find_sites(model), zero):
        expected = logits(model)
    accelerate.cpu_offload(model, execution_device="cpu")
    assert model.model.layers[1].mlp.down_proj.weight.device.type == "meta"
    for site in ("mlp", "mlp_gate", "mlp_up", "attention", "layer"):
        assert len(find_sites(model, site)) == N_LAYERS
    with site_hooks(find_sites(model), zero):
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=0)
    assert find_sites(model)[0].size != HIDDEN


@pytest.mark.parametrize("line", range(1, 40))
def test_hooks_that_an_interruption_leaves_behind_do_nothing(line):
    """An interrupt at each line of entering and leaving a block."""
    model, n = tiny_model("llama"), 0
    before, sites = logits(model), find_sites(model)[:1]

    def trace(frame, event, arg):
        nonlocal n
        if not frame.f_code.co_filename.endswith(("models/hooks.py", "contextlib.py")):
            return None
        n += event == "line"
        if event == "line" and n == line:
            raise KeyboardInterrupt
        return trace

    own = sys.gettrace()
    sys.settrace(trace)
    try:
        with site_hooks(sites, lambda i, x: x * 0):
            pass
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(own)
    assert n == line or n < 40
    torch.testing.assert_close(logits(model), before, rtol=0, atol=0)


def _effects(model, mask):
    study = lb.LesionStudy([mask], TRAINED[:1], n_controls=1, controls=("layer",))
    return study.run(model, tiny_tokenizer(), progress=False).items["effect"].tolist()


TRAINED = ["the cat of a house that is on an island " * 4] * 2
READINGS = {
    "perplexity": lambda model, mask: lb.perplexity(model, tiny_tokenizer(), TRAINED, context=64),
    "pairs": lambda model, mask: minimal_pairs(model, tiny_tokenizer(), [("a cat", "a bat")]).margin.tolist(),
    "generation": lambda model, mask: generate_texts(model, tiny_tokenizer(), ["the cat"], max_new_tokens=9)[0].text,
    "lesions": _effects,
    "pruning": lambda model, mask: lb.prune(
        model, tiny_tokenizer(), TRAINED, recipe="flap", options={"context": 32}, progress=False, measure=False
    ).summary["layers"]["error"],
}


@pytest.mark.parametrize("work", READINGS.values(), ids=READINGS)
def test_dropout_of_a_model_that_is_trained_changes_nothing(work):
    trained, model = tiny_model("gpt2").train(), tiny_model("gpt2")
    trained.transformer.h[1].eval()
    geometry = lb.NeuronGeometry.from_model(model)
    mask = lb.NeuronMask(np.arange(geometry.n_neurons) % 5 == 0, geometry)
    assert str(work(trained, mask)) == str(work(model, mask))
    assert trained.training and trained.transformer.h[0].attn.resid_dropout.training
    assert not any(module.training for module in trained.transformer.h[1].modules())
