"""Many lesions in one pass give what single lesions give."""

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, tiny_model

from llmbrain.evaluation import window_losses
from llmbrain.exceptions import LLMBrainWarning, NumericalError
from llmbrain.geometry import NeuronGeometry
from llmbrain.lesions import Edit
from llmbrain.lesions.batched import Passes, _costs, condition_losses, plan_batches, row_mode
from llmbrain.lesions.checkpoint import Checkpoint
from llmbrain.masks import NeuronMask
from llmbrain.models.sites import find_sites
from llmbrain.text import Window


def sequences(lengths=(9, 17, 5, 12, 17), seed=0):
    rng = np.random.default_rng(seed)
    return [Window(rng.integers(0, 256, n), rng.random(n) < 0.8) for n in lengths]


def some_edits(geometry, n=7, kinds=True, seed=0):
    """Lesions that begin at different layers and do different things."""
    rng = np.random.default_rng(seed)
    options = [{}, {"how": "scale", "value": 1.7}, {"strength": 0.4}, {"how": "clamp", "value": 0.2}]
    edits = []
    for k in range(n):
        values = (rng.random(geometry.n_neurons) < 0.2) & (geometry.layer_of >= k % geometry.n_layers)
        edits.append(Edit(NeuronMask(values, geometry), **options[k % 4 if kinds else 0]))
    return edits


def one_by_one(model, edits, sites, parts):
    """The same through the public context manager, one condition and one sequence at a time."""
    from llmbrain.lesions import Lesion

    rows = []
    for edit in [None, *edits]:
        if edit is None:
            rows.append([window_losses(model, [s])[0].sum() for s in parts])
            continue
        with Lesion(model, edit, sites):
            rows.append([window_losses(model, [s])[0].sum() for s in parts])
    return np.array(rows)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_batched_conditions_equal_single_lesions(name):
    model = tiny_model(name)
    sites = find_sites(model)
    edits, parts = some_edits(NeuronGeometry.from_sites(sites, "mlp")), sequences()
    mode = row_mode(model, sites, edits)
    assert mode == ("rows" if name == "bloom" else "prefix")
    got = condition_losses(model, sites, parts, edits, Passes(120, mode))
    np.testing.assert_allclose(got, one_by_one(model, edits, sites, parts), atol=2e-4)
    assert np.ptp(got, axis=0).min() > 0.01
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("mode", ["prefix", "rows", "single"])
@pytest.mark.parametrize("max_tokens", [1, 60, 100000])
def test_every_mode_and_size_gives_the_same_losses(mode, max_tokens):
    model = tiny_model("llama")
    sites = find_sites(model)
    edits, parts = some_edits(NeuronGeometry.from_sites(sites, "mlp"), kinds=mode != "rows"), sequences()
    expected = one_by_one(model, edits, sites, parts)
    tokens = sum(s.n_scored for s in parts)
    got = condition_losses(model, sites, parts, edits, Passes(max_tokens, mode))
    assert np.abs(got - expected).sum(axis=1).max() / tokens < 1e-5  # nats per token


@pytest.mark.parametrize("site", ["attention", "mlp_output", "layer"])
def test_other_sites_are_batched_alike(site):
    model = tiny_model("llama")
    sites = find_sites(model, site)
    edits, parts = some_edits(NeuronGeometry.from_sites(sites, site)), sequences()
    got = condition_losses(model, sites, parts, edits, Passes(200, row_mode(model, sites, edits)))
    np.testing.assert_allclose(got, one_by_one(model, edits, sites, parts), atol=2e-4)


def test_layers_in_another_order_join_where_the_model_reaches_them_first():
    model = tiny_model("llama")
    by_layer = {s.layer: s for s in find_sites(model)}
    geometry = NeuronGeometry.from_sizes([48] * 3, layers=[3, 0, 2])
    sites = [by_layer[i] for i in geometry.layers]
    edits, parts = some_edits(geometry), sequences()
    assert row_mode(model, sites, edits) == "prefix"
    got = condition_losses(model, sites, parts, edits, Passes(300))
    np.testing.assert_allclose(got, one_by_one(model, edits, sites, parts), atol=2e-4)


def test_resampling_draws_the_same_tokens_batched_or_not():
    model = tiny_model("llama")
    sites = find_sites(model)
    geometry = NeuronGeometry.from_sites(sites, "mlp")
    bank = np.random.default_rng(0).standard_normal((30, geometry.n_neurons))
    masks = [e.mask for e in some_edits(geometry, n=4)]
    edits = [Edit(m, "resample", reference=bank, random_state=5) for m in masks]
    parts = sequences((12, 12))
    got = {m: condition_losses(model, sites, parts, edits, Passes(2000, m)) for m in ("prefix", "rows", "single")}
    np.testing.assert_allclose(got["prefix"], got["single"], atol=1e-4)
    np.testing.assert_allclose(got["rows"], got["single"], atol=1e-4)
    np.testing.assert_allclose(one_by_one(model, edits, sites, parts), got["single"], atol=1e-4)


def test_a_condition_that_does_nothing_gives_the_intact_losses():
    model = tiny_model("gpt2")
    sites = find_sites(model)
    geometry = NeuronGeometry.from_sites(sites, "mlp")
    nothing = Edit(NeuronMask(np.zeros(geometry.n_neurons, bool), geometry), allow_empty=True)
    edits = [nothing, *some_edits(geometry, 2), Edit(some_edits(geometry, 1)[0].mask, strength=0.0)]
    got = condition_losses(model, sites, sequences(), edits, Passes(500, row_mode(model, sites, edits)))
    np.testing.assert_allclose(got[[1, 4]], got[[0, 0]], atol=1e-4)


