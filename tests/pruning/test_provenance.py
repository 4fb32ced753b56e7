"""What a result says of its making is true: the text of its networks, its settings, its recipe, its card, its table."""

import gc
import importlib
import weakref
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.exceptions import DatasetError, GeometryMismatchError, LLMBrainWarning, ParameterError
from llmbrain.files import read_tsv, write_tsv
from llmbrain.pruning import Pruner, Recipe, combine, run_grid
from llmbrain.pruning import published as network_scores
from llmbrain.pruning.allocation import sensitivity_counts
from llmbrain.pruning.measured import Measurements
from llmbrain.pruning.walk import calibration_windows

quick = partial(lb.prune, recipe="fast", measure=False, progress=False)
SENTENCES = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(16)]
RNG = np.random.default_rng(0)
MAPS = RNG.standard_normal((6, 192))


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


# -- scores of one's own --------------------------------------------------------------------------------------------
def test_every_array_of_scores_is_read_anew(model, tokenizer):
    """Lists that take the place of freed ones, and lists that were changed in place, are not taken for one another."""
    pruner = Pruner(model, tokenizer, SENTENCES)
    choices = [np.sort(np.random.default_rng(i).permutation(48)[:24]) for i in range(2)]

    def kept(score):
        return pruner.prune(Recipe(score, "uniform", "none", {"context": 48}), 0.5).kept[3].tolist()

    def scores(best):
        return [np.isin(np.arange(48), best).astype(float) for _ in range(4)]

    first, others = scores(choices[0]), []
    place = id(first)
    assert kept(first) == choices[0].tolist()
    del first
    while len(others) < 1000 and place not in map(id, others[-1:]):
        others.append(scores(choices[1]))
    assert kept(others[-1]) == choices[1].tolist()
    mine = scores(choices[0])
    for best in (choices[0], choices[1], choices[0]):
        for layer in mine:
            layer[:] = np.isin(np.arange(48), best)
        assert kept(mine) == best.tolist() and kept(scores(choices[0])) == choices[0].tolist()


def test_functions_are_kept_as_long_as_what_they_gave(model, tokenizer):
    pruner = Pruner(model, tokenizer, SENTENCES)

    def ranked(sign):
        return lambda part, moments: sign * torch.arange(part.size, dtype=torch.float64)

    seen = []
    for sign in (1, -1):
        score = ranked(sign)
        seen.append(weakref.ref(score))
        kept = pruner.prune(Recipe(score, "uniform", "none", {"context": 48}), 0.5).kept
        assert kept[0].tolist() == (list(range(24, 48)) if sign > 0 else list(range(24)))
        del score
        gc.collect()
    assert all(ref() is not None for ref in seen)


# -- networks -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("how", "finder"), [("layers", "layer_networks"), ("joint", "joint_networks"), ("published", "published_networks")]
)
def test_networks_are_found_on_the_windows_of_the_calibration(how, finder, model, tokenizer):
    """They are those of exactly these tokens and this context, and the summary says so."""
    options = {"context": 32, "n_tokens": 200, "network_tokens": 100}
    measured = Measurements(model, tokenizer, SENTENCES).of(Recipe("network", options=options, networks=how), 3)
    windows = calibration_windows(tokenizer, SENTENCES, context=32, n_tokens=200)
    assert sum(map(len, windows)) == sum(b.n_tokens for b in measured.blocks) <= 200 and max(map(len, windows)) == 32
    cap = {"n_tokens": 100} if how == "joint" else {}
    wanted = getattr(network_scores, finder)(model, None, windows, context=32, random_state=3, **cap)
    for found, expected in zip(measured.maps, wanted.maps):
        torch.testing.assert_close(found, expected.double())
    told = measured.describe_networks()
    assert told["kind"] == how and told["context"] == 32 and told["random_state"] == 3
    read = told["n_tokens"] if how == "joint" else sum(g["n_tokens"] for g in told["groups"])
    assert read == (100 if how == "joint" else sum(map(len, windows)))


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


# -- recipes and cards ----------------------------------------------------------------------------------------------
def test_a_recipe_is_named_with_what_was_changed_of_it(model, tokenizer):
    def name(**given):
        options = {"context": 32, "n_tokens": 300, **given.pop("options", {})}
        return quick(model, tokenizer, SENTENCES, 0.5, options=options, **given).summary["recipe"]

    assert name() == name(allocation="power") == "fast"
    assert name(allocation="uniform") == "fast, changed: allocation=uniform"
    assert name(options={"token_weights": "equal", "floor": 0.1}) == "fast, changed: floor=0.1, token_weights=equal"
    assert name(recipe="wanda", score=[np.arange(48)] * 4) == "wanda, changed: score=given"


