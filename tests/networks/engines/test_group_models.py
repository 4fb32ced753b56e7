"""The choice between group models."""

import numpy as np
import pytest
from planted import planted_runs, recovery

from llmbrain.networks.engines import leading
from llmbrain.networks.engines.group import group_ica


def test_group_model_is_chosen_by_the_tails_of_the_maps():
    runs, truth = planted_runs(6000, 6, (200,) * 4, snr=0.25)
    found = group_ica(runs, 6)
    assert found.group == "tokens" and found.tail_weights["tokens"] > found.tail_weights["runs"]
    rng = np.random.default_rng(0)
    for run in runs:  # strong directions that no two runs share, without structure
        run += (0.5 * rng.standard_normal((200, 12)) @ rng.standard_normal((12, 6000))).astype(np.float32)
    found = group_ica(runs, 6)
    assert found.group == "runs" and found.tail_weights["tokens"] < found.tail_weights["runs"]
    forced = group_ica(runs, 6, group="tokens", warn=False)
    assert recovery(truth, found.maps).mean() > recovery(truth, forced.maps).mean() + 0.2
    direct = group_ica(runs, 6, group="runs")
    assert recovery(direct.maps, found.maps).min() > 0.999
    assert found.tail_weights["runs"] == pytest.approx(group_ica(runs, 6).tail_weights["runs"])


@pytest.mark.parametrize("n_tokens", [(400,) * 3, (400, 200)])
def test_products_between_neurons_are_computed_once(n_tokens, monkeypatch):
    """Of tall runs, those of single runs add up to those of the group; the result is the same."""
    runs, _ = planted_runs(300, 4, n_tokens, snr=0.5)
    expected = {g: group_ica(runs, 4, group=g, warn=False) for g in ("tokens", "runs")}
    calls, plain = [], leading.neuron_gram
    monkeypatch.setattr(leading, "neuron_gram", lambda data: calls.append(data) or plain(data))
    found = group_ica(runs, 4, warn=False)
    assert len(calls) == (3 if n_tokens[-1] > 300 else 2)
    np.testing.assert_array_equal(found.singular_values, expected[found.group].singular_values)


@pytest.mark.parametrize("snr", [0.2, 0.5, 1.0])
def test_default_is_the_best_group_model_for_planted_networks(snr):
    for seed in (1, 2):
        runs, truth = planted_runs(1200, 4, (100,) * 4, snr=snr, seed=seed)
        models = ({"group": "tokens"}, {"group": "runs"}, {"group": "runs", "rows_per_run": 1}, {})
        *others, default = (recovery(truth, group_ica(runs, 5, n_init=2, warn=False, **m).maps).mean() for m in models)
        assert default > max(others) - 0.002


@pytest.mark.parametrize("search", [{"max_iter": 3}, {"max_iter": 5}, {"tol": 1e-8}, {"tol": 1e-2}, {}])
@pytest.mark.parametrize("group", ["tokens", "runs"])
@pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")
def test_choosing_the_group_model_leaves_no_trace_in_the_search(search, group):
    """The steps of the comparison are gone on from where they are part of this search, and forgotten where not."""
    runs, _ = planted_runs(3000, 5, (150, 120, 90), snr=0.25)
    rng = np.random.default_rng(0)
    for run in runs if group == "runs" else []:  # strong directions that no two runs share
        run += (0.5 * rng.standard_normal((len(run), 12)) @ rng.standard_normal((12, 3000))).astype(np.float32)
    chosen = group_ica(runs, 5, n_init=3, **search)
    forced = group_ica(runs, 5, n_init=3, group=group, **search)
    assert chosen.group == group and chosen.tail_weights and not forced.tail_weights
    assert (chosen.n_iter <= search.get("max_iter", 200)).all()
    assert recovery(forced.maps, chosen.maps).min() > (0.99 if search == {"max_iter": 3} else 0.9999)
    if group == "tokens":  # the two ways to the common rows of the runs give them other signs, so other starts
        assert chosen.chosen == forced.chosen
        np.testing.assert_array_equal(chosen.n_iter, forced.n_iter)
        np.testing.assert_array_equal(chosen.converged, forced.converged)
