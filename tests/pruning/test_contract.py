"""One contract for every member of the families of pruning: a new member is tested without another line."""

from functools import partial

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.pruning.allocation import ALLOCATIONS
from llmbrain.pruning.budget import RATIO_OF
from llmbrain.pruning.compensation import COMPENSATIONS, compensate, output_error
from llmbrain.pruning.heads import HEAD_BUDGETS, HEAD_SCORES, HEAD_UNITS
from llmbrain.pruning.published import NETWORK_FINDERS
from llmbrain.pruning.scores import SCORES, LayerInputs
from llmbrain.stats.moments import Moments

TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]
N_UNITS, HEAD_DIM = 12, 3


@pytest.fixture
def layer():
    """A linear, moments of correlated inputs with means, and maps of two networks."""
    draws = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(N_UNITS, 8, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(8, N_UNITS, generator=draws))
    mix = torch.randn(N_UNITS, N_UNITS, generator=draws)
    moments = Moments(N_UNITS)
    moments.add(torch.randn(400, N_UNITS, generator=draws) @ mix + torch.randn(N_UNITS, generator=draws))
    return linear, moments, torch.randn(2, N_UNITS, generator=draws)


def scored(member, layer, seed, n_units=N_UNITS, head_dim=None):
    linear, moments, maps = layer
    given = LayerInputs(linear, moments, n_units, torch.Generator().manual_seed(seed), maps, head_dim)
    return torch.as_tensor(given.apply(member)).double()


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_finite_numbers_that_the_seed_decides(name, layer):
    member = SCORES[name]
    score = scored(member, layer, 0)
    assert score.shape == (N_UNITS,)
    assert score.isfinite().all()
    assert torch.equal(score, scored(member, layer, 0))
    assert torch.equal(score, scored(member, layer, 1)) == ("generator" not in member.needs)
    assert member.heads is None or member.heads in HEAD_SCORES


@pytest.mark.parametrize("name", HEAD_SCORES)
def test_head_scores_are_one_finite_number_per_head(name, layer):
    score = scored(HEAD_SCORES[name], layer, 0, N_UNITS // HEAD_DIM, HEAD_DIM)
    assert score.shape == (N_UNITS // HEAD_DIM,)
    assert score.isfinite().all()


@pytest.mark.parametrize("name", COMPENSATIONS)
def test_compensations_change_nothing_if_nothing_is_removed_and_never_raise_the_error(name, layer):
    linear, moments, _ = layer
    weight = linear.weight.detach()
    everything = compensate(weight, moments, torch.arange(N_UNITS), name, ridge=1e-8)
    torch.testing.assert_close(everything.weight, weight.double(), atol=1e-6, rtol=0)
    assert everything.bias is None or everything.bias.abs().max() < 1e-5
    kept = torch.tensor([0, 2, 3, 7, 8])
    error, plain = (
        float(output_error(weight, moments, kept, compensate(weight, moments, kept, method, ridge=1e-8)))
        for method in (name, "none")
    )
    assert error <= plain * (1 + 1e-9)
    assert (everything.bias is not None) == COMPENSATIONS[name].bias


quick = partial(lb.prune, calibration=TEXTS, recipe="fast", measure=False, progress=False)


def removed(options=None, **arguments):
    options = {"context": 48, "n_evaluations": 4, **(options or {})}
    return quick(tiny_model("llama"), tiny_tokenizer(), options=options, **arguments).summary


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_allocations_meet_the_budget(name):
    summary = removed(ratio=0.25, allocation=name, networks="layers" if ALLOCATIONS[name].score == "network" else None)
    assert sum(summary["n_kept"]) == round(0.75 * 4 * 48)
    assert all(1 <= n <= 48 for n in summary["n_kept"])
    assert ALLOCATIONS[name].heads in HEAD_BUDGETS


@pytest.mark.parametrize("name", HEAD_BUDGETS)
def test_budgets_of_heads_and_neurons_meet_the_target(name):
    allocation = next(iter(ALLOCATIONS.having(heads=name)))
    networks = "layers" if ALLOCATIONS[allocation].score == "network" else None
    summary = removed({"heads": True}, ratio=0.3, ratio_of="decoder", allocation=allocation, networks=networks)
    assert summary["decoder_parameters_removed"] == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("name", HEAD_UNITS)
def test_units_of_heads_can_be_removed(name):
    summary = removed({"heads": True, "head_unit": name}, ratio=0.3, ratio_of="decoder", allocation="global")
    assert summary["decoder_parameters_removed"] == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("name", NETWORK_FINDERS)
def test_networks_are_found_on_the_calibration_text(name):
    options = {"network_tokens": 256} if NETWORK_FINDERS[name].limited else {}
    summary = removed(options, ratio=0.25, score="network", allocation="uniform", networks=name)
    assert sum(summary["n_kept"]) == round(0.75 * 4 * 48)


@pytest.mark.parametrize("name", RATIO_OF)
def test_every_kind_of_budget_is_met(name, monkeypatch):
    # Planted times, because real ones depend on the load: 6 of 10 s pass in MLPs, in proportion to their width.
    monkeypatch.setattr("llmbrain.pruning.budget.forward_seconds", lambda model: 10.0)
    monkeypatch.setattr("llmbrain.pruning.budget.layer_latency", lambda part, widths: [1.5 * w / 48 for w in widths])
    target = removed(ratio=0.25, ratio_of=name, allocation="uniform")
    assert sum(target["n_kept"]) < 4 * 48
    if RATIO_OF[name].timed:
        assert target["neurons_removed"] == pytest.approx(0.25 / 0.6, abs=0.02)
