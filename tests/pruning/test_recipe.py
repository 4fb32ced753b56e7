"""Recipes, budgets, and refits that hold with few tokens."""

from functools import partial

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, REFUSED, tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.exceptions import ParameterError, UnsupportedArchitectureError
from llmbrain.models.anatomy import weight_of
from llmbrain.models.surgery import attention_writers, prunable_attentions, prunable_mlps
from llmbrain.pruning import FORMATS, RECIPES, Options, Recipe
from llmbrain.pruning.compensation import Refit, choose_ridge, compensate, output_error
from llmbrain.pruning.cut import Cutter
from llmbrain.pruning.measured import Measurements
from llmbrain.pruning.search import search_counts
from llmbrain.pruning.walk import Walk, calibration_blocks, calibration_hash, split_windows
from llmbrain.stats.moments import Moments

TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]
quiet = partial(lb.prune, progress=False)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


# -- recipes --------------------------------------------------------------------------------------------------------
def test_the_default_recipe_is_the_one_whose_figures_are_published():
    import inspect

    assert inspect.signature(lb.prune).parameters["recipe"].default == "best"
    best = Recipe.named("best")
    assert best.names() == ("flap", "search", "affine") and best.describe() == best.name == "best"
    o = best.options
    assert (o.reconstruct, o.refit_attention, o.token_weights, o.held_out) == ("all", True, "stream", 0.2)
    assert o.n_evaluations == 300


def test_what_is_given_overrides_its_part_of_the_recipe():
    assert Recipe.named("fast").allocation == "power"
    changed = Recipe.named("best").with_(allocation="uniform", reconstruct="none", options={"n_steps": 2})
    assert changed.allocation == "uniform" and changed.score == "flap"
    assert (changed.options.reconstruct, changed.options.n_steps, changed.options.token_weights) == (
        "none",
        2,
        "stream",
    )
    assert Recipe.named(changed) is changed
    assert changed.describe() == "best, changed: allocation=uniform, reconstruct=none, n_steps=2"


def test_an_explicit_default_overrides_the_recipe_too(model, tokenizer):
    whole = Recipe.named("best").with_(options=Options(n_tokens=9))
    assert whole.options == Options(n_tokens=9) and whole.options.reconstruct == "none"
    options = Options(context=48, n_tokens=300)
    pruned = quiet(model, tokenizer, TEXTS, 0.3, recipe="fast", options=options, measure=False)
    assert pruned.summary["options"]["token_weights"] == "equal"
    assert pruned.summary["recipe"] == "fast, changed: token_weights=equal"


def test_a_recipe_is_pruned_by_as_it_is(model, tokenizer):
    recipe = Recipe("wanda", "uniform", "bias", {"context": 48}, name="mine")
    pruned = quiet(model, tokenizer, TEXTS, 0.3, recipe=recipe, measure=False)
    s = pruned.summary
    assert (s["score"], s["allocation"], s["compensation"], s["recipe"]) == ("wanda", "uniform", "bias", "mine")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Recipe.named("bets"), "Did you mean 'best'"),
        (lambda: Recipe("flop"), "Did you mean 'flap'"),
        (lambda: Recipe(allocation="fair"), "allocation 'fair'"),
        (lambda: Recipe(compensation="afine"), "Did you mean 'affine'"),
        (lambda: Recipe().with_(flor=0.1), "Did you mean 'floor'"),
        (lambda: Recipe(options={"target": "moon"}), "'stream', 'layer'"),
        (lambda: Recipe(networks="join"), "Did you mean 'joint'"),
        (lambda: Options(floor=1.0), "floor=1.0"),
        (lambda: Options(context=1), "context=1"),
        (lambda: Options(n_tokens=-1), "n_tokens=-1"),
        (lambda: Options(head_score="network"), "head score"),
    ],
)
def test_unknown_names_and_values_are_refused_with_the_choices(make, says):
    with pytest.raises(ParameterError, match=says):
        make()


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_prunes_and_describes_itself(name, model, tokenizer):
    options = {"context": 48, "n_tokens": 400}
    options |= {"n_evaluations": 6, "n_steps": 1} if name == "best" else {}
    pruned = quiet(model, tokenizer, TEXTS, 0.3, recipe=name, options=options, measure=False)
    assert pruned.summary["recipe"].partition(",")[0] == name and RECIPES[name].summary
    assert pruned.summary["neurons_removed"] == pytest.approx(0.3, abs=0.02)


