"""Reconstruction, divergence, curves, search, heads, networks and the grid, on tiny models and planted truths."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.exceptions import DatasetError, ParameterError
from llmbrain.models.surgery import prunable_attentions, prunable_mlps, slice_mlp
from llmbrain.pruning import HEAD_SCORES, Recipe, kept_overlap, layer_networks, published_networks, run_grid
from llmbrain.pruning.heads import HEAD_UNITS, joint_counts
from llmbrain.pruning.measured import Measurements
from llmbrain.pruning.reconstruct import Samples, conjugate_gradients, reconstruct
from llmbrain.pruning.scores import LayerInputs
from llmbrain.pruning.search import Probe, Supernet, _fit_budget, measure_curves, search_counts
from llmbrain.pruning.walk import Walk, calibration_blocks

quick = partial(lb.prune, recipe="fast", measure=False, progress=False)
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "mat",
    "and",
    "then",
    "rain",
    "in",
    "spain",
    "fell",
    "or",
    "dog",
    "ran",
    "over",
    "hills",
    "while",
    "birds",
    "sang",
    "quiet",
    "songs",
    "at",
    "noon",
]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, 60)) for _ in range(40)]


# -- reconstruction -------------------------------------------------------------------------------------------------
def test_conjugate_gradients_solve_the_system():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(20, 20, generator=g, dtype=torch.float64)
    a = a @ a.T + torch.eye(20)
    b = torch.randn(20, generator=g, dtype=torch.float64)
    x, _ = conjugate_gradients(lambda p: a @ p, b, lambda r: r / a.diagonal(), 60)
    torch.testing.assert_close(x, torch.linalg.solve(a, b), rtol=1e-6, atol=1e-6)


def test_conjugate_gradients_stop_where_held_out_tokens_say():
    a = torch.diag(torch.tensor([1.0, 0.01]))
    x, errors = conjugate_gradients(
        lambda p: a @ p,
        torch.tensor([1.0, 1.0]),
        lambda r: r,
        50,
        watch=lambda x: float((x - torch.tensor([1.0, 0.0])).norm()),
    )
    assert float((x - torch.tensor([1.0, 0.0])).norm()) == min(errors)


def samples_of(part, z, wanted):
    return Samples(
        [z[:600], z[600:]], [wanted[:600], wanted[600:]], [torch.ones(600), torch.ones(len(z) - 600)], [False, True]
    )


def planted_mlp(name="llama"):
    """Neurons in pairs that share gate and writer: each pair is one neuron whose readers were split in two."""
    model = tiny_model(name)
    part = prunable_mlps(model)[0]
    with torch.no_grad():
        weight, start = part.gate.module.weight, part.gate.start
        weight[start + 24 : start + 48] = weight[start : start + 24]
        part.writer.weight[:, 24:] = part.writer.weight[:, :24]
    return model, part


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_refitting_the_readers_joins_split_neurons(name):
    _, part = planted_mlp(name)
    z = torch.randn(800, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = part.owner(z)
        slice_mlp(part, range(24))
        before = float((part.owner(z) - wanted).square().mean())
        samples = samples_of(part, z, wanted)
        reconstruct(part, samples, readers=("up",), n_steps=60, damping=0)
        after = float((part.owner(z) - wanted).square().mean())
    assert after < 0.01 * before


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "phi3"])
def test_reconstruction_never_raises_held_out_error(name):
    model = tiny_model(name)
    part = prunable_mlps(model)[1]
    z = torch.randn(800, 32, generator=torch.Generator().manual_seed(1))
    mlp = part.owner if name != "opt" else (lambda x: part.writer(torch.relu(part.owner.fc1(x))))
    with torch.no_grad():
        wanted = mlp(z)
        slice_mlp(part, range(30))
        before = float((mlp(z[600:]) - wanted[600:]).square().mean())
        left = reconstruct(part, samples_of(part, z, wanted), readers=("up", "gate"))
        after = float((mlp(z[600:]) - wanted[600:]).square().mean())
    assert all(b < a for a, b in zip(left, left[1:]))
    assert after / before == pytest.approx(left[-1], rel=1e-3)
    assert after < 0.97 * before


def test_remembered_factors_change_nothing(monkeypatch):
    from llmbrain.pruning import reconstruct as module

    results = []
    for limit in (0, 2 << 30):
        monkeypatch.setattr(module, "_REMEMBERED", limit)
        model = tiny_model("llama")
        part = prunable_mlps(model)[1]
        g = torch.Generator().manual_seed(0)
        z = [torch.randn(60, 32, generator=g) for _ in range(3)]
        samples = Samples(z, [part.owner(x).detach() + 0.01 * x for x in z], [torch.ones(60)] * 3, [False, False, True])
        module.reconstruct(part, samples, readers=("up", "gate"))
        results.append(torch.cat([p.flatten() for p in part.owner.parameters()]))
    assert torch.equal(*results)


def test_a_refit_that_does_not_help_is_not_kept():
    """Targets are noise: whatever is learned on the fitted half must not be written into the weights."""
    model = tiny_model("llama")
    part = prunable_mlps(model)[1]
    g = torch.Generator().manual_seed(2)
    z = torch.randn(660, 32, generator=g)
    with torch.no_grad():
        wanted = part.owner(z)
        wanted[:600] += 50 * torch.randn(600, 32, generator=g)
        wanted[600:] += 1e-3 * torch.randn(60, 32, generator=g)
        before = copy.deepcopy(part.owner.state_dict())
        left = reconstruct(part, samples_of(part, z, wanted), readers=("up", "gate"))
    assert left == [1.0]
    assert all(torch.equal(before[k], v) for k, v in part.owner.state_dict().items())


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_every_refinement_brings_the_model_closer(name, tokenizer, texts):
    model = tiny_model(name)
    held = calibration_blocks(tokenizer, texts[30:], context=64)
    probe = Probe(model, held)
    found = {}
    for label, options in {
        "writer": {}, "readers": {"reconstruct": "all"},
        "everything": {"reconstruct": "all", "refit_attention": True, "token_weights": "stream"},
    }.items():  # fmt: skip
        pruned = quick(model, tokenizer, texts[:30], 0.5, allocation="uniform", options={"context": 64, **options})
        probe.model = pruned.model
        found[label] = probe.divergence()
    assert found["readers"] < 0.95 * found["writer"]
    assert found["everything"] < 0.95 * found["writer"]


# -- measured allocations -------------------------------------------------------------------------------------------
def test_divergence_is_kullback_leibler(tokenizer, texts):
    model = tiny_model("llama")
    blocks = calibration_blocks(tokenizer, texts[:3], context=64, batch_size=3)
    probe = Probe(model, blocks)
    assert probe.divergence() == pytest.approx(0, abs=1e-7)
    other = tiny_model("llama", seed=1)
    total = count = 0
    with torch.no_grad():
        for block in blocks:
            for ids, mask in zip(block.ids, block.mask):
                p = torch.log_softmax(model(ids[mask][None]).logits[0], -1)
                q = torch.log_softmax(other(ids[mask][None]).logits[0], -1)
                total += float((p.exp() * (p - q)).sum())
                count += int(mask.sum())
    probe.model = other
    assert probe.divergence() == pytest.approx(total / count, rel=1e-4)
    assert len(probe._wanted) == sum(
        len(b.ids) for b in blocks
    )  # what the dense model says is worked out once, where it is little enough
    lean = Probe(model, blocks)
    lean._keeps, lean.model = False, other
    assert lean.divergence() == probe.divergence() and not lean._wanted


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_a_supernet_puts_widths_in_and_takes_them_out(name, tokenizer, texts):
    model = tiny_model(name)
    blocks = calibration_blocks(tokenizer, texts[:8], context=64)
    measured = Measurements(model, tokenizer, texts[:8]).of(Recipe("flap", options={"context": 64}))
    orders = [f.score.argsort(descending=True) for f in measured.survey()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    curves = measure_curves(model, prunable_mlps(model), orders, blocks, blocks, n_steps=8)
    losses, supernet, probe = curves.losses, curves.supernet, curves.probe
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in before.items()}
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    supernet.put_all([24, 30, 48, 12])
    assert [p.size for p in prunable_mlps(model)] == [24, 30, 48, 12]
    supernet.take_all()
    assert probe.divergence() == pytest.approx(0, abs=1e-6)
    assert (losses > 0).all()
    assert (losses[:, -1] > losses[:, 0]).all()


def test_curves_are_what_cutting_one_layer_costs(tokenizer, texts):
    """The walk that goes on from a layer gives the divergence of the whole model with that layer cut."""
    model = tiny_model("llama")
    blocks = calibration_blocks(tokenizer, texts[:8], context=64)
    measured = Measurements(model, tokenizer, texts[:8]).of(Recipe("flap", options={"context": 64}))
    orders = [f.score.argsort(descending=True) for f in measured.survey()]
    curves = measure_curves(model, measured.parts, orders, blocks, blocks, levels=(0.5,), n_steps=8)
    losses, supernet, probe = curves.losses, curves.supernet, curves.probe
    for i in range(4):
        supernet.put(i, 24)
        assert probe.divergence() == pytest.approx(losses[i, 0], rel=1e-3)
        supernet.take(i)


def test_search_keeps_the_budget_and_never_gets_worse(tokenizer, texts):
    model = tiny_model("llama")
    blocks = calibration_blocks(tokenizer, texts[:8], context=64)
    measured = Measurements(model, tokenizer, texts[:8]).of(Recipe("flap", options={"context": 64}))
    orders = [f.score.argsort(descending=True) for f in measured.survey()]
    curves = measure_curves(model, measured.parts, orders, blocks, blocks, levels=(0.5,), n_steps=12)
    supernet, probe = curves.supernet, curves.probe
    counts, value, history = search_counts(
        supernet, probe, [np.array([12, 20, 28, 36])], 96, floors=[4] * 4, n_evaluations=60, seed=0
    )
    assert counts.sum() == 96
    assert (counts >= 4).all()
    assert all(b <= a for a, b in zip(history, history[1:]))
    assert value < history[0]
    again = search_counts(supernet, probe, [np.array([12, 20, 28, 36])], 96, floors=[4] * 4, n_evaluations=60, seed=0)
    assert again[0].tolist() == counts.tolist()


def test_prices_hold_a_budget_of_parameters():
    prices = np.array([1.0, 2.0, 4.0])
    state = _fit_budget(np.array([8, 8, 8]), np.array([1, 1, 1]), prices, 30.0, 10)
    assert abs(prices @ state - 30) <= 2


@pytest.mark.parametrize("allocation", ["curves", "search"])
def test_measured_allocations_meet_the_budget(allocation, tokenizer, texts):
    model = tiny_model("llama")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    pruned = quick(
        model, tokenizer, texts[:10], 0.5, allocation=allocation, options={"context": 64, "n_evaluations": 10}
    )
    assert sum(pruned.summary["n_kept"]) == 96
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_widths_are_multiples_when_asked(tokenizer, texts):
    pruned = quick(tiny_model("llama"), tokenizer, texts[:10], 0.4, options={"context": 64, "round_to": 8})
    assert all(n % 8 == 0 for n in pruned.summary["n_kept"])


# -- heads ----------------------------------------------------------------------------------------------------------
def test_head_units_keep_groups_even():
    part = prunable_attentions(tiny_model("llama"))[0]  # 4 query heads, 2 keys
    scores = torch.tensor([1.0, 4.0, 3.0, 2.0])
    values, steps = HEAD_UNITS["group"](part).order(scores)
    assert values.tolist() == [5.0, 5.0]
    assert steps == [[0, 1], [2, 3]]
    values, steps = HEAD_UNITS["query"](part).order(scores)
    assert values.tolist() == [3.0, 7.0]
    assert steps == [[0, 3], [1, 2]]


def test_joint_budget_counts_parameters():
    rng = np.random.default_rng(0)
    neurons, units = [rng.random(40) for _ in range(3)], [np.sort(rng.random(4)) for _ in range(3)]
    counts, removed = joint_counts(neurons, units, [3] * 3, [20] * 3, 150, floors=[2] * 3)
    assert (120 - counts.sum()) * 3 + removed.sum() * 20 == pytest.approx(150, abs=20)
    assert (removed < 4).all()
    with pytest.raises(ParameterError, match="lower the ratio"):
        joint_counts(neurons, units, [3] * 3, [20] * 3, 1000, floors=[2] * 3)


@pytest.mark.parametrize("unit", ["group", "query"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3"])
def test_heads_and_neurons_go_together(name, unit, tokenizer, texts, tmp_path):
    model = tiny_model(name)
    options = {"context": 64, "heads": True, "head_unit": unit, "ridge": 1e-2}
    pruned = quick(model, tokenizer, texts[:10], 0.3, ratio_of="decoder", allocation="global", options=options)
    assert pruned.summary["decoder_parameters_removed"] == pytest.approx(0.3, abs=0.05)
    ids = torch.randint(0, 256, (1, 12), generator=torch.Generator().manual_seed(0))
    pruned.save_pretrained(tmp_path / "m")
    with torch.no_grad():
        assert torch.equal(lb.load_model(tmp_path / "m")[0](ids).logits, pruned.model(ids).logits)
    if unit == "group":
        assert any(len(h) < p.n_heads for h, p in zip(pruned.kept_heads, prunable_attentions(model)))


def test_padding_heads_changes_nothing(tokenizer, texts, tmp_path):
    import transformers

    model = tiny_model("llama")
    options = {"context": 64, "heads": True}
    pruned = quick(
        model,
        tokenizer,
        texts[:10],
        0.3,
        ratio_of="decoder",
        allocation="global",
        compensation="ridge",
        options=options,
    )
    pruned.save_pretrained(tmp_path / "m", format="padded")
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    ids = torch.randint(0, 256, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(stock(ids).logits, pruned.model(ids).logits, rtol=0, atol=1e-5)


def test_heads_need_a_ratio_of_parameters(tokenizer, texts):
    with pytest.raises(ParameterError, match="decoder"):
        quick(tiny_model("llama"), tokenizer, texts, 0.2, options={"heads": True})


def test_head_scores_are_block_sums():
    part = prunable_attentions(tiny_model("llama"))[0]
    from llmbrain.stats.moments import Moments

    x = torch.randn(100, 32, generator=torch.Generator().manual_seed(0))
    m = Moments(32)
    m.add(x)
    w = part.writer.weight.double()
    rms = x.double().square().mean(0).sqrt()
    wanted = (w.abs().mean(0) * rms).reshape(4, 8).sum(1)
    found = LayerInputs(part.writer, m, part.n_heads, head_dim=8).apply(HEAD_SCORES["wanda"])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


# -- networks -------------------------------------------------------------------------------------------------------
def test_published_networks_are_z_scores_over_both_signals(tokenizer, texts):
    model = tiny_model("llama")
    found = published_networks(model, tokenizer, texts[:20], n_components=6, group_size=10, n_groups=2)
    assert [tuple(m.shape) for m in found.maps] == [(12, 48)] * 4
    assert found.z.shape == (12, 192)
    assert [g["n_components"] for g in found.info["groups"]] == [6, 6]
    again = published_networks(model, tokenizer, texts[:20], n_components=6, group_size=10, n_groups=2)
    assert all(torch.equal(a, b) for a, b in zip(found.maps, again.maps))


def test_layer_networks_find_planted_sources(tokenizer, texts):
    """Neurons driven by one common factor are one network."""
    model = tiny_model("llama", intermediate_size=600)
    part = prunable_mlps(model)[1]
    with torch.no_grad():
        for reader in part.readers:
            weight = reader.module.weight
            weight[:40] = weight[0] + 0.05 * weight[:40]
    maps = layer_networks(model, tokenizer, texts[:20], n_components=4, context=64).maps[1]
    best = maps[:, :40].abs().mean(1).argmax()
    inside, outside = maps[best, :40].abs().mean(), maps[best, 40:].abs().mean()
    assert inside > 4 * outside


# -- grid -----------------------------------------------------------------------------------------------------------
def test_the_grid_resumes_and_refuses_another_calibration(tokenizer, texts, tmp_path):
    model = tiny_model("llama")
    own = {"context": 64}
    recipes = [
        Recipe("random", "uniform", "none", own), Recipe("flap", "global", "bias", own),
        Recipe("flap", "schur", "affine", {**own, "reconstruct": "up"}, name="all"),
    ]  # fmt: skip
    base = {"seeds": (0, 1), "context": 64, "progress": False}

    def run(recipes=recipes, fit=texts[:10], test=texts[30:], **settings):
        settings = {**base, **settings}
        return run_grid(model, tokenizer, fit, test, recipes, ratios=(0.3,), out=tmp_path / "g.tsv", settings=settings)

    first = run(recipes[:2])
    assert first["score"].tolist() == ["dense", "random", "random", "flap"]
    assert first["ratio_to_dense"][0] == 1
    calls = []
    whole = run(keep=lambda row, pruned: calls.append(row["score"]))
    assert calls == ["flap"]
    assert len(whole) == 5
    assert whole["perplexity"][:4].tolist() == pytest.approx(first["perplexity"].tolist())
    alone = quick(model, tokenizer, texts[:10], 0.3, allocation="global", compensation="bias",
                  options={"context": 64, "token_weights": "equal"})  # fmt: skip
    assert whole["perplexity"][3] == pytest.approx(lb.perplexity(alone.model, tokenizer, texts[30:], context=64))
    with pytest.raises(DatasetError, match="calibration_hash"):
        run(fit=texts[1:10])
    with pytest.raises(DatasetError, match="evaluation_hash"):
        run(test=texts[29:])
    with pytest.raises(DatasetError, match="ratio_of"):
        run(ratio_of="decoder")


def test_the_grid_can_stop_and_be_resumed(tokenizer, texts, tmp_path):
    model = tiny_model("llama")
    recipes = [Recipe("flap", "uniform", c, {"context": 64}) for c in ("none", "bias")]

    def run(**settings):
        settings = {"context": 64, "progress": False, **settings}
        out = tmp_path / "g.tsv"
        return run_grid(model, tokenizer, texts[:6], texts[30:], recipes, ratios=(0.2, 0.4), out=out, settings=settings)

    assert len(run(max_seconds=-1)) == 1
    assert len(run()) == 5


def test_overlap_of_kept_sets():
    table = kept_overlap({"a": [[0, 1], [2, 3]], "b": [[0, 1], [3, 4]]})
    assert table.loc["a", "a"] == 1
    assert table.loc["a", "b"] == pytest.approx((1 + 1 / 3) / 2)


def test_walks_do_not_touch_the_model(tokenizer, texts):
    model = tiny_model("llama")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    Walk(model, calibration_blocks(tokenizer, texts[:3], context=64)).check()
    Supernet(model, prunable_mlps(model), [torch.arange(48)] * 4)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