@pytest.mark.parametrize("compensation", ["none", "bias", "ridge", "affine"])
def test_the_card_claims_no_refit_that_was_not_made(compensation, model, tokenizer, tmp_path):
    options = {"context": 32, "reconstruct": "all", "refit_attention": True, "n_steps": 1}
    pruned = quick(model, tokenizer, SENTENCES, 0.5, allocation="uniform", compensation=compensation, options=options)
    pruned.save_pretrained(tmp_path / "m")
    card = (tmp_path / "m" / "README.md").read_text()
    assert ("Refitted as well" in card) == (compensation in ("ridge", "affine"))
    assert ("nothing was refitted" in card) == (compensation == "none")
    changed = not torch.equal(
        pruned.model.model.layers[2].mlp.gate_proj.weight,
        model.model.layers[2].mlp.gate_proj.weight[torch.as_tensor(pruned.kept[2])],
    )
    assert changed == (compensation in ("ridge", "affine"))


# -- allocation -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ratio", [0.01, 0.2, 0.5, 0.8, 0.9])
@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
def test_layers_keep_their_order_where_shares_are_clipped(spread, ratio):
    """Of layers that cost more no fewer neurons stay, in all as many as wanted; within the limits in proportion."""
    s = np.exp(spread * np.random.default_rng(1).standard_normal(30))
    kept = sensitivity_counts(s, [1000] * 30, round(30_000 * (1 - ratio)), exponent=1.0)
    assert kept.sum() == round(30_000 * (1 - ratio))
    in_order = kept[np.argsort(s)]
    assert (np.diff(in_order) >= -1).all()  # rounding moves a neuron
    removed = 1 - kept / 1000
    inside = (removed > 0.021) & (removed < 0.849)
    if 0.02 <= ratio <= 0.85 and inside.sum() > 1:
        factor = removed[inside] * s[inside]
        assert np.ptp(factor / factor.mean()) < 0.15


def test_unclipped_shares_are_in_proportion():
    s = np.array([1.0, 2.0, 4.0])
    w = s.mean() / s
    wanted = 10_000 * (1 - 0.3 * w / w.mean())
    assert np.abs(sensitivity_counts(s, [10_000] * 3, 21_000, exponent=1.0) - wanted).max() <= 1


# -- the grid -------------------------------------------------------------------------------------------------------
def recipes_of(*rows, options=None, networks=None, name=""):
    return [Recipe(*names, {"context": 32, **(options or {})}, networks, name) for names in rows]


def grid_of(model, tokenizer, recipes, ratios=(0.5,), out=None, **settings):
    settings = {"seeds": (0,), "context": 32, "progress": False, **settings}
    return run_grid(model, tokenizer, SENTENCES, SENTENCES[:3], recipes, ratios=ratios, out=out, settings=settings)


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
    with pytest.raises(DatasetError, match="settings_hash"):
        again(recipes_of(plain, guided, networks=MAPS))


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


def test_a_pruner_checks_the_budget_too(model, tokenizer):
    pruner = Pruner(model, tokenizer, SENTENCES)
    for recipe, ratio_of, says in (
        (Recipe(options={"context": 32, "heads": True}), "neurons", "decoder"),
        (Recipe(options={"context": 32}), "flops", "ratio_of"),
    ):
        with pytest.raises(ParameterError, match=says):
            pruner.prune(recipe, 0.3, ratio_of=ratio_of)


def test_seeds_of_the_search_are_draws_of_their_own(model, tokenizer, monkeypatch):
    """One row per seed, from one survey and one set of curves."""
    from llmbrain.pruning import measured, search

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


def test_tables_of_before_stay_readable():
    from pathlib import Path

    from llmbrain.plotting import plot_pruning_grid

    table = read_tsv(Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "fast_drop_65536.tsv")
    assert {"dense", "flap"} <= set(table.score)
    assert plot_pruning_grid(table) is not None


# -- heads ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("allocation", ["power", "networks", "uniform"])
def test_heads_go_with_every_way_to_allot_neurons(allocation, model, tokenizer):
    networks = MAPS if allocation == "networks" else None
    pruned = quick(model, tokenizer, SENTENCES, 0.3, allocation=allocation, ratio_of="decoder", networks=networks,
                   options={"context": 32, "heads": True})  # fmt: skip
    s = pruned.summary
    assert s["decoder_parameters_removed"] == pytest.approx(0.3, abs=0.03)
    assert sum(s["n_heads_kept"]) < 16 and min(s["n_heads_kept"]) >= 1
    assert len(set(s["n_kept"])) == 1 if allocation == "uniform" else len(set(s["n_kept"])) > 1
    assert torch.isfinite(pruned.model(torch.arange(12)[None]).logits).all()


# -- commands -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def files(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    model.save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    (folder / "text.txt").write_text("\n".join(SENTENCES))
    (folder / "test.txt").write_text("\n".join(SENTENCES[:4]))
    return folder


def command(*args):
    from llmbrain import cli

    cli.main(list(map(str, args)))