def test_the_best_recipe_runs_and_is_accounted_for(model, tokenizer, tmp_path):
    options = {"context": 48, "n_evaluations": 12, "n_steps": 2}
    pruned = quiet(model, tokenizer, TEXTS, 0.3, options=options)
    s = pruned.summary
    assert s["recipe"] == "best, changed: n_steps=2, n_evaluations=12" and s["allocation"] == "search"
    assert sum(s["n_kept"]) == s["neurons_after"] == round(0.7 * s["neurons_before"])
    for key in ("neurons", "decoder_parameters", "total_parameters", "bytes"):
        assert 0 < s[f"{key}_removed"] < 0.5
    assert s["total_parameters_after"] == sum(p.numel() for p in pruned.model.parameters())
    speed = s["speed"]
    assert all(speed[f"{k}_tokens_per_second_{w}"] > 0 for k in ("prefill", "decode") for w in ("before", "after"))
    pruned.save_pretrained(tmp_path / "m")
    card = (tmp_path / "m" / "README.md").read_text()
    assert "Refitted as well" in card and "tokens per second" in card and f"reading {speed['prompt']} tokens" in card
    assert "speed" not in quiet(model, tokenizer, TEXTS, 0.3, recipe="fast", measure=False).summary


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n not in REFUSED])
def test_the_best_recipe_runs_on_every_architecture(name, tokenizer):
    """Where heads lie in an unknown way they cannot be cut, but the output projection is refitted all the same."""
    options = {"context": 48, "n_evaluations": 6, "n_steps": 1}
    pruned = quiet(tiny_model(name), tokenizer, TEXTS[:4], 0.4, options=options, measure=False)
    assert all(part is not None for part in attention_writers(pruned.model))
    assert torch.isfinite(pruned.model(torch.arange(12)[None]).logits).all()


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_described_in_the_card(format):
    assert FORMATS[format].loading and FORMATS[format].summary


def test_a_format_that_cannot_hold_the_result_is_refused_before_the_work():
    best = Recipe.named("best")
    fast = Recipe.named("fast").with_(compensation="ridge", allocation="uniform")
    for name, format, recipe, words in (
        ("llama", "uniform", best, "one width"),
        ("qwen3", "padded", best, "no place for the biases"),
    ):
        with pytest.raises(ParameterError, match=words):
            FORMATS[format].check(tiny_model(name), recipe)
    with pytest.raises(UnsupportedArchitectureError, match="hetero"):
        FORMATS["gguf"].check(tiny_model("gpt2"), best)
    for name, format, recipe in (("llama", "padded", best), ("qwen3", "uniform", fast), ("gpt2", "padded", best)):
        FORMATS[format].check(tiny_model(name), recipe)


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


# -- budgets --------------------------------------------------------------------------------------------------------
def test_bytes_and_latency_are_budgets(model, tokenizer, monkeypatch):
    fast = partial(quiet, model, tokenizer, TEXTS, recipe="wanda", measure=False)
    s = fast(0.1, ratio_of="bytes").summary
    assert s["bytes_removed"] == pytest.approx(0.1, abs=0.01)
    with pytest.raises(ParameterError, match="the bytes"):
        fast(0.9, ratio_of="bytes")
    # a machine whose forward pass takes 10 s, 6 of them in MLPs whose time is proportional to their width
    monkeypatch.setattr("llmbrain.pruning.budget.forward_seconds", lambda model: 10.0)
    monkeypatch.setattr("llmbrain.pruning.budget.layer_latency", lambda part, widths: [1.5 * w / 48 for w in widths])
    s = fast(0.3, ratio_of="latency").summary
    assert s["neurons_removed"] == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ParameterError, match="forward pass"):
        fast(0.7, ratio_of="latency")


def test_a_busy_moment_does_not_decide_about_the_budget(model, tokenizer, monkeypatch):
    """The narrowest width was measured while something else ran: the wider ones say what it takes at most."""
    monkeypatch.setattr("llmbrain.pruning.budget.forward_seconds", lambda model: 10.0)
    true = lambda part, widths: [1.5 * w / 48 for w in widths]  # noqa: E731
    monkeypatch.setattr("llmbrain.pruning.budget.layer_latency", lambda p, w: [9.0, *true(p, w)[1:]])
    s = quiet(model, tokenizer, TEXTS, 0.3, recipe="wanda", ratio_of="latency", measure=False).summary
    assert s["neurons_removed"] == pytest.approx(0.5, abs=0.02)


