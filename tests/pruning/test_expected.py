"""The expected time of a recipe, and the recipe that a device gets."""

import pytest
from tiny import tiny_model

import llmbrain as lb
from llmbrain.models.speed import Speed, measure_machine
from llmbrain.models.surgery import prunable_mlps
from llmbrain.pruning import Recipe
from llmbrain.pruning.expected import default_recipe, expected_seconds, refit_products
from llmbrain.pruning.measured import Measurements

SPEED = Speed(token=1e-3, products=1e-3)
TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) for i in range(10)]
SMALL = {"context": 16, "max_tokens": 64}


def expected(tokenizer, recipe, **changes):
    measurements = Measurements(tiny_model(), tokenizer, TEXTS)
    return expected_seconds(measurements.of(Recipe.named(recipe).with_(**{"context": 16, **changes})), SPEED)


def test_a_cpu_gets_the_fast_recipe_and_is_told_the_time(tokenizer, capsys):
    assert default_recipe(tiny_model()) == "fast" and default_recipe(tiny_model().to("meta")) == "best"
    pruned = lb.prune(tiny_model(), tokenizer, TEXTS, options=SMALL, measure=False)
    assert pruned.summary["recipe"] == "fast"
    assert "Pruning with the recipe 'fast' on 64 tokens: about " in capsys.readouterr().out
    lb.prune(tiny_model(), tokenizer, TEXTS, options=SMALL, measure=False, progress=False)
    assert capsys.readouterr().out == ""


def test_what_is_read_more_often_takes_longer(tokenizer):
    wanda, fast, best = (expected(tokenizer, name) for name in ("wanda", "fast", "best"))
    assert wanda <= expected(tokenizer, "fast", allocation="power") < fast < best
    assert expected(tokenizer, "fast", max_tokens=64) < fast
    assert expected(tokenizer, "fast", curve_tokens=16) < fast
    assert expected(tokenizer, "fast", compensation="none") < expected(tokenizer, "fast", ridge=0.1) < fast
    assert expected(tokenizer, "fast", recover=2.0) == pytest.approx(fast + 120)


def test_refits_cost_by_the_smaller_of_tokens_and_neurons():
    parts = prunable_mlps(tiny_model())
    few, some, many = (refit_products(parts, n, 0.2) for n in (8, 16, 4096))
    assert 2 < some / few < 4 < many / some
    assert refit_products(parts, 4096, 0.5) < many < refit_products(parts, 4096, 0.2, chosen=True)


def test_a_token_without_words_takes_no_longer():
    speed = measure_machine(tiny_model())
    assert 0 < speed.of_tokens(10, head=False) <= speed.of_tokens(10) == 10 * speed.token