def test_the_command_prune_takes_networks_and_formats(files, tmp_path, capsys):
    common = ["--model", files / "tiny", "--calibration", files / "text.txt", "--recipe", "fast", "--ratio", 0.5]
    common += ["--calibration-tokens", 200]
    command("prune", *common, "--out", tmp_path / "a", "--networks", "joint", "--allocation", "networks")
    told = lb.pruning.load_pruned(tmp_path / "a").summary["networks"]
    assert told["kind"] == "joint" and told["read"] and told["n_tokens"] <= 200
    assert "recipe: fast, changed: allocation=networks" in capsys.readouterr().out
    command("prune", *common, "--out", tmp_path / "b", "--format", "uniform", "--compensation", "ridge")
    summary = lb.pruning.load_pruned(tmp_path / "b").summary
    assert summary["allocation"] == "uniform" and len(set(summary["n_kept"])) == 1
    command("prune", *common, "--out", tmp_path / "c", "--networks", "layers")
    assert "nothing reads it" in capsys.readouterr().err


def test_the_command_grid_has_what_run_grid_has(files, tmp_path, capsys):
    common = ["grid", "--model", files / "tiny", "--calibration", files / "text.txt", "--evaluation"]
    common += [files / "test.txt", "--ratios", "0.2,0.4", "--context", 32, "--compensations", "none"]
    out, figure = tmp_path / "g.tsv", tmp_path / "g.png"
    command(*common, "--scores", "random,flap,network", "--allocations", "uniform", "--seeds", "0,3", "--networks",
            "layers", "--figure", figure, "--out", out)  # fmt: skip
    table = read_tsv(out)
    assert len(table) == 1 + 2 * (2 + 1 + 2) and sorted(table.seed.unique()) == [0, 3] and figure.stat().st_size > 1000
    out = tmp_path / "h.tsv"
    command(*common, "--scores", "flap", "--allocations", "power", "--heads", "--ratio-of", "decoder", "--out", out)
    table = read_tsv(out)
    assert table.ratio_of.unique().tolist() == ["decoder"]
    assert table.decoder_removed[1:].tolist() == pytest.approx([0.2, 0.4], abs=0.04)
    capsys.readouterr()
    for wrong, says in ((["--heads"], "decoder"), (["--figure", "g.nothing"], "png"), (["--seeds", "x"], "--seeds")):
        with pytest.raises(SystemExit):
            command(*common, *wrong, "--out", tmp_path / "i.tsv")
        assert says in capsys.readouterr().err
    assert not (tmp_path / "i.tsv").exists()


def test_the_command_grid_asks_the_minimal_pairs_that_ship(files, tmp_path, monkeypatch):
    asked = []
    module = importlib.import_module("llmbrain.evaluation.minimal_pairs")

    def few(model, tokenizer, which):
        asked.append(which)
        return pd.DataFrame({"uid": ["a", "a", "b"], "correct": [True, False, True]})

    monkeypatch.setattr(module, "minimal_pairs", few)
    command("grid", "--model", files / "tiny", "--calibration", files / "text.txt", "--evaluation", files / "test.txt",
            "--ratios", "0.2", "--scores", "flap", "--allocations", "uniform", "--compensations", "none", "--context",
            32, "--minimal-pairs", "--out", tmp_path / "g.tsv")  # fmt: skip
    assert asked == ["all", "all"] and read_tsv(tmp_path / "g.tsv").minimal_pairs.tolist() == [0.75, 0.75]


@pytest.mark.parametrize("inside", ["thesis.txt", "study/dataset_description.json"])
def test_the_command_prune_replaces_nothing_foreign(inside, files, tmp_path, capsys, monkeypatch):
    """A folder with other files, the model's own folder and what lies in it are refused before any work."""
    monkeypatch.setattr("llmbrain.models.load_model", lambda *args, **kwargs: 1 / 0)
    foreign = tmp_path / "out" / inside
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    common = ["prune", "--model", files / "tiny", "--calibration", files / "text.txt", "--recipe", "fast"]
    for out in (tmp_path / "out", tmp_path / "link", files / "tiny", files / "tiny" / "smaller", files / "text.txt"):
        with pytest.raises(SystemExit):
            command(*common, "--out", out)
        assert "Choose another folder" in capsys.readouterr().err
    assert foreign.read_text() == "mine" and (files / "tiny" / "config.json").is_file()


def test_a_pruned_model_is_not_saved_into_its_dense_folder(files, tokenizer):
    dense, _ = lb.load_model(files / "tiny")
    pruned = quick(dense, tokenizer, SENTENCES, 0.5, options={"context": 32})
    with pytest.raises(ParameterError, match="overlaps the input"):
        pruned.save_pretrained(files / "tiny")


def test_names_are_escaped_in_the_card(model, tokenizer, tmp_path):
    pruned = quick(model, tokenizer, SENTENCES, 0.5, options={"context": 32})
    pruned.summary["base_model"] = {"id": "evil\n---\nx: [y](z) <script>alert(1)</script> | # `"}
    results = pd.DataFrame({"a|b<img>": ["[x](y)\n# z"]})
    pruned.save_pretrained(tmp_path / "m", results=results)
    card = (tmp_path / "m" / "README.md").read_text()
    assert "<script>" not in card and "<img>" not in card and "](" not in card
    head = card.split("\n---\n")[0].splitlines()
    assert head[0] == "---" and head[1].startswith('base_model: "evil\\n---\\n') and len(head) == 4