def test_latency_is_measured(model):
    from llmbrain.pruning.budget import forward_seconds, layer_latency

    wide = prunable_mlps(tiny_model("llama", hidden_size=256, intermediate_size=2048))[0]
    narrow, full = layer_latency(wide, [64, 2048], n_tokens=256)
    assert 0 < narrow < full and forward_seconds(model) > 0


def test_measured_heads_go_before_neurons_when_they_cost_less(tokenizer):
    """Heads that write nothing are found, and the rest of the budget is taken from the neurons."""
    model = tiny_model("llama")
    part = prunable_attentions(model)[2]
    with torch.no_grad():
        weight_of(part.writer)[:, : part.group * part.head_dim] = 0  # the first group of the third layer
    options = {"context": 48, "heads": True}
    pruned = quiet(model, tokenizer, TEXTS, 0.15, recipe="fast", allocation="curves", ratio_of="decoder",
                   options=options, measure=False)  # fmt: skip
    assert pruned.kept_heads[2].tolist() == list(range(part.group, part.n_heads))
    assert pruned.summary["decoder_parameters_removed"] == pytest.approx(0.15, abs=0.03)
    assert pruned.summary["n_heads_before"] == [4, 4, 4, 4]


# -- few tokens -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("compensation", ["affine", "ridge"])
@pytest.mark.parametrize("n_tokens", [24, 60, 400])
def test_no_refit_is_taken_that_held_out_tokens_speak_against(n_tokens, compensation, tokenizer):
    """Fewer tokens than unknowns: held-out error is never above that of mean bias or of the weights as they are."""
    model = tiny_model("llama")
    parts = prunable_mlps(model)
    blocks = calibration_blocks(tokenizer, TEXTS, context=24, n_tokens=n_tokens, batch_size=4)
    judged = []

    class Watched(Cutter):
        def _solve(self, linear, fit, held, keep, row):
            refit, gained = super()._solve(linear, fit, held, keep, row)
            weight = weight_of(linear).detach()
            methods = ("none", "bias") if self.compensation == "affine" else ("none",)
            limits = [output_error(weight, held, keep, compensate(weight, fit, keep, m)) for m in methods]
            if fit.n + held.n < 20 * len(keep):  # otherwise the last fit has seen these tokens too
                judged.append((output_error(weight, held, keep, refit), min(limits)))
            return refit, gained

    cutter = Watched(model, blocks, compensation, Options(context=24))
    for part in parts:
        cutter.layer(part, torch.arange(0, part.size, 2))
    assert len(judged) == 4 and all(error <= limit * 1.05 + 1e-12 for error, limit in judged)


def test_channels_that_know_nothing_of_each_other_get_a_bias_alone():
    g = torch.Generator().manual_seed(0)
    x, weight, kept = torch.randn(160, 80, generator=g) + 1, torch.randn(5, 80, generator=g), torch.arange(40)
    fit, held = Moments(80), Moments(80)
    fit.add(x[:60])
    held.add(x[60:])
    ridge, errors = choose_ridge(weight, fit, held, kept)
    bias = output_error(weight, held, kept, compensate(weight, fit, kept, "bias"))
    assert ridge >= 10 and min(errors) <= bias
    assert output_error(weight, held, kept, compensate(weight, fit, kept, "affine", 1.0)) > 1.05 * bias


def test_where_even_a_bias_does_harm_the_weights_stay(tokenizer):
    """The tokens that are fitted have another mean than those that judge."""
    model = tiny_model("llama")
    blocks = calibration_blocks(tokenizer, TEXTS, context=48)
    cutter = Cutter(model, blocks, "affine", Options(context=48))
    linear, g = torch.nn.Linear(40, 5, bias=False), torch.Generator().manual_seed(0)
    sides = [Moments(40), Moments(40)]
    sides[0].add(torch.randn(50, 40, generator=g) + 3)
    sides[1].add(torch.randn(50, 40, generator=g) - 1)
    refit, gained = cutter._solve(linear, *sides, torch.arange(20), {})
    assert not gained and refit.bias is None
    assert torch.equal(refit.weight.float(), linear.weight[:, :20])


