"""Contracts of the registries of pruning: every member, also one that is added later, is called as it declares."""

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.exceptions import ParameterError
from llmbrain.models.surgery import prunable_attentions, prunable_mlps
from llmbrain.pruning import (
    ALLOCATIONS,
    COMPENSATIONS,
    FORMATS,
    HEAD_SCORES,
    RATIO_OF,
    RECIPES,
    SCORES,
    Options,
    Pruner,
    Recipe,
    compensate,
)
from llmbrain.pruning.budget import check_ratio, count_parameters
from llmbrain.pruning.calibration import calibration_blocks
from llmbrain.pruning.heads import HEAD_BUDGETS, HEAD_UNITS, survey_heads
from llmbrain.pruning.measured import Measurements
from llmbrain.pruning.published import NETWORK_FINDERS
from llmbrain.pruning.scores import score_neurons
from llmbrain.pruning.walk import Walk
from llmbrain.stats.moments import Moments

TEXTS = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(12)]
MAPS = np.random.default_rng(0).standard_normal((6, 192))
OWN = {"context": 32, "n_evaluations": 6}


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def pruner(model):
    return Pruner(model, tiny_tokenizer(), TEXTS)


@pytest.fixture(scope="module")
def moments():
    moments = Moments(48)
    moments.add(torch.randn(300, 48, generator=torch.Generator().manual_seed(0)) + 0.5)
    return moments


@pytest.mark.parametrize(
    "registry",
    [
        SCORES, ALLOCATIONS, COMPENSATIONS, RECIPES, RATIO_OF, FORMATS, HEAD_SCORES, HEAD_UNITS, HEAD_BUDGETS,
        NETWORK_FINDERS,
    ],
    ids=lambda registry: registry.what,
)  # fmt: skip
def test_members_are_described_and_unknown_names_name_the_choices(registry):
    assert len(registry) and all(member.summary.endswith((".", "``.")) for member in registry.values())
    first = next(iter(registry))
    with pytest.raises(ParameterError, match=f"(?s)Choose from .*{first}"):
        registry["unheard-of"]


@pytest.mark.parametrize("name", SCORES)
def test_scores_rank_every_neuron_and_draw_only_if_they_say_so(name, model, moments):
    part = prunable_mlps(model)[1]
    maps = [torch.as_tensor(m) for m in np.split(MAPS, 4, axis=1)]
    first, again, other = (score_neurons(name, part, moments, maps, seed) for seed in (0, 0, 1))
    assert first.shape == (48,) and torch.isfinite(first).all() and torch.equal(first, again)
    assert torch.equal(first, other) or SCORES[name].random
    assert SCORES[name].heads is None or SCORES[name].heads in HEAD_SCORES


@pytest.mark.parametrize("name", HEAD_SCORES)
def test_head_scores_rank_every_head(name, model):
    blocks = calibration_blocks(tiny_tokenizer(), TEXTS, context=32)
    first, other = (
        survey_heads(Walk(model, blocks), prunable_attentions(model), name, random_state=seed) for seed in (0, 1)
    )
    assert [len(s) for s in first] == [4] * 4 and all(torch.isfinite(s).all() for s in first)
    assert all(torch.equal(a, b) for a, b in zip(first, other)) != HEAD_SCORES[name].random


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_allocations_meet_the_budget_within_floors_and_steps(name, pruner):
    recipe = Recipe("flap", name, "none", OWN, MAPS)
    counts = pruner.measurements.of(recipe).counts(96)
    assert counts.sum() == 96 and counts.min() >= 2 and counts.max() <= 48
    assert ALLOCATIONS[name].heads in HEAD_BUDGETS
    assert ALLOCATIONS[name].score is None or ALLOCATIONS[name].score in SCORES
    stepped = pruner.measurements.of(recipe.with_(round_to=8)).counts(96)
    assert all(n % 8 == 0 or n == 48 for n in stepped)


@pytest.mark.parametrize("name", COMPENSATIONS)
def test_compensations_return_what_they_declare(name, moments):
    weight, kept = torch.randn(5, 48, generator=torch.Generator().manual_seed(1)), torch.arange(0, 48, 2)
    refit = compensate(weight, moments, kept, name)
    assert refit.weight.shape == (5, 24) and torch.isfinite(refit.weight).all()
    assert (refit.bias is not None) == COMPENSATIONS[name].bias
    whole = compensate(weight, moments, torch.arange(48), name)  # nothing is removed: nothing is to be changed
    torch.testing.assert_close(whole.weight, weight.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RATIO_OF.having(timed=False))  # test_budget plants the times of the others
