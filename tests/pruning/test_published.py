"""Networks as guides of pruning: their scores and allocations, one walk for all of them, and the paired comparison."""

import importlib.util
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.pruning import SCORES, Recipe, run_grid
from llmbrain.pruning.walk import Walk, calibration_blocks

quick = partial(lb.prune, recipe="fast", measure=False, progress=False)
SENTENCES = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(16)]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


# -- in prune -------------------------------------------------------------------------------------------------------
def planted(layer, loud=9.0, seed=0):
    """Maps of four layers of 48 neurons, strong in one layer."""
    maps = 0.1 * np.random.default_rng(seed).standard_normal((6, 192))
    maps[:, 48 * layer : 48 * (layer + 1)] *= loud / 0.1
    return maps


def test_power_allots_in_proportion_unless_told_otherwise(model, tokenizer):
    """The default exponent is 1 for power, 0.3 for the Schur residual; another is taken at its word."""

    def kept(allocation, **options):
        recipe = Recipe.named("fast").with_(allocation=allocation, compensation="none", context=48, **options)
        pruned = quick(model, tokenizer, SENTENCES, 0.4, recipe=recipe)
        return pruned.summary["n_kept"]

    assert kept("power") == kept("power", exponent=1.0) != kept("power", exponent=0.3)
    assert kept("schur") == kept("schur", exponent=0.3) != kept("schur", exponent=1.0)
    assert max(kept("power", exponent=0)) - min(kept("power", exponent=0)) <= 1


# -- walks ----------------------------------------------------------------------------------------------------------
def state_of(model):
    """What a walk might leave behind on any module: its own forward, and hooks."""
    return [
        (id(m), id(m.__dict__.get("forward")), len(m._forward_hooks), len(m._forward_pre_hooks))
        for m in model.modules()
    ]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_walks_leave_forward_and_hooks_alone(name, tokenizer):
    model = tiny_model(name)
    blocks = calibration_blocks(tokenizer, SENTENCES, context=32)
    first = Walk(model, blocks).layers
    own = first[1].forward  # a forward of its own, as some libraries put there, must come back too
    first[1].forward = lambda *args, **kwargs: own(*args, **kwargs)
    ids = torch.arange(20)[None]
    before, logits = state_of(model), model(ids).logits
    walk = Walk(model, blocks)
    for layer in range(4):
        walk.advance(layer)
    assert state_of(model) == before
    assert torch.equal(model(ids).logits, logits)


@pytest.mark.parametrize("broken", ["first", "embedding", "norm"])
def test_a_walk_that_fails_leaves_the_model_whole(broken, tokenizer):
    """Wherever the pass breaks: in the first layer, before it, or behind the layers that were exchanged."""
    model = tiny_model("llama")
    blocks = calibration_blocks(tokenizer, SENTENCES, context=32)
    ids = torch.arange(20)[None]
    logits = model(ids).logits
    inner = model.model
    where = {"first": inner.layers[0].mlp, "embedding": inner.embed_tokens, "norm": inner.norm}[broken]

    def fail(module, args):
        raise RuntimeError("planted")

    handle = where.register_forward_pre_hook(fail)
    before = state_of(model)
    with pytest.raises(RuntimeError, match="planted"):
        Walk(model, blocks)
    assert state_of(model) == before
    handle.remove()
    assert torch.equal(model(ids).logits, logits)


