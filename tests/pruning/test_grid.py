"""The grid: rows, resuming, and refusals."""

import importlib
import importlib.util
from functools import partial

import numpy as np
import pytest
from tiny import tiny_model

import llmbrain as lb
from llmbrain.exceptions import (
    DatasetError,
    LLMBrainWarning,
    ParameterError,
)
from llmbrain.files import read_tsv, write_tsv
from llmbrain.pruning import Recipe, combine, kept_overlap, run_grid

quick = partial(lb.prune, recipe="fast", measure=False, progress=False)
SENTENCES = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(16)]
RNG = np.random.default_rng(0)
MAPS = RNG.standard_normal((6, 192))


def recipes_of(*rows, options=None, networks=None, name=""):
    return [Recipe(*names, {"context": 32, **(options or {})}, networks, name) for names in rows]


def grid_of(model, tokenizer, recipes, ratios=(0.5,), out=None, **settings):
    settings = {"seeds": (0,), "context": 32, "progress": False, **settings}
    return run_grid(model, tokenizer, SENTENCES, SENTENCES[:3], recipes, ratios=ratios, out=out, settings=settings)


def planted(layer, loud=9.0, seed=0):
    """Maps of four layers of 48 neurons, strong in one layer."""
    maps = 0.1 * np.random.default_rng(seed).standard_normal((6, 192))
    maps[:, 48 * layer : 48 * (layer + 1)] *= loud / 0.1
    return maps


def test_rows_of_other_settings_are_not_taken_for_ours(model, tokenizer, tmp_path):
    out = tmp_path / "grid.tsv"
    plain, guided = ("flap", "uniform", "none"), ("flap", "networks", "none")
    first = grid_of(model, tokenizer, recipes_of(plain, guided, networks=MAPS), out=out)
    assert first.settings_hash[1:].nunique() == 2 and first.settings_hash[1:].str.startswith("s").all()
    # the same again; rows that read no networks may go with others, and other variants too
    asked = []
    again = partial(grid_of, model, tokenizer, out=out, keep=lambda row, pruned: asked.append(row["variant"]))
    assert len(again(recipes_of(plain, guided, networks=MAPS.copy()))) == 3 and not asked
    named = recipes_of(guided, networks=MAPS, options={"floor": 0.3}, name="floor")
    assert len(again(named)) == 4 and asked == ["floor"]
    for other in (
        recipes_of(plain, options={"token_weights": "stream"}),
        recipes_of(plain, options={"floor": 0.1}),
        recipes_of(guided, networks=MAPS[:5]),
        recipes_of(guided, networks="joint"),
    ):
        with pytest.raises(DatasetError, match="other options or networks"):
            again(other)
    with pytest.raises(DatasetError, match="minimal pairs"):
        again(recipes_of(plain), minimal_pairs="npi_licensing")
    with pytest.raises(DatasetError, match="weights_hash"):
        grid_of(tiny_model("llama", seed=1), tokenizer, recipes_of(plain), out=out)
    table = read_tsv(out)
    write_tsv(out, table.drop(columns="settings_hash"))
    with pytest.raises(DatasetError, match="its row flap, .* has changed since it was written"):
        again(recipes_of(plain, guided, networks=MAPS))


def test_two_grids_at_once_lose_no_row(model, tokenizer, tmp_path):
    """Each writes the rows that it knows, so that the last one would win."""
    out, (one, other) = tmp_path / "grid.tsv", (recipes_of((score, "uniform", "none")) for score in ("flap", "wanda"))

    def meanwhile(row, pruned):
        with pytest.raises(DatasetError, match="Another launch is writing .*grid.tsv"):
            grid_of(model, tokenizer, other, out=out)

    grid_of(model, tokenizer, one, out=out, keep=meanwhile)
    assert grid_of(model, tokenizer, other, out=out).score.tolist() == ["dense", "flap", "wanda"]
    assert [file.name for file in tmp_path.iterdir()] == ["grid.tsv"]


def test_the_grid_refuses_what_cannot_run_before_any_work(model, tokenizer, monkeypatch):
    module = importlib.import_module("llmbrain.evaluation.perplexity")
    monkeypatch.setattr(module, "perplexity_report", lambda *a, **k: 1 / 0)
    plain = ("flap", "uniform", "none")
    for recipes, given, says in (
        (recipes_of(("flap", "networks", "none")), {}, "networks="),
        (recipes_of(("network", "uniform", "none")), {}, "networks="),
        (recipes_of(plain), {"ratio_of": "flops"}, "ratio_of"),
        (recipes_of(plain, options={"heads": True}), {}, "decoder"),
        (recipes_of(plain), {"ratios": (0.99,)}, "floor"),
        (recipes_of(plain) + recipes_of(plain, options={"floor": 0.1}), {}, "different options"),
    ):
        with pytest.raises(ParameterError, match=says):
            grid_of(model, tokenizer, recipes, **given)
    with pytest.raises(ZeroDivisionError), pytest.warns(LLMBrainWarning, match="nothing reads it"):
        grid_of(model, tokenizer, recipes_of(plain, networks="joint"))


