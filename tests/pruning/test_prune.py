"""``prune``: budgets, accounts, refusals, and the named recipes on every architecture."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, REFUSED, tiny_model

import llmbrain as lb
from llmbrain.exceptions import (
    GeometryMismatchError,
    LLMBrainWarning,
    ParameterError,
    UnsupportedArchitectureError,
)
from llmbrain.models.surgery import (
    attention_writers,
    prunable_mlps,
)
from llmbrain.pruning import Pruner, Recipe
from llmbrain.pruning import published as network_scores
from llmbrain.pruning.allocation.probe import Probe
from llmbrain.pruning.calibration import calibration_blocks

quick = partial(lb.prune, recipe="fast", measure=False, progress=False)
TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]
SENTENCES = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(16)]
RNG = np.random.default_rng(0)
MAPS = RNG.standard_normal((6, 192))
quiet = partial(lb.prune, progress=False)


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("name", [*REFUSED])
def test_models_that_cannot_be_sliced_are_refused(name, tokenizer):
    with pytest.raises(UnsupportedArchitectureError):
        quick(tiny_model(name), tokenizer, TEXTS, 0.2)


def test_offloaded_and_quantised_models_are_refused(tokenizer):
    model = tiny_model("llama")
    model.model.layers[1].mlp.down_proj.to("meta")
    with pytest.raises(UnsupportedArchitectureError, match="offloaded"):
        quick(model, tokenizer, TEXTS, 0.2)
    model = tiny_model("llama")
    linear = model.model.layers[1].mlp.down_proj
    linear.weight = torch.nn.Parameter(linear.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedArchitectureError, match="quantised"):
        quick(model, tokenizer, TEXTS, 0.2)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "phi3", "opt"])
def test_budget_and_account(name, tokenizer):
    model = tiny_model(name)
    before = copy.deepcopy(model.state_dict())
    pruned = quick(model, tokenizer, TEXTS, 0.25, options={"context": 48})
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())  # the dense model is left alone
    s = pruned.summary
    assert s["neurons_before"] - s["neurons_after"] == 48 == pruned.mask.count
    assert s["total_parameters_after"] == sum(p.numel() for p in pruned.model.parameters())
    assert [len(k) for k in pruned.kept] == s["n_kept"] == [p.size for p in prunable_mlps(pruned.model)]


@pytest.mark.parametrize("score", ["random", "magnitude", "wanda", "flap", "obs", "greedy_obs", "leverage"])
def test_every_score_and_allocation_runs(score, tokenizer, ids):
    model = tiny_model("llama")
    for allocation in ("uniform", "global", "threshold", "schur"):
        pruned = quick(model, tokenizer, TEXTS[:4], 0.3, score=score, allocation=allocation, compensation="none",
                          options={"context": 48, "propagation": "one-shot"})  # fmt: skip
        assert bool(torch.isfinite(logits(pruned.model, ids)).all())


def test_ratio_zero_is_bit_identical(tokenizer, ids):
    for name in ("llama", "gpt2"):
        model = tiny_model(name)
        assert torch.equal(logits(quick(model, tokenizer, TEXTS, 0).model, ids), logits(model, ids))


@pytest.mark.parametrize(
    "arguments",
    [
        {"ratio": 1.0}, {"ratio": -0.1}, {"ratio": 20}, {"ratio": True}, {"ratio": "half"},
        {"ratio_of": "layers"}, {"score": "best"}, {"allocation": "fair"}, {"compensation": "magic"},
        {"options": {"flor": 0.1}}, {"options": {"round_to": 0}}, {"options": {"ridge": -1}},
        {"options": {"exempt": [0, 1, 2]}, "ratio": 0.5}, {"score": "network"}, {"allocation": [1, 2, 3]},
        {"options": {"target": "moon"}}, {"options": 5}, {"random_state": -1}, {"random_state": 1.5},
    ],
)  # fmt: skip
def test_bad_input_is_refused(arguments, tokenizer):
    with pytest.raises(ParameterError):
        quick(tiny_model("llama"), tokenizer, TEXTS, **{"ratio": 0.2, "options": {"context": 48}, **arguments})


def test_networks_of_another_model_are_refused(tokenizer):
    with pytest.raises(GeometryMismatchError, match="192"):
        quick(tiny_model("llama"), tokenizer, TEXTS, score="network", networks=np.ones((3, 100)))


def test_networks_choose_what_stays(tokenizer):
    maps = np.random.default_rng(0).standard_normal((5, 192))
    pruned = quick(tiny_model("llama"), tokenizer, TEXTS, 0.5, score="network", networks=maps,
                      allocation="threshold", compensation="none")  # fmt: skip
    best = np.sort(np.argsort(-np.abs(maps).max(0))[:96])
    flat = np.concatenate([k + pruned.geometry.offsets[i] for i, k in enumerate(pruned.kept)])
    np.testing.assert_array_equal(flat, best)


def test_seeds_decide_random_choices_alone(tokenizer):
    model = tiny_model("llama")
    kwargs = {"score": "random", "allocation": "uniform", "compensation": "none"}
    a, b, c = (quick(model, tokenizer, TEXTS, 0.4, random_state=s, **kwargs).kept for s in (1, 1, 2))
    assert all(np.array_equal(x, y) for x, y in zip(a, b))
    assert not all(np.array_equal(x, y) for x, y in zip(a, c))
    assert not np.array_equal(a[0], a[1])


def test_exempt_layers_stay_whole(tokenizer):
    model = tiny_model("llama")
    pruned = quick(model, tokenizer, TEXTS, 0.3, allocation="threshold", options={"exempt": [0, -1], "context": 48})
    assert pruned.summary["n_kept"][0] == pruned.summary["n_kept"][-1] == 48
    assert torch.equal(pruned.model.model.layers[0].mlp.down_proj.weight, model.model.layers[0].mlp.down_proj.weight)


def test_compensation_brings_the_model_closer(tokenizer, ids):
    model = tiny_model("llama")
    blocks = calibration_blocks(tokenizer, TEXTS, context=48)
    gap = {}
    for method in ("none", "bias", "affine"):
        pruned = quick(model, tokenizer, TEXTS, 0.4, allocation="uniform", compensation=method,
                          options={"context": 48, "ridge": 1e-3})  # fmt: skip
        gap[method] = float((logits(pruned.model, blocks[0].ids) - logits(model, blocks[0].ids)).square().mean())
    assert gap["affine"] < 0.5 * gap["none"]
    assert gap["bias"] < gap["none"]


def test_the_summary_tells_of_networks(model, tokenizer):
    told = quick(model, tokenizer, SENTENCES, 0.5, allocation="networks", networks=MAPS).summary["networks"]
    assert told["kind"] == "maps" and told["read"] and len(told["hash"]) == 16
    other = quick(model, tokenizer, SENTENCES, 0.5, allocation="networks", networks=MAPS + 1).summary["networks"]
    assert other["hash"] != told["hash"]
    assert quick(model, tokenizer, SENTENCES, 0.5, allocation="uniform").summary["networks"] is None
    with pytest.warns(LLMBrainWarning, match="nothing reads it"):
        unread = quick(model, tokenizer, SENTENCES, 0.5, allocation="uniform", networks="joint").summary["networks"]
    assert unread == {"kind": "joint", "read": False}


def test_networks_that_cannot_be_are_refused_at_once(model, tokenizer):
    wrong = network_scores.LayerMaps([torch.zeros(2, 40)] * 4, {})
    pruner = Pruner(model, tokenizer, SENTENCES)
    with pytest.raises(GeometryMismatchError, match="48"):
        pruner.plan(Recipe("network", networks=wrong), 0.5)
    with pytest.raises(ParameterError, match="networks="):
        pruner.plan(Recipe(allocation="networks"), 0.5)
    with pytest.raises(ParameterError, match="network_tokens"):
        quick(model, tokenizer, SENTENCES, 0.5, options={"network_tokens": 0})


def test_a_pruner_checks_the_budget_too(model, tokenizer):
    pruner = Pruner(model, tokenizer, SENTENCES)
    for recipe, ratio_of, says in (
        (Recipe(options={"context": 32, "heads": True}), "neurons", "decoder"),
        (Recipe(options={"context": 32}), "flops", "ratio_of"),
    ):
        with pytest.raises(ParameterError, match=says):
            pruner.prune(recipe, 0.3, ratio_of=ratio_of)


def test_the_best_recipe_runs_and_is_accounted_for(model, tokenizer, tmp_path):
    options = {"context": 48, "n_evaluations": 12, "block_steps": 2}
    pruned = quiet(model, tokenizer, TEXTS, 0.3, recipe="best", options=options)
    s = pruned.summary
    assert s["recipe"] == "best, changed: block_steps=2, n_evaluations=12" and s["allocation"] == "search"
    assert sum(s["n_kept"]) == s["neurons_after"] == round(0.7 * s["neurons_before"])
    for key in ("neurons", "decoder_parameters", "total_parameters", "bytes"):
        assert 0 < s[f"{key}_removed"] < 0.5
    assert s["total_parameters_after"] == sum(p.numel() for p in pruned.model.parameters())
    speed = s["speed"]
    assert all(speed[f"{k}_tokens_per_second_{w}"] > 0 for k in ("prefill", "decode") for w in ("before", "after"))
    pruned.save_pretrained(tmp_path / "m")
    card = (tmp_path / "m" / "README.md").read_text()
    assert "2 gradient steps" in card and f"eading {speed['prompt']} tokens at once" in card
    for what in ("prefill", "decode"):
        assert speed[f"{what}_gain_low"] <= speed[f"{what}_gain"] <= speed[f"{what}_gain_high"]
    assert "speed" not in quiet(model, tokenizer, TEXTS, 0.3, recipe="fast", measure=False).summary


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n not in REFUSED])
def test_the_best_recipe_runs_on_every_architecture(name, tokenizer):
    """Where heads lie in an unknown way they cannot be cut, but the output projection is refitted all the same."""
    options = {"context": 48, "n_evaluations": 6, "block_steps": 2}
    pruned = quiet(tiny_model(name), tokenizer, TEXTS[:4], 0.4, recipe="best", options=options, measure=False)
    assert all(part is not None for part in attention_writers(pruned.model))
    assert torch.isfinite(pruned.model(torch.arange(12)[None]).logits).all()


def test_networks_are_asked_for_before_any_work(model, tokenizer):
    for arguments in ({"allocation": "networks"}, {"score": "network"}):
        with pytest.raises(ParameterError, match="networks="):
            quiet(model, tokenizer, TEXTS, 0.3, recipe="fast", **arguments)


def test_networks_can_spread_the_budget(model, tokenizer):
    """Neurons of the maps stay where they are; the score picks within each layer."""
    maps = np.full((2, 192), 0.1)
    maps[0, 48:96] = 5.0
    pruned = quiet(model, tokenizer, TEXTS, 0.5, recipe="fast", allocation="networks", networks=maps, measure=False)
    assert pruned.summary["n_kept"][1] == 48


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_every_refinement_brings_the_model_closer(name, tokenizer, texts):
    model = tiny_model(name)
    held = calibration_blocks(tokenizer, texts[30:], context=64)
    probe = Probe(model, held)
    found = {}
    for label, options in {
        "writer": {}, "blocks": {"block_steps": 40},
        "everything": {"block_steps": 40, "refit_attention": True, "token_weights": "stream"},
    }.items():  # fmt: skip
        pruned = quick(model, tokenizer, texts[:30], 0.5, allocation="uniform", options={"context": 64, **options})
        probe.model = pruned.model
        found[label] = probe.divergence()
    assert found["blocks"] < 0.95 * found["writer"]
    assert found["everything"] < 0.95 * found["writer"]


def test_widths_are_multiples_when_asked(tokenizer, texts):
    pruned = quick(tiny_model("llama"), tokenizer, texts[:10], 0.4, options={"context": 64, "round_to": 8})
    assert all(n % 8 == 0 for n in pruned.summary["n_kept"])