def test_one_walk_serves_the_grid(model, tokenizer, monkeypatch):
    """All scores, sensitivities and ratios of one kind of statistics come from one survey, networks among them."""
    from llmbrain.pruning import measured

    asked, found = [], Counter()
    survey, find = measured.survey, measured.find_networks

    def counted(walk, parts, scores, **kwargs):
        asked.append((sorted(key[5] if key[5] in SCORES else "?" for key in scores), kwargs["schur"]))
        return survey(walk, parts, scores, **kwargs)

    monkeypatch.setattr(measured, "survey", counted)
    monkeypatch.setattr(measured, "find_networks", lambda how, *a, **k: found.update([how]) or find(how, *a, **k))

    def run(recipes, **given):
        settings = {"seeds": (0,), "context": 32, "progress": False}
        return run_grid(model, tokenizer, SENTENCES, SENTENCES[:3], recipes, ratios=(0.2, 0.5), settings=settings)

    own = {"context": 32}
    same = run([
        Recipe("flap", "uniform", "none", own, "layers"), Recipe("wanda", "schur", "none", own, "layers"),
        Recipe("flap", "networks", "none", {**own, "floor": 0.1}, "layers", "more"),
    ])  # fmt: skip
    assert asked == [(["flap", "network", "wanda"], True)] and found == {"layers": 1} and len(same) == 7
    asked.clear()
    found.clear()
    run([
        Recipe("network", "uniform", "none", own, "layers"),
        Recipe("network", "uniform", "none", own, "joint", "joint"),
        Recipe("network", "uniform", "none", {**own, "token_weights": "stream"}, "layers", "stream"),
    ])  # fmt: skip
    assert [names for names, _ in asked] == [["network", "network"], ["network"]]
    assert found == {"layers": 1, "joint": 1}


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


# -- the comparison -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "pruning_networks.py"
    spec = importlib.util.spec_from_file_location("pruning_networks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_draws_share_no_window(benchmark):
    ids = np.arange(1000)
    draws = [np.concatenate(benchmark.draw_windows(ids, 40, 10, d)) for d in range(25)]
    assert sorted(np.concatenate(draws).tolist()) == ids.tolist()
    with pytest.raises(SystemExit, match="no draw 25"):
        benchmark.draw_windows(ids, 40, 10, 25)


def test_planted_gains_are_told_from_chance(benchmark):
    """A role that helps by 5 %, one that harms, one that does nothing; draws differ by far more than that."""
    rng = np.random.default_rng(0)
    gains = {"network x FLAP": -0.05, "network": 0.3, "joint network x FLAP": 0.0, "uniform": 0.0}
    rows = []
    for draw in range(4):
        level = 4 + rng.normal(0, 0.5)
        for name, gain in gains.items():
            for ratio in (0.2, 0.5):
                loss = level + gain + rng.normal(0, 0.005)
                rows.append((*benchmark.ROWS[name], ratio, draw, 2048, np.exp(loss)))
    names = ["score", "allocation", "compensation", "variant", "ratio", "draw", "tokens", "perplexity"]
    table = pd.DataFrame(rows, columns=names)
    found = benchmark.paired(table, 0.2, "network x FLAP", "uniform")
    assert found["n"] == 4 and found["low"] < -0.05 < found["high"] < 0
    text = benchmark.markdown(table).splitlines()
    answers = {
        line.split(" | ")[0].strip("| "): line.split(" | ")[1] for line in text[text.index("") + 1 :] if "|" in line[:1]
    }
    assert answers["selection: z x FLAP"] == "yes"
    assert answers["selection: largest z"] == "no, worse"
    assert answers["joint layers: selection, z x FLAP"] == "no"
    assert answers["allocation: threshold on maps"] == "not run"
    one = table[table.draw == 0]
    assert benchmark.verdict([benchmark.paired(one, 0.2, "network x FLAP", "uniform")]) == "one draw, better"


def test_every_row_of_the_comparison_runs_and_is_answered(benchmark, model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(benchmark.__file__).parent)
    ids = np.concatenate([tokenizer(text)["input_ids"] for text in SENTENCES])
    from pruning_grid import recipes_of

    options = {**benchmark.OPTIONS, "context": 32}
    recipes = recipes_of(benchmark.ROWS.values(), benchmark.VARIANTS, options, "layers")
    run_grid(model, tokenizer, benchmark.draw_windows(ids, 256, 32, 1), SENTENCES[:3], recipes, ratios=(0.5,),
             out=tmp_path / "networks_delete_256_draw1.tsv",
             settings={"seeds": (1,), "context": 32, "progress": False})  # fmt: skip
    table = benchmark.collect(tmp_path)
    assert table.draw.unique().tolist() == [1] and len(table) == 1 + len(benchmark.ROWS)
    text = benchmark.markdown(table)
    assert "not run" not in text and text.count("one draw") == len(benchmark.PAIRS) + len(benchmark.ASIDE)