def test_held_out_tokens_stay_out_while_there_are_few(tokenizer):
    """Behind the first layer, tokens that were fitted look better than others; so the judges are never fitted."""
    seen = []

    class Watched(Cutter):
        def _solve(self, linear, fit, held, keep, row):
            refit, gained = super()._solve(linear, fit, held, keep, row)
            weight = weight_of(linear).detach()
            alone = compensate(weight, fit, keep, "affine", row["ridge"])
            seen.append(torch.equal(alone.weight, refit.weight))
            return refit, gained

    for n_tokens, expected in ((100, True), (2000, False)):
        seen.clear()
        model = tiny_model("llama")
        blocks = calibration_blocks(tokenizer, TEXTS * 4, context=48, n_tokens=n_tokens, batch_size=4)
        cutter = Watched(model, blocks, "affine", Options(context=48))
        cutter.layer(prunable_mlps(model)[0], torch.arange(0, 48, 2))
        assert seen == [expected]


def test_one_window_is_held_out_in_part(tokenizer):
    blocks = calibration_blocks(tokenizer, TEXTS, context=64, n_tokens=64)
    model = tiny_model("llama")
    cutter = Cutter(model, blocks, "affine", Options(context=64))
    assert 0 < sum(int(h.sum()) for h in cutter.held) < 32
    assert np.isfinite(cutter.layer(prunable_mlps(model)[0], torch.arange(24))["error"])


def test_moments_of_the_two_sides_add_up(tokenizer):
    from llmbrain.pruning.walk import gather, held_out_masks

    model = tiny_model("llama")
    blocks = calibration_blocks(tokenizer, TEXTS, context=64, batch_size=3)
    part = prunable_mlps(model)[0]
    walk = Walk(model, blocks)
    whole, _ = gather(walk, 0, part.writer)
    fit, held = gather(walk, 0, part.writer, held=held_out_masks(walk.masks))
    assert fit.n + held.n == whole.n and held.n > 0
    torch.testing.assert_close(fit.merge(held).covariance, whole.covariance, rtol=1e-4, atol=1e-7)


def test_windows_are_split_evenly_and_whole(tokenizer):
    blocks = calibration_blocks(tokenizer, TEXTS, context=32, batch_size=10)
    fit, held = split_windows(blocks, 0.25)
    count = lambda part: sum(len(b.ids) for b in part)  # noqa: E731
    assert count(fit) + count(held) == count(blocks) and count(held) == round(0.25 * count(blocks))
    many = calibration_blocks(tokenizer, TEXTS, context=32, batch_size=4)
    fit, held = split_windows(many, 0.25)
    assert [len(fit), len(held)] == [10, 3] and not {id(b) for b in fit} & {id(b) for b in held}
    one = calibration_blocks(tokenizer, TEXTS[:1], context=512)
    assert split_windows(one, 0.25) == (one, one)


def test_the_hash_is_one_of_tokens_not_of_batches(tokenizer):
    hashes = {calibration_hash(calibration_blocks(tokenizer, TEXTS, context=32, batch_size=n)) for n in (1, 3, 8)}
    assert len(hashes) == 1
    assert calibration_hash(calibration_blocks(tokenizer, TEXTS, context=16)) not in hashes


# -- search ---------------------------------------------------------------------------------------------------------
def test_a_failing_trial_leaves_the_model_whole(model, tokenizer):
    curves = Measurements(model, tokenizer, TEXTS).of(Recipe(options={"context": 48})).curves
    supernet, probe = curves.supernet, curves.probe
    probe.windows = lambda **kwargs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        search_counts(supernet, probe, [np.array([24] * 4)], 96, floors=[4] * 4)
    assert [p.size for p in prunable_mlps(model)] == [48] * 4


def test_refit_of_nothing_is_a_plain_slice():
    moments = Moments(4)
    moments.add(torch.randn(30, 4, generator=torch.Generator().manual_seed(0)))
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    whole = Refit(weight.double(), None)
    assert output_error(weight, moments, torch.arange(4), whole) == pytest.approx(0, abs=1e-12)