def test_batches_are_right_for_one_sequence_and_for_half_precision():
    model = tiny_model("llama").to(torch.bfloat16)
    sites = find_sites(model)
    edits, parts = some_edits(NeuronGeometry.from_sites(sites, "mlp")), sequences((14,))
    got = condition_losses(model, sites, parts, edits, Passes(1000, row_mode(model, sites, edits)))
    np.testing.assert_allclose(got, one_by_one(model, edits, sites, parts), rtol=2e-2)


def test_foreign_hooks_see_the_rows_and_survive():
    model, seen = tiny_model("llama"), []
    handle = model.model.layers[3].register_forward_pre_hook(lambda m, a: seen.append(len(a[0])))
    sites = find_sites(model)
    edits = some_edits(NeuronGeometry.from_sites(sites, "mlp"), 4)
    condition_losses(model, sites, sequences((10, 10)), edits, Passes(10**6, "prefix"))
    assert seen == [8]  # two sequences, intact and under three lesions; the fourth joins after this hook
    assert len(model.model.layers[3]._forward_pre_hooks) == 1
    handle.remove()


def test_plans_cover_every_pair_once_and_stay_within_the_limit():
    parts = sequences((40, 3, 17, 17, 9, 25))
    first = np.array([0, 3, 1, 2, 2, 0, 1])
    plans = plan_batches(parts, first, max_batch_tokens=150)
    pairs = [(c, s) for p in plans for c in p.conditions for s in p.sequences]
    assert sorted(pairs) == [(c, s) for c in range(7) for s in range(6)]
    assert sorted(s for p in plans if p.with_intact for s in p.sequences) == list(range(6))
    for plan in plans:
        longest = max(len(parts[i]) for i in plan.sequences)
        assert len(plan.conditions) == 1 or longest * len(plan.sequences) * (1 + len(plan.conditions)) <= 150


def test_the_cost_of_a_pass_is_what_its_rows_run_through():
    """Weights of layers and head times rows, which is the number of products; intact rows may end before the head."""
    model, first = tiny_model("llama"), np.array([0, 1, 1])
    layer = sum(p.numel() for p in model.model.layers[0].parameters())
    head, n_layers = model.lm_head.weight.numel(), len(model.model.layers)
    plans = plan_batches(sequences([10]), first, max_batch_tokens=30)
    assert [(plan.with_intact, plan.conditions.tolist()) for plan in plans] == [(True, [1, 2]), (False, [0])]
    products = [3 * head + (n_layers + 2 * (n_layers - 1)) * layer, head + n_layers * layer]
    np.testing.assert_allclose(np.array(_costs(plans, sequences([10]), first, model)) * layer / 10, products)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    model = tiny_model("llama")
    sites = find_sites(model)
    edits, parts = some_edits(NeuronGeometry.from_sites(sites, "mlp")), sequences()
    whole = condition_losses(model, sites, parts, edits, Passes(80))
    path, key, shape = tmp_path / "kept.npz", ["a", b"b"], (1 + len(edits), len(parts))
    keeper, passes = Checkpoint(path, key), []

    def stop(n_tokens, sums):
        passes.append(n_tokens)
        keeper.keep(sums, now=True)
        if len(passes) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        condition_losses(model, sites, parts, edits, Passes(80), done=np.full(shape, np.nan), progress=stop)
    kept = Checkpoint(path, key).found
    n_left = []
    assert 0 < np.isnan(kept).sum() < kept.size
    resumed = condition_losses(
        model, sites, parts, edits, Passes(80), done=kept, progress=lambda n, s: n_left.append(n)
    )
    np.testing.assert_array_equal(resumed, whole)
    assert sum(n_left) + sum(passes) == shape[0] * sum(len(p) for p in parts)
    assert Checkpoint(path, ["another study"]).found is None
    path.write_bytes(path.read_bytes()[:50])
    with pytest.warns(LLMBrainWarning, match="kept.npz is damaged .*starts from the beginning"):
        assert Checkpoint(path, key).found is None


@pytest.mark.parametrize("mode", ["prefix", "rows", "single"])
def test_the_module_or_the_lesion_that_is_not_finite_is_named(mode):
    model = tiny_model("llama")
    sites = find_sites(model, "mlp")
    with torch.no_grad():
        for site in sites:
            site.module.weight *= 100
    geometry = NeuronGeometry.from_sites(sites, "mlp")
    some = np.arange(geometry.n_neurons) % 5 == 0
    edits = [
        Edit(NeuronMask(some, geometry, name="mild")),
        Edit(NeuronMask(some, geometry, name="huge"), how="add", value=3e38),
    ]
    with pytest.raises(NumericalError, match="under the lesion of huge are not finite"):
        condition_losses(model, sites, sequences(), edits, Passes(4096, mode))
    assert np.isfinite(condition_losses(model, sites, sequences(), edits[:1], Passes(4096, mode))).all()
    with torch.no_grad():
        model.model.layers[3].post_attention_layernorm.weight[0] = 3e38
    with pytest.raises(NumericalError, match="intact model are not finite; .*layers.3.post_attention_layernorm"):
        condition_losses(model, sites, sequences(), edits, Passes(4096, mode))