def test_recipes_of_one_name_share_options_and_networks(model, tokenizer, tmp_path):
    """Recipes that read no networks need none beside recipes that do, in any order; two different sets are refused."""
    plain, guided, scored = ("flap", "uniform", "none"), ("flap", "networks", "none"), ("network", "uniform", "none")
    with_maps = recipes_of(guided, scored, networks=MAPS)
    for i, recipes in enumerate((recipes_of(plain) + with_maps, with_maps + recipes_of(plain))):
        out = tmp_path / f"{i}.tsv"
        table = grid_of(model, tokenizer, recipes, out=out)
        assert sorted(table.score) == ["dense", "flap", "flap", "network"]
        other = [recipe.with_(networks=MAPS[:5]) if recipe.networks is not None else recipe for recipe in recipes]
        with pytest.raises(DatasetError, match="other options or networks"):
            grid_of(model, tokenizer, other, out=out)
    for pair in (
        recipes_of(guided, networks=MAPS) + recipes_of(scored, networks=MAPS[:5]),
        recipes_of(guided, networks=MAPS) + recipes_of(plain) + recipes_of(scored, networks="joint"),
        recipes_of(guided, networks=MAPS) + recipes_of(plain, options={"floor": 0.1}),
    ):
        with pytest.raises(ParameterError, match="different options or networks. Give each set a name"):
            grid_of(model, tokenizer, pair)


def test_seeds_of_the_search_are_draws_of_their_own(model, tokenizer, monkeypatch):
    """One row per seed, from one survey and one set of curves."""
    from llmbrain.pruning import measured
    from llmbrain.pruning.allocation import search

    calls, seeds = [], []
    survey, curves, searched = measured.survey, measured.measure_curves, search.search_counts
    monkeypatch.setattr(measured, "survey", lambda *a, **k: calls.append("survey") or survey(*a, **k))
    monkeypatch.setattr(measured, "measure_curves", lambda *a, **k: calls.append("curves") or curves(*a, **k))
    monkeypatch.setattr(search, "search_counts", lambda *a, **k: seeds.append(k["seed"]) or searched(*a, **k))
    options = {"n_evaluations": 10}
    recipes = recipes_of(("flap", "search", "none"), ("flap", "uniform", "none"), options=options)
    table = grid_of(model, tokenizer, recipes, seeds=(0, 5))
    assert table.seed.tolist() == [0, 0, 5, 0] and seeds == [0, 5] and calls == ["survey", "curves"]
    alone = lb.prune(
        model, tokenizer, SENTENCES, 0.5, recipe="wanda", score="flap", allocation="search", random_state=5,
        measure=False, progress=False,
        options={"context": 32, **options, "propagation": "sequential", "floor": 0.05},
    )  # fmt: skip
    assert table.perplexity[2] == pytest.approx(lb.perplexity(alone.model, tokenizer, SENTENCES[:3], context=32))


def test_combinations_are_recipes():
    recipes = combine(("flap", "wanda"), ("uniform",), ("none", "bias"), options={"floor": 0.1}, name="x")
    assert [r.names() for r in recipes][:2] == [("flap", "uniform", "none"), ("flap", "uniform", "bias")]
    assert len(recipes) == 4 and all(r.options.floor == 0.1 and r.name == "x" for r in recipes)


def test_networks_of_a_recipe_are_its_own(model, tokenizer):
    """The rows of a grid are what prune returns alone."""
    kept = {}
    recipes = [Recipe("flap", "networks", "none", networks=planted(i), name=n) for n, i in (("a", 0), ("b", 3))]
    settings = {"seeds": (0,), "context": 32, "progress": False,
                "keep": lambda row, pruned: kept.update({row["variant"]: pruned.summary["n_kept"]})}  # fmt: skip
    run_grid(model, tokenizer, SENTENCES, SENTENCES[:3], recipes, ratios=(0.5,), settings=settings)
    assert kept["a"][0] == 48 and kept["b"][3] == 48
    for recipe in recipes:
        alone = lb.prune(model, tokenizer, SENTENCES, 0.5, recipe=recipe, measure=False, progress=False)
        assert alone.summary["n_kept"] == kept[recipe.name]


def test_the_grid_resumes_and_refuses_another_calibration(tokenizer, texts, tmp_path):
    model = tiny_model("llama")
    own = {"context": 64}
    recipes = [
        Recipe("random", "uniform", "none", own), Recipe("flap", "global", "bias", own),
        Recipe("flap", "schur", "affine", {**own, "refit_attention": True}, name="all"),
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
    with pytest.raises(DatasetError, match="test_hash"):
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