def test_a_ratio_of_anything_is_a_number_of_neurons(name, model):
    parts = prunable_mlps(model)
    counts = count_parameters(model, parts)
    assert check_ratio(0, name) == RATIO_OF[name](model, parts, counts, 0.0) == 0
    few, more = (RATIO_OF[name](model, parts, counts, ratio) for ratio in (0.02, 0.05))
    assert 0 <= few < more < 192
    assert RATIO_OF[name].heads is None or RATIO_OF[name].heads in counts


@pytest.mark.parametrize("name", [n for n in FORMATS if n != "gguf"])
def test_formats_write_folders_that_load(name, model, pruner, tmp_path):
    recipe = Recipe("flap", FORMATS[name].allocation or "global", "ridge", OWN)
    if FORMATS[name].check is not None:
        FORMATS[name].check(model, recipe)
    pruned = pruner.prune(recipe, 0.3)
    pruned.save_pretrained(tmp_path / "m", format=name)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        found, wanted = lb.load_model(tmp_path / "m")[0](ids).logits, pruned.model(ids).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert "## Loading" in (tmp_path / "m" / "README.md").read_text()


@pytest.mark.parametrize("name", NETWORK_FINDERS)
def test_networks_are_found_for_every_neuron(name, pruner):
    maps = pruner.measurements.of(Recipe("network", options=OWN, networks=name)).maps
    assert [m.shape[1] for m in maps] == [48] * 4 and all(torch.isfinite(m).all() for m in maps)


@pytest.mark.parametrize("unit", HEAD_UNITS)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_heads_and_neurons_share_a_budget(allocation, unit, model):
    recipe = Recipe("flap", allocation, "none", {**OWN, "heads": True, "head_unit": unit}, MAPS)
    counts = count_parameters(model)
    measured = Measurements(model, tiny_tokenizer(), TEXTS).of(recipe)
    kept, heads = measured.counts_and_heads(0.3 * counts["decoder_parameters"])
    assert kept.shape == (4,) and all(1 <= len(h) <= 4 for h in heads)


def test_scores_without_a_counterpart_for_heads_need_one():
    for score in ("network", [np.ones(48)] * 4, lambda part, moments: moments.variance):
        with pytest.raises(ParameterError, match="head_score"):
            Recipe(score, options=Options(heads=True))
        assert Recipe(score, options=Options(heads=True, head_score="flap")).head_score == "flap"


def test_a_score_that_a_user_registers_works_everywhere(model, monkeypatch):
    monkeypatch.setattr(SCORES, "_members", dict(SCORES))

    @SCORES.register("last", needs=("n_units",))
    def last(n_units):
        """The number of the neuron."""
        return torch.arange(n_units, dtype=torch.float64)

    pruned = lb.prune(
        model, tiny_tokenizer(), TEXTS, 0.5, recipe="wanda", score="last", options=OWN, measure=False, progress=False
    )
    assert pruned.kept[0].tolist() == list(range(24, 48)) and pruned.summary["score"] == "last"


def test_refuted_ideas_register_themselves(model, monkeypatch):
    """The scores and allocations of benchmarks/refuted are members like any other."""
    import importlib
    from pathlib import Path

    monkeypatch.setattr(SCORES, "_members", dict(SCORES))
    monkeypatch.setattr(ALLOCATIONS, "_members", dict(ALLOCATIONS))
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    networks = importlib.import_module("refuted.networks")
    importlib.reload(networks) if "mass" not in ALLOCATIONS else None
    maps = 0.1 * MAPS
    maps[:, 96:144] *= 90
    kept = {}
    for parts in (
        ("network_obs", "uniform"),
        ("participation", "uniform"),
        ("flap", "participation"),
        ("flap", "mass"),
    ):
        recipe = Recipe(*parts, "none", OWN, maps)
        kept[parts] = Pruner(model, tiny_tokenizer(), TEXTS).prune(recipe, 0.5).summary["n_kept"]
        assert sum(kept[parts]) == 96 and recipe.reads_networks
    assert max(kept["flap", "mass"]) == kept["flap", "mass"][2] > 40
