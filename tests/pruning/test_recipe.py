"""Recipes: parts, options, names, and what overrides what."""

from functools import partial

import numpy as np
import pytest

import llmbrain as lb
from llmbrain.exceptions import (
    ParameterError,
)
from llmbrain.pruning import RECIPES, Options, Recipe

quick = partial(lb.prune, recipe="fast", measure=False, progress=False)
TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]
SENTENCES = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(16)]
quiet = partial(lb.prune, progress=False)


def test_a_recipe_is_named_with_what_was_changed_of_it(model, tokenizer):
    def name(**given):
        options = {"context": 32, "max_tokens": 300, **given.pop("options", {})}
        return quick(model, tokenizer, SENTENCES, 0.5, options=options, **given).summary["recipe"]

    assert name() == name(allocation="trial") == "fast"
    assert name(allocation="uniform") == "fast, changed: allocation=uniform"
    assert name(options={"token_weights": "equal", "floor": 0.1}) == "fast, changed: floor=0.1, token_weights=equal"
    assert name(recipe="wanda", score=[np.arange(48)] * 4) == "wanda, changed: score=given"


def test_the_default_recipe_is_the_one_whose_figures_are_published():
    import inspect

    assert inspect.signature(lb.prune).parameters["recipe"].default == "auto"
    best = Recipe.named("best")
    assert best.names() == ("flap", "search", "affine") and best.describe() == best.name == "best"
    o = best.options
    assert (o.block_steps, o.block_span, o.lookahead) == (300, 3, 3)
    assert (o.refit_attention, o.token_weights, o.held_out) == (True, "stream", 0.2)
    assert o.n_evaluations == 300


def test_what_is_given_overrides_its_part_of_the_recipe():
    assert Recipe.named("fast").allocation == "trial"
    changed = Recipe.named("best").with_(allocation="uniform", block_steps=0, options={"lookahead": 2})
    assert changed.allocation == "uniform" and changed.score == "flap"
    o = changed.options
    assert (o.block_steps, o.lookahead, o.token_weights) == (0, 2, "stream")
    assert Recipe.named(changed) is changed
    assert changed.describe() == "best, changed: allocation=uniform, block_steps=0, lookahead=2"


def test_an_explicit_default_overrides_the_recipe_too(model, tokenizer):
    whole = Recipe.named("best").with_(options=Options(max_tokens=9))
    assert whole.options == Options(max_tokens=9) and whole.options.block_steps == 0
    options = Options(context=48, max_tokens=300)
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
        (lambda: Options(max_tokens=-1), "max_tokens=-1"),
        (lambda: Options(head_score="network"), "head score"),
    ],
)
def test_unknown_names_and_values_are_refused_with_the_choices(make, says):
    with pytest.raises(ParameterError, match=says):
        make()


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_prunes_and_describes_itself(name, model, tokenizer):
    options = {"context": 48, "max_tokens": 400}
    options |= {"n_evaluations": 6, "block_steps": 2} if name == "best" else {}
    pruned = quiet(model, tokenizer, TEXTS, 0.3, recipe=name, options=options, measure=False)
    assert pruned.summary["recipe"].partition(",")[0] == name and RECIPES[name].summary
    assert pruned.summary["neurons_removed"] == pytest.approx(0.3, abs=0.02)
